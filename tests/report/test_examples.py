"""The worst examples made readable."""

from __future__ import annotations

import json
import math

import numpy as np

from tfslim_core.metrics import shorten
from tfslim_core.report.examples import LONGEST, readable, side_by_side


def test_of_many_classes_the_top_ones_and_the_most_different_are_shown():
    original = [0.001] * 500
    original[40], original[300], original[7] = 0.6, 0.2, 0.1
    optimized = [0.001] * 500
    optimized[40], optimized[300], optimized[8] = 0.3, 0.5, 0.1
    shown = side_by_side(original, optimized)
    assert ("40", "0.6", "0.3") in shown
    assert ("300", "0.2", "0.5") in shown
    assert {"7", "8"} < {place for place, _, _ in shown}
    assert len(shown) == 6


def test_a_batch_of_one_is_opened():
    assert side_by_side([[1.0, 2.0]], [[1.0, 3.0]]) == [("0", "1", "1"), ("1", "2", "3")]


def test_what_is_not_a_row_of_numbers_is_shown_whole():
    assert side_by_side("sql", "php") == [("", "sql", "php")]
    assert side_by_side([1, 2], [1, 2, 3]) == [("", "[1, 2]", "[1, 2, 3]")]
    assert side_by_side(None, {"a": 1}) == [("", "null", '{"a": 1}')]


def test_nan_in_an_answer():
    assert side_by_side([math.nan, 1.0], [0.5, 1.0]) == [("0", "–", "0.5"), ("1", "1", "1")]


def test_answers_as_the_job_cuts_them_are_still_numbers():
    cut = [shorten(np.array([*[0.25] * 200, lone, *[0.25] * 99]), 256) for lone in (np.nan, 1)]
    assert ("200", "–", "1") in side_by_side(*cut)
    assert len(side_by_side(*cut)) == 6
    assert json.dumps(cut[0], allow_nan=False)
    exact = shorten(np.arange(300, dtype=np.float32), 256)
    assert exact[:3] == [0.0, 1.0, 2.0]
    assert exact[256] == "… (300 values of shape [300])"


def test_classes_have_their_names():
    assert side_by_side([0.25, 0.75], [0.5, 0.5], ["cat", "dog"])[0] == ("cat", "0.25", "0.5")
    assert side_by_side([0.25, 0.75], [0.5, 0.5], ["cat"])[0] == ("0", "0.25", "0.5")


def test_long_values_are_cut_and_say_so():
    assert readable("x" * (LONGEST + 5)).endswith("… (5 more characters)")


def test_arrays_are_answers_too():
    old, new = np.array([[0.25, 0.75]], np.float32), np.array([[0.5, 0.5]], np.float32)
    assert side_by_side(old, new) == [("0", "0.25", "0.5"), ("1", "0.75", "0.5")]
    assert side_by_side(np.float32(0.5), np.array(["a"])) == [("", "0.5", '["a"]')]
