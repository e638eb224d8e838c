"""Where the row numbers of a lookup come from, and who else sees them.

A flow is all tensors that hold the same row numbers, from where they arise (a table's answer, hash buckets, constants)
through ops that only move values, to the lookups. Row numbers may be given anew only where all of a flow is understood:
every source is one that can be told the new numbers, and every reader is a lookup, an op that moves values, one that
looks at shapes only, or a comparison that comes out the same.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import tensorflow as tf

from tfslim_core import ops
from tfslim_core.graph import CONTROL, Graph, Input, NodeDef, Reader, data_inputs
from tfslim_core.weights import Array

# Ops that move values without looking at them: the inputs that hold values, and the output that they come out of.
_MOVES: Mapping[str, tuple[tuple[int, ...], int]] = {
    **dict.fromkeys(
        "Identity Reshape Squeeze ExpandDims Cast Transpose StridedSlice Slice Gather GatherV2 GatherNd Tile "
        "BroadcastTo ReverseV2 Unique".split(),
        ((0,), 0),
    ),
    **dict.fromkeys(("Select", "SelectV2"), ((1, 2), 0)),
    "PadV2": ((0, 2), 0),
    "Fill": ((1,), 0),
    "SparseToDense": ((2, 3), 0),
    "RaggedTensorToTensor": ((1, 2), 0),
    "SparseFillEmptyRows": ((1, 3), 1),
    "SparseReorder": ((1,), 1),
}
_BLIND = frozenset(("Shape", "ShapeN", "Size", "Rank"))
_EQUALITIES = frozenset(("Equal", "NotEqual"))
_SIGNS = frozenset(("Less", "GreaterEqual"))  # than 0: whether a number is one of a row at all
_INTEGERS = (tf.int32.as_datatype_enum, tf.int64.as_datatype_enum)


@dataclass(frozen=True)
class Place:
    """An input of a node."""

    node: str
    position: int


@dataclass
class Flow:
    """Row numbers, from their sources to the lookups.

    lookups: the places where they index something. finds: LookupTableFindV2 nodes that give them. buckets: additions of
    hash buckets to the number of the first bucket's row. constants: places where a constant joins them or is compared
    with them. wraps: whether a negative number counts from the end. unknown: why some source is not understood; looked
    at: why some reader is not.
    """

    tensors: set[Input] = field(default_factory=set)
    lookups: list[Place] = field(default_factory=list)
    finds: list[str] = field(default_factory=list)
    buckets: list[Buckets] = field(default_factory=list)
    constants: list[Place] = field(default_factory=list)
    compared: list[Place] = field(default_factory=list)
    wraps: bool = False
    unknown: str = ""
    looked_at: str = ""


@dataclass(frozen=True)
class Buckets:
    """An addition of hash buckets. hasher: the node that gives 0 .. count - 1. base: the place of the first's row.

    table: the LookupTableSizeV2 that the base is, or nothing where it is a constant.
    """

    node: str
    hasher: str
    count: int
    base: Place
    size: str = ""


def flow_of(graph: Graph, ids: Input) -> Flow:
    """All that the row numbers `ids` are a part of."""
    flow = Flow()
    todo = [ids]
    while todo:
        tensor = todo.pop()
        if tensor in flow.tensors:
            continue
        flow.tensors.add(tensor)
        todo += _back(graph, tensor, flow)
        todo += _forward(graph, tensor, flow)
    return flow


def constant_at(graph: Graph, source: Input) -> Array | None:
    """The value where a constant comes in, cast perhaps; None where it is none."""
    node = graph.nodes[source.node]
    if str(source.node) in {text.partition(":")[0] for text in graph.inputs}:
        return None
    if node.op == "Const":
        return graph.value(node.name)
    if node.op not in ("Identity", "Cast"):
        return None
    value = constant_at(graph, data_inputs(node)[0])
    return value if value is None else value.astype(tf.as_dtype(graph.facts(node.name).gives[0]).as_numpy_dtype)


def moved(node: NodeDef) -> tuple[tuple[int, ...], int] | None:
    """Which inputs of a node come out unchanged, and where; None where it computes."""
    if node.op == "ConcatV2":
        return tuple(range(len(data_inputs(node)) - 1)), 0
    if node.op == "Pack":
        return tuple(range(len(data_inputs(node)))), 0
    return _MOVES.get(node.op)


def moved_from(graph: Graph, tensor: Input) -> set[Input]:
    """The tensor, and all those whose values it may hold; of a constant nothing more is asked."""
    found: set[Input] = set()
    todo = [tensor]
    while todo:
        one = todo.pop()
        if one in found or constant_at(graph, one) is not None:
            continue
        found.add(one)
        moves = moved(graph.nodes[one.node])
        if moves is not None and moves[1] == one.port:
            todo += [data_inputs(graph.nodes[one.node])[position] for position in moves[0]]
    return found


def _back(graph: Graph, tensor: Input, flow: Flow) -> list[Input]:
    """Where the tensor's values come from; what is known of a source goes into the flow."""
    node = graph.nodes[tensor.node]
    if _is_fed(graph, tensor.node):
        flow.unknown = flow.unknown or f"they are fed ({tensor.node})"
        return []
    if node.op == "LookupTableFindV2":
        flow.finds.append(node.name)
        return []
    moves = moved(node)
    if moves is not None and moves[1] == tensor.port and _is_whole(graph, node):
        sources = []
        skip = _wrapped(graph, node)
        for position in moves[0]:
            source = data_inputs(node)[position]
            if position == skip:
                flow.wraps = True
            elif constant_at(graph, source) is not None:
                flow.constants.append(Place(node.name, position))
            else:
                sources.append(source)
        return sources
    buckets = _buckets(graph, node)
    if buckets is not None:
        flow.buckets.append(buckets)
    else:
        flow.unknown = flow.unknown or f"{node.op} computes them ({node.name})"
    return []


def _forward(graph: Graph, tensor: Input, flow: Flow) -> list[Input]:
    """Where the tensor's values go on to; what else reads them goes into the flow."""
    if str(tensor) in {text.removesuffix(":0") for text in graph.outputs}:
        flow.looked_at = flow.looked_at or f"they are an output ({tensor})"
    found = []
    for reader in graph.readers_of(tensor.node):
        if reader.port != tensor.port:
            continue
        node = graph.nodes[reader.node]
        moves = moved(node)
        if node.op in _BLIND:
            continue
        if moves is not None and reader.position in moves[0] and _is_whole(graph, node):
            found.append(Input(node.name, moves[1]))
        elif reader.position == 1 and (node.op.startswith("Gather") or node.op.startswith("SparseSegment")):
            flow.lookups.append(Place(node.name, 1))
        elif _compares(graph, node, reader):
            flow.compared.append(Place(node.name, 1 - reader.position))
        elif not _is_wrap(graph, node):
            flow.looked_at = flow.looked_at or f"{node.op} looks at them ({node.name})"
    return found


def _is_fed(graph: Graph, name: str) -> bool:
    return any(text.partition(":")[0] == name for text in graph.inputs)


def _is_whole(graph: Graph, node: NodeDef) -> bool:
    """Whether what comes in and out is whole numbers: a cast may be to another kind."""
    return node.op != "Cast" or {*graph.facts(node.name).gives, *graph.facts(node.name).takes} <= {*_INTEGERS}


def _compares(graph: Graph, node: NodeDef, reader: Reader) -> bool:
    """Whether a node compares with constants, or asks for the sign."""
    if node.op not in _EQUALITIES | _SIGNS:
        return False
    value = constant_at(graph, data_inputs(node)[1 - reader.position])
    if value is None:
        return False
    return node.op in _EQUALITIES or (reader.position == 0 and not np.any(value))


def _wrapped(graph: Graph, node: NodeDef) -> int:
    """The input that counts negative numbers from the end, as Keras has it: Select(x < 0, x + rows, x); -1 for none."""
    if node.op not in ("Select", "SelectV2"):
        return -1
    condition, shifted, plain = data_inputs(node)
    test, add = graph.nodes[condition.node], graph.nodes[shifted.node]
    if test.op != "Less" or data_inputs(test)[0] != plain or add.op not in ("Add", "AddV2"):
        return -1
    zero = constant_at(graph, data_inputs(test)[1])
    return 1 if zero is not None and not np.any(zero) and plain in data_inputs(add) else -1


def _is_wrap(graph: Graph, node: NodeDef) -> bool:
    readers = graph.readers_of(node.name)
    return bool(readers) and all(
        reader.port != CONTROL and reader.position == 1 and _wrapped(graph, graph.nodes[reader.node]) == 1
        for reader in readers
    )


def _buckets(graph: Graph, node: NodeDef) -> Buckets | None:
    if node.op not in ("Add", "AddV2"):
        return None
    for position in (0, 1):
        hasher = _through(graph, data_inputs(node)[position])
        if hasher.op != "StringToHashBucketFast":
            continue
        count = ops.attribute(hasher, "num_buckets", graph.functions).i
        base = data_inputs(node)[1 - position]
        size = _through(graph, base)
        place = Place(node.name, 1 - position)
        if size.op == "LookupTableSizeV2":
            return Buckets(node.name, hasher.name, count, place, size.name)
        value = constant_at(graph, base)
        if value is not None and value.size == 1:
            return Buckets(node.name, hasher.name, count, place)
    return None


def _through(graph: Graph, source: Input) -> NodeDef:
    """The node that gives a value, before casts."""
    node = graph.nodes[source.node]
    while node.op in ("Identity", "Cast") and _is_whole(graph, node):
        node = graph.nodes[data_inputs(node)[0].node]
    return node
