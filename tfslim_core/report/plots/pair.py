"""Two thin bars, before over after, on one scale."""

from __future__ import annotations

from markupsafe import Markup

from tfslim_core.report.headline import Row
from tfslim_core.report.svg import bar, plot


def pair(row: Row) -> Markup:
    """The two bars of a headline number; nothing where one of the two is missing."""
    if row.before is None or row.after is None or max(row.before, row.after) <= 0:
        return Markup("")
    scale = 100 / max(row.before, row.after)
    return plot(
        f"{row.label}: {row.before_text} before, {row.after_text} after",
        15,
        [
            bar(0, row.before * scale, 0, 6, "original"),
            bar(0, row.after * scale, 9, 6, "optimized"),
        ],
        "pair",
    )
