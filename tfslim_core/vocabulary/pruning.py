"""Fewer rows: which ones are kept, what stands for the others, and the graph that looks them up.

Where everybody who sees the row numbers is known, words leave the table, and the rows that are left are numbered anew:
a word that was dropped is then one that the vocabulary never held. Else row numbers stay, and a vector of where each
row went is put before the lookup:

    Gather(W, ids)  ->  Gather(W', Gather(moved, ids))
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from tfslim_core.bundle import Bundle, Skip, VocabularyEntry, copy_files
from tfslim_core.graph import Graph, Input, NodeDef, constant, data_inputs, make_node, renamed
from tfslim_core.vocabulary.clusters import centres
from tfslim_core.vocabulary.groups import Group, Mask, Rows
from tfslim_core.vocabulary.id_flows import constant_at
from tfslim_core.vocabulary.lookups import Embedding
from tfslim_core.vocabulary.tables import NotRewritableError, check_contents, rewritten
from tfslim_core.weights import Weight

To = Literal["oov", "centre"]
CENTRES = 64  # and at least as many rows for each; more make answers no better


@dataclass(frozen=True)
class Pruned:
    """An embedding with fewer rows. moved: [rows before], the row that each became. weight: [rows after, …].

    dropped: [rows before], those that another stands for.
    """

    weight: Weight
    moved: NDArray[np.int32]
    dropped: Mask

    def as_before(self) -> Weight:
        """What the weight would be, were all its rows still there: each the one that stands for it."""
        shape = (len(self.moved), *self.weight.shape[1:])
        return self.weight.map(lambda value: value[self.moved], shape)


def kept_rows(group: Group, counts: Rows, *, most: int | None = None, least: int = 1) -> Mask:
    """[rows]: those that are kept. most: so many of the most used, or least: those with so many uses."""
    if most is None:
        return group.stay | (counts >= least)
    kept = group.stay.copy()
    kept[np.argsort(-counts, kind="stable")[:most]] = True
    return kept


def stand_in(group: Group, to: To | None) -> To | None:
    """What stands for dropped rows: what is asked for, else the out-of-vocabulary row where there is one; None where
    the one that is asked for is not there.
    """
    if to is None:
        return "oov" if group.oov is not None else "centre"
    return None if to == "oov" and group.oov is None else to


def pruned(graph: Graph, group: Group, embedding: Embedding, kept: Mask, counts: Rows, to: To) -> Pruned:
    """An embedding of the group with the kept rows, and those that stand for the others."""
    weight = graph.weights[embedding.name]
    kept, counts = kept[: embedding.rows], counts[: embedding.rows]
    if to == "oov":
        assert group.oov is not None
        moved = _places(kept)
        moved[~kept] = moved[group.oov[: embedding.rows][~kept]]
        made = weight.map(lambda value: value[kept], (int(kept.sum()), *weight.shape[1:]))
        return Pruned(made, moved, ~kept)
    rows = weight.read().reshape(embedding.rows, -1)
    kept = kept.copy()
    kept[~kept] = ~np.isfinite(rows[~kept].astype(np.float32)).all(axis=1)  # nothing else is like them
    moved, total = _places(kept), int(kept.sum())
    if kept.all():
        return Pruned(weight, moved, ~kept)
    some = rows[~kept].astype(np.float32)
    found, nearest = centres(some, counts[~kept] + 1.0, max(1, min(CENTRES, len(some) // CENTRES)))
    moved[~kept] = total + nearest
    added = found.astype(weight.dtype).reshape(-1, *weight.shape[1:])
    made = weight.map(lambda value: np.concatenate([value[kept], added]), (total + len(added), *weight.shape[1:]))
    return Pruned(made, moved, ~kept)


def _places(kept: Mask) -> NDArray[np.int32]:
    """[rows]: which of the kept ones each kept row is."""
    return (np.cumsum(kept) - 1).astype(np.int32)


@dataclass(frozen=True)
class Result:
    """A bundle with fewer rows. replaced: embedding -> its value with every row that was dropped replaced by the one
    that stands for it: with these the model before answers as the bundle does.
    """

    bundle: Bundle
    entries: Sequence[VocabularyEntry]
    skipped: Sequence[Skip]
    replaced: Mapping[str, Weight]


def prune(
    bundle: Bundle,
    groups: Sequence[Group],
    kept: Sequence[Mask],
    counts: Sequence[Rows],
    to: To | None,
    folder: Path,
) -> Result:
    """Drop rows. folder: an empty one that lives as long as the result, for its assets."""
    copy_files(bundle.files, folder, [asset.filename for asset in bundle.manifest.assets])
    result = Result(replace(bundle, files=folder), (), (), {})
    vectors: dict[bytes, str] = {}
    for group, mask, used in zip(groups, kept, counts, strict=True):
        result = _without_rows(result, group, mask, used, stand_in(group, to), vectors)
    return result


def _without_rows(
    before: Result, group: Group, kept: Mask, counts: Rows, to: To | None, vectors: dict[bytes, str]
) -> Result:
    """The result without rows of one more group."""
    made, skipped = before.bundle, list(before.skipped)
    found: dict[str, Pruned] = {}
    for embedding in group.embeddings:
        if to is None:
            reason = "no row is known for words out of the vocabulary; --to centre needs none"
        elif kept[: embedding.rows].all():
            reason = f"all of its {embedding.rows:,} rows are kept"
        else:
            found[embedding.name] = pruned(made.graph, group, embedding, kept, counts, to)
            continue
        skipped.append(Skip(node=embedding.name, reason=reason))
    obstacle = _obstacle(group, to, len(found))
    words = None
    if not obstacle and found:
        try:
            made = _renumbered(made, group, kept, found)
            words = _words(group, kept)
        except NotRewritableError as error:
            obstacle = f"row numbers stay: {error}"
    entries = []
    for embedding in group.embeddings:
        if embedding.name not in found:
            continue
        one, weight = found[embedding.name], before.bundle.graph.weights[embedding.name]
        extra = one.moved.nbytes if obstacle else 0
        if one.weight.nbytes + extra >= weight.nbytes:
            skipped.append(Skip(node=embedding.name, reason="what it would save is less than what it would cost"))
            del found[embedding.name]
            continue
        if obstacle:
            made = _redirected(made, embedding, one, vectors)
        used = counts[: embedding.rows]
        entries.append(
            VocabularyEntry(
                embedding=embedding.name,
                rows_before=embedding.rows,
                rows_after=one.weight.shape[0],
                bytes_before=weight.nbytes,
                bytes_after=one.weight.nbytes + extra,
                lookups=int(used.sum()),
                elsewhere=int(used[one.dropped].sum()),
                to=to or "",
                words_before=words and words[0],
                words_after=words and words[1],
                reason=obstacle,
            )
        )
    replaced = {name: one.as_before() for name, one in found.items()}
    return Result(made, [*before.entries, *entries], skipped, {**before.replaced, **replaced})


def _obstacle(group: Group, to: To | None, pruned: int) -> str:
    """Why row numbers do not change, or nothing."""
    if group.obstacle:
        return group.obstacle
    if to != "oov":
        return "row numbers stay: every word keeps its own, whatever row it reads"
    if pruned < len(group.embeddings):
        return "row numbers stay: another embedding that they look up stays whole"
    return ""


def _words(group: Group, kept: Mask) -> tuple[int, int]:
    """How many words the table had, and has."""
    assert group.table is not None
    return len(group.table.keys), int(kept[group.table.values].sum())


def _redirected(bundle: Bundle, embedding: Embedding, one: Pruned, vectors: dict[bytes, str]) -> Bundle:
    """The bundle with a vector of where rows went before each lookup. vectors: the constants that there are already."""
    graph = bundle.graph
    names = graph.fresh_names()
    device = graph.nodes[embedding.name].device
    axis, weights = constant(names(f"{embedding.name}/moved/axis"), np.array(0, np.int32), device=device)
    nodes = [axis]
    content = one.moved.tobytes()
    if content not in vectors:
        moved, more = constant(names(f"{embedding.name}/moved"), one.moved, device=device)
        nodes.append(moved)
        weights |= more
        vectors[content] = moved.name
    lookups: dict[Input, str] = {}
    for lookup in embedding.lookups:
        node = graph.nodes[lookup.node]
        if lookup.ids not in lookups:
            gather = make_node(
                "GatherV2",
                names(f"{lookup.node}/moved"),
                [vectors[content], lookup.ids, axis.name],
                device=node.device,
                Tparams=tf.int32,
                Tindices=tf.as_dtype(graph.facts(lookup.ids.node).gives[lookup.ids.port]),
                Taxis=tf.int32,
            )
            nodes.append(gather)
            lookups[lookup.ids] = gather.name
        params, _, *others = node.input
        copy = renamed(node, node.name, [params, lookups[lookup.ids], *others])
        kind = "Tidx" if node.op.startswith("SparseSegment") else "Tindices"
        copy.attr[kind].type = tf.int32.as_datatype_enum
        nodes.append(copy)
    nodes += _without_shapes(graph, embedding)
    return replace(bundle, graph=graph.replace(nodes, weights={**weights, embedding.name: one.weight}))


def _without_shapes(graph: Graph, embedding: Embedding) -> list[NodeDef]:
    """The nodes that hand the table on, without a note of its shape as it was."""
    found = []
    for name in embedding.aliases:
        if "_output_shapes" in graph.nodes[name].attr:
            copy = renamed(graph.nodes[name], name)
            del copy.attr["_output_shapes"]
            found.append(copy)
    return found


def _renumbered(bundle: Bundle, group: Group, kept: Mask, found: Mapping[str, Pruned]) -> Bundle:
    """The bundle with fewer words in the table, and new row numbers wherever row numbers stand.

    Raises:
        NotRewritableError: the table did not come out as it should.
    """
    table = group.table
    assert table is not None
    new = np.cumsum(kept) - 1

    def new_row(row: int) -> int | None:
        if not 0 <= row < len(kept):
            return row
        return int(new[row]) if kept[row] else None

    edit = rewritten(bundle, table, new_row)
    nodes: dict[str, NodeDef] = {node.name: node for node in edit.nodes}
    weights = dict(edit.weights)
    graph = bundle.graph
    names = graph.fresh_names()
    for name, position in _constants(graph, group):
        node: NodeDef = nodes.get(name, graph.nodes[name])
        value = np.asarray(constant_at(graph, data_inputs(graph.nodes[name])[position]))
        rows = value.astype(np.int64)
        told = np.where(rows < 0, rows, new[np.clip(rows, 0, len(kept) - 1)]).astype(value.dtype)
        if np.array_equal(told, value):
            continue
        made, more = constant(names(f"{name}/row"), told, device=node.device)
        inputs = list(node.input)
        inputs[position] = made.name
        nodes |= {made.name: made, name: renamed(node, name, inputs)}
        weights |= more
    for embedding in group.embeddings:
        weights[embedding.name] = found[embedding.name].weight
        for copy in _without_shapes(graph, embedding):
            nodes[copy.name] = copy
    folder = bundle.files / "assets"
    before = {name: (folder / name).read_bytes() for name in edit.files if (folder / name).exists()}
    manifest = bundle.manifest.model_copy(update={"assets": list(edit.assets)})
    made_bundle = replace(bundle, graph=graph.replace(nodes.values(), weights=weights), manifest=manifest)
    _write(folder, edit.files)
    try:
        check_contents(made_bundle, table, {key: int(new[row]) for key, row in table.entries.items() if kept[row]})
    except NotRewritableError:
        _write(folder, before)
        raise
    return made_bundle


def _write(folder: Path, files: Mapping[str, bytes]) -> None:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)


def _constants(graph: Graph, group: Group) -> Iterable[tuple[str, int]]:
    """Where row numbers stand in the graph: node and position, each once."""
    found = {(place.node, place.position) for flow in group.flows for place in (*flow.constants, *flow.compared)}
    found |= {(name, 2) for flow in group.flows for name in flow.finds}
    found |= {(b.base.node, b.base.position) for flow in group.flows for b in flow.buckets if not b.size}
    return sorted(found)
