"""Ops that read a few rows of a table, as the same reads of what an encoded table is stored as.

    Gather(W, i)                      Mul(Cast(Gather(codes, i)), Gather(scale, i))
    GatherNd(W, i [..., depth])       Mul(Cast(GatherNd(codes, i)), GatherNd(scale, i[..., :1]))
    StridedSlice(W, [r])              Mul(Cast(StridedSlice(codes, [r])), StridedSlice(scale, [r]))
    SparseSegmentSum(W, i, s)         rows, where = Unique(i);  SparseSegmentSum(decoded rows, where, s)

Each picks `depth` leading axes of the table. A part that is stored along with the codes (a scale, a zero point) has on
each of these axes the table's size, or 1 where all share it, or a divisor where blocks do.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import tensorflow as tf

from tfslim_core import encodings, ops
from tfslim_core.encodings.scheme import Form, Nodes, Part
from tfslim_core.errors import GraphError
from tfslim_core.graph import CONTROL, Graph, Input, NameMaker, NodeDef, Reader, data_inputs, make_node, renamed
from tfslim_core.static_shapes import static_shapes
from tfslim_core.weights import Encoded, Weight

_SEGMENTS = frozenset(
    f"SparseSegment{how}{more}" for how in ("Sum", "Mean", "SqrtN") for more in ("", "WithNumSegments")
)


@dataclass(frozen=True)
class RowsRead:
    """A node that reads rows of a table. depth: how many leading axes its indices pick."""

    node: str
    depth: int = 1


def rows_read(graph: Graph, reader: Reader, rank: int) -> RowsRead | None:
    """How the reader of a table of that rank reads its rows; None where it reads the table otherwise."""
    node = graph.nodes[reader.node]
    if reader.position != 0 or reader.port == CONTROL or not rank:
        return None
    if node.op == "Gather" or node.op in _SEGMENTS:
        return RowsRead(node.name)
    if node.op == "GatherV2":
        axis = data_inputs(node)[2].node
        if graph.nodes[axis].op != "Const" or ops.attribute(node, "batch_dims", graph.functions).i:
            return None
        return RowsRead(node.name) if int(graph.value(axis)) in (0, -rank) else None
    if node.op == "GatherNd":
        depth = _depth(graph, node)
        return RowsRead(node.name, depth) if 0 < depth <= rank else None
    if node.op == "StridedSlice":
        return RowsRead(node.name) if _is_one_row(graph, node) else None
    return None


def _depth(graph: Graph, node: NodeDef) -> int:
    """How many axes a GatherNd picks; 0 where that is not known, or where an index may be out of range."""
    if ops.attribute(node, "bad_indices_policy", graph.functions).s not in (b"", b"DEFAULT", b"ERROR"):
        return 0  # what it gives for such an index is a zero, which not every encoding has the code 0 for
    indices = data_inputs(node)[1]
    try:
        shape = static_shapes(graph, [indices])[indices]
    except GraphError:
        return 0
    return (shape[-1] or 0) if shape else 0


def _is_one_row(graph: Graph, node: NodeDef) -> bool:
    """Whether a StridedSlice gives the row of a constant number: `table[7]`. Of many rows, each would be decoded."""
    masks = {
        name: ops.attribute(node, f"{name}_mask", graph.functions).i
        for name in ("begin", "end", "ellipsis", "new_axis", "shrink_axis")
    }
    begin = data_inputs(node)[1].node
    return (
        graph.nodes[begin].op == "Const"
        and graph.constant_shape(begin) == (1,)
        and masks["shrink_axis"] == 1
        and not (masks["begin"] or masks["ellipsis"] or masks["new_axis"])
    )


def obstacle(stored: Encoded, shape: tuple[int, ...], depth: int) -> str:
    """Why rows of a table that is stored so cannot be decoded alone, or nothing. depth: the deepest read."""
    by_row = encodings.by_row(stored.encoding)
    if not by_row:
        return f"{stored.encoding} is decoded as a whole only"
    for role, part in stored.parts.items():
        if role in by_row:
            fits = len(part.shape) == len(shape) and all(
                size == 1 or (size and whole % size == 0) or size == whole
                for size, whole in zip(part.shape, shape, strict=True)
            )
            if not fits:
                return f"its {role} has the shape {part.shape}"
        elif depth > 1 and part.shape[:1] != (1,):
            return f"its {role} may belong to places in a row"
    return ""


def decoded_rows(
    graph: Graph, names: NameMaker, read: RowsRead, parts: Mapping[str, Part], encoded: Weight
) -> list[NodeDef]:
    """The nodes that read the parts' rows and decode them, in the place of the node that read the table's."""
    node = graph.nodes[read.node]
    nodes = Nodes(node.name, names, node.device)
    if node.op not in _SEGMENTS:
        value = _Rows(graph, names, nodes, node, read.depth, encoded).decoded(parts)
        return [renamed(made, node.name) if made.name == value.node else made for made in nodes.made]
    dtype = tf.as_dtype(ops.attribute(node, "Tidx", graph.functions).type)
    rows = nodes.add("Unique", data_inputs(node)[1], T=dtype, out_idx=dtype)
    axis = nodes.constant(0, np.int32)
    gather = make_node("GatherV2", f"{node.name}/rows", ["", rows, axis], device=node.device)
    for attribute, kind in (("Tparams", tf.float32), ("Tindices", dtype), ("Taxis", tf.int32)):
        gather.attr[attribute].type = kind.as_datatype_enum
    value = _Rows(graph, names, nodes, gather, read.depth, encoded).decoded(parts)
    return [*nodes.made, renamed(node, node.name, [value, Input(rows.node, 1), *node.input[2:]])]


@dataclass(frozen=True)
class _Rows:
    """Some rows of an encoded table. read: the gather or slice that picks them; its first input does not matter."""

    graph: Graph
    names: NameMaker
    nodes: Nodes
    read: NodeDef
    depth: int
    encoded: Weight

    def decoded(self, parts: Mapping[str, Part]) -> Input:
        """Their values."""
        assert self.encoded.encoded is not None
        rows = {role: self._rows(role, part) for role, part in parts.items()}
        first, *_ = table = self.encoded.shape
        form = Form(self.encoded.dtype, (first, *table[self.depth :]))
        return encodings.decoding_rows(self.nodes, self.encoded.encoded.encoding, rows, form)

    def _rows(self, role: str, part: Part) -> Part:
        """The part's rows; their form is that of a table of which they are whole rows."""
        table, depth = self.encoded.shape, self.depth
        shape, dtype = part.form.shape, part.form.dtype
        assert self.encoded.encoded is not None
        if role not in encodings.by_row(self.encoded.encoded.encoding):
            return part
        count = table[0] if math.prod(shape[:depth]) > 1 else 1
        return Part(self._looked_up(role, part), Form(dtype, (count, *shape[depth:])))

    def _looked_up(self, role: str, part: Part) -> Input:
        """What the indices pick of a part whose axes are the table's; all of one that is the same for all rows."""
        table, depth, nodes, shape = self.encoded.shape, self.depth, self.nodes, part.form.shape
        if shape[:depth] == table[:depth]:
            return self._read(role, part)
        picked = [axis for axis in range(depth) if shape[axis] > 1]
        if not picked:
            return nodes.reshape(part.source, shape[depth:], part.dtype)
        indices, kind = data_inputs(self.read)[1], self._index_dtype
        if depth > 1:
            axes, last = nodes.constant(picked, np.int32), nodes.constant(-1, np.int32)
            indices = nodes.add("GatherV2", indices, axes, last, Tparams=kind, Tindices=tf.int32, Taxis=tf.int32)
        blocks = [table[axis] // shape[axis] for axis in picked]
        if max(blocks) > 1:
            block = nodes.constant(blocks if depth > 1 else blocks[0], kind.as_numpy_dtype)
            indices = nodes.add("FloorDiv", indices, block, T=kind)
        if len(picked) < depth:
            squeezed = (*(shape[axis] for axis in picked), *shape[depth:])
            part = Part(nodes.reshape(part.source, squeezed, part.dtype), part.form)
        return self._read(role, part, indices)

    def _read(self, role: str, part: Part, indices: Input | None = None) -> Input:
        """The read, of a part instead of the table, at the same indices unless given others."""
        _, given, *others = self.read.input
        name = self.names(f"{self.read.name}/{role}")
        made = renamed(self.read, name, [part.source, indices or given, *others])
        made.attr["T" if made.op == "StridedSlice" else "Tparams"].type = part.dtype.as_datatype_enum
        self.nodes.made.append(made)
        return Input(name, 0)

    @property
    def _index_dtype(self) -> tf.DType:
        name = "Index" if self.read.op == "StridedSlice" else "Tindices"
        return tf.as_dtype(ops.attribute(self.read, name, self.graph.functions).type)
