"""Scales and codebooks of encoded weights that are decoded in the graph: constants that no other rounding may touch."""

from __future__ import annotations

import tensorflow as tf

from tfslim_core.graph import Graph, Input, data_inputs

# What a stored part, or rows of it, comes through on its way, as the first input.
_HANDED_ON = frozenset(
    """Identity Gather GatherV2 GatherNd StridedSlice Cast Enter Switch Reshape Slice DecodeCompressed DecodeRaw
    BitwiseOr BitwiseAnd BitwiseXor LeftShift RightShift Sub""".split()
)
_MOVED = frozenset({"Sub", "AddV2", "Reshape"})  # codes, by a zero point or to the codebook of their group
_CODES = frozenset(dtype.as_datatype_enum for dtype in (tf.int8, tf.uint8, tf.int16))


def scales_of(graph: Graph) -> frozenset[str]:
    """Names of the floating point constants that a Mul takes together with integer codes cast to floating point, and of
    those from which a Gather takes what such codes number.
    """
    found = set()
    for node in graph.nodes.values():
        if node.op not in ("Mul", "Gather"):
            continue
        left, right = data_inputs(node)
        pairs = ((left, right), (right, left)) if node.op == "Mul" else ((right, left),)
        found |= {_constant(graph, scale) for codes, scale in pairs if _are_codes(graph, codes)}
    return frozenset(found - {""})


def _are_codes(graph: Graph, source: Input) -> bool:
    """Whether the tensor is constant codes of 8 or 16 bits, or rows of them, in another dtype."""
    node = graph.nodes[source.node]
    while node.op in _MOVED:
        source = data_inputs(node)[0]
        node = graph.nodes[source.node]
    return node.op == "Cast" and node.attr["SrcT"].type in _CODES and bool(_constant(graph, source))


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
