"""What an encoding does to the answers, weight by weight, and which weights are left for it."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from tests.saved_models import BASIC_PITCH, normal, save_v1
from tfslim_core.quantization.encode_weights import Choice, candidates
from tfslim_core.quantization.harm import NO_HARM, measure_harm
from tfslim_core.saved_model.freeze import freeze_saved_model
from tfslim_core.saved_model.fresh_process import Request
from tfslim_core.saved_model.read import read_saved_model
from tfslim_core.saved_model.sample_check import take_sample
from tfslim_core.stages import quantized, transformed

tf1 = tf.compat.v1
REQUESTS = [Request("serving_default", {"x": normal(64, 64, seed=number)}) for number in range(4)]


def weight(name, value):
    return tf1.get_variable(name, initializer=value, use_resource=True)


@pytest.fixture
def bundle(tmp_path):
    """The bundle of the model that `answer(x)` computes, x: [?, 64]."""

    def make(answer):
        def build():
            x = tf1.placeholder(tf.float32, [None, 64], name="x")
            y = answer(x)
            return {"serving_default": ({"x": x}, y if isinstance(y, dict) else {"y": y})}

        return freeze_saved_model(read_saved_model(save_v1(tmp_path / "model", build), ["serve"], None))

    return make


def names(bundle):
    return set(candidates(bundle.graph, Choice()))


def amplified(x):
    """`front` is read back wrong by a percent, and 99 % of what it gives is then taken away."""
    values = normal(64, 48, seed=5)
    front = weight("front", values)
    rest = tf.matmul(x, front) - tf.matmul(x, tf.constant(values * 0.99))
    return tf.reduce_sum(tf.matmul(rest, weight("head", normal(48, 30))), axis=-1)


def test_an_amplified_weight_is_left_and_the_reason_tells_by_how_much(bundle):
    made = bundle(amplified)
    harm = measure_harm(made, Choice(include=["front*", "head*"]), REQUESTS)
    (front,) = (name for name in names(made) if name.startswith("front"))
    (head,) = (name for name in names(made) if name.startswith("head"))
    assert harm.instead == {front: ""}
    assert harm.alone[front] > 0.3
    assert harm.alone[head] < 0.02
    stored = quantized(made, Choice(include=["front*", "head*"]), harm, lambda *_: None)
    entries = {entry.name: entry for entry in stored.manifest.weights}
    assert (entries[front].placement, entries[front].harm) == ("none", harm.alone[front])
    assert entries[front].reason == f"int8 would move the answers by {100 * harm.alone[front]:.2g} %"
    assert entries[head].encoding == "int8"
    assert entries[head].harm == harm.alone[head]


def test_an_ordinary_model_leaves_none(bundle):
    def answer(x):
        hidden = tf.nn.relu(tf.matmul(x, weight("a", normal(64, 100) / 8)))
        return tf.matmul(hidden, weight("b", normal(100, 30, seed=1) / 10))

    made = bundle(answer)
    harm = measure_harm(made, Choice(), REQUESTS)
    assert harm.instead == {}
    assert harm.alone.keys() == names(made)
    assert all(0 < error < 0.02 for error in harm.alone.values())


def test_what_is_harmless_alone_and_too_much_together_gives_up_the_most_harmful(bundle):
    """The output is one number an example, so that nothing but its error counts."""

    def answer(x):
        for layer in range(24):
            x = tf.matmul(x, weight(f"w{layer}", normal(64, 64, seed=layer) / 8))
        return tf.reduce_sum(x, axis=-1, keepdims=True)

    made = bundle(answer)
    harm = measure_harm(made, Choice(), REQUESTS)
    assert max(harm.alone.values()) < 0.02
    assert 0 < len(harm.instead) < 24
    kept = harm.alone.keys() - harm.instead
    assert min(harm.alone[name] for name in harm.instead) >= max(harm.alone[name] for name in kept)


def test_scores_count_by_their_order(bundle):
    """Two classes a hair apart: int8 moves the scores by a percent and turns many of them round."""
    values = normal(64, 1, seed=8)
    close = np.concatenate([values, values + normal(64, 1, seed=9) * 1e-3] * 20, axis=1)

    def scores(x):
        return tf.matmul(x, weight("w", close))

    def one_number(x):
        return tf.reduce_sum(scores(x), axis=-1)

    harm = measure_harm(bundle(scores), Choice(), REQUESTS)
    assert max(harm.alone.values()) < 0.02
    assert len(harm.instead) == 1


def test_numbers_that_are_no_scores_count_by_their_size(bundle):
    values = normal(64, 1, seed=8)
    close = np.concatenate([values, values + normal(64, 1, seed=9) * 1e-3] * 20, axis=1)
    harm = measure_harm(bundle(lambda x: tf.reduce_sum(tf.matmul(x, weight("w", close)), axis=-1)), Choice(), REQUESTS)
    assert len(harm.alone) == 1
    assert harm.instead == {}


def test_what_would_become_infinite_is_left(bundle):
    """The small weights of a column round to 0, and something is divided by them; the large are too large for half."""
    values = normal(64, 64)
    values[0] = 1e12
    made = bundle(lambda x: tf.reduce_sum(tf.expand_dims(x, -1) / weight("w", values)))
    harm = measure_harm(made, Choice(), REQUESTS)
    assert set(harm.alone.values()) == {float("inf")}
    assert harm.instead == dict.fromkeys(names(made), "")


def test_what_more_bits_spare_the_answers_gets_them(bundle):
    """The small weights of a column round to 0 in 8 and in 12 bits; 16 tell them apart, and something is divided."""
    values = normal(64, 64)
    values[0] = 1e4
    made = bundle(lambda x: tf.reduce_sum(tf.expand_dims(x, -1) / weight("w", values)))
    harm = measure_harm(made, Choice(), REQUESTS)
    (name,) = names(made)
    assert harm.instead == {name: "float16"}
    (entry,) = quantized(made, Choice(), harm, lambda *_: None).manifest.weights
    assert entry.encoding == "float16"
    assert entry.reason.startswith("int8 would move the answers by inf %; ")


def test_more_bits_are_tried_fewest_bytes_first(bundle):
    """The error of `front` comes through seven times as large."""
    values = normal(64, 48, seed=5)

    def answer(x):
        rest = tf.matmul(x, weight("front", values)) - tf.matmul(x, tf.constant(values * (6 / 7)))
        return tf.reduce_sum(rest, axis=-1)

    made = bundle(answer)
    harm = measure_harm(made, Choice(include=["front*"]), REQUESTS)
    (front,) = harm.alone
    assert harm.alone[front] > 0.02
    assert harm.instead == {front: "int12/tensor"}


def test_random_outputs_tell_nothing(bundle):
    made = bundle(lambda x: {"y": tf.random.normal([4]) + tf.reduce_sum(tf.matmul(x, weight("w", normal(64, 64))))})
    everything = [("serving_default", "y")]
    assert measure_harm(made, Choice(), REQUESTS, everything).instead == {}
    assert measure_harm(made, Choice(), REQUESTS).instead == dict.fromkeys(names(made), "")


def test_weights_that_are_not_asked_for_are_not_tried(bundle):
    made = bundle(amplified)
    told = []
    harm = measure_harm(made, Choice(include=["head*"]), REQUESTS, progress=lambda *step: told.append(step))
    assert [name.partition("/")[0] for name in harm.alone] == ["head"]
    assert told == [(0, 1)]
    assert measure_harm(made, Choice(exclude=["*"]), REQUESTS) == NO_HARM
    assert measure_harm(made, Choice(), []) == NO_HARM


def test_fewer_requests_where_time_is_short(bundle, monkeypatch):
    asked = []
    from tfslim_core.quantization import live_model

    run = live_model.LiveModel.run
    monkeypatch.setattr(live_model.LiveModel, "run", lambda *a: asked.append(a) or run(*a))
    harm = measure_harm(bundle(amplified), Choice(include=["front*"]), REQUESTS, seconds=0)
    assert len(harm.instead) == 1
    assert len(asked) > 1  # as it was, and with the weight encoded
    assert all(feeds is REQUESTS[0].feeds for _, _, feeds in asked)


def test_a_large_constant_in_a_loop_of_tensorflow_1(bundle):
    """It is tried like any other: what it is in the session is read outside of the loop."""

    def answer(x):
        tf1.disable_control_flow_v2()
        body = lambda i, y: (i + 1, tf.tanh(tf.matmul(y, tf.constant(normal(64, 64) / 8, name="step"))))  # noqa: E731
        _, y = tf1.while_loop(lambda i, y: i < 3, body, [tf.constant(0), x])
        return tf.matmul(y, weight("head", normal(64, 48)))

    made = bundle(answer)
    assert made.graph.has_v1_control_flow
    harm = measure_harm(made, Choice(), REQUESTS)
    assert {name.rpartition("/")[2] if "step" in name else name.partition("/")[0] for name in harm.alone} == {
        "head",
        "step",
    }
    assert all(0 < error < 0.02 for error in harm.alone.values())
    assert harm.instead.keys() <= {"while/step"}  # the loop adds up what one rounding does


def test_a_spectral_front_end_is_left():
    """basic-pitch: the filters of its constant-Q transform, whose small values carry the answer."""
    made = freeze_saved_model(read_saved_model(BASIC_PITCH, ["serve"], None))
    made = transformed(made, None, lambda *_: None)
    sample = take_sample(BASIC_PITCH, ["serve"], ["serving_default"])
    harm = measure_harm(made, Choice(), sample.requests, sample.random)
    filters = {name for name in harm.alone if "conv2d" not in name}
    assert filters <= harm.instead.keys()
    assert harm.instead.keys() < harm.alone.keys()
    assert max(harm.alone[name] for name in filters) > 0.05


def test_what_loses_nothing_is_not_tried():
    for encoding in ("lossless", "sparse"):
        assert measure_harm(None, Choice(encoding), [None]) == NO_HARM
