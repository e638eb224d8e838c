"""Models that load in Python and that no server can run: tf.saved_model.save of a Keras 3 model."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfslim_core
from tfslim_core.errors import ModelError
from tfslim_core.saved_model.fresh_process import Request, answers


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    keras.utils.set_random_seed(3)
    model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(40, "relu"), keras.layers.Dense(3)])
    path = tmp_path_factory.mktemp("keras") / "model"
    tf.saved_model.save(model, str(path))
    return path, model


def test_variables_that_no_restore_op_fills_are_found_by_name(saved, tmp_path):
    path, model = saved
    x = np.random.default_rng(0).standard_normal((5, 8)).astype(np.float32)
    key = next(iter(tf.saved_model.load(str(path)).signatures["serving_default"].structured_input_signature[1]))
    request = Request("serving_default", {key: x})
    assert isinstance(answers(path, [request])[0], ModelError), "the original is expected not to be servable"
    report = tfslim_core.slim(path, tmp_path / "slim", encoding="float16")
    (found,) = answers(tmp_path / "slim", [request])
    wanted = model(x).numpy()
    assert wanted.std() > 0.1
    np.testing.assert_allclose(next(iter(found.values())), wanted, rtol=5e-3, atol=5e-3)
    assert any("mended: 4 variables" in stage.notes for stage in report.context.stages)


def test_a_variable_without_a_value_is_refused(saved, tmp_path, monkeypatch):
    path, _ = saved
    monkeypatch.setattr("tfslim_core.saved_model.freeze.found_by_name", lambda *_: {})
    with pytest.raises(ModelError, match=r"hold no value for .* no server can run this model"):
        tfslim_core.freeze(path, tmp_path / "bundle")
    assert not list(tmp_path.iterdir())
