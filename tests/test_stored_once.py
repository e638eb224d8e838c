"""What a model holds twice, its servable stores once: Keras 3's `export` writes each weight under two names."""

from __future__ import annotations

import hashlib
from collections import Counter

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.keras_models import exported
from tests.saved_models import assert_serves_alike, normal, save_v1
from tfslim_core import api

tf1 = tf.compat.v1


@pytest.fixture(scope="module")
def two_branches(tmp_path_factory):
    """A Keras model with an embedding, and two equal layers in different places."""
    keras.utils.clear_session()  # the names of layers are numbered
    keras.utils.set_random_seed(7)
    ids = keras.Input((5,), dtype="int32", name="ids")
    hidden = keras.layers.Flatten()(keras.layers.Embedding(500, 40)(ids))
    first, second = (keras.layers.Dense(200, name=name) for name in ("first", "second"))
    h = second(keras.ops.tanh(first(hidden)))
    model = keras.Model(ids, keras.layers.Dense(7)(h))
    second.set_weights(first.get_weights())
    return exported(model, tmp_path_factory.mktemp("once") / "m")


def tensors(path):
    """How often each large value is in a SavedModel's checkpoint."""
    reader = tf.train.load_checkpoint(str(path / "variables/variables"))
    values = (reader.get_tensor(key) for key in reader.get_variable_to_shape_map())
    return Counter(
        hashlib.sha256(value.tobytes()).hexdigest()
        for value in values
        if isinstance(value, np.ndarray) and value.nbytes >= 1024
    )


def test_nothing_that_keras_exports_is_stored_twice(two_branches, tmp_path):
    assert max(tensors(two_branches).values()) >= 4  # two names, two layers
    api.freeze(two_branches, tmp_path / "frozen")
    api.transform(tmp_path / "frozen", tmp_path / "bundle")
    api.quantize(tmp_path / "bundle", tmp_path / "quantized", encoding="lossless")
    api.reexport(tmp_path / "quantized", tmp_path / "slim")
    assert set(tensors(tmp_path / "slim").values()) == {1}
    parameters = 500 * 40 + 200 * 200
    stored = sum(file.stat().st_size for file in (tmp_path / "slim").rglob("*") if file.is_file())
    assert stored < 3.6 * parameters + 20_000
    ids = np.array([[0, 3, 499, 7, 7], [1, 2, 3, 4, 5]], np.int32)
    requests = [("serving_default", {"ids": ids}), ("serve", {"ids": ids})]
    assert_serves_alike(two_branches, tmp_path / "slim", requests)


def test_equal_weights_of_one_signature_are_one(tmp_path):
    def made():
        x = tf1.placeholder(tf.float32, [None, 200], name="x")
        first, second = (
            tf1.get_variable(name, initializer=normal(200, 200) / 10, use_resource=True) for name in ("first", "second")
        )
        return {"serving_default": ({"x": x}, {"y": tf.matmul(tf.tanh(tf.matmul(x, first)), second)})}

    original = save_v1(tmp_path / "m", made)
    assert set(tensors(original).values()) == {2}
    api.freeze(original, tmp_path / "frozen")
    api.transform(tmp_path / "frozen", tmp_path / "bundle")
    api.reexport(tmp_path / "bundle", tmp_path / "slim")
    assert set(tensors(tmp_path / "slim").values()) == {1}
    assert_serves_alike(original, tmp_path / "slim", [("serving_default", {"x": normal(3, 200)})])
