"""What two models cost to serve: size, load time, memory, latency; measured alike and one at a time."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

import numpy as np

from tfslim_core.saved_model.fresh_process import ModelProcess, Request
from tfslim_core.storage import size
from tfslim_core.verdict import Percentiles

_LOADS = 5
_FEWEST_ROUNDS = 3  # fewer say nothing of the noise
_MOST_REPEATS = 500  # of one batch size in one round: all rounds are enough for a p99, and the answer stays small


@dataclass(frozen=True)
class Rounds:
    """What one model took in each round; the other model was measured right before or after.

    request_ms: batch size -> for each round, milliseconds of each request that counts.
    """

    load_seconds: Sequence[float] = ()
    first_request_ms: Sequence[float] = ()
    peak_rss_bytes: Sequence[float] = ()
    request_ms: Mapping[int, Sequence[Sequence[float]]] = field(default_factory=dict)


@dataclass(frozen=True)
class Costs:
    """What one model costs, alone in a fresh process.

    bytes: of the directory. load_seconds, first_request_ms, peak_rss_bytes: medians over fresh processes; the first
    request is of the smallest batch size, and None where there is none. peak_rss_bytes: of a process that has loaded
    the model and served all batch sizes; about 300 MB of it are TensorFlow's libraries, whatever the model. latency_ms,
    throughput_per_second: by batch size; the latter in examples, one request after another. rounds: what the figures
    are made of (see cost_ratios).
    """

    bytes: int
    load_seconds: float
    first_request_ms: float | None
    peak_rss_bytes: int
    latency_ms: dict[int, Percentiles]
    throughput_per_second: dict[int, float] = field(default_factory=dict)
    rounds: Rounds = Rounds()


def measure_pair(
    original: str | os.PathLike[str],
    optimized: str | os.PathLike[str],
    feeds_by_batch: Mapping[int, Mapping[str, np.ndarray]],
    signature: str,
    tags: Sequence[str] = ("serve",),
    *,
    rounds: int = 40,
    seconds: float = 10,
    threads: int | None = None,
    timeout: float = 600,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[Costs, Costs]:
    """The costs of both models, taken in turns so that whatever else the machine does hits both alike.

    While one model is measured the other's process waits. Each round measures both, in the other order than the round
    before, and its first request is not counted. Both models get the same number of requests.

    feeds_by_batch: batch size -> arrays by input key. seconds: for the latencies of one batch size, both models
    together; slower requests are still made in three rounds. threads: TensorFlow's choice unless given.
    timeout: seconds for one load or one round. progress: told (steps done, steps in all).

    Raises:
        ModelError: a model cannot be loaded or cannot answer.
        DataError: the feeds do not fit the signature.
    """
    paths = (os.fspath(original), os.fspath(optimized))
    batches = sorted(feeds_by_batch)
    requests = [Request(signature, feeds_by_batch[batch]) for batch in batches]
    steps = _Steps(2 * _LOADS + len(batches), progress)
    loads: tuple[list[float], list[float]] = ([], [])
    firsts: tuple[list[float], list[float]] = ([], [])
    peaks: tuple[list[float], list[float]] = ([], [])
    with ExitStack() as stack:
        # The last process of each model stays, for the latencies.
        kept: dict[int, ModelProcess] = {}
        for turn in range(_LOADS):
            for which in _order(turn):
                process = ModelProcess(paths[which], requests, tags, threads=threads, timeout=timeout)
                with ExitStack() as until_measured:
                    until_measured.enter_context(process)
                    loads[which].append(process.load_seconds)
                    if process.first_request_ms is not None:
                        firsts[which].append(process.first_request_ms)
                    for index in range(1, len(requests)):
                        process.time(index, 1)
                    peaks[which].append(process.peak_rss_bytes())
                    if turn == _LOADS - 1:
                        kept[which] = process
                        stack.push(until_measured.pop_all())
                steps.done()
        pair = (kept[0], kept[1])
        taken: tuple[dict[int, list[list[float]]], dict[int, list[list[float]]]] = ({}, {})
        for index, batch in enumerate(batches):
            for which, each in enumerate(_time_pair(pair, index, rounds, seconds * 1000)):
                taken[which][batch] = each
            steps.done()
    first, second = (
        Costs(
            bytes=size(Path(paths[which])),
            load_seconds=median(loads[which]),
            first_request_ms=median(firsts[which]) if firsts[which] else None,
            peak_rss_bytes=round(median(peaks[which])),
            latency_ms={batch: _percentiles(_all(each)) for batch, each in taken[which].items()},
            throughput_per_second={batch: _throughput(batch, _all(each)) for batch, each in taken[which].items()},
            rounds=Rounds(loads[which], firsts[which], peaks[which], taken[which]),
        )
        for which in (0, 1)
    )
    return first, second


def _time_pair(
    pair: tuple[ModelProcess, ModelProcess], request: int, rounds: int, budget_ms: float
) -> tuple[list[list[float]], list[list[float]]]:
    """Milliseconds of each counted request by round, of each model."""
    # The first request of a batch size also allocates; the second tells what the others will take.
    both_ms = sum(process.time(request, 2)[-1] for process in pair)
    rounds = max(min(rounds, _FEWEST_ROUNDS), min(rounds, int(budget_ms / (2 * both_ms))))
    repeats = max(1, min(_MOST_REPEATS, int(budget_ms / (rounds * both_ms)) - 1))
    taken: tuple[list[list[float]], list[list[float]]] = ([], [])
    for turn in range(rounds):
        for which in _order(turn):
            taken[which].append(pair[which].time(request, 1 + repeats)[1:])
    return taken


def _all(rounds: Sequence[Sequence[float]]) -> list[float]:
    return [one for each in rounds for one in each]


def _order(turn: int) -> tuple[int, int]:
    return (0, 1) if turn % 2 == 0 else (1, 0)


def _percentiles(milliseconds: Sequence[float]) -> Percentiles:
    p50, p95, p99 = np.percentile(milliseconds, [50, 95, 99]).tolist()
    return Percentiles(p50=p50, p95=p95, p99=p99)


def _throughput(batch: int, milliseconds: Sequence[float]) -> float:
    """Examples per second."""
    return 1000 * batch * len(milliseconds) / max(sum(milliseconds), 1e-9)


class _Steps:
    """Counts steps for a progress callback."""

    def __init__(self, total: int, progress: Callable[[int, int], None] | None) -> None:
        self._total, self._progress, self._done = total, progress, 0

    def done(self) -> None:
        self._done += 1
        if self._progress:
            self._progress(self._done, self._total)
