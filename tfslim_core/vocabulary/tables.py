"""Lookup tables that give row numbers: what is in them, as TensorFlow fills them, and the same with fewer entries."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from tfslim_core import ops
from tfslim_core.bundle import AssetEntry, Bundle
from tfslim_core.errors import ModelError
from tfslim_core.graph import CONTROL, Graph, NodeDef, constant, data_inputs, make_node, needed, parse_input, renamed
from tfslim_core.one_line import one_line
from tfslim_core.saved_model.write import inline_constant
from tfslim_core.weights import Array, Weight

_TEXT = "InitializeTableFromTextFileV2"
_ARRAYS = frozenset(("InitializeTableV2", "LookupTableImportV2"))
_WHOLE_LINE, _LINE_NUMBER = -2, -1


class NotRewritableError(Exception):
    """Why a table has to stay as it is."""


@dataclass(frozen=True)
class Table:
    """A table of words (or numbers) and row numbers. keys: [entries] of bytes or integers. values: [entries]."""

    node: str
    initializer: str
    keys: Array
    values: NDArray[np.int64]

    @cached_property
    def entries(self) -> dict[object, int]:
        """Key -> row number."""
        return dict(zip(self.keys.tolist(), self.values.tolist(), strict=True))


@dataclass(frozen=True)
class TableEdit:
    """What changes for a table to have fewer entries. files: asset name -> its new content."""

    nodes: Sequence[NodeDef]
    weights: Mapping[str, Weight]
    assets: Sequence[AssetEntry]
    files: Mapping[str, bytes]


def table_of(bundle: Bundle, node: str) -> Table:
    """The table that a node holds, with what is in it once it is filled.

    Raises:
        NotRewritableError: it is of another kind, or is not filled by one node.
    """
    graph = bundle.graph
    if graph.nodes[node].op != "HashTableV2":
        raise NotRewritableError(f"its table is a {graph.nodes[node].op}")
    filling = [
        reader.node
        for reader in graph.readers_of(node)
        if reader.port != CONTROL and graph.nodes[reader.node].op in {_TEXT, *_ARRAYS}
    ]
    if len(filling) != 1:
        raise NotRewritableError(f"its table is filled by {len(filling)} nodes")
    keys, values = _contents(graph, filling[0], _paths(bundle))
    return Table(node, filling[0], keys, values)


def check_own(bundle: Bundle, table: Table, finds: Sequence[str]) -> None:
    """Make sure that nobody but these lookups sees what is in the table.

    Raises:
        NotRewritableError: somebody does.
    """
    graph = bundle.graph
    node = graph.nodes[table.node]
    allowed = {*finds, table.initializer}
    for reader in graph.readers_of(table.node):
        other = graph.nodes[reader.node]
        if reader.port != CONTROL and reader.node not in allowed and other.op != "LookupTableSizeV2":
            raise NotRewritableError(f"{other.op} reads its table too ({reader.node})")
    if table.node in graph.interface:
        raise NotRewritableError("its table is an output")
    shared = ops.attribute(node, "shared_name", graph.functions).s
    if shared:
        for name in (n.name for n in graph.of_ops(("HashTableV2", "HashTable")) if n.name != table.node):
            if ops.attribute(graph.nodes[name], "shared_name", graph.functions).s == shared:
                raise NotRewritableError(f"its table is also the node {name}")
    if graph.nodes[table.initializer].op == _TEXT:
        _asset(bundle, table)


def size_readers(graph: Graph, table: Table) -> set[str]:
    """The nodes that read how many entries a table has, casts left out."""
    found: set[str] = set()
    todo = [r.node for r in graph.readers_of(table.node) if graph.nodes[r.node].op == "LookupTableSizeV2"]
    while todo:
        name = todo.pop()
        if name in graph.interface:
            found.add(name)
        for reader in graph.readers_of(name):
            if reader.port == CONTROL:
                continue
            if graph.nodes[reader.node].op in ("Identity", "Cast"):
                todo.append(reader.node)
            else:
                found.add(reader.node)
    return found


def rewritten(bundle: Bundle, table: Table, new_row: Callable[[int], int | None]) -> TableEdit:
    """The table with those entries alone that `new_row` gives a number for.

    Raises:
        NotRewritableError: how the file is read is not understood.
    """
    graph = bundle.graph
    node = graph.nodes[table.initializer]
    names = graph.fresh_names()
    if node.op in _ARRAYS:
        rows = [new_row(int(value)) for value in table.values]
        kept = np.array([row is not None for row in rows])
        new = np.array([row for row in rows if row is not None], _row_dtype(graph, table))
        keys, first = constant(names(f"{node.name}/keys"), table.keys[kept], device=node.device)
        values, second = constant(names(f"{node.name}/values"), new, device=node.device)
        others = [text for text in node.input if text.startswith("^")]
        filled = renamed(node, node.name, [node.input[0], keys.name, values.name, *others])
        return TableEdit([keys, values, filled], {**first, **second}, bundle.manifest.assets, {})
    asset = _asset(bundle, table)
    content = (bundle.files / "assets" / asset.filename).read_bytes()
    lines = _fewer_lines(graph, node, content, new_row)
    taken = {entry.filename for entry in bundle.manifest.assets if entry.tensor != asset.tensor}
    filename = _free(asset.filename, taken)
    assets = [
        AssetEntry(tensor=entry.tensor, filename=filename) if entry.tensor == asset.tensor else entry
        for entry in bundle.manifest.assets
    ]
    copy = renamed(node, node.name)
    if ops.attribute(node, "vocab_size", graph.functions).i > 0:
        copy.attr["vocab_size"].i = len(lines)
    return TableEdit([copy], {}, assets, {filename: b"".join(line + b"\n" for line in lines)})


def check_contents(bundle: Bundle, table: Table, wanted: Mapping[object, int]) -> None:
    """Fill the table as TensorFlow does, and compare.

    Raises:
        NotRewritableError: it holds something else.
    """
    keys, values = _contents(bundle.graph, table.initializer, _paths(bundle))
    if dict(zip(keys.tolist(), values.tolist(), strict=True)) != wanted:
        raise NotRewritableError("its vocabulary file is read in a way that is not understood")


def _row_dtype(graph: Graph, table: Table) -> Any:
    kind = ops.attribute(graph.nodes[table.node], "value_dtype", graph.functions).type
    return tf.as_dtype(kind).as_numpy_dtype


def _paths(bundle: Bundle) -> dict[str, str]:
    return {asset.tensor: str(bundle.files / "assets" / asset.filename) for asset in bundle.manifest.assets}


def _contents(graph: Graph, initializer: str, paths: Mapping[str, str]) -> tuple[Array, NDArray[np.int64]]:
    """Keys and row numbers of a table, in the order of the row numbers."""
    names = needed(graph, [initializer])
    table = data_inputs(graph.nodes[initializer])[0].node
    kinds = {
        new: tf.as_dtype(ops.attribute(graph.nodes[table], old, graph.functions).type)
        for new, old in (("Tkeys", "key_dtype"), ("Tvalues", "value_dtype"))
    }
    if kinds["Tvalues"] not in (tf.int32, tf.int64):
        raise NotRewritableError(f"its table gives {kinds['Tvalues'].name}")
    export = make_node("LookupTableExportV2", graph.fresh_names()("export"), [table], **kinds)
    graph_def = tf.compat.v1.GraphDef(versions=graph.rest.versions, library=graph.rest.library)
    for name in names:
        node = graph.nodes[name]
        graph_def.node.append(inline_constant(node, graph.weights[name]) if name in graph.weights else node)
    graph_def.node.append(export)
    opened = tf.Graph()
    try:
        with opened.as_default():
            tf.import_graph_def(graph_def, name="")
        with tf.compat.v1.Session(graph=opened) as session:
            fed = {name: path for name, path in paths.items() if parse_input(name).node in names}
            session.run(opened.get_operation_by_name(initializer), fed)
            keys, values = session.run([f"{export.name}:0", f"{export.name}:1"])
    except (tf.errors.OpError, ValueError) as error:
        raise ModelError(f"the table {table!r} cannot be filled: {one_line(error)}") from None
    order = np.argsort(values, kind="stable")
    return keys[order], values[order].astype(np.int64)


def _asset(bundle: Bundle, table: Table) -> AssetEntry:
    """The file that fills a table and nothing else: read by the node itself, or over a variable that holds its path."""
    graph = bundle.graph
    source = graph.nodes[data_inputs(graph.nodes[table.initializer])[1].node]
    reading = {table.initializer}
    if source.op == "ReadVariableOp":
        variable = data_inputs(source)[0].node
        users = [graph.nodes[reader.node] for reader in graph.readers_of(variable) if reader.port != CONTROL]
        assigned = [node for node in users if node.op == "AssignVariableOp"]
        reads = [node.name for node in users if node.op == "ReadVariableOp"]
        if len(assigned) != 1 or len(assigned) + len(reads) < len(users) or variable in graph.interface:
            raise NotRewritableError("its vocabulary file is not known for certain")
        _only(graph, reads, reading)
        source, reading = graph.nodes[data_inputs(assigned[0])[1].node], {assigned[0].name}
    entry = next((e for e in bundle.manifest.assets if parse_input(e.tensor).node == source.name), None)
    if entry is None:
        raise NotRewritableError("its vocabulary file is no asset")
    _only(graph, [source.name], reading)
    return entry


def _only(graph: Graph, names: Sequence[str], readers: set[str]) -> None:
    others = [r.node for name in names for r in graph.readers_of(name) if r.port != CONTROL and r.node not in readers]
    if others:
        raise NotRewritableError(f"its vocabulary file is read by others too ({others[0]})")


def _fewer_lines(graph: Graph, node: NodeDef, content: bytes, new_row: Callable[[int], int | None]) -> list[bytes]:
    """The lines that are kept, as they were; a column with row numbers gets the new ones."""

    def number(name: str) -> int:
        return int(ops.attribute(node, name, graph.functions).i)

    lines = content.split(b"\n")
    if not lines[-1]:
        lines.pop()
    if number("vocab_size") > 0:
        lines = lines[: number("vocab_size")]
    column, offset = number("value_index"), number("offset")
    if column == _WHOLE_LINE or number("key_index") == _LINE_NUMBER:
        raise NotRewritableError("its vocabulary file does not hold words by line")
    delimiter = bytes(ops.attribute(node, "delimiter", graph.functions).s)
    kept = []
    for index, line in enumerate(lines):
        if column == _LINE_NUMBER:
            if new_row(index + offset) is not None:
                kept.append(line)
            continue
        parts = line.split(delimiter)
        try:
            row = new_row(int(parts[column]))
        except (ValueError, IndexError):
            raise NotRewritableError(f"line {index + 1} of its vocabulary file holds no row number") from None
        if row is not None:
            end = b"\r" if parts[column].endswith(b"\r") else b""
            kept.append(delimiter.join([*parts[:column], str(row).encode() + end, *parts[column + 1 :]]))
    return kept


def _free(name: str, taken: set[str]) -> str:
    """A name for a file beside others."""
    stem, suffix = os.path.splitext(name)
    number, made = 0, name
    while made in taken:
        number += 1
        made = f"{stem}_pruned{number if number > 1 else ''}{suffix}"
    return made
