"""Do two servables answer alike? Differences that count are found, those that do not are not."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from tests.saved_models import normal, save_v1
from tfslim_core.errors import ModelError
from tfslim_core.saved_model.sample_check import check_equal, difference, differences, take_sample

tf1 = tf.compat.v1


def model(path, scale=1.0, extra=None):
    def build():
        x = tf1.placeholder(tf.float32, [None, 3], name="x")
        words = tf1.placeholder(tf.string, [None], name="words")
        y = tf.matmul(x, normal(3, 5) * np.float32(scale))
        outputs = {"y": y, "noise": tf1.random.uniform([4])}
        if extra is not None:
            outputs["y"] = extra(y)
        return {
            "serving_default": ({"x": x}, outputs),
            "fails": ({"words": words}, {"n": tf.strings.to_number(words)}),
            "upper": ({"words": words}, {"u": tf.strings.upper(words)}),
        }

    return save_v1(path, build)


NAMES = ["serving_default", "fails", "upper"]


@pytest.fixture(scope="module")
def sample(tmp_path_factory):
    return take_sample(model(tmp_path_factory.mktemp("sample") / "m"), ["serve"], NAMES)


def test_a_sample_has_what_was_answered_and_why_the_rest_was_not(sample):
    assert {request.signature for request in sample.requests} >= {"serving_default", "upper"}
    assert set(sample.unchecked) == {"fails"}
    assert "\n" not in sample.unchecked["fails"]
    assert sample.random == {("serving_default", "noise")}
    assert not sample.given


def test_equal_models_are_equal(sample, tmp_path):
    found = check_equal(sample, model(tmp_path / "same"), ["serve"], "nothing")
    assert found[("serving_default", "y")] == 0
    assert ("serving_default", "noise") not in found
    nearly = check_equal(sample, model(tmp_path / "near", 1 + 1e-6), ["serve"], "rounding")
    assert 0 < nearly[("serving_default", "y")] < 1e-5


def test_other_answers_are_told(sample, tmp_path):
    with pytest.raises(ModelError, match="the step changed the answers: output 'y' of signature 'serving_default'"):
        check_equal(sample, model(tmp_path / "m", 1.01), ["serve"], "the step")
    found = differences(sample, model(tmp_path / "nan", extra=lambda y: y * np.nan), ["serve"])
    assert found[("serving_default", "y")] == np.inf
    fails = model(tmp_path / "fail", extra=lambda y: tf.debugging.check_numerics(y * np.nan, "bad"))
    with pytest.raises(ModelError, match="answered before, and now fails"):
        differences(sample, fails, ["serve"])
    with pytest.raises(ModelError, match=r"no such directory"):
        differences(sample, tmp_path / "none", ["serve"])


def test_requests_of_the_user_come_first(tmp_path):
    path = model(tmp_path / "m")
    x = np.ones((2, 3), np.float32)
    found = take_sample(path, ["serve"], NAMES, {"serving_default": [{"x": x}, {"x": 2 * x}], "fails": []})
    fed = [request.feeds["x"].tolist() for request in found.requests if request.signature == "serving_default"]
    assert fed == [x.tolist(), (2 * x).tolist()]
    assert found.given


NAN, INF = np.nan, np.inf


@pytest.mark.parametrize(
    ("wanted", "found", "expected"),
    [
        ([3.0, 4.0], [3.0, 4.0], 0),
        ([3.0, 4.0], [3.0, 4.5], 0.1),
        ([3.0, NAN], [3.0, NAN], 0),
        ([3.0, NAN], [3.0, 1.0], INF),
        ([3.0, 1.0], [3.0, NAN], INF),
        ([3.0, INF], [3.0, INF], 0),
        ([3.0, INF], [3.0, -INF], INF),
        ([3.0, INF], [3.0, 4.0], INF),
        ([3.0, 4.0, INF], [3.0, 4.5, INF], 0.1),
        ([], [], 0),
        ([1.0], [[1.0]], INF),
    ],
)
def test_the_difference_of_floats_is_relative(wanted, found, expected):
    for dtype in (np.float32, np.float64):
        assert difference(np.array(wanted, dtype), np.array(found, dtype)) == pytest.approx(expected)


def test_the_difference_of_others_is_a_share():
    assert difference(np.array([1, 2, 3, 4]), np.array([1, 2, 3, 5])) == 0.25
    assert difference(np.array([b"a", b"b"], object), np.array([b"a", b"c"], object)) == 0.5
    assert difference(np.array([True]), np.array([True])) == 0
    assert difference(np.array([1]), np.array([1.0])) == INF
    assert difference(np.zeros(0, np.int32), np.zeros(0, np.int32)) == 0


def test_what_is_next_to_nothing_is_not_told_by_its_rounding():
    assert difference(np.float32([1e-12]), np.float32([2e-12])) < 1e-4
    assert difference(np.float32([1e-12]), np.float32([0.1])) > 1
