"""The plots: what is drawn is what was counted."""

from __future__ import annotations

import math

import numpy as np
import pytest

from tests.report import samples
from tests.report.reading import percent, read
from tfslim_core.report.plots.histogram import histogram, span
from tfslim_core.report.plots.latency import latency, nice_step
from tfslim_core.report.plots.roc import roc
from tfslim_core.report.plots.stacked import stacked
from tfslim_core.report.shares import shares
from tfslim_core.verdict import OutputMetrics, Percentiles, Roc


def bars(markup, css=None):
    return [bar for bar in read(markup).all("rect", css) if bar.attributes["width"].endswith("%")]


def test_stacked_bars_add_up():
    parts = shares(samples.PARTS_BEFORE, samples.PARTS_AFTER)
    rows: dict[str, float] = {}
    for bar in bars(stacked(parts)):
        top = bar.attributes["y"]
        # Each begins where the last one ended.
        assert percent(bar.attributes["x"]) == pytest.approx(rows.get(top, 0), abs=1e-3)
        rows[top] = rows.get(top, 0) + percent(bar.attributes["width"])
    before, after = (sum(size for _, size in items) for items in (samples.PARTS_BEFORE, samples.PARTS_AFTER))
    assert list(rows.values()) == pytest.approx([100, 100 * after / before, 100], abs=1e-2)


def test_a_model_that_did_not_shrink_is_not_enlarged():
    drawing = stacked(shares([("graph", 10)], [("graph", 12)]))
    assert [percent(bar.attributes["width"]) for bar in bars(drawing)] == pytest.approx([83.3333, 100])
    assert not read(drawing).all("polygon")


def test_no_bytes_no_drawing():
    assert stacked([]) == ""
    assert stacked(shares([("graph", 0)], [])) == ""


def test_small_parts_are_added_up_and_no_byte_is_lost():
    before = [(f"kept {n}", n + 1) for n in range(30)] + [(f"gone {n}", n + 1) for n in range(9)]
    after = [(f"kept {n}", 1) for n in range(30)]
    parts = shares(before, after)
    assert sum(part.before for part in parts) == sum(size for _, size in before)
    assert sum(part.after for part in parts) == 30
    assert [part.label for part in parts if "smaller" in part.label] == [
        "23 smaller parts",
        "6 smaller parts, gone",
    ]
    assert len({part.css for part in parts if part.after}) == 8


def test_the_same_label_twice_is_one_part():
    (part,) = shares([("graph", 1), ("graph", 2)], [("graph", 1)])
    assert (part.before, part.after) == (3, 1)


def test_histogram_bars_are_as_high_as_the_counts():
    data = ([1e-4, 1e-3, 1e-2, 1e-1], [10, 40, 20])
    limits = span([data])
    assert limits == pytest.approx((-4, -1))
    heights = [float(bar.attributes["height"]) for bar in bars(histogram("scores", data, limits, None))]
    assert [height / max(heights) for height in heights] == pytest.approx([0.25, 1, 0.5])


def test_histogram_edges_at_zero_and_without_end_have_a_place():
    data = ([0.0, 1e-6, 1e-5, math.inf], [5, 0, 2])
    limits = span([data])
    drawn = bars(histogram("scores", data, limits, None))
    assert limits == pytest.approx((-7, -4))
    assert [bar.all("title")[0].text() for bar in drawn] == [
        "below 1e-6: 5 values, 71.4 %",
        "1e-5 and more: 2 values, 28.5 %",
    ]


def test_one_bin_still_gets_an_axis():
    low, high = span([([1e-4, 2e-4], [7])])
    assert high - low == pytest.approx(2)


def test_an_empty_histogram_is_left_out():
    assert span([([0.0, 1.0], [0])]) is None
    assert span([]) is None
    assert histogram("scores", ([0.1, 1.0], [0]), (-1, 0), OutputMetrics()) == ""


def test_marks_stand_at_their_values():
    metrics = OutputMetrics(p99_abs_error=1e-3, max_abs_error=1e-2)
    drawing = read(histogram("scores", ([1e-5, 1e-3, 1e-1], [1, 1]), (-5, -1), metrics))
    assert [mark.attributes["x1"] for mark in drawing.all("line", "mark")] == ["50%", "75%"]


def test_latency_bars_share_a_scale():
    drawing = latency("1", Percentiles(p50=1, p95=2, p99=4), Percentiles(p50=2, p95=3, p99=3.5))
    first, second = (percent(bar.attributes["width"]) for bar in bars(drawing))
    assert second == pytest.approx(2 * first, rel=1e-4)


def test_latency_of_one_model_alone():
    assert len(bars(latency("1", None, Percentiles(p50=2, p95=3, p99=3.5)))) == 1
    assert latency("1", None, None) == ""
    assert latency("1", None, Percentiles(p50=0, p95=0, p99=0)) == ""


@pytest.mark.parametrize(("least", "step"), [(1, 1), (1.2, 2), (0.0003, 0.0005), (70, 100), (0.1, 0.1)])
def test_steps_are_round(least, step):
    assert nice_step(least) == pytest.approx(step)


def test_arrays_are_drawn_as_lists_are():
    edges, counts = np.array([1e-4, 1e-3, 1e-2]), np.array([10, 40])
    lists = (edges.tolist(), counts.tolist())
    limits = span([lists])
    assert span([(edges, counts)]) == limits
    assert histogram("scores", (edges, counts), limits, None) == histogram("scores", lists, limits, None)


def test_roc_curves_go_through_their_points():
    found = Roc.model_validate(samples.verdict().datasets["files"].roc.model_dump())
    drawing = read(roc(found))
    paths = {path.attributes["class"].split()[-1]: path.attributes["d"] for path in drawing.all("path")}
    assert list(paths) == ["original-line", "optimized-line"]  # the thinner one on top
    for side, curve in (("original", found.original), ("optimized", found.optimized)):
        points = [tuple(map(float, pair.split())) for pair in paths[f"{side}-line"].removeprefix("M").split(" L")]
        wanted = [(x, 1 - y) for x, y in zip(curve.fpr, curve.tpr, strict=True)]
        assert np.array(points) == pytest.approx(np.array(wanted), abs=1e-4)
    assert drawing.all("title")[0].text() == "ROC curves; areas: original 0.7389, optimized 0.7129"
