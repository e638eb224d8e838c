"""Data tells what layers are fed: weights that are rounded for it answer better on data that was not seen."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from tests.saved_models import normal, save_v1
from tfslim_core import api
from tfslim_core.bundle import read_bundle
from tfslim_core.errors import UsageError
from tfslim_core.quantization.trials import Encoder
from tfslim_core.saved_model.server_loader import ServedModel

tf1 = tf.compat.v1


def inputs(rows, seed):
    """[rows, 64]: ten things that vary, seen through 64 mixtures of them, and a little noise."""
    mixtures = normal(10, 64, seed=100)
    return (normal(rows, 10, seed=seed) @ mixtures + 0.2 * normal(rows, 64, seed=seed + 50)).astype(np.float32)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    def build():
        x = tf1.placeholder(tf.float32, [None, 64], name="x")
        hidden = tf.nn.relu(tf.matmul(x, tf1.get_variable("w0", initializer=normal(64, 300) / np.float32(30))))
        y = tf.matmul(hidden, tf1.get_variable("w1", initializer=normal(300, 80, seed=1) / np.float32(17)))
        return {"serving_default": ({"x": x}, {"y": y})}

    return save_v1(tmp_path_factory.mktemp("model") / "m", build)


@pytest.fixture(scope="module")
def bundle(model, tmp_path_factory):
    out = tmp_path_factory.mktemp("bundle") / "b"
    api.freeze(model, out)
    return out


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    file = tmp_path_factory.mktemp("data") / "seen.npz"
    np.savez(file, x=inputs(1000, seed=1))
    return {"d": str(file)}


def error(model, other):
    feeds = {"x": inputs(400, seed=2)}
    wanted, found = (ServedModel(str(one), ("serve",)).run("serving_default", feeds)["y"] for one in (model, other))
    return float(np.linalg.norm(found - wanted) / np.linalg.norm(wanted))


@pytest.mark.parametrize("encoding", ["int4", "palette4"])
def test_what_is_rounded_for_the_data_answers_better(encoding, model, bundle, data, tmp_path):
    errors, sizes = [], []
    for name, options in (("plain", {}), ("fed", {"data": data})):
        report = api.quantize(bundle, tmp_path / name, encoding=encoding, **options)
        api.reexport(tmp_path / name, tmp_path / f"{name}.served")
        errors.append(error(model, tmp_path / f"{name}.served"))
        sizes.append(sum(weight.bytes_after for weight in report.weights))
    assert errors[1] < 0.65 * errors[0]
    assert sizes[1] < 1.02 * sizes[0]
    assert "2 weights rounded by what the layers are fed in the data" in report.notes
    assert [weight.name for weight in report.weights if "rounded by what it is fed" in weight.reason] == ["w1", "w0"]


def test_a_step_for_each_input_by_name(model, bundle, data, tmp_path):
    api.quantize(bundle, tmp_path / "out", encoding="int6/input", data=data)
    scale = read_bundle(tmp_path / "out").graph.weights["w1"].encoded.parts["scale"].read()
    assert scale.shape == (300, 1)
    api.reexport(tmp_path / "out", tmp_path / "served")
    assert error(model, tmp_path / "served") < 0.1


def test_slim_does_the_same(model, data, tmp_path):
    fed = api.slim(model, tmp_path / "fed", encoding="int4", data=data, gates=["y:rel_l2_error<=0.1"])
    notes = {stage.name: stage.notes for stage in fed.context.stages}
    assert "2 weights rounded by what the layers are fed in the data" in notes["quantize"]


@pytest.mark.parametrize("encoding", ["float16", "lossless", "palette4/group16"])
def test_data_that_nothing_heeds_is_refused(encoding, bundle, data, tmp_path):
    with pytest.raises(UsageError, match=f"{encoding} takes no heed of data"):
        api.quantize(bundle, tmp_path / "out", encoding=encoding, data=data)


def test_what_the_search_tried_is_what_is_stored(bundle, data, tmp_path, monkeypatch):
    tried = {}
    weight = Encoder.weight

    def told(self, name, encoding):
        found = weight(self, name, encoding)
        if found is not None and encoding:
            tried[name, found.encoded.encoding, found.stored_bytes] = found.read()
        return found

    monkeypatch.setattr(Encoder, "weight", told)
    report = api.quantize(bundle, tmp_path / "out", budget=["rel_l2_error<=0.05"], data=data)
    stored = read_bundle(tmp_path / "out").graph.weights
    entries = [entry for entry in report.weights if entry.placement == "load"]
    assert len(entries) == 2
    for entry in entries:
        values = tried[entry.name, entry.encoding.partition("/")[0], entry.bytes_after]
        assert stored[entry.name].read().tobytes() == values.tobytes()


def test_a_budget_goes_further_with_it(bundle, data, tmp_path, monkeypatch):
    options = {"budget": ["rel_l2_error<=0.05"], "data": data}
    fed = api.quantize(bundle, tmp_path / "fed", **options)
    monkeypatch.setattr("tfslim_core.quantization.input_moments.InputMoments.of", lambda self, name: None)
    plain = api.quantize(bundle, tmp_path / "plain", **options)
    sizes = [sum(weight.bytes_after for weight in report.weights) for report in (fed, plain)]
    assert sizes[0] < 0.85 * sizes[1]
