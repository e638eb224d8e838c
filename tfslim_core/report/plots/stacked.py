"""Where the bytes went: both models as stacked bars on one scale, the optimized one enlarged where it got small."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from markupsafe import Markup

from tfslim_core.report import formats
from tfslim_core.report.shares import Share
from tfslim_core.report.svg import bar, element, plot, text

HEIGHT = 34
ROW = 62


def stacked(parts: Sequence[Share]) -> Markup:
    """The bars; nothing where there are no bytes."""
    before, after = sum(part.before for part in parts), sum(part.after for part in parts)
    longest = max(before, after)
    if not longest:
        return Markup("")
    shapes = [
        *_row(parts, lambda part: part.before, longest, 0, f"Original, {formats.size(before)}"),
        *_row(parts, lambda part: part.after, longest, ROW, f"Optimized, {formats.size(after)}"),
    ]
    height = 2 * ROW - 10
    if 0 < after < 0.6 * before:
        shapes += [
            _lens(100 * after / longest, ROW + 18 + HEIGHT, 26),
            *_row(
                parts,
                lambda part: part.after,
                after,
                ROW + 18 + HEIGHT + 26 - 18,
                "",
            ),
            text(
                f"The same, {formats.number(longest / after)}× enlarged",
                0,
                ROW + 18 + 2 * HEIGHT + 26 + 16,
                "quiet",
            ),
        ]
        height = ROW + 18 + 2 * HEIGHT + 26 + 22
    title = f"Where the bytes are: {formats.size(before)} before, {formats.size(after)} after"
    return plot(title, height, [_hatching(), *shapes], "stacked")


def _row(parts: Sequence[Share], of: Callable[[Share], int], whole: int, top: float, label: str) -> list[Markup]:
    shapes = [text(label, 0, top + 12, anchor="start")] if label else []
    start = 0.0
    for part in parts:
        if width := 100 * of(part) / whole:
            title = f"{part.label}: {formats.size(of(part))}"
            shapes.append(bar(start, width, top + 18, HEIGHT, part.css, title))
            start += width
    return shapes


def _lens(width: float, top: float, height: float) -> Markup:
    """The shape that leads from the short bar to the enlarged one; stretched, since polygons take no per cent."""
    shape = element("polygon", points=f"0,0 {width:.4f},0 100,100 0,100", class_="lens")
    return element(
        "svg",
        shape,
        x="0",
        y=f"{top:g}",
        width="100%",
        height=f"{height:g}",
        viewBox="0 0 100 100",
        preserveAspectRatio="none",
    )


def _hatching() -> Markup:
    patterns = (
        element(
            "pattern",
            element("rect", width="7", height="7", class_="ground"),
            element("rect", width=stroke, height="7", class_="stroke"),
            id=f"hatch{place}",
            width="7",
            height="7",
            patternUnits="userSpaceOnUse",
            patternTransform="rotate(45)",
        )
        for place, stroke in enumerate(("2.6", "1.2"))
    )
    return element("defs", *patterns)
