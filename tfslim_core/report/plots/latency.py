"""Latency at one batch size: a bar up to the median, a line on to the 95th and a thinner one to the 99th percentile."""

from __future__ import annotations

import math

from markupsafe import Markup

from tfslim_core.report import formats
from tfslim_core.report.svg import bar, line, plot, text
from tfslim_core.verdict import Percentiles

ROW = 40


def latency(batch: str, original: Percentiles | None, optimized: Percentiles | None) -> Markup:
    """The two models on one scale from zero; a model that was not measured is left out."""
    sides = [
        (name, css, side)
        for name, css, side in (("Original", "original", original), ("Optimized", "optimized", optimized))
        if side is not None
    ]
    longest = max((value for _, _, side in sides for value in (side.p50, side.p95, side.p99)), default=0.0)
    if longest <= 0:
        return Markup("")
    step = nice_step(longest / 4)
    scale = 100 / max(longest * 1.02, step)
    floor = ROW * len(sides) + 2
    shapes: list[Markup] = []
    for place in range(math.floor(100 / (step * scale)) + 1):
        at = place * step * scale
        shapes += [line(at, 0, at, floor, "grid"), text(_tick(place * step), at, floor + 15, "quiet")]
    for place, (name, css, side) in enumerate(sides):
        top = ROW * place + 18
        shapes += [
            text(f"{name}, {formats.milliseconds(side.p50)}", 0, top - 5, anchor="start"),
            bar(0, side.p50 * scale, top, 14, css, f"{name}, median: {formats.milliseconds(side.p50)}"),
            line(side.p50 * scale, top + 7, side.p95 * scale, top + 7, f"thick {css}-line"),
            line(side.p95 * scale, top + 7, side.p99 * scale, top + 7, f"thin {css}-line"),
            line(side.p99 * scale, top + 2, side.p99 * scale, top + 12, f"thin {css}-line"),
        ]
    title = f"Latency at batch {batch}: " + "; ".join(
        f"{name.lower()} {formats.milliseconds(side.p50)}, 95 % below {formats.milliseconds(side.p95)}, "
        f"99 % below {formats.milliseconds(side.p99)}"
        for name, _, side in sides
    )
    return plot(title, floor + 20, shapes, "latency")


def nice_step(least: float) -> float:
    """The smallest of 1, 2, 5 times a power of ten that is not below `least`."""
    power = 10.0 ** math.floor(math.log10(least))
    return next(step * power for step in (1, 2, 5, 10) if step * power >= least * (1 - 1e-9))


def _tick(value: float) -> str:
    return f"{formats.number(value)} ms" if value else "0"
