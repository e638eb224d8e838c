"""The numbers that everybody asks for first, before and after; the page, the Markdown and the terminal share them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

from tfslim_core.report import formats
from tfslim_core.report.context import ReportContext
from tfslim_core.report.metrics import between
from tfslim_core.verdict import CostRatio, Interval, Percentiles, Verdict

Tone = Literal["better", "same", "worse", "unknown"]
# Repeated measurements of the same model differ by this much.
NOISE = 0.05
# Nobody cares for less.
SAME = 0.005


@dataclass(frozen=True, slots=True)
class Row:
    """One cost before and after. `ratio` is after / before; interval: of the ratio, in words, empty where not known."""

    label: str
    before: float | None
    after: float | None
    before_text: str
    after_text: str
    ratio: float | None
    change: str
    tone: Tone
    interval: str = ""


@dataclass(frozen=True, slots=True)
class Answers:
    """One figure for how alike the answers are: the worst over all datasets and outputs, and where it was found."""

    label: str
    text: str
    where: str
    interval: str = ""


def rows(verdict: Verdict | None, context: ReportContext) -> list[Row]:
    """The costs of both models; a cost that is known for neither is left out."""
    return [row for row in _rows(verdict, context) if row.before is not None or row.after is not None]


def answers(verdict: Verdict | None) -> list[Answers]:
    """How alike the answers are."""
    if verdict is None:
        return []
    found = (
        _worst(verdict, "Same top class", "top1_agreement", min, formats.share),
        _worst(verdict, "Exactly equal", "exact_match", min, formats.share),
        _worst(verdict, "Relative error", "rel_l2_error", max, formats.number),
        _worst(verdict, "KL divergence", "kl_divergence", max, formats.number),
        _worst(verdict, "Largest error", "max_abs_error", max, formats.number),
    )
    return [one for one in found if one is not None]


def compare(
    label: str,
    before: float | None,
    after: float | None,
    form: Callable[[float | None], str],
    words: tuple[str, str] = ("smaller", "larger"),
    *,
    measured: CostRatio | None = None,
    more_is_better: bool = False,
) -> Row:
    """A row; `words` say what a lesser and a greater value after than before mean. measured: the ratio round by round,
    which is nearer the truth than that of the two values.
    """
    ratio = after / before if before and after is not None else None
    noise = measured.interval if measured is not None else None
    if ratio is not None and measured is not None:
        ratio = measured.value
    tone: Tone = "unknown" if ratio is None else "same"
    told = change(ratio, *words)
    low, high = noise or (1 - NOISE, 1 + NOISE)
    if ratio is not None and not low <= (1 if noise else ratio) <= high and abs(ratio - 1) >= SAME:
        tone = "better" if (ratio < 1) is not more_is_better else "worse"
    elif ratio is not None and noise and abs(ratio - 1) >= SAME:
        told = "within the noise"
    return Row(label, before, after, form(before), form(after), ratio, told, tone, between(noise, formats.ratio))


def change(ratio: float | None, less: str = "smaller", more: str = "larger") -> str:
    """A ratio in words: 15.3× smaller, 12 % larger, the same."""
    if ratio is None:
        return ""
    if abs(ratio - 1) < SAME:
        return "the same"
    if 0.5 <= ratio < 2:
        return f"{abs(ratio - 1) * 100:.0f} % {less if ratio < 1 else more}"
    if ratio <= 0:
        return "gone"
    return f"{formats.number(max(ratio, 1 / ratio))}× {less if ratio < 1 else more}"


def _rows(verdict: Verdict | None, context: ReportContext) -> Iterator[Row]:
    before, after = model_bytes(verdict, context)
    yield compare("Size on disk", before, after, formats.size)
    if context.live_parameters:
        live = context.live_parameters
        label = f"Bytes per live parameter ({formats.magnitude(live)})"
        yield compare(label, _over(before, live), _over(after, live), formats.number)
    nodes = [stage.nodes_after for stage in context.stages if stage.nodes_after is not None]
    if len(nodes) > 1:
        yield compare("Graph nodes", nodes[0], nodes[-1], formats.count, ("fewer", "more"))
    if verdict is None:
        return
    original, optimized = verdict.models.original, verdict.models.optimized
    faster = ("faster", "slower")
    for label, name, metric, form, told in (
        ("Load time", "load_seconds", "load_ratio", formats.seconds, faster),
        ("First request", "first_request_ms", "first_request_ratio", formats.milliseconds, faster),
        ("Peak memory", "peak_rss_bytes", "memory_ratio", formats.size, ("smaller", "larger")),
    ):
        yield compare(
            label, getattr(original, name), getattr(optimized, name), form, told, measured=measured(verdict, metric)
        )
    for batch in batches(verdict):
        where, old, new = _slowest(verdict, batch)
        yield compare(
            f"Latency, batch {batch}{where}",
            old.p50 if old else None,
            new.p50 if new else None,
            formats.milliseconds,
            faster,
            measured=measured(verdict, "latency_ratio", batch),
        )
    paces = original.throughput_per_second, optimized.throughput_per_second
    for batch in sorted(paces[0] | paces[1], key=batch_order)[-1:]:
        label = f"Throughput, batch {batch}"
        slow, fast = (pace.get(batch) for pace in paces)
        one = measured(verdict, "throughput_ratio", batch)
        yield compare(label, slow, fast, formats.per_second, ("less", "more"), measured=one, more_is_better=True)


def measured(verdict: Verdict, metric: str, batch: str | None = None) -> CostRatio | None:
    """A ratio of costs, where it was measured round by round."""
    found = (one for one in verdict.models.ratios if (one.metric, one.batch) == (metric, batch))
    return next(found, None)


def model_bytes(verdict: Verdict | None, context: ReportContext) -> tuple[int | None, int | None]:
    """Bytes of both directories: as measured, else as itemized."""
    if verdict is not None:
        return verdict.models.original.bytes, verdict.models.optimized.bytes
    before, after = (sum(size for _, size in items) for items in (context.bytes_before, context.bytes_after))
    return before or None, after or None


def batches(verdict: Verdict) -> list[str]:
    """Every batch size at which a latency was measured, smallest first."""
    found = {
        batch
        for dataset in verdict.datasets.values()
        for side in (dataset.latency_ms.original, dataset.latency_ms.optimized)
        for batch in side
    }
    return sorted(found, key=batch_order)


def batch_order(batch: str) -> tuple[int, str]:
    """Sorts "2" before "10", and what is no number last."""
    return (int(batch) if batch.isdecimal() else 1 << 62, batch)


def _slowest(verdict: Verdict, batch: str) -> tuple[str, Percentiles | None, Percentiles | None]:
    """The dataset on which the optimized model does worst, named where there are several."""
    pairs = []
    for name, dataset in verdict.datasets.items():
        old, new = dataset.latency_ms.original.get(batch), dataset.latency_ms.optimized.get(batch)
        if old or new:
            pairs.append((new.p50 / old.p50 if old and new and old.p50 else 0.0, name, old, new))
    _, name, old, new = max(pairs, key=lambda pair: pair[0])
    return (f", {name}" if len(pairs) > 1 else "", old, new)


def _worst(
    verdict: Verdict,
    label: str,
    metric: str,
    pick: Callable[..., tuple[float, str, Interval | None]],
    form: Callable[[float | None], str],
) -> Answers | None:
    values = [
        (value, f"{output}, {name}" if len(verdict.datasets) > 1 else output, metrics.intervals.get(metric))
        for name, dataset in verdict.datasets.items()
        for output, metrics in dataset.outputs.items()
        if (value := getattr(metrics, metric)) is not None and formats.known(value)
    ]
    if not values:
        return None
    value, where, interval = pick(values, key=lambda one: one[0])
    return Answers(label, form(value), where, between(interval, form))


def _over(value: int | None, live: int) -> float | None:
    return None if value is None else value / live
