"""How much more or less the optimized model costs than the original, and how far noise could have moved that."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from tfslim_core.verdict import CostRatio, Interval, LatencyPair, Models

if TYPE_CHECKING:
    from tfslim_core.costs import Costs

# Where a gate does not say which batch size, the one counts at which the optimized model does worst.
_WORST: dict[str, Callable[[Iterable[float]], float]] = {
    "latency_ratio": max,
    "latency_ratio_p99": max,
    "throughput_ratio": min,
}
METRICS = ("size_ratio", *_WORST, "memory_ratio", "load_ratio", "first_request_ratio")
_RESAMPLES = 1000

Rounds = Sequence[Sequence[float]]
"""Values by round."""


def cost_ratios(original: Costs, optimized: Costs) -> list[CostRatio]:
    """Every ratio that was measured, with the interval that the rounds give it.

    The interval is a bootstrap over rounds: rounds are drawn with replacement, each with what both models took in it,
    so that what hits both models alike does not count as noise. The draws are the same each time.
    """
    return list(_ratios(original, optimized))


def ratio_of(
    metric: str, models: Models, latencies: Sequence[LatencyPair] = ()
) -> tuple[float | None, Interval | None, int]:
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
    for metric, old, new in (
        ("load_ratio", before.load_seconds, after.load_seconds),
        ("first_request_ratio", before.first_request_ms, after.first_request_ms),
        ("memory_ratio", before.peak_rss_bytes, after.peak_rss_bytes),
    ):
        yield from _ratio(metric, None, [[one] for one in old], [[one] for one in new], _quantile(0.5))
    for batch in sorted(set(before.request_ms) & set(after.request_ms)):
        for metric, statistic in (
            ("latency_ratio", _quantile(0.5)),
            ("latency_ratio_p99", _quantile(0.99)),
            ("throughput_ratio", _pace),
        ):
            yield from _ratio(metric, str(batch), before.request_ms[batch], after.request_ms[batch], statistic)


Statistic = Callable[[NDArray[np.float64], NDArray[np.float64]], float]
"""(values ascending, how often each counts) -> what is compared."""


def _ratio(metric: str, batch: str | None, old: Rounds, new: Rounds, statistic: Statistic) -> Iterator[CostRatio]:
    """The ratio of a statistic of all rounds together; nothing where nothing was measured."""
    rounds = min(len(old), len(new))
    if not rounds or not all(one for side in (old, new) for one in side):
        return
    sides = [_sorted(side[:rounds]) for side in (old, new)]
    random = np.random.default_rng(0)
    draws = [np.ones(rounds)]
    if rounds > 1:
        draws += list(random.multinomial(rounds, [1 / rounds] * rounds, _RESAMPLES).astype(float))
    found = []
    for draw in draws:
        before, after = (statistic(values, draw[owners]) for values, owners in sides)
        if not before:
            return
        found.append(after / before)
    low, high = np.quantile(found[1:], [0.025, 0.975]).tolist() if rounds > 1 else (0, 0)
    # The value itself is a draw like the others: a few rounds may not surround it.
    interval = (min(low, found[0]), max(high, found[0])) if rounds > 1 else None
    yield CostRatio(metric=metric, batch=batch, value=found[0], interval=interval, rounds=rounds)


def _sorted(rounds: Rounds) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """All values, ascending, and the round that each is of."""
    values = np.concatenate([np.asarray(one, float) for one in rounds])
    owners = np.repeat(np.arange(len(rounds)), [len(one) for one in rounds])
    order = np.argsort(values, kind="stable")
    return values[order], owners[order]


def _quantile(share: float) -> Statistic:
    def of(values: NDArray[np.float64], weights: NDArray[np.float64]) -> float:
        """As `np.quantile` has it of the values repeated by their weights."""
        reached = np.cumsum(weights)
        place, beyond = divmod(share * (reached[-1] - 1), 1)
        low, high = values[np.searchsorted(reached, [place, place + (beyond > 0)], side="right")].tolist()
        return float(low + (high - low) * beyond)

    return of


def _pace(values: NDArray[np.float64], weights: NDArray[np.float64]) -> float:
    """Requests per millisecond."""
    return float(np.sum(weights) / np.sum(values * weights))
