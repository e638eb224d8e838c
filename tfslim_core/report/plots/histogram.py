"""How large the errors of one output are: a histogram over a logarithmic axis."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

from markupsafe import Markup

from tfslim_core.report import formats
from tfslim_core.report.context import Histogram
from tfslim_core.report.svg import bar, line, plot, text
from tfslim_core.verdict import OutputMetrics

FLOOR = 128
TOP = 34
_SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def span(histograms: Sequence[Histogram]) -> tuple[float, float] | None:
    """The powers of ten between which all errors of these outputs lie; None where nothing was counted."""
    ends = [
        end
        for edges, counts in histograms
        for bin_ends, counted in zip(pairwise(_places(edges)), counts, strict=False)
        if counted
        for end in bin_ends
    ]
    if not ends:
        return None
    low, high = min(ends), max(ends)
    # Less than two decades would leave the axis without labels.
    spare = max(0.0, 2 - (high - low)) / 2
    return low - spare, high + spare


def histogram(output: str, data: Histogram, limits: tuple[float, float], metrics: OutputMetrics | None) -> Markup:
    """The share of values in each bin, between two powers of ten; lines mark the 99th percentile and the maximum."""
    edges, counts = data
    total, most = sum(counts), max(counts, default=0)
    if not total:
        return Markup("")

    def at(power: float) -> float:
        return 100 * (power - limits[0]) / (limits[1] - limits[0])

    shapes = [line(0, FLOOR, 100, FLOOR, "axis")]
    for power in _ticks(limits):
        shapes += [
            line(at(power), FLOOR, at(power), FLOOR + 4, "axis"),
            text(f"10{str(power).translate(_SUPERSCRIPTS)}", at(power), FLOOR + 18, "quiet"),
        ]
    for (left, right), (low, high), counted in zip(pairwise(_places(edges)), pairwise(edges), counts, strict=False):
        if counted:
            height = max(1.5, (FLOOR - TOP) * counted / most)
            title = f"{_bin(low, high)}: {formats.count(counted)} values, {formats.share(counted / total)}"
            shapes.append(bar(at(left), at(right) - at(left), FLOOR - height, height, "errors", title))
    shapes.append(text(f"{formats.share(most / total)} in the tallest bar", 0, 11, "quiet", "start"))
    if metrics is not None:
        for label, value, top in (("99 %", metrics.p99_abs_error, 26), ("max", metrics.max_abs_error, 11)):
            if value and formats.known(value) and limits[0] <= math.log10(value) <= limits[1]:
                shapes += _mark(label, at(math.log10(value)), top)
    title = f"Absolute errors of {output}, {formats.count(total)} values"
    return plot(title, FLOOR + 22, shapes, "histogram")


def _mark(label: str, place: float, top: float) -> list[Markup]:
    return [
        line(place, top + 3, place, FLOOR, "mark"),
        text(label, place, top, "quiet", "end" if place > 85 else "middle" if place > 15 else "start"),
    ]


def _places(edges: Sequence[float]) -> list[float]:
    """The edges as powers of ten; a first edge of 0 and a last one without end are put one bin away from the next."""
    powers = [math.log10(edge) if 0 < edge < math.inf else None for edge in edges]
    inner = [power for power in powers if power is not None]
    if not inner:
        return [float(place) for place in range(len(edges))]
    width = inner[1] - inner[0] if len(inner) > 1 else 1.0
    return [
        power if power is not None else inner[0] - width if edge <= 0 else inner[-1] + width
        for power, edge in zip(powers, edges, strict=True)
    ]


def _ticks(limits: tuple[float, float]) -> range:
    first, last = math.ceil(limits[0]), math.floor(limits[1])
    return range(first, last + 1, max(1, math.ceil((last - first) / 5)))


def _bin(low: float, high: float) -> str:
    if low <= 0:
        return f"below {formats.number(high)}"
    return (
        f"{formats.number(low)} to {formats.number(high)}" if math.isfinite(high) else f"{formats.number(low)} and more"
    )
