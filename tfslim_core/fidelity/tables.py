"""Lookup tables as facts: what kind of keys and values, and what fills them."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Sequence
from pathlib import PurePosixPath

import tensorflow as tf

from tfslim_core import ops
from tfslim_core.bundle import Bundle
from tfslim_core.constant_nodes import Excluded
from tfslim_core.folding import Folding
from tfslim_core.graph import CONTROL, Graph, data_inputs, needed, parse_input

_TABLES = frozenset(
    name + version
    for name in ("HashTable", "MutableHashTable", "MutableHashTableOfTensors", "MutableDenseHashTable")
    for version in ("", "V2")
)
_FROM_FILE = frozenset(("InitializeTableFromTextFile", "InitializeTableFromTextFileV2"))
_LARGEST = 64 << 20  # bytes of keys or values that are computed to be compared
_BY_NOTHING = "filled by nothing here"
_FROM_ARRAYS = frozenset(("InitializeTable", "InitializeTableV2", "LookupTableImport", "LookupTableImportV2"))


def table_facts(bundle: Bundle) -> dict[tuple[str, str], str]:
    """Each table as "string -> int64" (numbered where there are several of a kind), and what fills it."""
    graph = bundle.graph
    assets = {parse_input(asset.tensor).node: asset.filename for asset in bundle.manifest.assets}
    found: dict[str, dict[str, str]] = defaultdict(dict)
    for node in graph.of_ops(sorted(_TABLES)):
        key, value = (
            tf.as_dtype(ops.attribute(node, which, graph.functions).type).name for which in ("key_dtype", "value_dtype")
        )
        shared = ops.attribute(node, "shared_name", graph.functions).s.decode(errors="replace")
        # Two nodes of one shared name are one table.
        filled = _filled_by(graph, node.name, assets)
        known = found[f"{key} -> {value}"].get(shared or node.name)
        if known is None or filled != _BY_NOTHING:
            found[f"{key} -> {value}"][shared or node.name] = filled
    return {
        ("table", kind if len(tables) == 1 else f"{kind} #{number}"): filled
        for kind, tables in found.items()
        for number, filled in enumerate(sorted(tables.values()), 1)
    }


def _filled_by(graph: Graph, table: str, assets: dict[str, str]) -> str:
    fillers = sorted(
        reader.node
        for reader in graph.readers_of(table)
        if reader.port != CONTROL and graph.nodes[reader.node].op in _FROM_FILE | _FROM_ARRAYS
    )
    words = [_source(graph, name, assets) for name in fillers]
    return " and ".join(dict.fromkeys(words)) or _BY_NOTHING


def _source(graph: Graph, filler: str, assets: dict[str, str]) -> str:
    node = graph.nodes[filler]
    inputs = data_inputs(node)
    if node.op in _FROM_FILE:
        files = sorted(assets[name] for name in _above(graph, inputs[1].node) if name in assets)
        return "the file " + " or ".join(PurePosixPath(file).as_posix() for file in files) if files else "another file"
    return _contents(graph, [source.node for source in inputs[1:3]])


def _contents(graph: Graph, arrays: Sequence[str]) -> str:
    """How many entries keys and values have, and what they are by digest; both in any order of the entries."""
    names = needed(graph, arrays)
    part = Graph(
        {name: node for name, node in graph.nodes.items() if name in names},
        outputs=tuple(arrays),
        weights={name: weight for name, weight in graph.weights.items() if name in names},
        rest=graph.rest,
    )
    folded, _ = Folding(Excluded(frozenset(), frozenset()), _LARGEST).fold(part, {})
    if any(folded.nodes[name].op != "Const" for name in arrays):
        return "entries that the graph computes"
    keys, values = (folded.value(name).reshape(-1) for name in arrays)
    digest = hashlib.sha256()
    for entry in sorted(map(repr, zip(keys.tolist(), values.tolist(), strict=False))):
        digest.update(entry.encode() + b"\n")
    return f"{keys.size:,} entries, sha256 {digest.hexdigest()[:16]}"


def _above(graph: Graph, name: str) -> set[str]:
    """All that a node's value comes from, by way of variables too."""
    found: set[str] = set()
    todo = [name]
    while todo:
        new = needed(graph, [todo.pop()]) - found
        found |= new
        for variable in (one for one in new if graph.nodes[one].op == "VarHandleOp"):
            todo += [r.node for r in graph.readers_of(variable) if graph.nodes[r.node].op == "AssignVariableOp"]
    return found
