"""Plans of encodings tried on real answers, in one live session: what each comes to, held against a budget."""

from __future__ import annotations

import json
import math
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tfslim_core import encodings
from tfslim_core.encodings import Moments
from tfslim_core.errors import DataError, UsageError
from tfslim_core.gate import LABEL_METRICS, MODEL_METRICS, Gate, label_loss
from tfslim_core.graph import Graph
from tfslim_core.metrics import main_output
from tfslim_core.quantization.budget import Judged, Plan
from tfslim_core.quantization.input_moments import InputMoments
from tfslim_core.quantization.live_model import Answer, LiveModel
from tfslim_core.quantization.placements import use_of
from tfslim_core.validation.batches import Batch
from tfslim_core.validation.tally import DatasetStats, DatasetSummary
from tfslim_core.weights import Weight

CACHED_BYTES = 1 << 30  # encoded weights that are kept rather than encoded again
ANSWERS_BYTES = 1 << 30  # of a part of the sample; batches whose answers would be more are left out
_SHARES = ("top1_agreement", "top5_agreement", "exact_match", "cosine")  # 1 is best; of other metrics 0 is
_COUNTED = (
    "top1_agreement",
    "top5_agreement",
    "flip_rate",
    "exact_match",
)  # shares of examples, known as well as these are many
_DEVIATIONS = 1.645  # 95 % of a normal distribution are below
_MARGIN = 0.95  # of a budget that is no share of examples


def refuse_unsearchable(gates: Sequence[Gate]) -> None:
    """Refuse budgets that trying encodings cannot answer.

    Raises:
        UsageError: one bounds what a model costs, or from the side that no encoding could break.
    """
    for gate in gates:
        if gate.metric in MODEL_METRICS:
            raise UsageError(f"budget '{gate}': a budget bounds the answers; hold {gate.metric} with --gate")
        if gate.dataset is not None or gate.slice is not None:
            raise UsageError(f"budget '{gate}': a budget holds on all of the data; bound a part of it with --gate")
        wanted = ">" if gate.metric in _SHARES else "<"
        if not gate.op.startswith(wanted):
            raise UsageError(f"budget '{gate}' bounds no loss; write {gate.metric}{wanted}=…")


class Encoder:
    """A graph's weights in any encoding; what was asked for once is kept, as long as there is room."""

    def __init__(self, graph: Graph, moments: InputMoments | None = None) -> None:
        self._graph, self._moments = graph, moments
        self._last: tuple[str, Moments | None] = ("", None)
        self._kept: OrderedDict[tuple[str, str], Weight | None] = OrderedDict()
        self._bytes = 0

    def weight(self, name: str, encoding: str) -> Weight | None:
        """The weight in the encoding, as it is for ""; None where it cannot be held."""
        if not encoding:
            return self._graph.weights[name]
        key = (name, encoding)
        if key not in self._kept:
            self._keep(key, self._encoded(name, encoding))
        self._kept.move_to_end(key)
        return self._kept[key]

    def _encoded(self, name: str, encoding: str) -> Weight | None:
        sharing = encodings.Sharing(use_of(self._graph, name).axes)
        moments = self.moments(name)
        if moments is None and encodings.needs_moments(encoding):
            return None
        try:
            return encodings.encoded(self._graph.weights[name], encoding, sharing, moments=moments)
        except encodings.NotEncodableError:
            return None

    def moments(self, name: str) -> Moments | None:
        """Of the inputs of the weight, where they are known."""
        if self._last[0] != name:
            self._last = (name, self._moments.of(name) if self._moments else None)
        return self._last[1]

    def _keep(self, key: tuple[str, str], weight: Weight | None) -> None:
        self._kept[key] = weight
        self._bytes += weight.stored_bytes if weight else 0
        while self._bytes > CACHED_BYTES and len(self._kept) > 1:
            _, gone = self._kept.popitem(last=False)
            self._bytes -= gone.stored_bytes if gone else 0


@dataclass(frozen=True)
class _Part:
    """Batches and what the model answered before anything was changed."""

    batches: Sequence[Batch]
    answers: Sequence[Answer]


def answers_of(live: LiveModel, signature: str, batches: Sequence[Batch]) -> list[Answer]:
    """What a model answers to the first batches, as many as there is room for."""
    answers: list[Answer] = []
    size = 0
    for batch in batches:
        if answers and size > ANSWERS_BYTES:
            break
        answers.append(live.run(signature, batch.feeds))
        size += sum(np.asarray(array).nbytes for array in answers[-1].values())
    return answers


class Trials:
    """A live model whose weights are set by plans, and the sample that it is asked.

    memo: where what plans came to is kept, so that a search that was stopped goes on from there.
    answers: what plans are held against, by part; what the live model answers before anything is changed unless told.
    """

    def __init__(
        self,
        live: LiveModel,
        encoder: Encoder,
        gates: Sequence[Gate],
        signature: str,
        keys: Sequence[str],
        parts: Mapping[str, Sequence[Batch]],
        main: str | None,
        memo: Memo,
        answers: Mapping[str, Sequence[Answer]] | None = None,
    ) -> None:
        self._live, self._encoder, self._signature, self._keys = live, encoder, signature, keys
        self._memo = memo
        self._gates, self._main = gates, main
        self._set: dict[str, str] = {}
        self._parts = {}
        for name, batches in parts.items():
            known = (answers or {}).get(name) or answers_of(live, signature, batches)
            self._parts[name] = _Part(batches[: len(known)], known)

    def examples(self, part: str) -> int:
        """How many examples a part of the sample has."""
        return sum(map(len, self._parts[part].batches))

    def judge(self, plan: Plan, part: str) -> Judged:
        """What the plan comes to on a part of the sample."""
        found = self._memo.get(f"{part}: {json.dumps(plan, sort_keys=True)}", lambda: self._measured(plan, part))
        return Judged(found["used"], bool(found["holds"]), found["values"])

    def harm(self, name: str, encoding: str, part: str) -> float:
        """The squared relative L2 error that the weight alone makes of the outputs that are bounded."""

        def measured() -> float:
            self._apply({name: encoding})
            summaries = self._summaries(part).values()
            self._apply({name: ""})
            return max((_distance(summary, key) for summary in summaries for key in self._bounded(summary)), default=0)

        return float(self._memo.get(f"{part}: {name} {encoding}", measured))

    def _measured(self, plan: Plan, part: str) -> dict[str, object]:
        self._apply(plan)
        used, holds = 0.0, True
        values: dict[str, float] = {}
        for dataset, summary in self._summaries(part).items():
            for gate in self._gates:
                value = self._value(gate, summary)
                where = str(gate) if len(self._datasets(part)) == 1 else f"{dataset}: {gate}"
                if value is None or math.isnan(value):
                    used, holds = math.inf, False
                    continue
                values[where] = value
                share = share_used(gate, value)
                used = max(used, share)
                holds = holds and within_margin(gate, value, summary.examples, summary.turned)
        return {"used": used, "holds": holds, "values": values}

    def _apply(self, plan: Plan) -> None:
        for name, encoding in plan.items():
            if self._set.get(name, "") != encoding:
                weight = self._encoder.weight(name, encoding)
                assert weight is not None
                self._live.set(name, weight.read)
                self._set[name] = encoding

    def _datasets(self, part: str) -> list[str]:
        return sorted({batch.dataset for batch in self._parts[part].batches})

    def _summaries(self, part: str) -> dict[str, DatasetSummary]:
        found = {name: DatasetStats(self._keys, self._main, resampled=False) for name in self._datasets(part)}
        for batch, wanted in zip(self._parts[part].batches, self._parts[part].answers, strict=True):
            found[batch.dataset].add(batch, wanted, self._live.run(self._signature, batch.feeds))
        return {name: stats.summary() for name, stats in found.items()}

    def _output(self, gate: Gate, summary: DatasetSummary) -> str:
        """The output that a gate bounds."""
        guessed = main_output({key: (one.kind, one.scores_classes) for key, one in summary.outputs.items()})
        return gate.output or self._main or guessed or ""

    def _bounded(self, summary: DatasetSummary) -> Iterator[str]:
        for gate in self._gates:
            key = self._output(gate, summary)
            if key in summary.outputs and summary.outputs[key].kind != "float":
                # A text or a class number turns round or does not; what it is taken from shows how near it is.
                yield from (other for other, output in summary.outputs.items() if output.kind == "float")
            else:
                yield key

    def _value(self, gate: Gate, summary: DatasetSummary) -> float | None:
        if gate.metric in LABEL_METRICS:
            return label_loss(summary.labels, gate.metric)
        output = summary.outputs.get(self._output(gate, summary))
        if output is None or output.mismatches:
            return None
        value = getattr(output.metrics, gate.metric)
        return None if value is None else float(value)

    def refuse_meaningless(self, part: str) -> None:
        """Refuse budgets that this data cannot judge.

        Raises:
            DataError: a metric has no value here, or the original answers alike on every example.
        """
        for dataset, summary in self._summaries(part).items():
            for gate in self._gates:
                if self._value(gate, summary) is None:
                    raise DataError(
                        f"budget '{gate}' has no value on dataset {dataset!r}: the output is of another kind"
                    )
                output = summary.outputs.get(self._output(gate, summary))
                if output is not None and output.constant:
                    raise DataError(
                        f"budget '{gate}': on dataset {dataset!r} the original answers alike on every example"
                    )


def share_used(gate: Gate, value: float) -> float:
    """How much of the budget a value uses: 0 for no loss, 1 for all of it."""
    loss, allowed = _losses(gate, value)
    if loss <= 0:
        return 0.0
    return loss / allowed if allowed > 0 else math.inf


def within_margin(gate: Gate, value: float, examples: int, turned: int = 0) -> bool:
    """Whether a value holds with room for chance.

    A share of examples is known as well as these are many: the upper end of its interval of 95 % must hold (Wilson's,
    one-sided). Accuracy that is lost is a difference, of examples that turned wrong and of others that turned right:
    what hangs on chance is how all `turned` ones fall; that more turned right is luck, which a search would look for,
    and counts for nothing. No loss at all always holds, however few the examples.
    """
    loss, allowed = _losses(gate, value)
    if gate.metric == "label_accuracy_drop":
        # Of paired differences of -1, 0 and 1: the variance of their mean (Agresti, Categorical Data Analysis, 10.1).
        deviation = math.sqrt(max(turned / examples - loss**2, 0) / examples) if examples else 0
        return max(loss, 0) + _DEVIATIONS * deviation <= allowed or not turned
    if loss <= 0:
        return True
    if gate.metric in _COUNTED:
        return wilson_upper(loss, examples) <= allowed
    return loss <= _MARGIN * allowed


def wilson_upper(share: float, examples: int) -> float:
    """The largest share that what was seen on so many examples does not rule out (E. B. Wilson, JASA 22, 1927)."""
    square = _DEVIATIONS**2 / examples
    spread = math.sqrt(share * (1 - share) / examples + square / (4 * examples))
    return (share + square / 2 + _DEVIATIONS * spread) / (1 + square)


def _losses(gate: Gate, value: float) -> tuple[float, float]:
    """The loss, and how much of it is allowed."""
    return (1 - value, 1 - gate.bound) if gate.metric in _SHARES else (value, gate.bound)


def _distance(summary: DatasetSummary, key: str) -> float:
    """An output's squared relative L2 error; of strings the share that differs."""
    output = summary.outputs.get(key)
    if output is None or output.mismatches:
        return math.inf
    metrics = output.metrics
    if metrics.nan_mismatches:
        return math.inf
    if metrics.rel_l2_error is not None:
        return float(metrics.rel_l2_error) ** 2
    return 1 - (metrics.exact_match if metrics.exact_match is not None else 1.0)


class Memo:
    """What was measured, by what it was measured of: lines of JSON in a file that a later run reads.

    fingerprint: of all that the values hang on; a file of another is begun anew.
    """

    def __init__(self, file: Path | None, fingerprint: str) -> None:
        self._file = file
        self._values: dict[str, Any] = {}
        if file is None:
            return
        header = json.dumps({"fingerprint": fingerprint})
        lines = file.read_text().splitlines() if file.exists() else []
        if not lines or lines[0] != header:
            file.write_text(header + "\n")
            return
        for line in lines[1:]:
            try:
                key, value = json.loads(line)
            except ValueError:
                break  # the run was stopped while it wrote this
            self._values[key] = value
        file.write_text("\n".join([header, *(json.dumps(item) for item in self._values.items())]) + "\n")

    def get(self, key: str, compute: Callable[[], Any]) -> Any:
        """The value that is known, or the one that is computed now."""
        if key not in self._values:
            self._values[key] = compute()
            if self._file is not None:
                with self._file.open("a") as file:
                    file.write(json.dumps((key, self._values[key])) + "\n")
        return self._values[key]
