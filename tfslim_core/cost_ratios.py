"""How much more or less the optimized model costs than the original, and how far noise could have moved that."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from math import comb
from statistics import fmean, median
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from tfslim_core.verdict import CostRatio, LatencyPair, Models

if TYPE_CHECKING:
    from tfslim_core.costs import Costs

# Where a gate does not say which batch size, the one counts at which the optimized model does worst.
_WORST: dict[str, Callable[[Iterable[float]], float]] = {
    "latency_ratio": max,
    "latency_ratio_p99": max,
    "throughput_ratio": min,
}
METRICS = ("size_ratio", *_WORST, "memory_ratio", "load_ratio", "first_request_ratio")
_RESAMPLES = 400

Rounds = Sequence[Sequence[float]]
"""Values by round."""


def cost_ratios(original: Costs, optimized: Costs) -> list[CostRatio]:
    """Every ratio that was measured, with the interval that the rounds give it.

    A ratio is the median of the rounds' ratios: a round measures both models right after one another, so that what hits
    both alike is no noise. Its interval is the order-statistic one of a median. The ratio of the 99th percentiles needs
    the requests of all rounds together; its interval is a bootstrap over rounds, with the same draws each time.
    """
    return list(_ratios(original, optimized))


def ratio_of(
    metric: str, models: Models, latencies: Sequence[LatencyPair] = ()
) -> tuple[float | None, tuple[float, float] | None, int]:
    """(value, interval, rounds) of a ratio as a gate means it: over all batch sizes, the optimized model's worst.

    The interval is that of the worst: no batch size may be outside of it. Value None: it was not measured. Interval
    None: the value is exact, or is known without its noise.
    """
    found = [ratio for ratio in models.ratios if ratio.metric == metric]
    if not found:
        return _plain_ratio(metric, models, latencies), None, 0
    worst = _WORST.get(metric, max)
    value, rounds = worst(ratio.value for ratio in found), min(ratio.rounds for ratio in found)
    intervals = [ratio.interval for ratio in found if ratio.interval is not None]
    if len(intervals) < len(found):
        return value, None, rounds
    return value, (worst(low for low, _ in intervals), worst(high for _, high in intervals)), rounds


def _plain_ratio(metric: str, models: Models, latencies: Sequence[LatencyPair]) -> float | None:
    before, after = models.original, models.optimized
    if metric in ("latency_ratio", "latency_ratio_p99"):
        name = "p99" if metric.endswith("p99") else "p50"
        ratios = [
            _over(getattr(one, name), getattr(pair.optimized[batch], name))
            for pair in latencies
            for batch, one in pair.original.items()
            if batch in pair.optimized
        ]
        return max((ratio for ratio in ratios if ratio is not None), default=None)
    if metric == "throughput_ratio":
        speeds = after.throughput_per_second
        ratios = [_over(one, speeds[batch]) for batch, one in before.throughput_per_second.items() if batch in speeds]
        return min((ratio for ratio in ratios if ratio is not None), default=None)
    field = {
        "size_ratio": "bytes",
        "memory_ratio": "peak_rss_bytes",
        "load_ratio": "load_seconds",
        "first_request_ratio": "first_request_ms",
    }[metric]
    return _over(getattr(before, field), getattr(after, field))


def _over(original: float | None, optimized: float | None) -> float | None:
    return None if not original or optimized is None else optimized / original


def _ratios(original: Costs, optimized: Costs) -> Iterator[CostRatio]:
    before, after = original.rounds, optimized.rounds
    for metric, olds, news in (
        ("load_ratio", before.load_seconds, after.load_seconds),
        ("first_request_ratio", before.first_request_ms, after.first_request_ms),
        ("memory_ratio", before.peak_rss_bytes, after.peak_rss_bytes),
    ):
        yield from _median_ratio(metric, None, olds, news)
    for batch in sorted(set(before.request_ms) & set(after.request_ms)):
        old, new = before.request_ms[batch], after.request_ms[batch]
        if not all(one for side in (old, new) for one in side):
            continue
        yield from _median_ratio("latency_ratio", str(batch), *([median(one) for one in side] for side in (old, new)))
        yield from _tail_ratio("latency_ratio_p99", str(batch), old, new)
        # A mean is what a request takes, so requests in a second are its inverse.
        yield from _median_ratio("throughput_ratio", str(batch), *([fmean(one) for one in side] for side in (new, old)))


def _median_ratio(metric: str, batch: str | None, old: Sequence[float], new: Sequence[float]) -> Iterator[CostRatio]:
    """The median of new / old, round by round; nothing where nothing was measured."""
    if not old or not new or not all(old):
        return
    ratios = sorted(after / before for before, after in zip(old, new, strict=False))
    rounds = len(ratios)
    inside = _ranks(rounds)
    interval = (ratios[inside], ratios[-1 - inside]) if rounds > 1 else None
    yield CostRatio(metric=metric, batch=batch, value=median(ratios), interval=interval, rounds=rounds)


def _ranks(count: int) -> int:
    """How many values to leave out at either end, so that the rest holds the median with 95 % confidence; of fewer than
    six values none, and they hold it with less: five with 94 %, three with 75 %.
    """
    below, inside = 0.0, 0
    while (below := below + comb(count, inside) / 2**count) <= 0.025:
        inside += 1
    return max(0, inside - 1)


def _tail_ratio(metric: str, batch: str, old: Rounds, new: Rounds) -> Iterator[CostRatio]:
    """The ratio of the 99th percentiles of all requests together."""
    rounds = min(len(old), len(new))
    sides = [_sorted(side[:rounds]) for side in (old, new)]
    draws = [np.ones(rounds)]
    if rounds > 1:
        draws += list(np.random.default_rng(0).multinomial(rounds, [1 / rounds] * rounds, _RESAMPLES).astype(float))
    found = []
    for draw in draws:
        before, after = (_quantile(0.99, values, draw[owners]) for values, owners in sides)
        if not before:
            return
        found.append(after / before)
    interval = None
    if rounds > 1:
        low, high = np.quantile(found[1:], [0.025, 0.975]).tolist()
        # Draws from a few rounds may not surround what the rounds themselves gave.
        interval = (min(low, found[0]), max(high, found[0]))
    yield CostRatio(metric=metric, batch=batch, value=found[0], interval=interval, rounds=rounds)


def _sorted(rounds: Rounds) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """All values, ascending, and the round that each is of."""
    values = np.concatenate([np.asarray(one, float) for one in rounds])
    owners = np.repeat(np.arange(len(rounds)), [len(one) for one in rounds])
    order = np.argsort(values, kind="stable")
    return values[order], owners[order]


def _quantile(share: float, values: NDArray[np.float64], weights: NDArray[np.float64]) -> float:
    """As `np.quantile` has it of the values, which ascend, repeated by their weights."""
    reached = np.cumsum(weights)
    place, beyond = divmod(share * (reached[-1] - 1), 1)
    low, high = values[np.searchsorted(reached, [place, place + (beyond > 0)], side="right")].tolist()
    return float(low + (high - low) * beyond)
