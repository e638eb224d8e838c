"""What holds for models of many GB, shown on one of some MB: no weight in a protobuf, one at a time in memory."""

from __future__ import annotations

import weakref
from dataclasses import replace

import numpy as np
import pytest
import tensorflow as tf

from tests.saved_models import normal, save_v1, served
from tfslim_core import api, transforms
from tfslim_core.bundle import read_bundle
from tfslim_core.encodings import compressed
from tfslim_core.quantization import live_model
from tfslim_core.quantization.encode_weights import Choice, encode_weights
from tfslim_core.quantization.live_model import LiveModel
from tfslim_core.saved_model import freed_memory
from tfslim_core.saved_model import write as write_module
from tfslim_core.saved_model.freeze import freeze_saved_model
from tfslim_core.saved_model.read import read_saved_model
from tfslim_core.saved_model.write import write_saved_model
from tfslim_core.weights import aligned

tf1 = tf.compat.v1
LARGE = 64 * 1024  # bytes; of the model's weights all but the vectors
REQUEST = [("serving_default", {"ids": np.array([[0, 7, 499], [3, 3, 250]])})]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """Tables and dense layers of 0.2 to 1 MB, as variables and as a constant."""

    def build():
        ids = tf1.placeholder(tf.int64, [None, 3], name="ids")
        variable = lambda name, *shape: tf1.get_variable(name, initializer=normal(*shape, seed=len(name)) / 9)  # noqa: E731
        h = tf.reduce_sum(tf.nn.embedding_lookup(variable("table", 500, 300), ids), 1)
        h += tf.reduce_sum(tf.nn.embedding_lookup(variable("other_table", 500, 300), ids), 1)
        for name in ("one", "other"):
            h = tf.nn.relu(tf.matmul(h, variable(name, 300, 300)))
        y = tf.matmul(h, tf.constant(normal(300, 700) / 9, name="constant"))
        return {"serving_default": ({"ids": ids}, {"y": y})}

    return save_v1(tmp_path_factory.mktemp("large") / "model", build)


def frozen(model):
    return freeze_saved_model(read_saved_model(model, ["serve"], None))


class Counted:
    """Weights that tell how many of their values were in memory at once."""

    def __init__(self, weights):
        self.now = self.most = self.reads = 0
        self.weights = {name: self._counted(w) if w.nbytes >= LARGE else w for name, w in weights.items()}

    def _counted(self, weight):
        def read():
            value = weight.read().copy()
            self.now += 1
            self.reads += 1
            self.most = max(self.most, self.now)
            weakref.finalize(value, self._gone)
            return value

        return replace(weight, read=read)

    def _gone(self):
        self.now -= 1


def written(bundle, folder):
    folder.mkdir()
    bundle.write(folder)
    return read_bundle(folder)


STAGES = {
    "bundle": lambda bundle, folder: written(bundle, folder / "bundle"),
    "servable": lambda bundle, folder: write_saved_model(bundle, folder),
    "transform": lambda bundle, folder: transforms.apply(bundle.graph),
    "int8": lambda bundle, folder: encode_weights(bundle.graph, Choice()),
    "uint4 rows": lambda bundle, folder: encode_weights(bundle.graph, Choice("uint4/block32", placement="rows")),
    "float16": lambda bundle, folder: encode_weights(bundle.graph, Choice("float16")),
}


@pytest.mark.parametrize("stage", STAGES.values(), ids=STAGES)
def test_one_value_is_in_memory_at_a_time(model, stage, tmp_path, monkeypatch):
    monkeypatch.setattr(write_module, "SHARD_BYTES", 1)
    bundle = frozen(model)
    counted = Counted(bundle.graph.weights)
    assert len(counted.weights) > 4
    graph = bundle.graph.replace(weights=counted.weights)
    kept = stage(replace(bundle, graph=graph), tmp_path)
    assert counted.reads >= 5 or stage is STAGES["transform"]
    assert counted.most <= 1
    assert counted.now == 0
    del kept


def test_no_weight_is_ever_in_a_protobuf(model, tmp_path, monkeypatch):
    make = tf.make_tensor_proto
    graph_defs = []

    def guarded(values, *arguments, **named):
        assert np.asarray(values).nbytes < LARGE
        return make(values, *arguments, **named)

    def spied(bundle, changeable):
        made = _with_variables(bundle, changeable)
        graph_defs.append(made[0].ByteSize())
        return made

    _with_variables = live_model._with_variables
    monkeypatch.setattr(tf, "make_tensor_proto", guarded)
    monkeypatch.setattr(live_model, "_with_variables", spied)
    api.freeze(model, tmp_path / "frozen")
    api.transform(tmp_path / "frozen", tmp_path / "transformed")
    api.quantize(tmp_path / "transformed", tmp_path / "quantized", encoding="int4")
    api.reexport(tmp_path / "quantized", tmp_path / "servable")
    api.slim(model, tmp_path / "slim")
    with LiveModel(read_bundle(tmp_path / "quantized"), []) as live:
        found = live.run(*REQUEST[0])["y"]
    np.testing.assert_allclose(found, served(tmp_path / "servable", REQUEST)[0]["y"], rtol=1e-4, atol=1e-4)
    assert len(graph_defs) == 2
    protobufs = [file for file in tmp_path.rglob("*.pb") if file.is_file()]
    assert len(protobufs) == 5
    assert max([*graph_defs, *(file.stat().st_size for file in protobufs)]) < LARGE


def test_a_weight_is_forgotten_before_another_value_is_computed(model):
    bundle = frozen(model)
    with LiveModel(bundle, ["one"]) as live:
        before = live.run(*REQUEST[0])["y"]

        def value():
            with pytest.raises(tf.errors.FailedPreconditionError):
                live.run(*REQUEST[0])
            return bundle.graph.weights["one"].read()

        live.set("one", value)
        np.testing.assert_array_equal(live.run(*REQUEST[0])["y"], before)


def test_entropy_is_counted_over_all_chunks(monkeypatch):
    codes = np.repeat(np.arange(-3, 5, dtype=np.int8), 1000)
    assert compressed.entropy(codes) == pytest.approx(3)
    monkeypatch.setattr(compressed, "CHUNK_BYTES", 700)
    assert compressed.entropy(codes) == pytest.approx(3)


def test_an_array_that_cannot_be_written_to_is_shared_with_tensorflow():
    value = normal(300, 300)
    shared = write_module._tensor(fixed := frozen_copy(value))
    assert shared.numpy().tobytes() == value.tobytes()
    assert np.from_dlpack(shared).ctypes.data == fixed.ctypes.data
    assert not fixed.flags.writeable


def frozen_copy(value):
    copy = aligned(value.shape, value.dtype)
    copy[...] = value
    copy.flags.writeable = False
    return copy


def test_processes_that_are_started_keep_tensorflow_s_own_allocator(monkeypatch):
    monkeypatch.delenv(freed_memory._SETTING, raising=False)
    freed_memory.give_back_freed_memory.__wrapped__()
    assert freed_memory._SETTING not in freed_memory.os.environ
    monkeypatch.setenv(freed_memory._SETTING, "false")
    freed_memory.give_back_freed_memory.__wrapped__()
    assert freed_memory.os.environ[freed_memory._SETTING] == "false"
