"""Scales of encoded weights that are decoded in the graph: constants that no other rounding may touch."""

from __future__ import annotations

import tensorflow as tf

from tfslim_core.graph import Graph, Input, data_inputs

_HANDED_ON = frozenset({"Identity", "Gather", "GatherV2", "Cast", "Enter", "Switch"})
_CODES = frozenset({tf.int8.as_datatype_enum, tf.uint8.as_datatype_enum})


def scales_of(graph: Graph) -> frozenset[str]:
    """Names of the floating point constants that a Mul takes together with codes of 8 bits cast to floating point."""
    found = set()
    for node in graph.nodes.values():
        if node.op != "Mul":
            continue
        left, right = data_inputs(node)
        for codes, scale in ((left, right), (right, left)):
            cast = graph.nodes[codes.node]
            if cast.op == "Cast" and cast.attr["SrcT"].type in _CODES and _constant(graph, codes):
                found.add(_constant(graph, scale))
    return frozenset(found - {""})


def _constant(graph: Graph, source: Input) -> str:
    """The constant that a tensor's values come from, or nothing."""
    seen = set()
    while source.node not in seen:
        seen.add(source.node)
        node = graph.nodes[source.node]
        if node.op == "Const":
            return source.node
        if node.op not in _HANDED_ON:
            return ""
        source = data_inputs(node)[0]
    return ""
