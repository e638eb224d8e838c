"""Store weights in 8 bits, a quarter of their size.

    Before: W, float32        After: codes, int8, and a scale per output channel: W is nearly codes * scale

What a weight is, and which of its axes is the output channel, is read off the layers that take it; a table that is
gathered from has a scale per row. The largest magnitude of each channel becomes the code 127, so a channel of small
values keeps its precision, zeros stay zeros, and no weight moves by more than 1/254 of its channel's largest.
Answers stay float32 and change a little; `tfslim quantize` does the same and can measure how much first.

In a bundle, and so in the SavedModel that it becomes, a weight is decoded once, when the model is loaded; requests read
float variables as before. In a plain GraphDef the decoding is part of the graph (`Cast` and `Mul`, the latter under the
weight's name): a session folds it when it starts as long as the float weight takes at most 10 MiB, and computes a
larger one anew on every request, except that of a table that is only gathered from just the rows are decoded.

| parameter | |
|---|---|
| minimum_size | elements; a smaller weight is left as it is. Constants below 1 KiB always are |

Left alone, with a reason: what is not float32, or holds NaN or infinity; vectors (a bias, the statistics of a batch
norm), where there is little to save; constants that are only added, multiplied or compared element by element, so no
layer's weights (anchors, masks); constants of the interface; weights that are encoded already, and their scales. Run
twice, it does nothing the second time. Function bodies are not entered: there a weight could only be stored as float.

Source: tensorflow/tools/graph_transforms/quantize_weights.cc, same name and parameter; that one has one range for a
whole tensor and takes every float32 constant.
"""

from __future__ import annotations

import math

import tensorflow as tf

from tfslim_core.graph import CONTROL, Graph
from tfslim_core.quantization.encode_weights import Choice, encode_weights
from tfslim_core.quantization.placements import use_of
from tfslim_core.quantization.scales import scales_of
from tfslim_core.registry import Outcome, Skipped, transform

# What only these read is an operand of arithmetic: rounded to 8 bits, it would shift every answer by as much.
_ELEMENTWISE = frozenset(
    """Add AddV2 AddN Sub Mul MulNoNan Div DivNoNan RealDiv FloorDiv FloorMod Mod Pow Maximum Minimum SquaredDifference
    BiasAdd Equal NotEqual Greater GreaterEqual Less LessEqual ApproximateEqual Select SelectV2 Where ClipByValue Atan2
    FusedBatchNorm FusedBatchNormV2 FusedBatchNormV3 BatchNormWithGlobalNormalization""".split()
)


@transform("quantize_weights", exact=False)
def quantize_weights(graph: Graph, *, minimum_size: int = 1024) -> Outcome:
    """Store weights in 8 bits, a quarter of their size."""
    large = [name for name, weight in graph.weights.items() if math.prod(weight.shape) >= minimum_size]
    scales = scales_of(graph)
    left = {name: reason for name in large if (reason := _objection(graph, name, scales))}
    choice = Choice("int8", minimum_size=minimum_size, lossless=False)
    changed, entries = encode_weights(graph, choice, instead=dict.fromkeys(left, ""))
    encoded = {entry.name for entry in entries if entry.placement != "none" and not graph.weights[entry.name].encoded}
    reasons = {entry.name: entry.reason for entry in entries if entry.name not in encoded} | left
    skipped = tuple(Skipped(name, reasons[name]) for name in large if name in reasons)
    return Outcome(changed if encoded else graph, len(encoded), skipped)


def _objection(graph: Graph, name: str, scales: frozenset[str]) -> str:
    """Why a constant is no weight, or nothing."""
    dtype = tf.as_dtype(graph.weights[name].dtype)
    if dtype == tf.bfloat16:
        return "it is bfloat16, not float32"
    if dtype != tf.float32:
        return ""
    if name in scales:
        return "it is the scale of an encoded weight"
    if len(graph.weights[name].shape) < 2:
        return ""
    readers = {graph.nodes[reader.node].op for reader in use_of(graph, name).readers if reader.port != CONTROL}
    if readers and readers <= _ELEMENTWISE:
        return f"it is read by {', '.join(sorted(readers))}, not by a layer or a gather"
    return "" if readers else "nothing reads it"
