"""Write ConcatV2 as Concat, for runtimes that only know that.

    Before: y = ConcatV2(a, b, axis)        After: y = Concat(axis, a, b)

Concat takes the axis first and only as int32, and has no attribute `Tidx`; of a constant axis of int64, an int32 one is
made. Everything else stays: names, inputs, control inputs, other attributes. Exact. Function bodies are rewritten too.

Left alone, with a reason: a ConcatV2 whose axis is of int64 and not a constant.

Source: tensorflow/tools/graph_transforms/backports.cc, same name; unlike it we look at the axis's type.
"""

from __future__ import annotations

import numpy as np
import tensorflow as tf

from tfslim_core import ops
from tfslim_core.graph import (
    CONTROL,
    Graph,
    Input,
    NodeDef,
    constant,
    control_inputs,
    data_inputs,
    parse_input,
    renamed,
)
from tfslim_core.registry import Outcome, Skipped, transform


@transform("backport_concatv2", enters_functions=True)
def backport_concatv2(graph: Graph) -> Outcome:
    """Write ConcatV2 as Concat, for runtimes that only know that."""
    fed = {parse_input(tensor).node for tensor in graph.inputs}
    names = graph.fresh_names()
    new: list[NodeDef] = []
    skipped: list[Skipped] = []
    axes: dict[str, NodeDef] = {}  # a constant axis of int64 -> the same as int32
    for name, node in graph.nodes.items():
        if node.op != "ConcatV2":
            continue
        *values, axis = data_inputs(node)
        if ops.attribute(node, "Tidx", graph.functions).type != tf.int32.as_datatype_enum:
            if graph.nodes[axis.node].op != "Const" or axis.node in fed:
                skipped.append(Skipped(name, "its axis is of type int64 and not a constant; Concat takes int32"))
                continue
            if axis.node not in axes:
                axes[axis.node] = _as_int32(graph, axis.node, names(f"{axis.node}/int32"))
            axis = Input(axes[axis.node].name, 0)
        concat = renamed(node, name, [axis, *values, *(Input(control, CONTROL) for control in control_inputs(node))])
        concat.op = "Concat"
        concat.attr.pop("Tidx", None)
        new.append(concat)
    if not new:
        return Outcome(graph, skipped=tuple(skipped))
    rewritten = {node.name for node in new}
    unread = [
        name
        for name in axes
        if name not in graph.interface and all(reader.node in rewritten for reader in graph.readers_of(name))
    ]
    return Outcome(graph.replace([*new, *axes.values()], unread), len(new), tuple(skipped))


def _as_int32(graph: Graph, axis: str, name: str) -> NodeDef:
    old = graph.nodes[axis]
    node, _ = constant(name, graph.value(axis).astype(np.int32), device=old.device)
    node.input.extend(old.input)
    return node
