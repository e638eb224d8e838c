"""The costs of several models, in turns, so that whatever else the machine does hits all alike."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import numpy as np

from benchmarks import tflite
from benchmarks.subjects import Feeds
from tfslim_core.saved_model.fresh_process import ModelProcess, Request

Opened = ModelProcess | tflite.Process
_LOADS = 3
_ROUNDS = 15
_MOST_REPEATS = 1000


@dataclass(frozen=True)
class Latency:
    """Of one batch size. p50_ms: the median of the rounds' medians.

    ratio: to the first model, the median over rounds of the ratio within a round; low, high: its quartiles.
    """

    p50_ms: float
    ratio: float
    low: float
    high: float


@dataclass(frozen=True)
class Cost:
    """Of one model alone in a fresh process.

    load_seconds: the loader call, median over fresh processes. peak_rss_bytes: of a process that has loaded the model
    and served all batch sizes; about 300 MB of it are TensorFlow's libraries.
    """

    load_seconds: float
    peak_rss_bytes: int
    latency: Mapping[int, Latency]


def measure(
    models: Mapping[str, Path],
    signature: str,
    feeds_by_batch: Mapping[int, Feeds],
    *,
    seconds: float,
    told: Callable[[str], None],
) -> dict[str, Cost]:
    """The costs by name; ratios are to the first. seconds: for the latencies of one batch size of one model."""
    batches = sorted(feeds_by_batch)
    requests = [Request(signature, feeds_by_batch[batch]) for batch in batches]
    loads: dict[str, list[float]] = {name: [] for name in models}
    with ExitStack() as stack:
        kept: dict[str, Opened] = {}
        for turn in range(_LOADS):
            told(f"load {turn + 1}/{_LOADS}")
            for name in _order(list(models), turn):
                process = _opened(models[name], requests)
                loads[name].append(process.load_seconds)
                if turn == _LOADS - 1:
                    kept[name] = stack.enter_context(process)
                else:
                    process.close()
        kept = {name: kept[name] for name in models}
        latencies = {batch: _rounds(kept, number, batch, seconds, told) for number, batch in enumerate(batches)}
        peaks = {name: process.peak_rss_bytes() for name, process in kept.items()}
    return {
        name: Cost(median(loads[name]), peaks[name], {batch: found[name] for batch, found in latencies.items()})
        for name in models
    }


def _opened(path: Path, requests: Sequence[Request]) -> Opened:
    return tflite.Process(path, requests) if path.suffix == tflite.SUFFIX else ModelProcess(path, requests)


def _rounds(
    kept: Mapping[str, Opened],
    request: int,
    batch: int,
    seconds: float,
    told: Callable[[str], None],
) -> dict[str, Latency]:
    slice_ms = seconds * 1000 / _ROUNDS
    repeats = {name: _repeats(process.time(request, 3), slice_ms) for name, process in kept.items()}
    medians: dict[str, list[float]] = {name: [] for name in kept}
    for turn in range(_ROUNDS):
        told(f"batch of {batch}, round {turn + 1}/{_ROUNDS}")
        for name in _order(list(kept), turn):
            # The first request after the others' turns finds cold caches.
            medians[name].append(median(kept[name].time(request, 1 + repeats[name])[1:]))
    original = np.array(next(iter(medians.values())))
    return {name: _latency(np.array(taken), original) for name, taken in medians.items()}


def _repeats(warm_up: Sequence[float], slice_ms: float) -> int:
    return max(2, min(_MOST_REPEATS, round(slice_ms / min(warm_up))))


def _latency(taken: np.ndarray, original: np.ndarray) -> Latency:
    low, ratio, high = np.quantile(taken / original, [0.25, 0.5, 0.75]).tolist()
    return Latency(float(np.median(taken)), ratio, low, high)


def _order(names: list[str], turn: int) -> list[str]:
    """Another one begins each time, and every other time they go backwards."""
    at = turn % len(names)
    turned = names[at:] + names[:at]
    return turned if turn % 2 == 0 else turned[::-1]
