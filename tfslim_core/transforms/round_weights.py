"""Round weights to a few values, so that a compressed model is smaller.

    Before: W, all values different        After: W, at most num_steps values

Every floating point constant of 16 elements or more is rounded to a grid of its own: `num_steps` values, evenly spaced
from its smallest value to its largest. A range that contains zero has zero among its values, so that zeros stay zeros
and a sparse matrix stays sparse. No value leaves the range, and none moves by more than half a step, a step being the
range divided by num_steps - 1. Type, shape and size on disk stay; what gets smaller is the compressed file, a zip or a
gzip of the model. `quantize_weights` makes the model itself smaller.

| parameter | |
|---|---|
| num_steps | how many values a constant may have, at least 2 |

Answers change by the rounding. Large constants are not read for it; they are rounded when they are written. Function
bodies are rounded too.

Left alone, with a reason: constants of the interface; values with NaN or infinity among them (a large constant's show
only when it is written, and it is left then); weights that are stored encoded, and the scales that they are decoded by.

Source: tensorflow/tools/graph_transforms/round_weights.cc, same name and parameter; unlike it we take every floating
point type, keep zeros, and give neither one value more than asked for nor one beyond the largest.
"""

from __future__ import annotations

import math

import numpy as np
import tensorflow as tf

from tfslim_core.errors import TransformError
from tfslim_core.graph import Graph, NodeDef, renamed
from tfslim_core.quantization.scales import scales_of
from tfslim_core.registry import Outcome, Skipped, transform
from tfslim_core.weights import Array, Weight

_SMALLEST = 16  # elements
_BLOCK = 1 << 20  # elements that are rounded at a time, in float64


@transform("round_weights", exact=False, enters_functions=True)
def round_weights(graph: Graph, *, num_steps: int = 256) -> Outcome:
    """Round weights to a few values, so that a compressed model is smaller."""
    if num_steps < 2:
        raise TransformError(f"round_weights: num_steps={num_steps} is fewer than the two that a range has at least")
    scales = scales_of(graph)
    skipped: list[Skipped] = []
    new: dict[str, NodeDef] = {}
    weights: dict[str, Weight] = {}
    for name, node in graph.nodes.items():
        if node.op != "Const" or not tf.as_dtype(node.attr["dtype"].type).is_floating:
            continue
        if math.prod(graph.constant_shape(name)) < _SMALLEST:
            continue
        weight = graph.weights.get(name)
        if reason := _objection(graph, name, scales):
            skipped.append(Skipped(name, reason))
        elif weight is not None:
            weights[name] = weight.map(lambda value: rounded(value, num_steps))
        else:
            value = graph.value(name)
            if not np.isfinite(value.astype(np.float64)).all():
                skipped.append(Skipped(name, "it holds NaN or infinity"))
                continue
            new[name] = renamed(node, name)
            new[name].attr["value"].tensor.CopyFrom(tf.make_tensor_proto(rounded(value, num_steps)))
    if not new and not weights:
        return Outcome(graph, skipped=tuple(skipped))
    return Outcome(graph.replace(new.values(), weights=weights), len(new) + len(weights), tuple(skipped))


def _objection(graph: Graph, name: str, scales: frozenset[str]) -> str:
    weight = graph.weights.get(name)
    if name in graph.interface:
        return "it is part of the interface"
    if weight is not None and weight.encoded is not None:
        return f"it is stored as {weight.encoded.encoding}"
    return "it is the scale of an encoded weight" if name in scales else ""


def rounded(value: Array, num_steps: int) -> Array:
    """The array with each value replaced by the nearest of `num_steps`; itself where its range is empty or not finite.

    value: of a floating point type.
    """
    low, high = (float(end) for end in (value.min(), value.max()))
    step = high / (num_steps - 1) - low / (num_steps - 1)  # high - low might be beyond float64
    if not np.isfinite(step) or not step > 0:
        return value
    origin, first, last = low, 0, num_steps - 1
    if low <= 0 <= high:
        origin, first = 0.0, round(low / step)
        last += first
    flat = value.reshape(-1)
    result = np.empty_like(flat)
    for start in range(0, flat.size, _BLOCK):
        block = flat[start : start + _BLOCK].astype(np.float64)
        steps = np.clip(np.rint((block - origin) / step), first, last)
        with np.errstate(over="ignore"):
            # Adding zero makes 0 of -0. An end of the grid may be half a step beyond the range, to have zero in it.
            result[start : start + _BLOCK] = np.clip(steps * step + origin + 0.0, low, high).astype(value.dtype)
    return result.reshape(value.shape)
