"""Embeddings that share row numbers, the table that gives these, and the rows that must stay."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import reduce

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from tfslim_core.bundle import Bundle
from tfslim_core.graph import CONTROL, Graph, Input, data_inputs
from tfslim_core.vocabulary.id_flows import Buckets, Flow, constant_at, flow_of, moved_from
from tfslim_core.vocabulary.lookups import Embedding, Lookup
from tfslim_core.vocabulary.tables import NotRewritableError, Table, check_own, size_readers, table_of
from tfslim_core.weights import Array

Rows = NDArray[np.int64]
Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Group:
    """Embeddings that are looked up with the same row numbers.

    rows: of the longest. stay: [rows], those that are kept whatever the corpus says. oov: [rows], the row that is
    looked up for a word when the vocabulary does not hold it; None where that is not known. table: the one that gives
    all row numbers, or None. obstacle: why the row numbers cannot change, or nothing where they can.
    """

    embeddings: tuple[Embedding, ...]
    flows: tuple[Flow, ...]
    rows: int
    stay: Mask
    oov: Rows | None
    table: Table | None
    obstacle: str

    @property
    def counted(self) -> list[Input]:
        """The tensors in which each lookup is counted, each once."""
        return list(dict.fromkeys(lookup.counted for lookup in self.lookups))

    @property
    def lookups(self) -> Iterator[Lookup]:
        """All lookups."""
        return (lookup for embedding in self.embeddings for lookup in embedding.lookups)


def groups_of(bundle: Bundle, embeddings: Sequence[Embedding]) -> list[Group]:
    """The embeddings, put together where they share row numbers; in the order of their first."""
    graph = bundle.graph
    flows: list[Flow] = []
    for ids in dict.fromkeys(lookup.ids for embedding in embeddings for lookup in embedding.lookups):
        if not any(ids in flow.tensors for flow in flows):
            flows.append(flow_of(graph, ids))
    owners = {lookup.node: embedding for embedding in embeddings for lookup in embedding.lookups}
    found: list[Group] = []
    left = list(embeddings)
    while left:
        some = {left[0].name}
        mine: list[Flow] = []
        while True:
            mine = [flow for flow in flows if any(_owner(owners, place.node) in some for place in flow.lookups)]
            more = {_owner(owners, place.node) for flow in mine for place in flow.lookups} - {""} | some
            if more == some:
                break
            some = more
        found.append(_group(bundle, tuple(e for e in left if e.name in some), tuple(mine), owners.keys()))
        left = [embedding for embedding in left if embedding.name not in some]
    return found


def _owner(owners: dict[str, Embedding], node: str) -> str:
    return owners[node].name if node in owners else ""


def _group(bundle: Bundle, embeddings: tuple[Embedding, ...], flows: tuple[Flow, ...], owned: Iterable[str]) -> Group:
    graph = bundle.graph
    rows = max(embedding.rows for embedding in embeddings)
    stay = np.zeros(rows, bool)
    stay[0] = True  # padding, by custom
    for flow in flows:
        for place in (*flow.constants, *flow.compared):
            _mark(stay, constant_at(graph, data_inputs(graph.nodes[place.node])[place.position]))
    unknown = next((flow.unknown for flow in flows if flow.unknown), "")
    table, oov, obstacle = None, None, f"row numbers stay: {unknown}"
    if not unknown:
        try:
            table, defaults = _table(bundle, flows)
            if table is not None:
                words = np.zeros(rows, bool)
                _mark(words, table.values)
                stay |= ~words
                oov, obstacle = _oov(graph, table, defaults, flows, stay), ""
                _check_renumbering(bundle, table, defaults, flows, rows, set(owned), oov is not None)
        except NotRewritableError as error:
            obstacle = f"row numbers stay: {error}"
    return Group(embeddings, flows, rows, stay, oov, table, obstacle)


def _mark(mask: Mask, numbers: Array | None) -> None:
    found = np.asarray(numbers).reshape(-1).astype(np.int64)
    mask[found[(found >= 0) & (found < len(mask))]] = True


def _table(bundle: Bundle, flows: Sequence[Flow]) -> tuple[Table | None, set[int]]:
    """The one table that gives the row numbers, and what it gives for words that it does not hold."""
    graph = bundle.graph
    finds = [name for flow in flows for name in flow.finds]
    nodes = {data_inputs(graph.nodes[name])[0].node for name in finds}
    if len(nodes) != 1:
        raise NotRewritableError(f"they come from {len(nodes)} tables" if nodes else "no table gives them")
    defaults = [constant_at(graph, data_inputs(graph.nodes[name])[2]) for name in finds]
    if any(value is None or value.size != 1 for value in defaults):
        raise NotRewritableError("what its table gives for other words is not known")
    return table_of(bundle, nodes.pop()), {int(np.asarray(value).reshape(-1)[0]) for value in defaults}


def _oov(graph: Graph, table: Table, defaults: set[int], flows: Sequence[Flow], stay: Mask) -> Rows | None:
    """[rows]: where a word of each row goes when the table does not hold it; marks these rows in `stay`."""
    rows = len(stay)
    if len(defaults) != 1:
        return None
    default = next(iter(defaults))
    buckets = [bucket for flow in flows for bucket in flow.buckets]
    if not buckets:
        if not 0 <= default < rows:
            return None
        stay[default] = True
        return np.full(rows, default)
    bases = {_base(graph, table, bucket) for bucket in buckets}
    asked = {data_inputs(graph.nodes[name])[1] for flow in flows for name in flow.finds}
    hashed = {data_inputs(graph.nodes[bucket.hasher])[0] for bucket in buckets}
    counts = {bucket.count for bucket in buckets}
    if len(bases) != 1 or len(counts) != 1 or hashed != asked or 0 <= default < rows:
        return None
    finds = {name for flow in flows for name in flow.finds}
    if finds != set().union(*(_fills_in(graph, bucket, default, finds) for bucket in buckets)):
        return None
    base, count = bases.pop(), counts.pop()
    if base < 0 or base + count > rows or table.keys.dtype != object:
        return None
    stay[base : base + count] = True
    found = np.full(rows, base)
    hashes = tf.strings.to_hash_bucket_fast(table.keys.tolist(), count).numpy()
    known = (table.values >= 0) & (table.values < rows)
    found[table.values[known]] = base + hashes[known]
    return found


def _fills_in(graph: Graph, bucket: Buckets, default: int, finds: set[str]) -> set[str]:
    """The lookups in a table whose default, and nothing else, is replaced by the bucket; empty where that is not sure.

    Select(found != default, found, bucket), or Select(found == default, bucket, found).
    """
    covered: set[str] = set()
    for reader in graph.readers_of(bucket.node):
        select = graph.nodes[reader.node]
        test = graph.nodes[data_inputs(select)[0].node] if select.op in ("Select", "SelectV2") else select
        if (test.op, reader.position) not in (("NotEqual", 2), ("Equal", 1)):
            return set()
        found, compared = data_inputs(select)[3 - reader.position], data_inputs(test)
        if found not in compared:
            return set()
        other = constant_at(graph, compared[1 - compared.index(found)])
        if other is None or np.any(np.asarray(other) != default):
            return set()
        before = moved_from(graph, found)
        # Whoever else reads the default would read it for more words.
        readers = {r.node for tensor in before for r in graph.readers_of(tensor.node) if r.port != CONTROL}
        if readers - {tensor.node for tensor in before} - {select.name, test.name}:
            return set()
        covered |= {tensor.node for tensor in before} & finds
    return covered


def _base(graph: Graph, table: Table, bucket: Buckets) -> int:
    if bucket.size:
        other = data_inputs(graph.nodes[bucket.size])[0].node
        return len(table.keys) if other == table.node else -1
    value = constant_at(graph, data_inputs(graph.nodes[bucket.base.node])[bucket.base.position])
    return int(np.asarray(value).reshape(-1)[0])


def _check_renumbering(
    bundle: Bundle, table: Table, defaults: set[int], flows: Sequence[Flow], rows: int, owned: set[str], known: bool
) -> None:
    """Make sure that all who see the row numbers are right with new ones.

    Raises:
        NotRewritableError: somebody may not be.
    """
    graph = bundle.graph
    looked_at = next((flow.looked_at for flow in flows if flow.looked_at), "")
    if looked_at:
        raise NotRewritableError(looked_at)
    other = next((place.node for flow in flows for place in flow.lookups if place.node not in owned), "")
    if other:
        raise NotRewritableError(f"{other} looks up something else with them")
    if not known:
        raise NotRewritableError("no row is known for words that its table does not hold")
    buckets = [bucket for flow in flows for bucket in flow.buckets]
    joined = [_value(graph, place.node, place.position) for flow in flows for place in flow.constants]
    numbers = reduce(np.union1d, joined, np.array([], np.int64))
    if np.any(table.values < 0) or np.any(numbers < 0):
        raise NotRewritableError("some are negative")
    if np.any(table.values >= rows) or np.any(numbers >= rows):
        raise NotRewritableError("some are of no row")
    if any(flow.wraps for flow in flows) and not buckets and min(defaults) < 0:
        raise NotRewritableError("negative ones count from the end")
    for flow in flows:
        for place in flow.compared:
            values = _value(graph, place.node, place.position)
            if np.any(values >= rows) or any(0 <= default < rows and np.any(values == default) for default in defaults):
                raise NotRewritableError(f"{place.node} asks for words that the vocabulary does not hold")
    sized = size_readers(graph, table)
    if sized - {bucket.node for bucket in buckets}:
        raise NotRewritableError(f"{min(sized)} reads how many entries its table has")
    if sized and not np.array_equal(np.unique(table.values), np.arange(len(table.values))):
        raise NotRewritableError("its table has gaps")
    check_own(bundle, table, [name for flow in flows for name in flow.finds])


def _value(graph: Graph, node: str, position: int) -> Rows:
    value = constant_at(graph, data_inputs(graph.nodes[node])[position])
    return np.asarray(value).reshape(-1).astype(np.int64)
