"""Look the values of a sparse table up by key, instead of storing its zeros.

    Before: y = Gather(W, ids)
    After:  y = ExpandDims(LookupTableFind(table, ids, 0), -1), with table filled from keys and values at load

W is a constant of shape [n, 1], float32 or float64, that is only gathered from, directly or through Identity. Values of
a magnitude below 1e-5 are dropped; for the others a hash table has the row as key, an int64 to which ids are cast.
The table takes 12 bytes per value that is left (16 for float64) where W takes 4 (8) per row.

The table has to be filled before it is asked. In a bundle the init op does that; where there is none, the NoOp
`group_init_node` becomes it. In a plain GraphDef whoever runs the graph has to run the first of the outputs without
tensors that were listed, or else this NoOp, once per session. No NoOp is added when nothing is replaced.

| parameter | |
|---|---|
| group_init_node | the NoOp that fills the tables where the graph has no init op; made unless it is there |
| input_checkpoint | a checkpoint's prefix: tables that are variables are replaced too, with the values it holds |

Answers change by less than 1e-5, and where an id is out of range: Gather refuses it on a CPU, the table gives 0.

Left alone, with a reason: tables that are wider, of other types, or part of the interface; tables that something else
reads too; those that wait for other nodes (in a TensorFlow 1 loop, say); a gather along another axis or with batch
dimensions; tables that would take no fewer bytes; variables without a checkpoint, or not in it, or that are written.
Function bodies are not entered.

Source: tensorflow/tools/graph_transforms/sparsify_gather.cc, same name and parameters; unlike it we make the tables of
TensorFlow 2 (HashTableV2, InitializeTableV2), which every server runs, take int32 ids and need no Identity.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import tensorflow as tf

from tfslim_core import ops
from tfslim_core.errors import TransformError, nearest
from tfslim_core.graph import (
    CONTROL,
    Graph,
    NameMaker,
    NodeDef,
    Reader,
    constant,
    control_inputs,
    data_inputs,
    make_node,
    needed,
    parse_input,
    renamed,
)
from tfslim_core.registry import Outcome, Skipped, transform
from tfslim_core.rewriting import Skip
from tfslim_core.weights import Array, Weight

_SMALLEST = 1e-5  # the magnitude below which a value is taken for zero
_GATHERS = frozenset({"Gather", "GatherV2", "ResourceGather"})
_VARIABLES = ops.REF_VARIABLES | {"VarHandleOp"}
_HAND_ON = frozenset({"Identity", "ReadVariableOp"})
_KEY_BYTES = 8


@transform("sparsify_gather", exact=False)
def sparsify_gather(
    graph: Graph, *, group_init_node: str = "group_deps", input_checkpoint: str | None = None
) -> Outcome:
    """Look the values of a sparse table up by key, instead of storing its zeros."""
    checkpoint = _Checkpoint(input_checkpoint) if input_checkpoint else None
    wanted = needed(graph, graph.interface) if graph.interface else graph.nodes.keys()
    edit = _Edit(graph)
    skipped: list[Skipped] = []
    for name, gathers in _tables(graph).items():
        try:
            readers = _only_gathered(graph, name, wanted)
            edit.sparsify(name, readers, _values(graph, name, checkpoint))
        except Skip as reason:
            skipped += [Skipped(gather, str(reason)) for gather in gathers]
    if not edit.initializers:
        return Outcome(graph, skipped=tuple(skipped))
    changes = len(edit.rewritten)
    host, targets = _host(graph, group_init_node, edit.initializers)
    edit.new[host.name] = host
    changed = graph.replace(edit.new.values(), edit.dropped(), weights=edit.weights)
    return Outcome(replace(changed, targets=targets), changes, tuple(skipped))


class _Checkpoint:
    """The tensors of a checkpoint by name."""

    def __init__(self, prefix: str) -> None:
        try:
            self._reader: Any = tf.train.load_checkpoint(prefix)
            self.shapes: Mapping[str, list[int]] = self._reader.get_variable_to_shape_map()
        except (tf.errors.OpError, ValueError, RuntimeError) as error:
            first = str(error).strip().partition("\n")[0]
            raise TransformError(f"sparsify_gather: input_checkpoint={prefix} cannot be read: {first}") from None

    def read(self, node: NodeDef) -> Array:
        """The values of a variable.

        Raises:
            Skip: it is not in there.
        """
        names = [node.name, node.attr["shared_name"].s.decode() if "shared_name" in node.attr else ""]
        name = next((name for name in names if name in self.shapes), "")
        if not name:
            raise Skip(f"the checkpoint holds no variable {node.name!r}{nearest(node.name, self.shapes)}")
        _check_shape(tuple(self.shapes[name]))
        return np.asarray(self._reader.get_tensor(name))


def _tables(graph: Graph) -> dict[str, list[str]]:
    """Constants and variables that something is gathered from, and the gathers."""
    found: dict[str, list[str]] = {}
    for name, node in graph.nodes.items():
        if node.op not in _GATHERS:
            continue
        source = graph.nodes[data_inputs(node)[0].node]
        while source.op in _HAND_ON:
            source = graph.nodes[data_inputs(source)[0].node]
        if source.op == "Const" or source.op in _VARIABLES:
            found.setdefault(source.name, []).append(name)
    return found


@dataclass(frozen=True)
class _Readers:
    """The gathers from a table, and the nodes that hand it on to them."""

    gathers: list[NodeDef]
    between: list[str]


def _only_gathered(graph: Graph, name: str, wanted: Any) -> _Readers:
    """Who reads a table.

    Raises:
        Skip: somebody does otherwise than by gathering rows.
    """
    is_constant = graph.nodes[name].op == "Const"
    gathers: list[NodeDef] = []
    path = [name]
    for source in path:
        if source in graph.interface:
            raise Skip(f"{source!r} is part of the interface")
        if control_inputs(graph.nodes[source]):
            raise Skip(f"{source!r} waits for other nodes")
        for reader in graph.readers_of(source):
            node = graph.nodes[reader.node]
            if not is_constant and reader.node not in wanted:
                continue  # an initializer or a saver, which no request runs
            if node.op in _HAND_ON and reader.port != CONTROL:
                path.append(reader.node)
                continue
            if node.op not in _GATHERS or reader.position or reader.port == CONTROL:
                raise Skip(f"{reader.node!r} ({node.op}) reads {source!r} too")
            _check_gather(graph, node, reader)
            gathers.append(node)
    return _Readers(gathers, path[1:])


def _check_gather(graph: Graph, node: NodeDef, reader: Reader) -> None:
    if any(parse_input(tensor).node == reader.node for tensor in graph.inputs):
        raise Skip(f"{reader.node!r} is fed")
    if node.op != "Gather" and ops.attribute(node, "batch_dims", graph.functions).i:
        raise Skip(f"{reader.node!r} has batch dimensions")
    if node.op == "GatherV2":
        axis = data_inputs(node)[2].node
        fed = any(parse_input(tensor).node == axis for tensor in graph.inputs)
        if graph.nodes[axis].op != "Const" or fed:
            raise Skip(f"the axis of {reader.node!r} is not a constant")
        if graph.value(axis).item() != 0:
            raise Skip(f"{reader.node!r} gathers along axis {graph.value(axis).item()}")


def _values(graph: Graph, name: str, checkpoint: _Checkpoint | None) -> Array:
    """A table's values.

    Raises:
        Skip: it is none of one value per row, or a variable whose values are not known.
    """
    node = graph.nodes[name]
    dtype = tf.as_dtype(node.attr["dtype"].type)
    if dtype not in (tf.float32, tf.float64):
        raise Skip(f"the table is of type {dtype.name}, not float32 or float64")
    if node.op == "Const":
        _check_shape(graph.constant_shape(name))
        return graph.value(name)
    if checkpoint is None:
        raise Skip("the table is a variable, and no input_checkpoint is given")
    value = checkpoint.read(node)
    if value.dtype != dtype.as_numpy_dtype:
        raise Skip(f"the table is {dtype.name}, in the checkpoint it is {value.dtype}")
    return value


def _check_shape(shape: tuple[int, ...]) -> None:
    if len(shape) != 2 or shape[1] != 1:
        raise Skip(f"the table has shape {shape}, not one value per row")


@dataclass
class _Edit:
    """What changes: new nodes, their weights, the gathers that were replaced, and what only they read."""

    graph: Graph
    new: dict[str, NodeDef] = field(default_factory=dict)
    weights: dict[str, Weight] = field(default_factory=dict)
    initializers: list[str] = field(default_factory=list)
    rewritten: list[str] = field(default_factory=list)
    maybe_unread: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.names: NameMaker = self.graph.fresh_names()

    def sparsify(self, name: str, readers: _Readers, value: Array) -> None:
        """Put a table in the place of the rows `value`.

        Raises:
            Skip: it would take no fewer bytes.
        """
        flat = value.reshape(-1)
        keys = np.flatnonzero(~(np.abs(flat) < _SMALLEST)).astype(np.int64)  # NaN is kept
        before = self.graph.weights[name].stored_bytes if name in self.graph.weights else flat.nbytes
        after = len(keys) * (_KEY_BYTES + flat.itemsize)
        if after >= before:
            raise Skip(f"{len(keys):,} of its {len(flat):,} values are not zero: {after:,} bytes for {before:,}")
        kept = flat[keys]
        if not len(keys):  # TensorFlow takes no empty table for filled
            keys, kept = np.zeros(1, np.int64), np.zeros(1, flat.dtype)
        dtype = tf.as_dtype(flat.dtype)
        table = make_node("HashTableV2", self.names(f"{name}/HashTable"), [], key_dtype=tf.int64, value_dtype=dtype)
        # Tables of one name are one table within a process; this name comes from what is in it.
        content = hashlib.sha256(keys.tobytes() + kept.tobytes()).hexdigest()[:32]
        table.attr["shared_name"].s = f"hash_table_{dtype.name}_{content}".encode()
        fill = make_node(
            "InitializeTableV2",
            self.names(f"{name}/InitializeTable"),
            [table.name, self._constant(f"{name}/indices", keys), self._constant(f"{name}/values", kept)],
            Tkey=tf.int64,
            Tval=dtype,
        )
        zero = self._constant(f"{name}/default", np.zeros((), flat.dtype))
        last = self._constant(f"{name}/last_axis", np.array(-1, np.int32))
        self._put(table)
        self._put(fill)
        self.initializers.append(fill.name)
        for gather in readers.gathers:
            self._look_up(gather, table.name, zero, last, dtype)
        self.maybe_unread += [*reversed(readers.between), name]

    def _look_up(self, gather: NodeDef, table: str, zero: str, last: str, dtype: tf.DType) -> None:
        ids = data_inputs(gather)[1]
        kind = tf.as_dtype(ops.attribute(gather, "Tindices", self.graph.functions).type)
        controls = [f"^{name}" for name in control_inputs(gather)]
        if kind != tf.int64:
            cast = self.names(f"{gather.name}/Cast")
            self._put(make_node("Cast", cast, [ids], device=gather.device, SrcT=kind, DstT=tf.int64))
            ids = parse_input(cast)
        find = self.names(f"{gather.name}/LookupTableFind")
        self._put(make_node("LookupTableFindV2", find, [table, ids, zero, *controls], Tin=tf.int64, Tout=dtype))
        self._put(make_node("ExpandDims", gather.name, [find, last], device=gather.device, T=dtype, Tdim=tf.int32))
        self.rewritten.append(gather.name)
        self.maybe_unread += [source.node for source in data_inputs(gather)[2:]]

    def _put(self, node: NodeDef) -> None:
        self.new[node.name] = node

    def _constant(self, name: str, value: Array) -> str:
        node, large = constant(self.names(name), value)
        self._put(node)
        self.weights |= large
        return str(node.name)

    def dropped(self) -> set[str]:
        """What nobody reads any more: tables, what handed them on, and axes."""
        gone: set[str] = set()
        for name in self.maybe_unread:
            readers = self.graph.readers_of(name)
            if name not in self.graph.interface and all(r.node in gone or r.node in self.rewritten for r in readers):
                gone.add(name)
        return gone


def _host(graph: Graph, group_init_node: str, initializers: list[str]) -> tuple[NodeDef, tuple[str, ...]]:
    """The node that fills the tables when it is run, and the targets of the graph, one of which it is.

    Raises:
        TransformError: a node of the name given does something else.
    """
    name = group_init_node
    if graph.targets and name not in graph.targets:
        name = graph.targets[0]
    elif name in graph.nodes and graph.nodes[name].op != "NoOp":
        raise TransformError(f"sparsify_gather: group_init_node={name} is a {graph.nodes[name].op}, not a NoOp")
    old = graph.nodes.get(name) or make_node("NoOp", name, [])
    host = renamed(old, name, [*map(parse_input, old.input), *(f"^{fill}" for fill in initializers)])
    return host, graph.targets if name in graph.targets else (*graph.targets, name)
