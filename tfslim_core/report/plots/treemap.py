"""A treemap: rectangles whose areas are to each other as sizes are, as near to squares as they come.

The layout is that of Bruls, Huizing and van Wijk, "Squarified Treemaps", 2000: sizes, largest first, are laid in rows
along the shorter side, and a row ends when one more would make its worst rectangle longer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from tfslim_core.report.svg import element, percent

WIDTH, HEIGHT = 160.0, 90.0  # the proportions that rectangles are near to squares in
_LABELLED = 0.0006  # of the whole area; smaller ones have a title only


@dataclass(frozen=True)
class Box:
    """A rectangle to draw. size: in any unit. kept: the share of it that is drawn full. css: a class for its colour."""

    label: str
    title: str
    size: int
    css: str
    kept: float = 1.0


@dataclass(frozen=True)
class Place:
    """Where a rectangle lies."""

    x: float
    y: float
    width: float
    height: float


def treemap(title: str, groups: Sequence[Sequence[Box]]) -> Markup:
    """The boxes of each group side by side, as HTML that is as wide as its place."""
    sizes = [sum(box.size for box in group) for group in groups]
    shown = sorted((pair for pair in zip(sizes, groups, strict=True) if pair[0]), key=lambda pair: -pair[0])
    whole = Place(0, 0, WIDTH, HEIGHT)
    drawn: list[Markup] = []
    for place, (_, group) in zip(squarified([size for size, _ in shown], whole), shown, strict=True):
        boxes = sorted((box for box in group if box.size), key=lambda box: -box.size)
        drawn += map(_drawn, squarified([box.size for box in boxes], place), boxes)
    return element("div", *drawn, class_="treemap", role="img", aria_label=title)


def squarified(sizes: Sequence[float], within: Place) -> list[Place]:
    """A place for each size, in order; sizes are positive, the largest first."""
    places: list[Place] = []
    unit = within.width * within.height / sum(sizes) if sizes else 0.0
    rest = within
    start = 0
    while start < len(sizes):
        side = min(rest.width, rest.height)
        end, total = start + 1, sizes[start] * unit
        worst = _longest(sizes[start] * unit, sizes[start] * unit, total, side)
        while end < len(sizes):
            more = total + sizes[end] * unit
            longer = _longest(sizes[start] * unit, sizes[end] * unit, more, side)
            if longer > worst:
                break
            end, total, worst = end + 1, more, longer
        row, rest = _row([size * unit for size in sizes[start:end]], total, rest)
        places += row
        start = end
    return places


def _longest(largest: float, smallest: float, total: float, side: float) -> float:
    """The worst ratio of sides in a row of this area along a side."""
    if not side or not smallest:
        return float("inf")
    return max(side * side * largest / (total * total), total * total / (side * side * smallest))


def _row(areas: Sequence[float], total: float, rest: Place) -> tuple[list[Place], Place]:
    """The row along the shorter side, and what is left."""
    made = []
    if rest.width >= rest.height:
        depth = total / rest.height if rest.height else 0.0
        y = rest.y
        for area in areas:
            height = area / depth if depth else 0.0
            made.append(Place(rest.x, y, depth, height))
            y += height
        return made, Place(rest.x + depth, rest.y, max(rest.width - depth, 0.0), rest.height)
    depth = total / rest.width
    x = rest.x
    for area in areas:
        width = area / depth if depth else 0.0
        made.append(Place(x, rest.y, width, depth))
        x += width
    return made, Place(rest.x, rest.y + depth, rest.width, max(rest.height - depth, 0.0))


def _drawn(place: Place, box: Box) -> Markup:
    lengths = {
        "left": percent(100 * place.x / WIDTH),
        "top": percent(100 * place.y / HEIGHT),
        "width": percent(100 * place.width / WIDTH),
        "height": percent(100 * place.height / HEIGHT),
        "--kept": percent(100 * min(max(box.kept, 0.0), 1.0)),
    }
    label = box.label if place.width * place.height > _LABELLED * WIDTH * HEIGHT * 10 else ""
    style = ";".join(f"{name}:{value}" for name, value in lengths.items())
    return element("div", element("span", label), class_=f"box {box.css}", style=style, title=box.title)
