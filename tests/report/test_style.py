"""The style sheet: text can be told from its ground in both schemes (WCAG 2.2: 4.5 for text, 3 for shapes)."""

from __future__ import annotations

import re
from importlib.resources import files

import pytest

CSS = files("tfslim_core.report").joinpath("templates/report.css").read_text()
LIGHT, DARK = (
    dict(re.findall(r"--([a-z0-9-]+): (#[0-9a-f]{6});", block))
    for block in re.findall(r":root \{(.*?)\}", CSS, re.DOTALL)
)
TEXT = [
    *[(ink, ground) for ink in ("ink", "quiet", "link") for ground in ("ground", "raised")],
    *[(tone, ground) for tone in ("good", "bad", "unsure") for ground in (f"{tone}-ground", "ground")],
    *[("ink", f"{tone}-ground") for tone in ("good", "bad", "unsure")],
]
SHAPES = [(name, "ground") for name in ("original", "optimized", "errors", "focus", *(f"kept{n}" for n in range(8)))]


def luminance(color):
    parts = [int(color[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one, other):
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("scheme", [LIGHT, DARK], ids=["light", "dark"])
def test_contrast(scheme):
    wanted = [(pair, 4.5) for pair in TEXT] + [(pair, 3.0) for pair in SHAPES]
    weak = {
        pair: contrast(scheme[pair[0]], scheme[pair[1]])
        for pair, least in wanted
        if contrast(scheme[pair[0]], scheme[pair[1]]) < least
    }
    assert weak == {}


def test_both_schemes_name_the_same_colours():
    assert LIGHT.keys() == DARK.keys()
    assert set(re.findall(r"var\(--([a-z0-9-]+)\)", CSS)) <= LIGHT.keys() | {"kept", "shade", "tint", "tone"}
