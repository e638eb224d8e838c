"""Where an encoded weight is decoded, so that no request pays for a whole matrix.

rows    a table that is only gathered from stays encoded; the gathered rows are decoded:
        Gather(W, i)  ->  Mul(Cast(Gather(codes, i)), Gather(scale, i))
load    decoded once, when the model is loaded (see saved_model.write); requests read a float variable
graph   decoded in the graph, small weights only. The runtime folds a decode whose result is at most 10 MiB, and does
        a larger one on every request. It folds at the first request for each set of inputs and outputs, so that each
        signature holds a float copy of its own, where those decoded at load have one for all.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import chain
from typing import Literal

from tfslim_core import encodings, ops
from tfslim_core.encodings.scheme import Form, Nodes, Part
from tfslim_core.graph import (
    CONTROL,
    Graph,
    Input,
    NameMaker,
    NodeDef,
    Reader,
    control_inputs,
    data_inputs,
    external_constant,
    renamed,
)
from tfslim_core.weights import Weight

Placement = Literal["rows", "load", "graph"]
ROWS_BYTES = 16 * 1024 * 1024  # a smaller table saves too little memory for every request to decode its rows
GRAPH_BYTES = 64 * 1024  # of the float value; little enough for a copy per signature, and far less than is folded
_GATHERS = frozenset({"Gather", "GatherV2"})
# Which axis of the weights is the layer's output channel, by op and by the input that takes the weights.
_OUTPUT_AXIS = {
    ("Conv2D", 1): 3,
    ("Conv3D", 1): 4,
    ("MatMul", 1): 1,
    ("Conv2DBackpropInput", 1): 2,
    ("Conv3DBackpropInputV2", 1): 3,
}


@dataclass(frozen=True)
class Use:
    """How a weight is used, and so how to scale and where to decode it.

    gathered: only gathered from, so that rows is possible. axes: those that share a scale. aliases: Identity nodes
    between the weight and its readers. reason: in words.
    """

    placement: Placement
    gathered: bool
    axes: tuple[int, ...]
    aliases: tuple[str, ...]
    readers: tuple[Reader, ...]
    reason: str


def use_of(graph: Graph, name: str) -> Use:
    """How the weight `name` is used in the graph."""
    weight = graph.weights[name]
    aliases, readers = _through_identities(graph, name)
    uses = [(graph.nodes[reader.node], reader) for reader in readers]
    rank = len(weight.shape)
    gathered = bool(uses) and not control_inputs(graph.nodes[name]) and all(_takes_rows(graph, n, r) for n, r in uses)
    if gathered:
        axes = tuple(range(1, rank)) if rank > 1 else (0,)
        words = f"only gathered from ({len(uses)} x)"
        if weight.nbytes >= ROWS_BYTES:
            return Use("rows", True, axes, aliases, readers, words)
    else:
        axis = next((found for n, r in uses if (found := _output_axis(graph, n, r, rank)) is not None), rank - 1)
        axes = tuple(a for a in range(rank) if a not in axis) if isinstance(axis, tuple) else _others(axis, rank)
        words = "read by " + (", ".join(sorted({node.op for node, _ in uses})) or "nothing")
    if weight.nbytes <= GRAPH_BYTES:
        return Use("graph", gathered, axes, aliases, readers, f"{words}; small enough for the runtime to fold")
    return Use("load", gathered, axes, aliases, readers, words)


@dataclass(frozen=True)
class Edit:
    """What placing one weight changes; edits of different weights touch different nodes."""

    nodes: list[NodeDef]
    weights: dict[str, Weight]
    drop: tuple[str, ...] = ()


def place(graph: Graph, names: NameMaker, name: str, encoded: Weight, use: Use, placement: Placement) -> Edit:
    """What to change for the weight `name` to be stored as `encoded` and decoded at `placement`; an encoding of which
    only the whole can be decoded is no use to `rows`.
    """
    if placement == "load" or encoded.encoded is None:
        return Edit([], {name: encoded})
    stored, device = encoded.encoded, graph.nodes[name].device
    constants: list[NodeDef] = []
    weights: dict[str, Weight] = {}

    def held(roles: tuple[str, ...], part: Weight) -> Input:
        node, found = external_constant(names("/".join((name, *roles))), part, device=device)
        constants.append(node)
        weights.update(found)
        return Input(node.name, 0)

    if placement == "graph":
        decoding = Nodes(name, names, device)
        encodings.decoding(decoding, stored, Form(encoded.dtype, encoded.shape), held)
        controls = control_inputs(graph.nodes[name])
        for node in (*constants, *decoding.made):
            if not data_inputs(node):
                node.input.extend(f"^{control}" for control in controls)
        return Edit([*constants, *_ending_as(name, decoding)], weights)
    parts = {role: Part(held((role,), part), Form(part.dtype, part.shape)) for role, part in stored.parts.items()}
    rows = [_decoded_rows(graph, names, reader, parts, encoded) for reader in use.readers]
    return Edit([*constants, *chain.from_iterable(rows)], weights, (name, *use.aliases))


def _ending_as(name: str, decoding: Nodes) -> list[NodeDef]:
    """The nodes, the last of them, which gives the value, called `name`."""
    *before, last = decoding.made
    return [*before, renamed(last, name)]


def _others(axis: int, rank: int) -> tuple[int, ...]:
    """All axes but one; of a vector the only one, so that it has one scale."""
    return tuple(a for a in range(rank) if a != axis) if rank > 1 else tuple(range(rank))


def _through_identities(graph: Graph, name: str) -> tuple[tuple[str, ...], tuple[Reader, ...]]:
    """Identity nodes that do nothing but hand the weight on, and those who really read it."""
    sources = [name]
    readers: list[Reader] = []
    for source in sources:
        for reader in graph.readers_of(source):
            if reader.port != CONTROL and _hands_on(graph, graph.nodes[reader.node]):
                sources.append(reader.node)
            else:
                readers.append(reader)
    return tuple(sources[1:]), tuple(readers)


def _hands_on(graph: Graph, node: NodeDef) -> bool:
    plain = node.op == "Identity" and not control_inputs(node) and node.name not in graph.interface
    return plain and all(reader.port != CONTROL for reader in graph.readers_of(node.name))


def _takes_rows(graph: Graph, node: NodeDef, reader: Reader) -> bool:
    if node.op not in _GATHERS or reader.position != 0 or reader.port == CONTROL:
        return False
    if node.op == "Gather":
        return True
    axis = data_inputs(node)[2].node
    if graph.nodes[axis].op != "Const" or ops.attribute(node, "batch_dims", graph.functions).i:
        return False
    return int(graph.value(axis)) == 0


def _output_axis(graph: Graph, node: NodeDef, reader: Reader, rank: int) -> int | tuple[int, ...] | None:
    """The axis or axes of the weights that the layer's output channel runs along."""
    if node.op == "DepthwiseConv2dNative" and reader.position == 1:
        return (2, 3)
    if node.op == "MatMul" and rank == 2:
        flipped = ops.attribute(node, f"transpose_{'ab'[reader.position]}", graph.functions).b
        return int((reader.position == 1) != flipped)
    if node.op in ("BatchMatMul", "BatchMatMulV2") and reader.position == 1 and rank >= 2:
        return rank - 2 if ops.attribute(node, "adj_y", graph.functions).b else rank - 1
    return _OUTPUT_AXIS.get((node.op, reader.position))


def _decoded_rows(
    graph: Graph, names: NameMaker, reader: Reader, parts: Mapping[str, Part], encoded: Weight
) -> list[NodeDef]:
    """The gather `reader` as gathers of the parts that have a row for each of the table's, decoded."""
    assert encoded.encoded is not None
    gather = graph.nodes[reader.node]
    by_row = encodings.by_row(encoded.encoded.encoding)
    nodes = []
    gathered = {}
    for role, part in parts.items():
        if role not in by_row or part.form.shape[:1] != encoded.shape[:1]:
            gathered[role] = part  # the same for all rows
            continue
        made = renamed(gather, names(f"{gather.name}/{role}"), [part.source, *gather.input[1:]])
        made.attr["Tparams"].type = part.dtype.as_datatype_enum
        nodes.append(made)
        gathered[role] = Part(Input(made.name, 0), part.form)
    decoding = Nodes(gather.name, names, gather.device)
    encodings.decoding_rows(decoding, encoded.encoded.encoding, gathered, Form(encoded.dtype, encoded.shape))
    return [*nodes, *_ending_as(gather.name, decoding)]
