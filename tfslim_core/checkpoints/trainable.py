"""Which constants of a frozen graph become variables again, and with which values.

Those that were variables, by the record; where there is none, those that layers read. A weight that was encoded is
decoded, so that one variable stands where codes and scales did:

    Gather(codes, i), Cast, Mul(Gather(scale, i))  ->  Gather(w, i)
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import Literal

import numpy as np
import tensorflow as tf

from tfslim_core import encodings, ops
from tfslim_core.bundle import Bundle, Stored, VariableEntry
from tfslim_core.encodings.scheme import Form
from tfslim_core.errors import ModelError, UsageError, nearest
from tfslim_core.graph import (
    CONTROL,
    Graph,
    Input,
    NodeDef,
    data_inputs,
    external_constant,
    needed,
    only_needed,
    renamed,
)
from tfslim_core.ops import BRANCHES, LOOPS
from tfslim_core.saved_model.write import inline_constant
from tfslim_core.weights import Array, Encoded, Weight, in_memory

Which = Literal["auto", "recorded", "layers"]
_PRODUCTS = frozenset(
    "MatMul BatchMatMul BatchMatMulV2 BatchMatMulV3 Conv2D Conv3D DepthwiseConv2dNative Conv2DBackpropInput "
    "Conv2DBackpropInputV2 Conv3DBackpropInputV2 Einsum SparseTensorDenseMatMul".split()
)
_GATHERS = frozenset(
    "Gather GatherV2 GatherNd SparseSegmentSum SparseSegmentMean SparseSegmentSqrtN SparseSegmentSumWithNumSegments "
    "SparseSegmentMeanWithNumSegments SparseSegmentSqrtNWithNumSegments".split()
)
_NORMS = frozenset({"FusedBatchNorm", "FusedBatchNormV2", "FusedBatchNormV3"})
_SUMS = frozenset({"BiasAdd", "Add", "AddV2"})
_MERGED = "merge_duplicate_nodes"
_NO_VARIABLE = "was no variable"
_STATISTICS = ("moving_mean", "moving_variance", "running_mean", "running_var", "moving_var")


@dataclass(frozen=True)
class Variable:
    """A constant that becomes a variable.

    consts: its nodes, all of its value. name: as training code calls it. key: in a checkpoint of names. origin: in the
    one it came from. part: of a partitioned variable, as RestoreV2 takes it. state: what became of its value, in words.
    """

    consts: tuple[str, ...]
    name: str
    key: str
    origin: str
    part: str
    weight: Weight
    trainable: bool
    state: str


@dataclass(frozen=True)
class Thawable:
    """A graph with plain constants, those that become variables, and the ones that are no more, with the reason."""

    graph: Graph
    variables: Sequence[Variable]
    gone: Mapping[str, str]
    notes: Sequence[str]


def thawable(bundle: Bundle, which: Which, include: Sequence[str], exclude: Sequence[str]) -> Thawable:
    """The variables that a bundle's constants become.

    include, exclude: shell patterns of names of constants or variables; exclude counts more.

    Raises:
        ModelError: nothing would become a variable.
        UsageError: a pattern that fits nothing.
    """
    graph, notes = _decoded(bundle)
    record = bundle.manifest.variables
    layers = dict(_read_by_layers(graph))
    wanted: dict[str, VariableEntry] = {}
    for name, node in graph.nodes.items():
        if node.op != "Const":
            continue
        entry = record.get(name)
        called = (entry.name if entry else "") or name
        chosen = entry is not None and which != "layers"
        chosen |= name in layers and (which == "layers" or (which == "auto" and not record))
        chosen |= which == "auto" and _is_folded(graph, record, layers.get(name, ""))
        chosen |= any(fnmatchcase(name, pattern) or fnmatchcase(called, pattern) for pattern in include)
        if chosen and not any(fnmatchcase(name, pattern) or fnmatchcase(called, pattern) for pattern in exclude):
            wanted[name] = entry or VariableEntry()
    _refuse_unknown(graph, record, include, exclude)
    if not wanted:
        raise ModelError("no constant becomes a variable: none was one, by the record; see --variables and --include")
    variables = _unique([_variable(bundle, graph, name, entry) for name, entry in wanted.items()])
    gone = {(entry.name or name): _gone(entry) for name, entry in record.items() if name not in graph.nodes}
    named = {variable.name for variable in variables}
    gone = {name: why for name, why in gone.items() if name not in named}
    merged = [name for name, why in gone.items() if why.endswith(_MERGED)]
    if merged:
        notes.append(
            f"{len(merged)} variables had the very values of others and are one with them, the first is {merged[0]!r}; "
            f"they would be trained as one: freeze and transform without {_MERGED} to keep them apart"
        )
    return Thawable(graph, variables, gone, notes)


def _variable(bundle: Bundle, graph: Graph, const: str, entry: VariableEntry) -> Variable:
    weight = graph.weights[const] if const in graph.weights else in_memory(graph.value(const))
    name = entry.name or const
    key = entry.key if entry.key and ".ATTRIBUTES" not in entry.key else name
    encoding = entry.encoding or next((w.encoding for w in bundle.manifest.weights if w.name == const), "")
    told = []
    if entry.changed:
        told.append("changed by " + ", ".join(entry.changed))
    if encoding and encoding != weight.dtype.name:
        told.append(f"decoded from {encoding}")
    if const not in bundle.manifest.variables:
        told.append(_NO_VARIABLE)
    plain = Weight(weight.dtype, weight.shape, weight.read, lengths=weight.lengths)
    trainable = entry.trainable
    if trainable is None:
        trainable = plain.dtype.kind == "f" and not any(word in name for word in _STATISTICS)
        trainable &= not _is_statistic(graph, const)
    return Variable(
        (const,), name, key, entry.key or name, entry.part, plain, trainable, "; ".join(told) or "as it was"
    )


def _unique(variables: Sequence[Variable]) -> list[Variable]:
    """The variables with names that are theirs alone: constants that were one variable are it again, as long as nothing
    gave one of them another value.
    """
    found: dict[tuple[str, str], Variable] = {}
    for variable in variables:
        name, key, number = variable.name, variable.key, 0
        while (twin := found.get((key, variable.part))) is not None:
            if _is_same(twin, variable):
                break
            number += 1
            key, name = f"{variable.key}_{number}", f"{variable.name}_{number}"
        if twin is not None:
            found[key, variable.part] = replace(twin, consts=(*twin.consts, *variable.consts))
        else:
            found[key, variable.part] = replace(variable, name=name, key=key)
    return list(found.values())


def _is_same(one: Variable, other: Variable) -> bool:
    """Whether two constants still hold the one variable's value."""
    alike = (one.state, one.weight.shape, one.weight.dtype) == (other.state, other.weight.shape, other.weight.dtype)
    return alike and one.state != _NO_VARIABLE and bool(np.array_equal(one.weight.read(), other.weight.read()))


def _gone(entry: VariableEntry) -> str:
    return "gone: " + (", ".join(entry.changed) if entry.changed else "nothing reads it")


def _refuse_unknown(
    graph: Graph, record: Mapping[str, VariableEntry], include: Sequence[str], exclude: Sequence[str]
) -> None:
    known = {name for name, node in graph.nodes.items() if node.op == "Const"}
    known |= {entry.name for entry in record.values() if entry.name}
    for flag, patterns in (("--include", include), ("--exclude", exclude)):
        for pattern in patterns:
            if not any(fnmatchcase(name, pattern) for name in known):
                raise UsageError(f"{flag} {pattern}: no constant has such a name{nearest(pattern, known)}")


def _read_by_layers(graph: Graph) -> Iterator[tuple[str, str]]:
    """Constants of floats that layers are made of; for a bias, the layer that it is added to."""
    for node in graph.of_ops(("Const",)):
        if not tf.as_dtype(node.attr["dtype"].type).is_floating:
            continue
        rank = len(graph.constant_shape(node.name))
        for reader, position in _readers(graph, node.name):
            if _is_layer_s(reader, position, rank):
                yield node.name, ""
                break
            if reader.op in _SUMS and rank == 1 and (layer := _layer_below(graph, reader, node.name)):
                yield node.name, layer
                break


def _is_folded(graph: Graph, record: Mapping[str, VariableEntry], layer: str) -> bool:
    """Whether a layer's weights were given other values, so that its bias may hold what other variables did."""
    weights = [_through_identities(graph, source.node) for source in data_inputs(graph.nodes[layer])] if layer else []
    return any(record[name].changed for name in weights if name in record)


def _is_layer_s(reader: NodeDef, position: int, rank: int) -> bool:
    if reader.op in _NORMS:
        return position in (1, 2, 3, 4)
    if reader.op in _GATHERS:
        return position == 0 and rank > 1
    return rank > 1 and (reader.op in _PRODUCTS or reader.op in BRANCHES | LOOPS or reader.op == "Enter")


def _is_statistic(graph: Graph, const: str) -> bool:
    return any(reader.op in _NORMS and position in (3, 4) for reader, position in _readers(graph, const))


def _layer_below(graph: Graph, add: NodeDef, bias: str) -> str:
    """The layer that a sum adds the bias to; empty where there is none."""
    for source in data_inputs(add):
        node = graph.nodes[source.node]
        while node.op in ("Identity", "Reshape", "Squeeze", "BatchToSpaceND"):
            node = graph.nodes[data_inputs(node)[0].node]
        if node.op in _PRODUCTS and node.name != bias:
            return str(node.name)
    return ""


def _readers(graph: Graph, name: str) -> Iterator[tuple[NodeDef, int]]:
    """Who reads a node, and at which position; Identity nodes hand it on."""
    for reader in graph.readers_of(name):
        node = graph.nodes[reader.node]
        if reader.port == CONTROL:
            continue
        if node.op == "Identity":
            yield from _readers(graph, node.name)
        else:
            yield node, reader.position


def _decoded(bundle: Bundle) -> tuple[Graph, list[str]]:
    """The graph with a constant for each weight that is decoded in the graph, and what stays encoded and why."""
    graph, notes = bundle.graph, []
    entries = {w.name: w for w in bundle.manifest.weights}
    names = [*entries, *(name for name in bundle.manifest.variables if name not in entries)]
    for name in names:
        recorded = bundle.manifest.variables.get(name, VariableEntry())
        if name in graph.nodes and graph.nodes[name].op not in ("Const", "Identity"):
            value = _constant_value(graph, name)
            if value is not None:
                graph = only_needed(_with(graph, external_constant(name, value)))
            continue
        rows = recorded.rows
        if name in entries and entries[name].placement == "rows":
            found = entries[name]
            rows = Stored(encoding=found.encoding.partition("/")[0], dtype=found.dtype, shape=found.shape)
        if name in graph.nodes or rows is None:
            continue
        try:
            graph = only_needed(_with_table(graph, name, rows))
        except ModelError as error:
            notes.append(f"{name} stays encoded and does not become a variable: {error}")
    return graph, notes


def _with(graph: Graph, made: tuple[NodeDef, dict[str, Weight]]) -> Graph:
    return graph.replace([made[0]], weights=made[1])


def _constant_value(graph: Graph, name: str) -> Weight | None:
    """The value of a node that nothing but constants go into."""
    inside = needed(graph, [name])
    if len(graph.facts(name).gives) != 1 or any(
        graph.nodes[n].op != "Const" and (not graph.nodes[n].input or ops.has_effect(graph.nodes[n], graph.functions))
        for n in inside
    ):
        return None

    def read() -> Array:
        part = tf.compat.v1.GraphDef(versions=graph.rest.versions, library=graph.rest.library)
        for other in sorted(inside):
            node = graph.nodes[other]
            part.node.append(inline_constant(node, graph.weights[other]) if other in graph.weights else node)
        with tf.Graph().as_default() as scratch:
            tf.import_graph_def(part, name="")
            with tf.compat.v1.Session(graph=scratch) as session:
                value: Array = np.asarray(session.run(f"{name}:0"))
        return value

    value = read()
    return Weight(value.dtype, value.shape, read)


def _with_table(graph: Graph, name: str, rows: Stored) -> Graph:
    """The graph with one table of floats in the place of its codes, which rows are read of.

    Raises:
        ModelError: its parts, or those who read them, are not as tfslim writes them.
    """
    parts: dict[str, Weight] = {}
    for role in encodings.roles(rows.encoding):
        const = _through_identities(graph, f"{name}/{role}")
        if const not in graph.nodes or graph.nodes[const].op != "Const":
            raise ModelError(f"its {role} is not there")
        parts[role] = graph.weights[const] if const in graph.weights else in_memory(graph.value(const))
    form = Form(np.dtype(tf.as_dtype(rows.dtype).as_numpy_dtype), tuple(rows.shape))
    table = encodings.decoded(Encoded(rows.encoding, parts), form)
    node, weights = external_constant(name, Weight(table.dtype, table.shape, table.read))
    new = [node]
    for role in sorted(encodings.by_row(rows.encoding))[:1]:
        for reader, _ in _readers(graph, f"{name}/{role}"):
            new.append(_plain_read(graph, name, role, reader, form))
    if len(new) < 2:
        raise ModelError("nothing reads its rows")
    return graph.replace(new, weights=weights)


def _plain_read(graph: Graph, table: str, role: str, read: NodeDef, form: Form) -> NodeDef:
    """The node that read rows of the table before it was encoded, in the place of what decodes them."""
    place, _, last = read.name.rpartition("/")
    if last.partition("_")[0] != role and last != role:
        raise ModelError(f"{read.name!r} reads its {role}")
    segments = place.removesuffix("/rows")
    if segments != place and segments in graph.nodes:
        node = graph.nodes[segments]
        unique = graph.nodes[data_inputs(node)[1].node]
        return renamed(node, segments, [Input(table, 0), unique.input[0], *node.input[2:]])
    if place not in graph.nodes:
        raise ModelError(f"{place!r}, which read it, is not there")
    made = renamed(read, place, [Input(table, 0), *read.input[1:]])
    made.attr["T" if made.op == "StridedSlice" else "Tparams"].type = tf.as_dtype(form.dtype).as_datatype_enum
    return made


def _through_identities(graph: Graph, name: str) -> str:
    while name in graph.nodes and graph.nodes[name].op == "Identity":
        name = data_inputs(graph.nodes[name])[0].node
    return name
