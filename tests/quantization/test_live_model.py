"""A bundle in a live session answers as it does when it is served, and as its weights are set."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from tests.saved_models import BASIC_PITCH, assert_alike, normal, save_v1, served
from tfslim_core.quantization.encode_weights import Choice, candidates
from tfslim_core.quantization.live_model import LiveModel
from tfslim_core.saved_model.freeze import freeze_saved_model
from tfslim_core.saved_model.read import read_saved_model

tf1 = tf.compat.v1
X = normal(4, 64)
W = normal(64, 48, seed=1)


def frozen(path):
    return freeze_saved_model(read_saved_model(path, ["serve"], None))


def weight(name, value, resource=True):
    return tf1.get_variable(name, initializer=value, use_resource=resource)


def test_weights_are_their_own_until_they_are_set(tmp_path):
    def build():
        x = tf1.placeholder(tf.float32, [None, 64], name="x")
        y = tf.matmul(x, weight("w", W))
        return {"serving_default": ({"x": x}, {"y": y}), "twice": ({"x": x}, {"y": 2 * y, "shape": tf.shape(y)})}

    bundle = frozen(save_v1(tmp_path / "model", build))
    (name,) = candidates(bundle.graph, Choice())
    with LiveModel(bundle, [name]) as live:
        np.testing.assert_allclose(live.run("serving_default", {"x": X})["y"], X @ W, rtol=1e-4, atol=1e-4)
        live.set(name, -W)
        answer = live.run("twice", {"x": X})
        np.testing.assert_allclose(answer["y"], -2 * X @ W, rtol=1e-4, atol=1e-4)
        assert answer["shape"].tolist() == [4, 48]
        live.set(name, W)
        np.testing.assert_allclose(live.run("serving_default", {"x": X})["y"], X @ W, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("resource", [True, False], ids=["resource", "ref"])
def test_what_stays_a_variable_has_its_value(resource, tmp_path):
    def build():
        x = tf1.placeholder(tf.float32, [None, 64], name="x")
        w, steps = weight("w", W, resource), weight("steps", normal(48, seed=2), resource)
        with tf.control_dependencies([tf1.assign_add(steps, tf.ones(48))]):
            y = tf.matmul(x, w) + tf.identity(steps.read_value() if resource else steps)
        return {"serving_default": ({"x": x}, {"y": y})}

    model = save_v1(tmp_path / "model", build)
    bundle = frozen(model)
    assert bundle.variables
    requests = [("serving_default", {"x": X})] * 2
    with LiveModel(bundle, candidates(bundle.graph, Choice())) as live:
        found = [live.run(*request) for request in requests]
    assert_alike(served(model, requests), found, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(found[1]["y"] - found[0]["y"], 1, atol=1e-4)


def test_tables_are_filled_from_their_assets(tmp_path):
    (tmp_path / "words.txt").write_text("one\ntwo\nthree\n")

    def build():
        asset = tf.constant(str(tmp_path / "words.txt"))
        whole = tf.lookup.TextFileIndex.WHOLE_LINE
        words = tf.lookup.TextFileInitializer(asset, tf.string, whole, tf.int64, tf.lookup.TextFileIndex.LINE_NUMBER)
        table = tf.lookup.StaticVocabularyTable(words, 1)
        x = tf1.placeholder(tf.string, [None], name="x")
        y = tf.gather(weight("w", normal(4, 400)), table.lookup(x))
        return {"serving_default": ({"x": x}, {"y": y})}

    model = save_v1(tmp_path / "model", build, init=tf1.tables_initializer, assets=True)
    (tmp_path / "words.txt").unlink()
    bundle = frozen(model)
    requests = [("serving_default", {"x": np.array([b"two", b"none", b"one"], object)})]
    with LiveModel(bundle, candidates(bundle.graph, Choice())) as live:
        assert_alike(served(model, requests), [live.run(*request) for request in requests])


def test_a_real_model_with_every_weight_changeable():
    bundle = frozen(BASIC_PITCH)
    names = candidates(bundle.graph, Choice())
    assert len(names) == 5
    definition = bundle.manifest.signature_defs()["serving_default"]
    ((key, info),) = definition.inputs.items()
    shape = [2 if d.size < 0 else d.size for d in info.tensor_shape.dim]
    requests = [("serving_default", {key: np.clip(normal(*shape) / 4, -1, 1)})]
    with LiveModel(bundle, names) as live:
        found = [live.run(*request) for request in requests]
        live.set(names[0], np.zeros_like(bundle.graph.weights[names[0]].read()))
        other = live.run(*requests[0])
    assert_alike(served(BASIC_PITCH, requests), found, rtol=1e-3, atol=1e-4)
    assert any(np.abs(other[key] - found[0][key]).max() > 1e-3 for key in other)
