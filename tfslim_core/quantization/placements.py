"""Where an encoded weight is decoded, so that no request pays for a whole matrix.

rows    a table that is only gathered from stays encoded; the gathered rows are decoded (see gathered_rows):
        Gather(W, i)  ->  Mul(Cast(Gather(codes, i)), Gather(scale, i))
load    decoded once, when the model is loaded (see saved_model.write); requests read a float variable. A table that
        is gathered from and multiplied with (tied embeddings) is one: what multiplies wants all of it as floats, and
        codes beside them would only add to the memory
graph   decoded in the graph, small weights only. The runtime folds a decode whose result is at most 10 MiB, and does
        a larger one on every request. It folds at the first request for each set of inputs and outputs, so that each
        signature holds a float copy of its own, where those decoded at load have one for all.
"""

from __future__ import annotations

from collections.abc import Sequence
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
from tfslim_core.quantization.gathered_rows import RowsRead, decoded_rows, obstacle, rows_read
from tfslim_core.weights import Weight

Placement = Literal["rows", "load", "graph"]
ROWS_BYTES = 16 * 1024 * 1024  # a smaller table saves too little memory for every request to decode its rows
GRAPH_BYTES = 64 * 1024  # of the float value; little enough for a copy per signature, and far less than is folded
# What hands a weight into a loop or a branch, by op, in words.
_INTO = {
    "Enter": "a loop",
    "Switch": "a branch",
    **dict.fromkeys(sorted(ops.LOOPS), "a loop"),
    **dict.fromkeys(sorted(ops.BRANCHES), "a branch"),
}
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

    rows: those who read rows of it, if there are no others, so that rows is possible. axes: those that share a scale.
    aliases: Identity nodes between the weight and its readers. reason: in words.
    """

    placement: Placement
    rows: tuple[RowsRead, ...]
    axes: tuple[int, ...]
    aliases: tuple[str, ...]
    readers: tuple[Reader, ...]
    reason: str

    @property
    def gathered(self) -> bool:
        """Whether it is only gathered from."""
        return bool(self.rows)


def use_of(graph: Graph, name: str) -> Use:
    """How the weight `name` is used in the graph."""
    weight = graph.weights[name]
    aliases, readers = _through_identities(graph, name)
    rank = len(weight.shape)
    reads = [rows_read(graph, reader, rank) for reader in readers]
    rows = tuple(read for read in reads if read is not None)
    if len(rows) < len(reads) or control_inputs(graph.nodes[name]) or name in graph.interface:
        words = _read_by(graph, readers, reads)
        axes = _axes(graph, readers, rank, gathered=bool(rows))
        rows = ()
    elif rows:
        axes = tuple(range(1, rank)) if rank > 1 else (0,)
        words = f"only gathered from ({len(rows)} x)"
        if weight.nbytes >= ROWS_BYTES:
            return Use("rows", rows, axes, aliases, readers, words)
    else:
        axes, words = _others(rank - 1, rank), "read by nothing"
    if weight.nbytes <= GRAPH_BYTES:
        return Use("graph", rows, axes, aliases, readers, f"{words}; small enough for the runtime to fold")
    if rows:
        words += f"; below {ROWS_BYTES >> 20} MiB, where rows save little memory"
    return Use("load", rows, axes, aliases, readers, words)


def choose(use: Use, encoded: Weight, wanted: Placement | None) -> tuple[Placement, str]:
    """Where to decode a weight that is stored so, and why. wanted: the placement that is asked for, where possible."""
    assert encoded.encoded is not None
    placement = wanted or use.placement
    if wanted is not None and wanted != "rows":
        return wanted, use.reason if wanted == use.placement else f"{use.reason}; {wanted} was asked for"
    if placement != "rows":
        return placement, use.reason
    problem = "it is not only gathered from"
    if use.rows:
        problem = obstacle(encoded.encoded, encoded.shape, max(read.depth for read in use.rows))
        if not problem:
            return "rows", use.reason if use.placement == "rows" else f"{use.reason}; rows was asked for"
    instead: Placement = "graph" if encoded.nbytes <= GRAPH_BYTES else "load"
    return instead, f"{use.reason}; no rows: {problem}"


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
    rows = [decoded_rows(graph, names, read, parts, encoded) for read in use.rows]
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


def _read_by(graph: Graph, readers: Sequence[Reader], reads: Sequence[RowsRead | None]) -> str:
    """Who reads a weight, in words."""
    others = {graph.nodes[r.node].op for r, read in zip(readers, reads, strict=True) if read is None}
    into = sorted({f"{_INTO[op]} ({op})" for op in others if op in _INTO})
    words = [f"handed into {' and '.join(into)}"] if into else []
    if others - _INTO.keys():
        words.append("read by " + ", ".join(sorted(others - _INTO.keys())))
    if any(reads):
        words.append("gathered from")
    if len(words) > 1 and any(reads):
        words.append("decoded once for all of them")
    return "; ".join(words) or "read by nothing"


def _axes(graph: Graph, readers: Sequence[Reader], rank: int, *, gathered: bool) -> tuple[int, ...]:
    """The axes that share a scale: all but the output channel of the layer that reads it, or but the rows."""
    found = (_output_axis(graph, graph.nodes[reader.node], reader, rank) for reader in readers)
    axis = next((axis for axis in found if axis is not None), 0 if gathered else rank - 1)
    return tuple(a for a in range(rank) if a not in axis) if isinstance(axis, tuple) else _others(axis, rank)


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
