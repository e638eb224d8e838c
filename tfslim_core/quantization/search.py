"""The smallest encodings within a budget: a ladder for each weight from what it does alone, then the search."""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np

from tfslim_core.bundle import Bundle
from tfslim_core.encodings import footprint
from tfslim_core.errors import DataError
from tfslim_core.gate import Gate
from tfslim_core.quantization import finer_steps
from tfslim_core.quantization.budget import Found, Rung, ladder, search
from tfslim_core.quantization.encode_weights import Choice, candidates
from tfslim_core.quantization.input_moments import InputMoments, input_moments
from tfslim_core.quantization.live_model import Answer, LiveModel
from tfslim_core.quantization.trials import Encoder, Memo, Trials, answers_of
from tfslim_core.validation.batches import Batch
from tfslim_core.validation.sample import SplitSample

# One scale for all and codes that are compressed come nearest to the least bytes for an error (Gish and Pierce, IEEE
# Trans. Inf. Theory 14, 1968): measured, up to one bit an element less than a scale for each channel.
ENCODINGS = (
    "float16",
    *(f"int{bits}/tensor" for bits in range(12, 7, -1)),
    *(f"int{bits}.5/tensor" for bits in range(7, 1, -1)),  # nothing is clipped, which costs least when compressed
    *(f"int{bits}/input" for bits in range(12, 2, -1)),
    *(f"int{bits}" for bits in range(8, 1, -1)),
    *(f"palette{bits}" for bits in range(6, 1, -1)),
)
PROBE = "int6"  # its error is felt in the answers, and small enough to grow in proportion
PROBED_EXAMPLES = 128
LARGE = 256 * 1024  # bytes of a weight beside which those of a step for each input are few
UNSEEN = "int8"  # what a weight gets that the answers do not show
LARGE_STEP = 0.01  # of all bytes: smaller steps are tried too
MINUTES = 10.0
EXAMPLES = 4000


@dataclass(frozen=True)
class Search:
    """What is asked for. minutes: for all of it. state: a file that a later run goes on from.

    reference: the model whose answers count, where something else was done before.
    """

    gates: Sequence[Gate]
    main: str | None = None
    minutes: float = MINUTES
    state: Path | None = None
    reference: Bundle | None = None


@dataclass(frozen=True)
class Searched:
    """What was found, on which ladders, and how many examples it was searched and confirmed on. moments: of the inputs
    that the encodings are chosen by.
    """

    found: Found
    ladders: Mapping[str, Sequence[Rung]]
    examples: tuple[int, int]
    moments: InputMoments = field(compare=False)


Progress = Callable[[str, int, int], None]


def search_encodings(
    bundle: Bundle, choice: Choice, sample: SplitSample, wanted: Search, progress: Progress
) -> Searched:
    """The plan for the weights that `choice` may encode.

    Raises:
        DataError: the sample cannot judge the budget.
    """
    start = time.monotonic()
    graph = bundle.graph
    names = candidates(graph, choice)
    memo = Memo(wanted.state, _fingerprint(bundle, names, sample, wanted) if wanted.state else "")
    parts = {"search": sample.search, "held out": sample.held_out, "probe": _first(sample.search, PROBED_EXAMPLES)}
    asked = _answers(wanted.reference, sample, progress) if wanted.reference is not None else None
    with LiveModel(bundle, names) as live:
        moments = input_moments(
            live,
            graph,
            names,
            sample.signature.name,
            [batch.feeds for batch in sample.search],
            progress=lambda done, total: progress("look at what layers are fed", done, total),
        )
        encoder = Encoder(graph, moments)
        progress("ask the model as it is", 0, 0)
        keys = list(sample.signature.outputs)
        trials = Trials(live, encoder, wanted.gates, sample.signature.name, keys, parts, wanted.main, memo, asked)
        trials.refuse_meaningless("search")
        if asked is not None:
            _refuse_spent(trials)
        ladders: dict[str, list[Rung]] = {}
        for number, name in enumerate(names):
            progress("measure each weight alone", number, len(names))
            if time.monotonic() - start > 30 * wanted.minutes:
                ladders |= {left: _unmeasured(left, encoder, ladders) for left in names[number:]}
                break
            if not memo.get(f"{name}: by its inputs", lambda: time.monotonic() - start <= 15 * wanted.minutes):
                moments.forget(name)  # rounding by them takes longer, and would leave no time for the rest
            ladders[name] = _ladder(graph.weights[name].nbytes, name, encoder, trials, memo)
        found = search(
            ladders,
            lambda plan: trials.judge(plan, "search"),
            lambda plan: trials.judge(plan, "held out"),
            seconds=60 * wanted.minutes - (time.monotonic() - start),
            progress=progress,
        )
        if found.finished:
            progress("measure smaller steps", 0, 0)
        finer = _finer(found, ladders, encoder, memo) if found.finished else {}
        left = 60 * wanted.minutes - (time.monotonic() - start)
        if left > 0 and any(len(rungs) > 1 for rungs in finer.values()):
            found = search(
                finer,
                lambda plan: trials.judge(plan, "search"),
                lambda plan: trials.judge(plan, "held out"),
                seconds=left,
                progress=progress,
            )
            ladders = {**ladders, **finer}
        return Searched(found, ladders, (trials.examples("search"), trials.examples("held out")), moments)


def _answers(reference: Bundle, sample: SplitSample, progress: Progress) -> dict[str, list[Answer]]:
    """What another model answers to the sample."""
    progress("ask the model as it was", 0, 0)
    with LiveModel(reference, []) as live:
        parts = {"search": sample.search, "held out": sample.held_out}
        return {part: answers_of(live, sample.signature.name, batches) for part, batches in parts.items()}


def _refuse_spent(trials: Trials) -> None:
    """Refuse to search where what was done before has used the budget up."""
    for part in ("search", "held out"):
        judged = trials.judge({}, part)
        if judged.used > 1:
            values = ", ".join(f"{bound} comes to {value:.5g}" for bound, value in judged.values.items())
            raise DataError(f"the pruned vocabulary alone breaks the budget: {values}; keep more rows")


def _ladder(nbytes: int, name: str, encoder: Encoder, trials: Trials, memo: Memo) -> list[Rung]:
    """A weight's rungs: what an encoding harms is in proportion to the squared error that it makes of the outputs of
    the weight's layers or, where these are not known, of the weight.
    """
    as_it_is = Rung("", nbytes, 0.0)
    # A step for each input is no worse than one for all, but for the bytes of the steps.
    large = nbytes >= LARGE and encoder.moments(name) is not None
    found: dict[str, tuple[int, float] | None] = {
        one: memo.get(f"{name} {one}: bytes and error", partial(_cost, encoder, name, one))
        for one in ENCODINGS
        if not (large and one.endswith("/tensor"))
    }
    costs = {one: cost for one, cost in found.items() if cost is not None}
    if PROBE not in costs:
        return [as_it_is]
    harm, squared = trials.harm(name, PROBE, "probe"), costs[PROBE][1]
    if not harm and squared:
        # No answer that is bounded hangs on it, so that nothing here can tell what others need.
        return [Rung(UNSEEN, costs[UNSEEN][0], 0.0)] if UNSEEN in costs else [as_it_is]
    per_error = harm / squared if squared else math.inf
    rungs = [Rung(one, size, per_error * error if error else 0.0) for one, (size, error) in costs.items()]
    return ladder([as_it_is, *(rung for rung in rungs if math.isfinite(rung.harm))])


def _unmeasured(name: str, encoder: Encoder, measured: Mapping[str, Sequence[Rung]]) -> list[Rung]:
    """Two rungs of a weight that there was no time for: it may do as much harm as any other, and is taken last."""
    plain, weight = encoder.weight(name, ""), encoder.weight(name, UNSEEN)
    assert plain is not None
    as_it_is = Rung("", plain.nbytes, 0.0)
    harms = [rung.harm for rungs in measured.values() for rung in rungs if rung.encoding == UNSEEN]
    if weight is None or footprint(weight) >= plain.nbytes:
        return [as_it_is]
    return [as_it_is, Rung(UNSEEN, footprint(weight), max(harms, default=1.0))]


def _finer(found: Found, ladders: Mapping[str, Sequence[Rung]], encoder: Encoder, memo: Memo) -> dict[str, list[Rung]]:
    """Ladders from where each weight stands: to its next rung by smaller steps where that is a large step."""
    stands = {
        name: next(n for n, rung in enumerate(rungs) if rung.encoding == found.plan[name])
        for name, rungs in ladders.items()
    }
    total = sum(rungs[stands[name]].bytes for name, rungs in ladders.items())
    finer = {}
    for name, rungs in ladders.items():
        here, *after = rungs[stands[name] : stands[name] + 2]
        finer[name] = [here]
        weight = encoder.weight(name, "")
        if not after or here.bytes - after[0].bytes < LARGE_STEP * total or weight is None:
            continue
        there = after[0]
        known = memo.get(f"{name} {there.encoding}: bytes and error", partial(_cost, encoder, name, there.encoding))
        per_error = there.harm / known[1] if known[1] else math.inf
        between = []
        for one in finer_steps.between(weight, there, here):
            cost = memo.get(f"{name} {one}: bytes and error", partial(_cost, encoder, name, one))
            if cost is not None and there.bytes < cost[0] < here.bytes and here.harm < cost[1] * per_error < math.inf:
                between.append(Rung(one, cost[0], cost[1] * per_error))
        finer[name] = ladder([here, *between, there]) if between else [here]
    return finer


def _cost(encoder: Encoder, name: str, encoding: str) -> tuple[int, float] | None:
    """Bytes, and the squared error of the outputs or of the weight; None where it cannot be held."""
    plain, weight = encoder.weight(name, ""), encoder.weight(name, encoding)
    if plain is None or weight is None:
        return None
    off = np.asarray(weight.read(), np.float32) - np.asarray(plain.read(), np.float32)
    moments = encoder.moments(name)
    if moments is not None:
        return footprint(weight), moments.error(off)
    return footprint(weight), float(np.square(off, dtype=np.float64).sum())


def _first(batches: Sequence[Batch], examples: int) -> list[Batch]:
    """The first batches that hold so many."""
    counts = np.cumsum([0, *map(len, batches)])
    return [batch for batch, before in zip(batches, counts, strict=False) if before < examples]


def _fingerprint(bundle: Bundle, names: Sequence[str], sample: SplitSample, wanted: Search) -> str:
    """Of all that measured values hang on."""
    digest = hashlib.sha256()
    for text in (*map(str, wanted.gates), str(wanted.main), *ENCODINGS, *names, sample.signature.name):
        digest.update(text.encode() + b"\0")
    digest.update(bundle.graph.to_graph_def().SerializeToString(deterministic=True))
    for name in names:
        value = np.ascontiguousarray(bundle.graph.weights[name].read())
        digest.update(value.reshape(-1).view(np.uint8).data)
    for batch in (*sample.search, *sample.held_out):
        digest.update(batch.dataset.encode())
        for key, array in sorted(batch.feeds.items()):
            content = repr(array.tolist()).encode() if array.dtype == object else array.tobytes()
            digest.update(key.encode() + content)
    return digest.hexdigest()
