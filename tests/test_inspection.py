"""What is told of a model without running it."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import tensorflow as tf

from tests.saved_models import BASIC_PITCH, GUESSLANG, normal, save_v1, save_v2
from tfslim_core import api, storage
from tfslim_core.errors import ModelError, OutputExistsError

tf1 = tf.compat.v1


@pytest.fixture
def model(tmp_path):
    def build():
        x = tf1.placeholder(tf.float32, [None, 64], name="x")
        text = tf1.placeholder(tf.string, [3], name="text")
        free = tf1.placeholder(tf.int64, None, name="free")
        w = tf1.get_variable("w", initializer=normal(64, 48), use_resource=True)
        tf1.get_variable("slot", initializer=normal(64, 48), use_resource=True)
        y = tf.matmul(x, w)
        return {
            "serving_default": ({"x": x}, {"y": y, "top": tf.argmax(y, -1)}),
            "echo": ({"text": text, "free": free}, {"text": tf.identity(text), "free": tf.identity(free)}),
        }

    return save_v1(tmp_path / "model", build, methods={"echo": "tensorflow/serving/classify"})


def test_signatures_weights_and_ops(model):
    found = api.inspect(model)
    assert (found.path, found.kind, found.tags) == (str(model), "SavedModel", ("serve",))
    assert found.bytes == storage.size(model)
    assert (found.live_parameters, found.live_bytes, found.int8_bytes) == (3072, 4 * 3072, 3072)
    assert found.bytes > 2 * found.live_bytes  # the slot is not served
    echo, default = found.signatures
    assert (echo.name, echo.method) == ("echo", "tensorflow/serving/classify")
    assert echo.inputs == {"text": "string [3]", "free": "int64 [...]"}
    assert default.inputs == {"x": "float32 [?, 64]"}
    assert default.outputs == {"y": "float32 [?, 48]", "top": "int64 [?]"}
    (weight,) = found.largest
    assert (weight.dtype, weight.shape, weight.bytes, weight.encoding) == ("float32", (64, 48), 4 * 3072, "float32")
    assert found.ops["MatMul"] == 1
    assert sum(found.ops.values()) == found.nodes
    assert list(found.ops.values()) == sorted(found.ops.values(), reverse=True)
    assert found.tensorflow_version == tf.__version__


def test_a_bundle_and_how_it_is_stored(model, tmp_path):
    api.freeze(model, tmp_path / "frozen")
    before = api.inspect(tmp_path / "frozen")
    assert (before.kind, before.live_bytes, before.int8_bytes) == ("bundle", 4 * 3072, 3072)
    api.quantize(tmp_path / "frozen", tmp_path / "half", encoding="float16")
    after = api.inspect(tmp_path / "half")
    (weight,) = after.largest
    assert weight.bytes == 2 * 3072
    assert after.bytes == storage.size(tmp_path / "half") < before.bytes
    assert after.live_bytes <= before.live_bytes
    assert after.signatures == before.signatures == api.inspect(model).signatures


@pytest.mark.parametrize(
    ("path", "signatures", "asset"), [(GUESSLANG, 3, ()), (BASIC_PITCH, 1, ())], ids=["guesslang", "basic-pitch"]
)
def test_real_models(path, signatures, asset):
    found = api.inspect(path)
    assert len(found.signatures) == signatures
    assert found.bytes == storage.size(path)
    assert 4 * found.live_parameters == pytest.approx(found.live_bytes, rel=0.2)
    assert 0 < found.int8_bytes < 0.6 * found.live_bytes
    sizes = [weight.bytes for weight in found.largest]
    assert sizes == sorted(sizes, reverse=True)
    assert len(sizes) <= 20
    assert json.loads(json.dumps(found.to_json(), allow_nan=False))["nodes"] == found.nodes


def test_assets_are_named(tmp_path):
    (tmp_path / "words.txt").write_text("one\ntwo\n")
    module = tf.Module()
    key = tf.lookup.TextFileIndex.WHOLE_LINE
    words = tf.lookup.TextFileInitializer(
        str(tmp_path / "words.txt"), tf.string, key, tf.int64, tf.lookup.TextFileIndex.LINE_NUMBER
    )
    module.table = tf.lookup.StaticHashTable(words, -1)
    answer = tf.function(lambda x: {"y": module.table.lookup(x)}, [tf.TensorSpec([None], tf.string, "x")])
    assert api.inspect(save_v2(tmp_path / "model", module, serving_default=answer)).assets == ("words.txt",)


def test_nothing_is_run_and_nothing_is_written(model, monkeypatch, tmp_path):
    def run(*_args, **_options):
        raise AssertionError("a session")

    monkeypatch.setattr(tf.compat.v1, "Session", run)
    monkeypatch.setattr("tfslim_core.saved_model.fresh_process.ModelProcess.__init__", run)
    before = sorted(tmp_path.rglob("*"))
    api.inspect(model)
    assert sorted(tmp_path.rglob("*")) == before


def test_what_the_bytes_are_for(model):
    found = api.inspect(model)
    assert sum(found.parts.values()) == found.bytes
    # The index of the checkpoint, and its padding, go with what it is there for.
    assert found.parts["served weights"] == pytest.approx(4 * 3072, abs=600)
    assert found.parts["variables that nothing serves"] == 4 * 3072
    served, slot = found.tensors
    assert (served.name, served.role, served.readers) == ("w", "served", {"MatMul": 1})
    assert (served.bytes, served.memory, served.int8_bytes) == (4 * 3072, 4 * 3072, 3072)
    assert (slot.name, slot.bytes, slot.int8_bytes, slot.readers) == ("slot", 4 * 3072, 0, {})
    assert slot.memory == 4 * 3072  # the loader restores it all the same
    assert found.memory_bytes == 2 * 4 * 3072
    assert (found.dead.tensors, found.dead.bytes) == (1, 4 * 3072)


def test_real_optimizer_state_is_told_from_what_is_served():
    found = api.inspect(BASIC_PITCH)
    roles = {role: [t for t in found.tensors if t.role == role] for role in ("served", "optimizer", "unread")}
    assert sum(found.parts.values()) == found.bytes
    assert len(roles["optimizer"]) == 49
    assert all("OPTIMIZER_SLOT" in t.name or t.name.startswith(("optimizer/", "keras_api")) for t in roles["optimizer"])
    assert not roles["unread"]
    assert {"Conv2D": 1} in [t.readers for t in roles["served"]]
    assert found.dead.functions > 50


def test_what_is_estimated_is_about_what_slim_makes(tmp_path):
    found = api.inspect(GUESSLANG)
    api.quantize(api.freeze(GUESSLANG, tmp_path / "frozen").path, tmp_path / "int8")
    slim = api.reexport(tmp_path / "int8", tmp_path / "slim").path
    assert found.slim_bytes == pytest.approx(storage.size(slim), rel=0.1)
    again = api.inspect(slim)
    rows = next(t for t in again.tensors if "embedding_weights" in t.name)
    assert (rows.encoding.split()[0], rows.dtype, rows.memory) == ("int8", "float32", 1_400_000)
    assert rows.bytes < 400_000
    assert sum(again.parts.values()) == again.bytes


def test_the_page_shows_every_tensor_and_runs_no_script_of_a_name(model, tmp_path):
    page = tmp_path / "page.html"
    found = api.inspect(model, html=page)
    text = page.read_text()
    for tensor in found.tensors:
        assert f"<code>{tensor.name}</code>" in text
    tensors = ("served weights", "constants that are served", "optimizer state", "variables that nothing serves")
    assert text.count('class="box') == len(found.tensors) + len(found.parts.keys() - set(tensors))
    assert "script-src 'sha256-" in text
    with pytest.raises(OutputExistsError):
        api.inspect(model, html=page)
    api.inspect(model, html=page, overwrite=True)
    assert page.read_text() == text


def test_a_name_that_is_markup_is_text(tmp_path):
    def build():
        x = tf1.placeholder(tf.float32, [None, 64], name="x")
        w = tf1.get_variable("w", initializer=normal(64, 48), use_resource=True)
        return {"<script>alert(1)</script>": ({"x": x}, {"y": tf.matmul(x, w)})}

    page = tmp_path / "page.html"
    api.inspect(save_v1(tmp_path / "model", build), html=page)
    assert "<script>alert" not in page.read_text()
    assert "&lt;script&gt;alert" in page.read_text()


def test_what_is_no_model(model, tmp_path):
    (tmp_path / "file").write_bytes(b"")
    (tmp_path / "empty").mkdir()
    for path, words in (
        (tmp_path / "nothing", "no such directory"),
        (tmp_path / "file", "is an empty file"),
        (tmp_path / "empty", "is not a SavedModel: it holds no saved_model.pb"),
    ):
        with pytest.raises(ModelError, match=words):
            api.inspect(path)
    with pytest.raises(ModelError, match="no MetaGraph with the tags train, choose with --tags; it has: serve"):
        api.inspect(model, tags=["train"])


def test_a_model_whose_variables_are_gone(model):
    shutil.rmtree(model / "variables")
    with pytest.raises(ModelError, match="variables"):
        api.inspect(model)


def test_int8_is_about_what_slim_makes(model, tmp_path, monkeypatch):
    made = api.quantize(_frozen(model, tmp_path), tmp_path / "int8")
    (weight,) = made.weights
    assert weight.bytes_after == pytest.approx(api.inspect(model).int8_bytes, rel=0.1)
    assert np.prod(weight.shape) == api.inspect(model).int8_bytes


def _frozen(model, tmp_path):
    return api.freeze(model, tmp_path / "frozen").path
