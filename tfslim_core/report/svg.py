"""Small pieces of inline SVG.

Widths are per cent and heights are pixels, so that a plot fits a phone and a wide screen with text of the same size.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from markupsafe import Markup, escape

# What could break the file or fool the eye: controls, lone surrogates, marks that turn the direction of text.
_UNSEEN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069\ufffe\uffff\ud800-\udfff]")


def visible(text: str) -> str:
    """Text with characters that do not show written as escapes; markup is left as it is."""
    if isinstance(text, Markup):
        return text
    return _UNSEEN.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def element(tag: str, *children: str, **attributes: object) -> Markup:
    """An element; text in children and attributes is escaped. `text_anchor_` gives `text-anchor`, `class_` `class`."""
    named = "".join(
        f' {name.rstrip("_").replace("_", "-")}="{escape(visible(str(value)))}"'
        for name, value in attributes.items()
        if value is not None
    )
    inner = Markup("").join(escape(visible(child)) for child in children)
    return Markup(f"<{tag}{named}>{inner}</{tag}>")


def plot(title: str, height: float, shapes: Iterable[str], css: str) -> Markup:
    """A plot as wide as its place, with a title for those who cannot see it."""
    return element(
        "svg", element("title", title), *shapes, role="img", class_=f"plot {css}", width="100%", height=f"{height:g}"
    )


def bar(start: float, width: float, top: float, height: float, css: str, title: str = "") -> Markup:
    """A bar from `start`, `width` wide, in per cent."""
    return element(
        "rect",
        *([element("title", title)] if title else []),
        x=percent(start),
        y=f"{top:g}",
        width=percent(width),
        height=f"{height:g}",
        class_=css,
    )


def text(label: str, at: float, baseline: float, css: str = "", anchor: str | None = None) -> Markup:
    """Text at `at` per cent; near an edge it is anchored so that it stays inside."""
    if anchor is None:
        anchor = "start" if at < 8 else "end" if at > 92 else "middle"
    return element("text", label, x=percent(at), y=f"{baseline:g}", text_anchor=anchor, class_=css or None)


def line(x1: float, y1: float, x2: float, y2: float, css: str) -> Markup:
    """A line; x in per cent, y in pixels."""
    return element("line", x1=percent(x1), y1=f"{y1:g}", x2=percent(x2), y2=f"{y2:g}", class_=css)


def percent(value: float) -> str:
    """A length in per cent, the same text wherever it is computed."""
    return f"{value:.4f}".rstrip("0").rstrip(".") + "%"
