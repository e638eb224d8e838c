"""The ROC curves of both models: the optimized one over the original, which shows where they part."""

from __future__ import annotations

from markupsafe import Markup

from tfslim_core.report.formats import share
from tfslim_core.report.svg import element, line, plot, text
from tfslim_core.roc import area
from tfslim_core.verdict import Roc, RocCurve

SIDE = 220
_TOP = 8
_TICKS = (0.0, 0.25, 0.5, 0.75, 1.0)


def roc(found: Roc) -> Markup:
    """Shares of the class that are found, by shares of the others that are mistaken for it."""
    floor = _TOP + SIDE
    shapes = []
    for tick in _TICKS:
        at, height = 100 * tick, floor - SIDE * tick
        shapes += [
            line(at, _TOP, at, floor, "grid"),
            line(0, height, 100, height, "grid"),
            text(share(tick), at, floor + 16, "quiet"),
        ]
        if 0 < tick < 1:
            # On the right, where a curve is above: models find more of a class than they mistake for it.
            shapes.append(text(share(tick), 99, height + 13, "quiet", "end"))
    shapes += [
        element(
            "svg",
            *[
                element("path", d=_path(curve), class_=f"curve {css}-line")
                for css, curve in (("original", found.original), ("optimized", found.optimized))
            ],
            x="0",
            y=_TOP,
            width="100%",
            height=SIDE,
            viewBox="0 0 1 1",
            preserveAspectRatio="none",
        )
    ]
    areas = f"original {area(found.original):.4f}, optimized {area(found.optimized):.4f}"
    return plot(f"ROC curves; areas: {areas}", floor + 22, shapes, "roc")


def _path(curve: RocCurve) -> str:
    points = zip(curve.fpr, curve.tpr, strict=True)
    return "M" + " L".join(f"{x:.5g} {1 - y:.5g}" for x, y in points)
