"""Bytes against error: a panel a model, a point a form of it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib

from benchmarks.encodings import BUDGET, SLIM, Compared, Form
from benchmarks.other_quantizers import MLIR_DYNAMIC, MLIR_WEIGHTS, TFLITE
from benchmarks.variants import OLD

matplotlib.use("svg")
matplotlib.rcParams["svg.hashsalt"] = "tfslim"  # the same figures give the same file
matplotlib.rcParams["svg.fonttype"] = "none"  # text stays text
matplotlib.rcParams["font.family"] = "sans-serif"

_COLUMNS = 2
_OURS = "tfslim, an encoding for all"
_STYLES = {
    OLD: ("X", "#c0392b"),
    MLIR_WEIGHTS: ("v", "#7f8c8d"),
    MLIR_DYNAMIC: ("^", "#7f8c8d"),
    TFLITE: ("s", "#b07d2b"),
    _OURS: ("o", "#2166ac"),
    SLIM: ("D", "#2166ac"),
    BUDGET: ("*", "#1a7a3c"),
}
_LEAST = 1e-6  # relative L2: what is nearer is rounding


def plot(all_compared: Sequence[Compared], file: Path) -> Path:
    """Draw all models into an SVG file: down and left is better."""
    from matplotlib import pyplot

    rows = -(-len(all_compared) // _COLUMNS)
    figure, axes = pyplot.subplots(rows, _COLUMNS, figsize=(10, 3.1 * rows), squeeze=False, layout="constrained")
    for panel, compared in zip(axes.flat, all_compared, strict=False):
        _draw(panel, compared)
    for panel in axes.flat[len(all_compared) :]:
        panel.set_axis_off()
    points = [
        pyplot.Line2D([], [], linestyle="", marker=marker, color=color, label=name)
        for name, (marker, color) in _STYLES.items()
    ]
    figure.legend(handles=points, loc="outside upper center", ncols=4, frameon=False)
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, metadata={"Date": None})
    pyplot.close(figure)
    return file


def _draw(panel: Any, compared: Compared) -> None:
    for form in compared.forms:
        style = _style(form)
        if style is None or not form.agreement.rel_l2 < 10:
            continue
        at = form.bytes / max(compared.live, 1), max(form.agreement.rel_l2, _LEAST)
        marker, color = _STYLES[style]
        panel.scatter(*at, marker=marker, color=color, s=110 if style == BUDGET else 45, zorder=3, linewidths=0)
        if style == _OURS:
            name = form.name.removeprefix("tfslim ")
            panel.annotate(name, at, xytext=(5, 4), textcoords="offset points", fontsize=8, color="#444")
    panel.set_title(compared.subject, fontsize=11, loc="left")
    panel.set_xlabel("bytes to live parameters")
    panel.set_ylabel("relative L2 error")
    panel.set_yscale("log")
    panel.set_xlim(left=0)
    panel.grid(color="#ddd", linewidth=0.6)
    panel.spines[["top", "right"]].set_visible(False)


def _style(form: Form) -> str | None:
    """Its row of `_STYLES`; none for the original and what only froze it."""
    if form.name in _STYLES:
        return form.name
    return _OURS if form.name.startswith("tfslim ") else None
