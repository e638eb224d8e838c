"""Where rectangles of a treemap lie."""

from __future__ import annotations

import re
from itertools import combinations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tfslim_core.report.plots.treemap import HEIGHT, WIDTH, Box, Place, squarified, treemap

WHOLE = Place(0, 0, WIDTH, HEIGHT)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.lists(st.integers(1, 10**9), min_size=1, max_size=60))
def test_areas_are_as_sizes_and_nothing_overlaps(sizes):
    sizes = sorted(sizes, reverse=True)
    places = squarified(sizes, WHOLE)

    assert len(places) == len(sizes)
    for size, place in zip(sizes, places, strict=True):
        assert place.width * place.height == pytest.approx(size / sum(sizes) * WIDTH * HEIGHT, rel=1e-6)
        assert place.x >= -1e-6
        assert place.y >= -1e-6
        assert place.x + place.width <= WIDTH + 1e-6
        assert place.y + place.height <= HEIGHT + 1e-6
    for a, b in combinations(places, 2):
        across = min(a.x + a.width, b.x + b.width) - max(a.x, b.x)
        down = min(a.y + a.height, b.y + b.height) - max(a.y, b.y)
        assert across < 1e-6 or down < 1e-6


def test_rectangles_are_near_to_squares():
    """The example of the paper: 6 by 4, areas 6, 6, 4, 3, 2, 2, 1."""
    places = squarified([6, 6, 4, 3, 2, 2, 1], Place(0, 0, 6, 4))

    assert places[0] == Place(0, 0, 3, 2)
    assert places[1] == Place(0, 2, 3, 2)
    assert (places[2].width, places[2].height) == pytest.approx((12 / 7, 7 / 3))
    assert max(max(p.width / p.height, p.height / p.width) for p in places) < 3


def test_nothing_to_draw():
    assert squarified([], WHOLE) == []
    assert "box" not in treemap("empty", [[], [Box("a", "a", 0, "served")]])


def test_names_are_escaped_and_small_ones_have_no_label():
    html = treemap("all", [[Box("<b>", "<b> & co", 10**6, "served", 0.25), Box("tiny", "tiny: 1 B", 1, "rest")]])

    assert "<b>" not in html
    assert "&lt;b&gt;" in html
    assert "--kept:25%" in html
    assert re.search(r'title="tiny: 1 B"><span></span>', html)
