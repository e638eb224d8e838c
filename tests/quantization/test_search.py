"""Budgets on a small classifier with real sessions: held where they are not searched, resumed, refused in one line."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import tensorflow as tf

from tests.saved_models import normal, save_v1
from tfslim_core import api, gate
from tfslim_core.bundle import read_bundle
from tfslim_core.errors import DataError, UsageError
from tfslim_core.quantization import search as searching
from tfslim_core.quantization.budgeting import Budget, search_within
from tfslim_core.quantization.encode_weights import Choice
from tfslim_core.quantization.trials import Memo, share_used, wilson_upper, within_margin
from tfslim_core.saved_model.server_loader import ServedModel

tf1 = tf.compat.v1


def silent(*_):
    pass


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """Scores of 8 classes; one layer of it turns answers round when it is rounded a little."""

    def build():
        x = tf1.placeholder(tf.float32, [None, 32], name="x")
        hidden = x
        for layer, size in enumerate([(32, 256), (256, 256), (256, 64)]):
            w = tf1.get_variable(f"w{layer}", initializer=normal(*size, seed=layer) / np.float32(size[0] ** 0.5))
            hidden = tf.nn.relu(tf.matmul(hidden, w))
        other = tf.matmul(x, tf1.get_variable("other", initializer=normal(32, 300, seed=7)))
        scores = tf.matmul(hidden, tf1.get_variable("head", initializer=normal(64, 8, seed=9)))
        coarse = tf.matmul(x, tf1.get_variable("coarse", initializer=np.rint(normal(32, 64, seed=6)) * 4))
        outputs = {"scores": tf.nn.softmax(scores), "one": tf.zeros_like(x[:, :1]), "coarse": coarse}
        outputs["class"] = tf.argmax(scores, axis=-1)
        return {"serving_default": ({"x": x}, outputs), "other": ({"x": x}, {"y": other})}

    return save_v1(tmp_path_factory.mktemp("model") / "m", build)


@pytest.fixture(scope="module")
def bundle(model, tmp_path_factory):
    out = tmp_path_factory.mktemp("bundle") / "b"
    api.freeze(model, out)
    return out


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    for name, seed in (("seen", 1), ("unseen", 2)):
        np.savez(folder / f"{name}.npz", x=normal(1500, 32, seed=seed))
    return folder


def agreement(model, other, path):
    feeds = {"x": np.load(path)["x"]}
    scores = [ServedModel(str(one), ("serve",)).run("serving_default", feeds)["scores"] for one in (model, other)]
    return float((scores[0].argmax(1) == scores[1].argmax(1)).mean())


def test_a_budget_holds_on_data_that_was_not_seen(model, bundle, data, tmp_path):
    bounds = {"tight": "top1_agreement>=0.98", "loose": "top1_agreement>=0.93", "error": "rel_l2_error<=0.05"}
    sizes = {}
    for name, bound in bounds.items():
        report = api.quantize(bundle, tmp_path / name, budget=[bound], data={"d": str(data / "seen.npz")})
        sizes[name] = sum(weight.bytes_after for weight in report.weights)
        assert report.notes[0].startswith(f"budget: {bound.partition('>')[0].partition('<')[0]} ")
        assert "the next step" in report.notes[1]
        assert not (tmp_path / f"{name}.search").exists()
        api.reexport(tmp_path / name, tmp_path / f"{name}.served")
    int8 = sum(weight.bytes_after for weight in api.quantize(bundle, tmp_path / "int8").weights)
    assert sizes["loose"] < sizes["tight"] <= int8
    assert 0.98 <= agreement(model, tmp_path / "tight.served", data / "unseen.npz") < 1
    assert 0.93 <= agreement(model, tmp_path / "loose.served", data / "unseen.npz") < 0.98
    stored = [weight for weight in read_bundle(tmp_path / "loose").manifest.weights if weight.placement != "none"]
    assert len({weight.encoding for weight in stored}) > 1  # each weight its own
    assert all(weight.harm is not None and weight.harm > 0 for weight in stored if weight.name.startswith("w"))


def test_what_was_found_can_be_asked_for_again(bundle, data, tmp_path):
    fed = {"d": str(data / "seen.npz")}
    report = api.quantize(bundle, tmp_path / "a", budget=["top1_agreement>=0.98"], data=fed, search_minutes=0.5)
    stored = [weight for weight in report.weights if weight.placement != "none"]
    assert any("/tensor" in weight.encoding for weight in stored)  # what the name alone would not say
    for weight in stored:
        asked = {"encoding": weight.encoding, "include": [weight.name], "data": fed}
        again = api.quantize(bundle, tmp_path / "b", **asked, overwrite=True)
        (same,) = (other for other in again.weights if other.name == weight.name)
        assert same.encoding == weight.encoding
        assert same.bytes_after == pytest.approx(weight.bytes_after, rel=0.02)  # rounded by more of the data


def test_a_large_step_is_taken_in_parts(bundle, data, tmp_path, monkeypatch):
    def found(name):
        report = api.quantize(
            bundle, tmp_path / name, budget=["rel_l2_error<=0.03"], data={"d": str(data / "seen.npz")}
        )
        used = float(report.notes[0].rpartition("; ")[2].partition(" %")[0])
        return sum(weight.bytes_after for weight in report.weights), {w.encoding for w in report.weights}, used

    whole, finer = set(searching.ENCODINGS), found("finer")
    monkeypatch.setattr(searching, "LARGE_STEP", 1.0)
    coarse = found("coarse")
    assert coarse[1] <= whole | {"float32", "int8"}
    assert any("." in encoding for encoding in finer[1] - coarse[1])
    assert finer[0] < coarse[0]
    assert 0 < finer[2] <= 95


def test_a_weight_that_the_data_does_not_reach_is_not_crushed(bundle, data, tmp_path):
    report = api.quantize(
        bundle,
        tmp_path / "out",
        budget=["top1_agreement>=0.5"],
        data={"d": str(data / "seen.npz")},
        signature="serving_default",
    )
    encodings = {weight.name: weight.encoding for weight in report.weights}
    (other,) = (encoding for name, encoding in encodings.items() if name.startswith("other"))
    assert other == "int8"
    assert any(weight.bytes_after < 0.1 * weight.bytes_before for weight in report.weights)


def test_a_budget_on_classes_is_searched_by_the_scores_behind_them(bundle, data, tmp_path):
    budget = {"budget": ["class:exact_match>=0.9"], "data": {"d": str(data / "seen.npz")}}
    report = api.quantize(bundle, tmp_path / "out", **budget)
    assert report.notes[0].startswith("budget: class:exact_match 0.9")
    assert any(weight.encoding not in ("int8", "float32") for weight in report.weights if weight.name.startswith("w"))


def test_a_weight_of_whole_numbers_is_searched_too(bundle, data, tmp_path):
    """Six bits hold it exactly, which says nothing of fewer."""
    budget = {"budget": ["coarse:rel_l2_error<=0.001"], "data": {"d": str(data / "seen.npz")}}
    report = api.quantize(bundle, tmp_path / "out", **budget)
    assert report.notes[0].startswith("budget: coarse:rel_l2_error ")
    (coarse,) = (weight for weight in report.weights if weight.name.startswith("coarse"))
    assert coarse.bytes_after < coarse.bytes_before / 4


def test_the_same_seed_finds_the_same(bundle, data, tmp_path):
    def found(name, seed):
        api.quantize(
            bundle, tmp_path / name, budget=["top1_agreement>=0.95"], data={"d": str(data / "seen.npz")}, seed=seed
        )
        return (tmp_path / name / "manifest.json").read_bytes(), (tmp_path / name / "weights.safetensors").read_bytes()

    assert found("a", 3) == found("b", 3)


def test_slim_takes_a_budget_and_validates_it(model, data, tmp_path):
    report = api.slim(
        model,
        tmp_path / "slim",
        budget=["top1_agreement>=0.95"],
        data={"d": str(data / "seen.npz")},
        gates=["top1_agreement>=0.95"],
    )
    assert report.outcome == "pass"
    (notes,) = (stage.notes for stage in report.context.stages if stage.name == "quantize")
    assert notes.startswith("budget: top1_agreement ")


class StoppedError(Exception):
    pass


def test_a_search_that_was_stopped_goes_on(bundle, data, tmp_path, monkeypatch):
    budget = Budget(("top1_agreement>=0.95",), {"d": str(data / "seen.npz")})
    state = tmp_path / "state"
    asked = []
    real = searching.LiveModel.run

    def run(self, signature, feeds):
        asked.append(1)
        if len(asked) == stop:
            raise StoppedError
        return real(self, signature, feeds)

    monkeypatch.setattr(searching.LiveModel, "run", run)
    loaded = read_bundle(bundle)
    stop = 0
    whole = search_within(loaded, Choice(), budget, None, silent)
    total = len(asked)
    stop = total * 3 // 4
    asked.clear()
    with pytest.raises(StoppedError):
        search_within(loaded, Choice(), budget, state, silent)
    with state.open("a") as file:
        file.write('["half a li')  # as a process leaves it that is killed while it writes
    stop = 0
    asked.clear()
    again = search_within(loaded, Choice(), budget, state, silent)
    assert again == whole
    assert len(asked) < 0.7 * total
    # Another budget does not take the values of this one.
    other = replace(budget, bounds=("top1_agreement>=0.9",))
    assert search_within(loaded, Choice(), other, state, silent) == search_within(loaded, Choice(), other, None, silent)


def test_no_time_leaves_the_weights_as_they_are(bundle, data):
    budget = Budget(("top1_agreement>=0.95",), {"d": str(data / "seen.npz")}, minutes=0)
    found = search_within(read_bundle(bundle), Choice(), budget, None, silent)
    assert set(found.choice.plan.values()) == {""}
    assert any("stopped after 0 minutes" in note for note in found.notes)


def test_weights_that_there_is_no_time_for_are_tried_in_8_bits(bundle, data, monkeypatch):
    """Half of the time has gone when the first weight has been measured."""
    now = [0.0]
    measured = []
    ladder = searching._ladder

    def slow(nbytes, name, *more):
        measured.append(name)
        now[0] += 0.6 * 60 * searching.MINUTES
        return ladder(nbytes, name, *more)

    monkeypatch.setattr(searching, "_ladder", slow)
    monkeypatch.setattr(searching, "time", SimpleNamespace(monotonic=lambda: now[0]))
    budget = Budget(("rel_l2_error<=0.1",), {"d": str(data / "seen.npz")})
    plan = search_within(read_bundle(bundle), Choice(), budget, None, silent).choice.plan
    assert len(measured) == 1
    assert len(plan) > 3
    assert {plan[name] for name in plan if name not in measured} == {"int8"}


@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        ({"budget": ["top1_agreement>=0.9"]}, UsageError, "--budget needs data"),
        ({"budget": ["size_ratio<=0.3"]}, UsageError, "size_ratio with --gate"),
        ({"budget": ["latency_ratio<=1"]}, UsageError, "latency_ratio with --gate"),
        ({"budget": ["top1_agreement<=0.9"]}, UsageError, "bounds no loss; write top1_agreement>=…"),
        ({"budget": ["rel_l2_error>=0.9"]}, UsageError, "bounds no loss; write rel_l2_error<=…"),
        ({"budget": ["top1>=0.9"]}, UsageError, "no metric 'top1'"),
        ({"budget": ["top1_agreement>=0.9"], "encoding": "int4"}, UsageError, "leave out --encoding"),
        ({"budget": ["top1_agreement>=0.9"], "seed": -1, "data": True}, UsageError, "--seed -1"),
        ({"budget": ["top1_agreement>=0.9"], "search_minutes": math.nan, "data": True}, UsageError, "-minutes nan"),
        ({"budget": ["nothing:top1_agreement>=0.9"], "data": True}, UsageError, "no output 'nothing'"),
        ({"budget": ["label_accuracy_drop<=0.1"], "data": True}, UsageError, "needs labels"),
        ({"budget": ["one:rel_l2_error<=0.1"], "data": True}, DataError, "answers alike on every example"),
        ({"budget": ["exact_match>=0.9"], "data": True}, DataError, "has no value"),
    ],
)
def test_budgets_that_cannot_be_searched_are_refused(bundle, data, tmp_path, options, error, match):
    if options.get("data"):
        options = {**options, "data": {"d": str(data / "seen.npz")}}
    with pytest.raises(error, match=match) as caught:
        api.quantize(bundle, tmp_path / "out", **options)
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_too_few_records_are_told(bundle, tmp_path):
    np.savez(tmp_path / "one.npz", x=normal(1, 32))
    with pytest.raises(DataError, match="too few records"):
        api.quantize(bundle, tmp_path / "out", budget=["rel_l2_error<=0.1"], data={"d": str(tmp_path / "one.npz")})


def test_shares_of_budgets():
    agree, error = gate.parse("top1_agreement>=0.99"), gate.parse("rel_l2_error<=0.02")
    assert share_used(agree, 0.995) == pytest.approx(0.5)
    assert share_used(error, 0.03) == pytest.approx(1.5)
    assert share_used(gate.parse("nan_mismatches<=0"), 0) == 0
    assert share_used(gate.parse("nan_mismatches<=0"), 1) == np.inf
    assert share_used(gate.parse("label_accuracy_drop<=0.01"), -0.1) == 0
    assert within_margin(agree, 1.0, 5)
    assert within_margin(agree, 0.995, 5000)
    assert not within_margin(agree, 0.995, 200)
    assert not within_margin(agree, 0.991, 5000)
    drop = gate.parse("label_accuracy_drop<=0.003")
    assert within_margin(drop, 0.0, 10)  # nothing turned
    assert not within_margin(drop, 0.0, 600, turned=6)  # three lost, three won: it might have been four and two
    assert within_margin(drop, 0.0, 60_000, turned=600)
    assert within_margin(drop, -1 / 600, 600, turned=1)
    assert not within_margin(drop, -5 / 600, 600, turned=5)  # all won: luck
    assert not within_margin(drop, 2 / 600, 600, turned=2)
    assert within_margin(error, 0.0189, 1)
    assert not within_margin(error, 0.0195, 10**6)


def test_wilsons_interval():
    """Brown, Cai, DasGupta (2001): the roots of (p - x)^2 = z^2 p (1 - p) / n."""
    for share, examples in ((0.0, 10), (0.05, 40), (0.3, 1000), (1.0, 7)):
        upper = wilson_upper(share, examples)
        assert upper >= share
        assert (upper - share) ** 2 == pytest.approx(1.645**2 * upper * (1 - upper) / examples)


def test_a_memo_of_something_else_is_begun_anew(tmp_path):
    file = tmp_path / "memo"
    assert Memo(file, "a").get("key", lambda: [1, 2]) == [1, 2]
    assert Memo(file, "a").get("key", lambda: 3) == [1, 2]
    assert Memo(file, "b").get("key", lambda: 3) == 3
    assert [json.loads(line) for line in file.read_text().splitlines()] == [{"fingerprint": "b"}, ["key", 3]]
