"""All stages in one call: what is made, what is left, and what is said about it."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest
import tensorflow as tf

from pipelines.demo_data import gather, roots
from tests.saved_models import BASIC_PITCH, GUESSLANG, assert_alike, interface, normal, save_v1, save_v2, served
from tfslim_core import api, slimming, storage
from tfslim_core.costs import Costs
from tfslim_core.errors import DataError, ModelError, TransformError, UsageError

tf1 = tf.compat.v1


@pytest.fixture
def unmeasured(monkeypatch):
    """No load times and latencies, which take seconds."""
    calls = []

    def costs(_before, _after, feeds, *_args, **_options):
        calls.append(feeds)
        return (Costs(1, 0.1, None, 1, {}), Costs(1, 0.1, None, 1, {}))

    monkeypatch.setattr("tfslim_core.validation.job.measure_pair", costs)
    monkeypatch.setattr("tfslim_core.costs.measure_pair", costs)
    return calls


def weight(name, value):
    return tf1.get_variable(name, initializer=value, use_resource=True)


def two_signatures():
    x = tf1.placeholder(tf.float32, [None, 64], name="x")
    y = tf.matmul(x, weight("w", normal(64, 48)))
    return {"serving_default": ({"x": x}, {"y": y}), "doubled": ({"x": x}, {"y": 2 * y})}


@pytest.fixture
def model(tmp_path):
    return save_v1(tmp_path / "model", two_signatures)


@pytest.fixture
def numbers(tmp_path):
    np.savez(tmp_path / "x.npz", x=normal(100, 64, seed=3))
    return str(tmp_path / "x.npz")


def encodings(report: api.SlimReport) -> dict[str, str]:
    return {weight.name: weight.encoding for weight in report.context.weights}


def test_a_real_classifier_within_its_gate(tmp_path, unmeasured):
    """int8 everywhere: harm is measured on the first files, the gate holds on all."""
    texts = list(gather(roots()[:3], 12).values())
    assert len(texts) >= 200
    data = tmp_path / "files.jsonl"
    data.write_text("".join(json.dumps(text) + "\n" for text in texts))
    # A share above 0.99 takes more files than these to be told from 0.99.
    report = api.slim(
        GUESSLANG,
        tmp_path / "slim",
        data={"files": str(data)},
        gates=["nan_mismatches<=0", "top1_agreement>=0.95", "rel_l2_error<=0.1"],
        report=tmp_path / "report",
    )
    assert report.outcome == "pass"
    assert storage.size(tmp_path / "slim") <= 0.27 * storage.size(GUESSLANG)
    result = report.verdict.datasets["files"]
    assert result.examples == len(texts)
    assert result.outputs["scores"].top1_agreement >= 0.99
    assert interface(tmp_path / "slim") == interface(GUESSLANG)
    assert report.verdict.models.optimized.digest == storage.digest(tmp_path / "slim")
    assert set(encodings(report).values()) == {"int8", "float32"}
    assert not [stage.notes for stage in report.context.stages if "harms" in stage.notes]
    page = (tmp_path / "report/report.html").read_text()
    assert str(tmp_path / "slim") in page
    assert ".part-" not in page


def test_harmful_weights_are_left_and_it_is_said(tmp_path, unmeasured):
    report = api.slim(BASIC_PITCH, tmp_path / "slim", report=tmp_path / "report")
    harmed = [weight for weight in report.context.weights if "would move the answers" in weight.reason]
    left = [weight for weight in harmed if weight.encoding in ("float32", "sparse", "bytes4")]
    finer = [weight for weight in harmed if weight.encoding in ("int12/tensor", "float16")]
    assert left
    assert finer
    assert len(left) + len(finer) == len(harmed)
    assert max(weight.harm for weight in left) > 0.05
    (note,) = (stage.notes for stage in report.context.stages if stage.name == "quantize")
    assert re.match(rf"{len(finer)} weights? stored in more bits, {len(left)} weights? left as they were: int8", note)
    assert left[0].reason in (tmp_path / "report/report.html").read_text()
    assert max(report.errors.values()) < 0.05
    tf.saved_model.load(str(tmp_path / "slim"))


def test_an_encoding_that_is_asked_for_is_used_everywhere(tmp_path, unmeasured):
    report = api.slim(BASIC_PITCH, tmp_path / "slim", encoding="int8")
    large = [weight for weight in report.context.weights if weight.bytes_before >= 4 * 1024]
    encoded = [weight for weight in large if weight.encoding == "int8"]
    assert len(encoded) == 5
    assert all("harm" not in stage.notes for stage in report.context.stages)
    assert max(report.errors.values()) > 0.05  # what the default spares its users


def test_without_data_nothing_is_proven(model, tmp_path, unmeasured):
    report = api.slim(model, tmp_path / "slim")
    assert report.outcome == "inconclusive"
    assert report.report is None
    assert "made-up inputs only" in report.verdict.reasons[0]
    worst = max(report.errors.values())
    assert 0 < worst < 0.02
    assert f"{worst:.2g}" in report.verdict.reasons[1]
    assert {path.name for path in tmp_path.iterdir()} == {"model", "slim"}


def scalar():
    s = tf1.placeholder(tf.float32, [], name="s")
    return {"serving_default": ({"s": s}, {"y": weight("w", normal(64, 48)) * s})}


def no_input():
    return {"serving_default": ({}, {"y": weight("w", normal(64, 48)) * 2})}


def mixed():
    s = tf1.placeholder(tf.float32, [], name="s")
    x = tf1.placeholder(tf.float32, [None, 64], name="x")
    return {"serving_default": ({"a": s, "x": x}, {"y": s * tf.matmul(x, weight("w", normal(64, 48)))})}


@pytest.mark.parametrize(("build", "feeds"), [(scalar, {"s": np.float32(3)}), (no_input, {}), (mixed, None)])
def test_requests_of_any_shape(build, feeds, tmp_path, unmeasured):
    original = save_v1(tmp_path / "model", build)
    report = api.slim(original, tmp_path / "slim")
    assert "made-up inputs only" in report.verdict.reasons[0]
    if feeds is None:
        feeds = {"a": np.float32(2), "x": normal(3, 64)}
    requests = [("serving_default", feeds)]
    assert_alike(served(original, requests), served(tmp_path / "slim", requests), rtol=0.1, atol=0.5)
    assert [len(feeds) for feeds in unmeasured] == [1 if feeds else 0]


def test_costs_are_measured_of_a_scalar(tmp_path):
    report = api.slim(save_v1(tmp_path / "model", scalar), tmp_path / "slim")
    costs = report.verdict.models
    assert costs.original.load_seconds > 0
    assert costs.optimized.peak_rss_bytes > 1e8


def test_a_model_that_answers_nothing_that_could_be_made_up(tmp_path, unmeasured):
    module = tf.Module()
    module.w = tf.Variable(normal(64, 48))

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, "x")])
    def answer(x):
        picture = tf.io.decode_raw(tf.io.decode_base64(x), tf.float32, fixed_length=256)
        with tf.control_dependencies([tf.debugging.assert_greater(tf.strings.length(x), 300)]):
            return {"y": tf.reshape(picture, [-1, 64]) @ module.w}

    original = save_v2(tmp_path / "model", module, serving_default=answer)
    report = api.slim(original, tmp_path / "slim")
    assert report.outcome == "inconclusive"
    assert report.verdict.reasons[0].startswith("There was no data, and no made-up input that the model answers")
    assert "serving_default" in report.verdict.reasons[1]


def test_data_feeds_a_signature_that_is_kept(model, numbers, tmp_path, unmeasured):
    report = api.slim(
        model, tmp_path / "slim", signatures=["doubled"], data={"test": numbers}, gates=["rel_l2_error<=0.05"]
    )
    assert report.outcome == "pass"
    assert set(interface(tmp_path / "slim")) == {"doubled"}
    with pytest.raises(UsageError, match="gate 'q'"):
        api.slim(model, tmp_path / "other", data={"test": numbers}, gates=["q"])


def test_data_is_what_harm_is_measured_on(model, numbers, tmp_path, unmeasured, monkeypatch):
    seen = []

    def spy(bundle, choice, requests, *more):
        seen.extend(requests)
        return slimming.NO_HARM

    monkeypatch.setattr(slimming, "measure_harm", spy)
    api.slim(model, tmp_path / "slim", data={"test": numbers}, signature="doubled")
    fed = [request.feeds["x"] for request in seen if request.signature == "doubled"]
    np.testing.assert_array_equal(np.concatenate(fed), normal(100, 64, seed=3))
    assert {request.signature for request in seen} == {"doubled", "serving_default"}


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"encoding": "int88"}, TransformError),
        ({"transforms": "fold_constant"}, TransformError),
        ({"gates": ["x"], "data": {"a": "x.npz"}}, UsageError),
        ({"gates": ["x"]}, UsageError),
        ({"data": {"a": "nothing.npz"}}, DataError),
    ],
)
def test_what_cannot_be_is_refused_before_the_work(options, error, model, tmp_path, monkeypatch):
    def work(*_args):
        raise AssertionError("it began")

    monkeypatch.setattr(slimming, "freeze_saved_model", work)
    monkeypatch.setattr(slimming, "take_sample", work)
    with pytest.raises(error):
        api.slim(model, tmp_path / "slim", **options)
    assert {path.name for path in tmp_path.iterdir()} == {"model"}


def test_broken_answers_are_refused(tmp_path, unmeasured):
    """An encoding that was asked for by name, and divides by zero."""

    def build():
        x = tf1.placeholder(tf.float32, [None, 64], name="x")
        values = normal(64, 48)
        values[0] = 1e12
        return {"serving_default": ({"x": x}, {"y": tf.reduce_sum(x[:, :, None] / weight("w", values), axis=1)})}

    original = save_v1(tmp_path / "model", build)
    with pytest.raises(ModelError, match="quantization made NaN, infinity or another shape of the output"):
        api.slim(original, tmp_path / "slim", encoding="int8")
    assert {path.name for path in tmp_path.iterdir()} == {"model"}
    report = api.slim(original, tmp_path / "slim")
    assert set(encodings(report).values()) == {"float32"}
    (note,) = (stage.notes for stage in report.context.stages if stage.name == "quantize")
    assert note.endswith("(the worst alone makes NaN or infinity of them)")
    assert json.dumps(report.to_json(), allow_nan=False)


def test_progress_is_told(model, tmp_path, unmeasured):
    told: list[str] = []
    api.slim(model, tmp_path / "slim", progress=lambda what, done, total: told.append(what))
    for what in ("ask the original", "freeze", "transform: fold_constants", "write", "measure costs"):
        assert what in told
    assert any(what.startswith("measure what int8 does") for what in told)


def test_the_same_input_gives_the_same_bytes(model, tmp_path, unmeasured):
    for name in ("one", "two"):
        api.slim(model, tmp_path / name)
    assert storage.digest(tmp_path / "one") == storage.digest(tmp_path / "two")
