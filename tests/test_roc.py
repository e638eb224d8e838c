"""ROC curves: what is told is what counting every score finds, in any order of merging, with few and finite points."""

import itertools
import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.test_labels import known_auc, softmax, stats
from tfslim_core.roc import area, roc_curve
from tfslim_core.score_sketch import ScoreSketch

repeatable = settings(max_examples=25, deadline=None, derandomize=True)


def sketch_of(scores, positive, groups=None):
    sketch = ScoreSketch(1)
    rows = np.zeros(len(scores), np.int64) if groups is None else groups
    sketch.add(np.asarray(scores, float)[:, None], np.asarray(positive, bool)[:, None], rows)
    return sketch


def known_rates(scores, positive, threshold):
    taken = scores >= threshold
    return (taken & ~positive).sum() / (~positive).sum(), (taken & positive).sum() / positive.sum()


def check_form(curve):
    points = np.array([curve.fpr, curve.tpr, curve.threshold])
    assert np.isfinite(points).all()
    assert points[:2, 0].tolist() == [0, 0]
    assert points[:2, -1].tolist() == [1, 1]
    assert (np.diff(points[:2]) >= 0).all()
    assert (np.diff(points[2]) <= 0).all()
    assert points.shape[1] <= 205


@pytest.mark.parametrize("shift", [0.0, 0.7, 3.0])
def test_each_point_is_what_its_threshold_gives(shift):
    random = np.random.default_rng(1)
    positive = random.random(5000) < 0.3
    scores = 1 / (1 + np.exp(-random.normal(size=5000, scale=2) - shift * positive))
    curve = roc_curve(sketch_of(scores, positive))
    check_form(curve)
    for point in zip(curve.fpr, curve.tpr, curve.threshold, strict=True):
        # Within half a bucket's width of scores, which hold few examples.
        assert point[:2] == pytest.approx(known_rates(scores, positive, point[2]), abs=2e-3)
    assert area(curve) == pytest.approx(known_auc(positive, scores), abs=2e-3)


@repeatable
@given(
    st.lists(
        st.tuples(st.floats(-1e6, 1e6) | st.floats(-1, 1) | st.sampled_from([0.0, 1.0, 0.5, -1.0]), st.booleans())
    ),
    st.lists(st.floats(-1e30, 1e30), min_size=1),
)
def test_any_scores_give_a_curve_of_the_same_area_as_counted(pairs, extremes):
    scores = np.array([score for score, _ in pairs] + extremes + [2.0, 3.0])
    positive = np.array([label for _, label in pairs] + [True] * len(extremes) + [False, True])
    sketch = sketch_of(scores, positive)
    lowest, of, others = sketch.totals()
    assert (of.sum(), others.sum()) == (positive.sum(), (~positive).sum())
    # A threshold takes what is counted from it on, save for what lies next to it.
    for threshold, taken in zip(lowest, np.cumsum(of + others), strict=True):
        near = 3e-7 * abs(threshold) + 1e-11
        assert (scores >= threshold + near).sum() <= taken <= (scores >= threshold - near).sum() or abs(threshold) > 1e9
    curve = roc_curve(sketch)
    check_form(curve)
    assert area(curve) == pytest.approx(sketch.areas()[0], abs=0.01)


@repeatable
@given(st.lists(st.integers(1, 399), max_size=5), st.randoms())
def test_any_split_merged_in_any_order_gives_the_same_curve(cuts, order):
    random = np.random.default_rng(7)
    positive = random.random(400) < 0.5
    scores = random.normal(size=400) + positive
    edges = [0, *sorted(set(cuts)), 400]
    parts = [sketch_of(scores[a:b], positive[a:b]) for a, b in itertools.pairwise(edges)]
    order.shuffle(parts)
    total = ScoreSketch(1)
    for part in parts:
        total.merge(part)
    assert roc_curve(total) == roc_curve(sketch_of(scores, positive))


def test_a_corner_is_not_cut():
    curve = roc_curve(sketch_of([0.9] * 10 + [0.1] * 10, [True] * 10 + [False] * 10))
    assert (0.0, 1.0) in list(zip(curve.fpr, curve.tpr, strict=True))
    assert area(curve) == 1


def test_infinite_scores_have_finite_thresholds():
    curve = roc_curve(sketch_of([math.inf, -math.inf, 0.5, 0.5], [True, False, True, False]))
    check_form(curve)
    assert area(curve) == pytest.approx(0.875)


def test_one_kind_of_example_has_no_curve():
    assert roc_curve(sketch_of([0.1, 0.2], [True, True])) is None
    assert roc_curve(ScoreSketch(1)) is None


def test_thresholds_of_two_probabilities_are_probabilities():
    random = np.random.default_rng(2)
    labels = random.integers(0, 2, 800)
    logits = random.normal(size=(800, 2)) + np.eye(2)[labels]
    found = stats(labels, softmax(logits), softmax(logits * 0.5)).roc(["cat", "dog"])
    assert found.positive == "dog"
    for curve, scale in ((found.original, 1), (found.optimized, 0.5)):
        check_form(curve)
        chance = softmax(logits * scale)[:, 1]
        middle = np.abs(np.array(curve.threshold) - 0.5).argmin()
        told = curve.fpr[middle], curve.tpr[middle]
        assert told == pytest.approx(known_rates(chance, labels == 1, curve.threshold[middle]), abs=0.01)
    # Scores that are no probabilities keep their own unit: the second less the first.
    plain = stats(labels, logits).roc([])
    assert plain.positive == "1"
    assert max(plain.original.threshold) > 1.5
    assert area(plain.original) == pytest.approx(area(found.original), abs=2e-3)


def test_of_more_classes_it_is_the_micro_average():
    random = np.random.default_rng(4)
    labels = random.integers(0, 5, 900)
    chances = softmax(random.normal(size=(900, 5)) + 1.5 * np.eye(5)[labels])
    found = stats(labels, chances).roc(["a", "b", "c", "d", "e"])
    assert found.positive is None
    pooled = known_auc(np.eye(5, dtype=bool)[labels].reshape(-1), chances.reshape(-1))
    assert area(found.original) == pytest.approx(pooled, abs=2e-3)


def test_lone_probabilities_have_a_curve_and_estimates_none():
    random = np.random.default_rng(6)
    labels = random.integers(0, 2, 300)
    chance = np.clip(random.random((300, 1)) * 0.6 + 0.3 * labels[:, None], 0, 1)
    found = stats(labels, chance).roc([])
    assert area(found.original) == pytest.approx(known_auc(labels == 1, chance[:, 0]), abs=2e-3)
    assert 0 <= min(found.original.threshold) <= max(found.original.threshold[1:]) <= 1
    assert stats(random.normal(size=300), chance).roc([]) is None
    assert stats(labels, random.normal(size=(300, 200))).roc([]) is None


def test_it_goes_through_a_file():
    found = roc_curve(sketch_of([0.1, 0.9, 0.4], [False, True, True]))
    assert type(found).model_validate(json.loads(found.model_dump_json())) == found
