"""From a corpus to a bundle with fewer rows: count, choose the rows, drop the others, and see that it does as meant."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import tensorflow as tf

from tfslim_core import gate
from tfslim_core.bundle import Bundle, Skip, StepEntry, VocabularyEntry, roots, signature_json
from tfslim_core.errors import DataError, ModelError, UsageError
from tfslim_core.graph import Graph, Input, make_node, only_needed, parse_input
from tfslim_core.origins import fate, with_fate
from tfslim_core.quantization.budget import Judged
from tfslim_core.quantization.live_model import LiveModel
from tfslim_core.quantization.trials import Encoder, Memo, Trials
from tfslim_core.saved_model.sample_check import difference
from tfslim_core.saved_model.served_signatures import signatures_in
from tfslim_core.saved_model.server_loader import ServedModel
from tfslim_core.saved_model.write import write_saved_model
from tfslim_core.validation.batches import Batch, Batcher
from tfslim_core.validation.lookup_counts import Corpus, Tally, count_lookups, open_corpus
from tfslim_core.validation.sample import SplitSample, split_sample
from tfslim_core.validation.sources import first_records, open_dataset
from tfslim_core.vocabulary.groups import Group, Mask, Rows, groups_of
from tfslim_core.vocabulary.lookups import find_embeddings
from tfslim_core.vocabulary.pruning import Result, To, kept_rows, prune, pruned, stand_in
from tfslim_core.weights import Array, Weight

if TYPE_CHECKING:
    from tfslim_core.quantization.budgeting import Budget

Progress = Callable[[str, int, int], None]
CHECKED = 256  # records of each dataset that the result is asked
_SAME = 1e-6  # relative L2: the rows are copied, but a sum may be taken in another order


@dataclass(frozen=True)
class Pruning:
    """Which rows to drop: those that are looked up fewer than `least` times, all but the `most` used, or as many as
    `budget` allows. corpus: name -> path. to: what stands for them; see `stand_in`.

    share: of the budget that may be used.
    """

    corpus: Mapping[str, str]
    least: int | None = None
    most: int | None = None
    budget: Budget | None = None
    to: To | None = None
    signature: str | None = None
    beam_options: Sequence[str] = ()
    fail_on_bad_records: float = 0.01
    share: float = 1.0

    def refuse_unclear(self) -> None:
        """Refuse what contradicts itself.

        Raises:
            UsageError: there is no corpus, or not one of the ways to choose rows.
        """
        if not self.corpus:
            raise UsageError("which rows are used is counted in a corpus; give --corpus NAME=PATH")
        ways = [self.least is not None, self.most is not None, self.budget is not None]
        if sum(ways) > 1:
            raise UsageError("--min-count, --keep and --budget each say which rows go; give one of them")
        if self.least is not None and self.least < 1:
            raise UsageError("--min-count is at least 1: rows that are never looked up")
        if self.most is not None and self.most < 1:
            raise UsageError("--keep is at least 1")


@dataclass(frozen=True)
class PrunedBundle:
    """What came out. batches: of the corpus, that the result was asked. replaced: see `Result`. signature: fed."""

    bundle: Bundle
    signature: str
    batches: Sequence[Batch] = ()
    replaced: Mapping[str, Weight] = field(default_factory=dict)

    def requests(self) -> Mapping[str, Sequence[Mapping[str, Array]]]:
        """What of the corpus the result is asked, by signature."""
        return {self.signature: [batch.feeds for batch in self.batches]}


def prune_by_corpus(bundle: Bundle, wanted: Pruning, folder: Path, progress: Progress) -> PrunedBundle:
    """Drop rows of the bundle's embeddings, and words with them.

    folder: an empty one that lives as long as the result.

    Raises:
        UsageError, DataError: see `Pruning.refuse_unclear` and `count_lookups`; or the data cannot judge the budget.
    """
    wanted.refuse_unclear()
    signatures = signatures_in(bundle.meta_graph())
    corpus = open_corpus(signatures, wanted.corpus, wanted.signature)
    name, batches = corpus.signature.name, _first_batches(corpus, wanted.corpus)
    fed = {parse_input(spec.name).node for spec in corpus.signature.inputs.values()}
    fed |= {parse_input(asset.tensor).node for asset in bundle.manifest.assets}
    embeddings, left = find_embeddings(bundle.graph, fed)
    groups = groups_of(bundle, embeddings)
    if not groups:
        return PrunedBundle(_told(bundle, bundle, wanted, None, left, []), name, batches)
    sample = None
    if wanted.budget is not None:
        progress("draw a sample", 0, 0)
        budget = wanted.budget
        sample = split_sample(signatures, budget.data, name, budget.label, examples=budget.examples, seed=budget.seed)
        gate.check_names(budget.gates(), list(sample.signature.outputs), labelled=budget.label is not None)
    counts, examples = _counts(bundle, groups, corpus, wanted, sample, progress)
    unused = [
        embedding
        for group, count in zip(groups, counts, strict=True)
        if not count.any()
        for embedding in group.embeddings
    ]
    left += [Skip(node=embedding.name, reason="the corpus looks nothing of it up") for embedding in unused]
    groups, counts = (
        [group for group, count in zip(groups, counts, strict=True) if count.any()],
        [count for count in counts if count.any()],
    )
    notes = [f"{examples:,} examples were counted"]
    if sample is not None and groups:
        most, words = _within_budget(bundle, groups, counts, wanted, sample, progress)
        kept = masks(groups, counts, most)
        notes.append(words)
    else:
        least = 1 if wanted.least is None else wanted.least
        kept = [kept_rows(g, c, most=wanted.most, least=least) for g, c in zip(groups, counts, strict=True)]
    progress("drop rows", 0, 0)
    result = prune(bundle, groups, kept, counts, wanted.to, folder)
    return PrunedBundle(_told(bundle, result.bundle, wanted, result, left, notes), name, batches, result.replaced)


def check_as_meant(before: Bundle, after: Bundle, found: PrunedBundle) -> None:
    """Make sure that the result answers the corpus as the model would with each dropped row replaced.

    Raises:
        ModelError: it does not.
    """
    if not found.replaced:
        return
    wanted = []
    with LiveModel(before, list(found.replaced)) as live:
        for name, weight in found.replaced.items():
            live.set(name, weight.read)
        for batch in found.batches:
            try:
                wanted.append(live.run(found.signature, batch.feeds))
            except tf.errors.OpError:
                wanted.append({})
    with LiveModel(after, []) as live:
        for batch, answer in zip(found.batches, wanted, strict=True):
            if not answer:
                continue
            again = live.run(found.signature, batch.feeds)
            for key, value in answer.items():
                off = difference(np.asarray(value), np.asarray(again[key]))
                if off > _SAME:
                    raise ModelError(
                        f"pruning the vocabulary changed the output {key!r} more than was meant ({off:.2g})"
                    )


def masks(groups: Sequence[Group], counts: Sequence[Rows], most: int) -> list[Mask]:
    """For each group the rows that are kept, of the `most` used of all together."""
    joined = np.concatenate(counts)
    taken = np.zeros(len(joined), bool)
    taken[np.argsort(-joined, kind="stable")[:most]] = True
    parts = np.split(taken, np.cumsum([len(count) for count in counts])[:-1])
    return [group.stay | part for group, part in zip(groups, parts, strict=True)]


class _Replaced(Encoder):
    """Embeddings whose dropped rows are replaced, for `Trials`: their "encoding" is how many rows are kept of all."""

    def __init__(self, graph: Graph, groups: Sequence[Group], counts: Sequence[Rows], to: To | None) -> None:
        super().__init__(graph)
        self._whole, self._groups, self._counts, self._to = graph, groups, counts, to

    def weight(self, name: str, encoding: str) -> Weight | None:
        if not encoding:
            return self._whole.weights[name]
        kept = masks(self._groups, self._counts, int(encoding))
        for group, mask, count in zip(self._groups, kept, self._counts, strict=True):
            for embedding in group.embeddings:
                if embedding.name == name:
                    wanted = stand_in(group, self._to)
                    if wanted is None or mask[: embedding.rows].all():
                        return self._whole.weights[name]
                    return pruned(self._whole, group, embedding, mask, count, wanted).as_before()
        raise AssertionError(name)


def _within_budget(
    bundle: Bundle,
    groups: Sequence[Group],
    counts: Sequence[Rows],
    wanted: Pruning,
    sample: SplitSample,
    progress: Progress,
) -> tuple[int, str]:
    """How many rows have to be kept of all, and what that comes to in words."""
    assert wanted.budget is not None
    names = [embedding.name for group in groups for embedding in group.embeddings]
    with LiveModel(bundle, names) as live:
        progress("ask the model as it is", 0, 0)
        trials = Trials(
            live,
            _Replaced(bundle.graph, groups, counts, wanted.to),
            wanted.budget.gates(),
            sample.signature.name,
            list(sample.signature.outputs),
            {"search": sample.search, "held out": sample.held_out},
            wanted.budget.main_output,
            Memo(None, ""),
        )
        trials.refuse_meaningless("search")
        most, judged = _searched(trials, names, counts, wanted.share, progress)
        return most, _budget_words(judged, (trials.examples("search"), trials.examples("held out")))


def _searched(
    trials: Trials, names: Sequence[str], counts: Sequence[Rows], share: float, progress: Progress
) -> tuple[int, Judged]:
    """How many rows have to be kept, by bisection to 1 %; and what the examples that it never saw say."""

    def holds(judged: Judged) -> bool:
        return judged.holds and judged.used <= share

    def plan(most: int) -> dict[str, str]:
        return dict.fromkeys(names, str(most))

    total = sum(map(len, counts))
    low, high = 0, sum(int(np.count_nonzero(count)) for count in counts)
    rounds = max(1, high.bit_length() // 2)
    tried = 0
    while high - low > max(1, high // 100):
        progress("search: how many rows are needed", tried, max(rounds, tried + 1))
        middle = (low + high) // 2
        low, high = (low, middle) if holds(trials.judge(plan(middle), "search")) else (middle, high)
        tried += 1
    progress("confirm on examples that were not counted", 0, 0)
    while True:
        judged = trials.judge(plan(high), "held out")
        if holds(judged) or high >= total:
            return high, judged
        high = min(total, max(high + 1, high * 5 // 4))


def _budget_words(judged: Judged, examples: tuple[int, int]) -> str:
    values = ", ".join(f"{name} comes to {value:.5g}" for name, value in judged.values.items())
    return (
        f"budget: {values} on {examples[1]:,} examples that were neither counted nor searched with "
        f"({examples[0]:,} were); {100 * judged.used:.0f} % of it is used"
    )


def _told(
    before: Bundle, after: Bundle, wanted: Pruning, result: Result | None, left: Sequence[Skip], notes: Sequence[str]
) -> Bundle:
    """The bundle with what was done in its manifest."""
    entries = list(result.entries) if result is not None else []
    skipped = [*left, *(result.skipped if result is not None else ())]
    way: dict[str, int | str | None] = {"min_count": wanted.least, "keep": wanted.most, "to": wanted.to}
    if wanted.budget is not None:
        way["budget"] = ", ".join(wanted.budget.bounds)
    step = StepEntry(
        name="prune_vocabulary",
        parameters={key: value for key, value in way.items() if value is not None},
        changes=len(entries),
        nodes_before=len(before.graph.nodes),
        nodes_after=len(after.graph.nodes),
        bytes_before=before.stored_bytes,
        bytes_after=after.stored_bytes,
        skipped=skipped,
        exact=False,
    )
    words = [*notes, *map(_words, entries), *(f"{one.node} stays whole: {one.reason}" for one in skipped)]
    if not entries and not skipped:
        words.append("there is no embedding: no table of floats is read by rows")
    became = fate(before.graph, after.graph)
    manifest = after.manifest.model_copy(
        update={
            "steps": [*after.manifest.steps, step],
            "variables": with_fate(after.manifest.variables, became, step.name),
            "vocabularies": [*after.manifest.vocabularies, *entries],
            "notes": [*after.manifest.notes, *words],
        }
    )
    return replace(after, manifest=manifest)


def _words(entry: VocabularyEntry) -> str:
    share = 100 * entry.elsewhere / max(entry.lookups, 1)
    stand = {"oov": "the row for unknown words", "centre": "centres of dropped rows"}[entry.to]
    text = (
        f"{entry.embedding}: {entry.rows_before:,} rows to {entry.rows_after:,} "
        f"({entry.bytes_before:,} bytes to {entry.bytes_after:,}); of {entry.lookups:,} lookups {share:.2g} % now read "
        f"{stand}"
    )
    if entry.words_before is not None:
        return f"{text}; its vocabulary has {entry.words_after:,} words of {entry.words_before:,}"
    return f"{text}; {entry.reason}" if entry.reason else text


def _counts(
    bundle: Bundle,
    groups: Sequence[Group],
    corpus: Corpus,
    wanted: Pruning,
    sample: SplitSample | None,
    progress: Progress,
) -> tuple[list[Rows], int]:
    """For each group how often each row is looked up, and in how many examples; those that confirm do not count."""
    progress("count what the corpus looks up", 0, 0)
    done = 0

    def told(examples: int) -> None:
        nonlocal done
        done += examples
        progress("count what the corpus looks up", done, 0)

    tensors = list(dict.fromkeys(tensor for group in groups for tensor in group.counted))
    keys = {
        f"rows{index}": max(group.rows for group in groups if tensor in group.counted)
        for index, tensor in enumerate(tensors)
    }
    with tempfile.TemporaryDirectory(prefix="tfslim-") as aside:
        model = Path(aside)
        write_saved_model(_counting(bundle, corpus.signature.name, dict(zip(keys, tensors, strict=True))), model)
        tally = count_lookups(
            corpus,
            model,
            keys,
            beam_options=wanted.beam_options,
            fail_on_bad_records=wanted.fail_on_bad_records,
            progress=told,
        )
        if sample is not None:
            _forget(tally, _seen_twice(sample.held_out, wanted), model, corpus.signature.name, list(keys))
    return [_of_group(group, tensors, tally) for group in groups], tally.examples


def _of_group(group: Group, tensors: Sequence[Input], tally: Tally) -> Rows:
    """[rows]: how often each row of the group is looked up."""
    total = np.zeros(group.rows, np.int64)
    for tensor in group.counted:
        total += tally.counts[tensors.index(tensor)][: group.rows]
    return total


def _seen_twice(batches: Sequence[Batch], wanted: Pruning) -> list[Batch]:
    """Those of the batches that come from files of the corpus too."""
    assert wanted.budget is not None
    counted = {part.file for name, path in wanted.corpus.items() for part in open_dataset(name, path).ranges}
    both = {
        name
        for name, path in wanted.budget.data.items()
        if counted & {part.file for part in open_dataset(name, path).ranges}
    }
    return [batch for batch in batches if batch.dataset in both]


def _forget(tally: Tally, batches: Sequence[Batch], model: Path, signature: str, keys: Sequence[str]) -> None:
    """Take what these examples look up out of the counts: they are to say what an unseen text loses."""
    if not batches:
        return
    other = Tally.empty([len(count) for count in tally.counts])
    with ServedModel(model, ("serve",)) as served:
        for batch in batches:
            with suppress(DataError, ModelError):
                answer = served.run(signature, batch.feeds)
                other.add(batch, [answer[key] for key in keys])
    for total, counts in zip(tally.counts, other.counts, strict=True):
        np.maximum(total - counts, 0, out=total)
    tally.examples -= other.examples


def _first_batches(corpus: Corpus, data: Mapping[str, str]) -> list[Batch]:
    found: list[Batch] = []
    for name, path in sorted(data.items()):
        batcher = Batcher(name, corpus.feedings[name].inputs, 32)
        for record in first_records(open_dataset(name, path), CHECKED):
            with suppress(DataError):  # the count tells
                found += batcher.add(corpus.feedings[name].rows(record), 0)
        found += [batch for batch in batcher.rest() if isinstance(batch, Batch)]
    return found


def _counting(bundle: Bundle, signature: str, tensors: Mapping[str, Input]) -> Bundle:
    """The bundle up to the row numbers: one signature, whose outputs they are."""
    graph = bundle.graph
    names = graph.fresh_names()
    definition = bundle.manifest.signature_defs()[signature]
    definition.outputs.clear()
    nodes = []
    for key, tensor in tensors.items():
        dtype = tf.as_dtype(graph.facts(tensor.node).gives[tensor.port])
        nodes.append(make_node("Identity", names(key), [tensor], T=dtype))
        definition.outputs[key].name = f"{nodes[-1].name}:0"
        definition.outputs[key].dtype = dtype.as_datatype_enum
        definition.outputs[key].tensor_shape.unknown_rank = True
    inputs, outputs = roots({signature: definition})
    assets = [asset.tensor for asset in bundle.manifest.assets]
    whole = replace(graph.replace(nodes), inputs=(*inputs, *assets), outputs=tuple(outputs))
    cut = only_needed(whole)
    manifest = bundle.manifest.model_copy(
        update={"tags": ["serve"], "signatures": {signature: signature_json(definition)}, "kept_variables": {}}
    )
    variables = {name: weight for name, weight in bundle.variables.items() if name in cut.nodes}
    return replace(bundle, graph=cut, manifest=manifest, variables=variables)
