from __future__ import annotations

import gc
import os
import shutil
import subprocess
import sys
import threading
import weakref
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
import tensorflow as tf
from tensorflow.core.framework.types_pb2 import DataType

from tfslim_core.errors import DataError, ModelError
from tfslim_core.saved_model.c_api import numpy_dtype
from tfslim_core.saved_model.server_loader import ServedModel, TensorSpec, read_signatures

tf1 = tf.compat.v1
MODELS = Path(__file__).parents[2] / ".cache/models"
GUESSLANG = MODELS / "guesslang/data/model"
BASIC_PITCH = MODELS / "basic_pitch/saved_models/icassp_2022/nmp"


def save(path: Path, build, tags=("serve",)) -> str:
    """A v1 SavedModel of the signatures {name: (inputs, outputs)} that `build()` makes."""
    with tf1.Graph().as_default(), tf1.Session() as session:
        signatures = {
            name: tf1.saved_model.predict_signature_def(inputs, outputs) for name, (inputs, outputs) in build().items()
        }
        session.run(tf1.global_variables_initializer())
        builder = tf1.saved_model.Builder(str(path))
        builder.add_meta_graph_and_variables(session, list(tags), signatures)
        builder.save()
    return str(path)


def echo(dtype, shape):
    def build():
        x = tf1.placeholder(dtype, shape, name="x")
        return {"serving_default": ({"x": x}, {"y": tf.identity(x)})}

    return build


@pytest.fixture(scope="module")
def affine(tmp_path_factory) -> str:
    def build():
        x = tf1.placeholder(tf.float32, [None, 3], name="x")
        bias = tf1.placeholder_with_default(np.float32(1), [], name="bias")
        w = tf1.get_variable("w", initializer=np.arange(6, dtype=np.float32).reshape(3, 2))
        y = tf.matmul(x, w) + bias
        return {
            "serving_default": ({"x": x, "bias": bias}, {"y": y, "doubled": 2 * y}),
            "passed_on": ({"x": x}, {"x": x, "y": y}),
        }

    return save(tmp_path_factory.mktemp("model") / "affine", build)


def in_python(path: Path, signature: str, feeds: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    with tf1.Session(graph=tf1.Graph()) as session:
        wanted = tf1.saved_model.load(session, ["serve"], str(path)).signature_def[signature]
        fed = {wanted.inputs[key].name: value for key, value in feeds.items()}
        return session.run({key: info.name for key, info in wanted.outputs.items()}, fed)


@pytest.mark.parametrize(
    ("path", "feeds"),
    [
        (GUESSLANG, {"inputs": np.array([b"import os\nprint(os.getcwd())\n" * 9, b"#include <stdio.h>", b""], object)}),
        (BASIC_PITCH, {"input_2": np.random.default_rng(0).normal(size=(2, 43844, 1)).astype(np.float32)}),
    ],
    ids=["guesslang", "basic_pitch"],
)
def test_real_models_answer_as_in_a_python_session(path, feeds):
    expected = in_python(path, "serving_default", feeds)
    with ServedModel(path) as model:
        answer = model.run("serving_default", feeds)
    assert answer.keys() == expected.keys()
    for key, value in expected.items():
        assert answer[key].dtype == value.dtype
        assert answer[key].shape == value.shape
        if value.dtype == object:
            assert answer[key].tolist() == value.tolist()
        else:
            assert np.ptp(value) > 0
            np.testing.assert_allclose(answer[key], value, rtol=1e-5, atol=1e-6)


def test_signatures_are_read_without_loading(affine):
    signatures = read_signatures(affine)
    assert list(signatures) == ["passed_on", "serving_default"]
    served = signatures["serving_default"]
    assert served.method_name == "tensorflow/serving/predict"
    assert served.inputs == {
        "x": TensorSpec("x:0", np.dtype(np.float32), (None, 3)),
        "bias": TensorSpec("bias:0", np.dtype(np.float32), (), optional=True),
    }
    assert served.outputs["y"].shape == (None, 2)


def test_the_bookkeeping_of_tensorflow_2_is_no_signature(tmp_path):
    module = tf.Module()
    module.table = tf.lookup.StaticHashTable(tf.lookup.KeyValueTensorInitializer(["a"], [7]), -1)
    look = tf.function(module.table.lookup, input_signature=[tf.TensorSpec(None, tf.string, name="key")])
    tf.saved_model.save(module, str(tmp_path / "m"), signatures={"serving_default": look})
    with ServedModel(tmp_path / "m") as model:
        assert list(model.signatures) == ["serving_default"]
        assert model.signatures["serving_default"].inputs["key"].shape is None
        (values,) = model.run("serving_default", {"key": np.array([[b"a", b"b"]])}).values()
    assert values.tolist() == [[7, -1]]


def test_inputs_with_a_default_may_be_left_out(affine):
    x = np.ones((1, 3), np.float32)
    with ServedModel(affine) as model:
        assert model.run("serving_default", {"x": x}, ["y"])["y"].tolist() == [[7, 10]]
        assert model.run("serving_default", {"x": x, "bias": np.float32(0)})["y"].tolist() == [[6, 9]]


def test_defaults_kept_in_the_signature_are_fed(affine, tmp_path):
    path = shutil.copytree(affine, tmp_path / "m")
    proto = _read(path)
    value = tf.make_tensor_proto(np.ones((1, 3), np.float32))
    proto.meta_graphs[0].signature_def["serving_default"].defaults["x"].CopyFrom(value)
    (path / "saved_model.pb").write_bytes(proto.SerializeToString())
    with ServedModel(path) as model:
        assert model.signatures["serving_default"].inputs["x"].optional
        assert model.run("serving_default", {})["y"].tolist() == [[7, 10]]


def test_an_input_that_is_also_an_output_is_passed_on(affine):
    x = np.ones((1, 3), np.float32)
    with ServedModel(affine) as model:
        assert model.run("passed_on", {"x": x})["x"].tolist() == x.tolist()


@pytest.mark.parametrize("shape", [(), (0,), (3, 0, 2), (2, 3)], ids=str)
def test_numbers_of_every_dtype_pass_unchanged(tmp_path, shape):
    names = (
        "float16 bfloat16 float32 float64 complex64 complex128 bool int8 uint8 int16 uint16 int32 uint32 int64 uint64"
    )

    def build():
        xs = {name: tf1.placeholder(name, None, name=name) for name in names.split()}
        return {"serving_default": (xs, {name: tf.identity(x) for name, x in xs.items()})}

    values = np.arange(np.prod(shape, dtype=int)).reshape(shape) % 5
    feeds = {
        name: values.astype(ml_dtypes.bfloat16 if name == "bfloat16" else name)[..., ::-1]
        if shape
        else values.astype(ml_dtypes.bfloat16 if name == "bfloat16" else name)
        for name in names.split()
    }
    with ServedModel(save(tmp_path / "m", build)) as model:
        answer = model.run("serving_default", feeds)
    for name, fed in feeds.items():
        assert (answer[name].dtype, answer[name].shape) == (fed.dtype, shape)
        assert answer[name].tolist() == fed.tolist()


@pytest.mark.parametrize(
    "array", [np.array(b"one"), np.empty((0, 2), object), np.array([["ä\0", ""], [b"\0" * 22, b"z" * 23]], object)]
)
def test_strings_pass_unchanged(tmp_path, array):
    with ServedModel(save(tmp_path / "m", echo(tf.string, None))) as model:
        answer = model.run("serving_default", {"x": array})["y"]
    as_bytes = [value.encode() if isinstance(value, str) else value for value in array.reshape(-1).tolist()]
    assert answer.dtype == object
    assert answer.shape == array.shape
    assert answer.reshape(-1).tolist() == as_bytes


def test_dtypes_are_those_of_tensorflow():
    for name, number in DataType.items():
        if number < 100 and name not in ("DT_INVALID", "DT_RESOURCE", "DT_VARIANT", "DT_FLOAT4_E2M1FN"):
            ours = numpy_dtype(number)
            python = np.dtype(tf.as_dtype(number).as_numpy_dtype)
            quantized = python.fields is not None
            assert ours == (python[0] if quantized else python), name


def test_sparse_inputs_are_entries_by_part(tmp_path):
    def build():
        x = tf1.sparse_placeholder(tf.float32, [None, 4], name="x")
        return {"serving_default": ({"x": x}, {"y": tf1.sparse_tensor_to_dense(x)})}

    feeds = {
        "x/indices": np.array([[0, 1], [1, 3]]),
        "x/values": np.array([5, 6], np.float32),
        "x/dense_shape": np.array([2, 4]),
    }
    with ServedModel(save(tmp_path / "m", build)) as model:
        inputs = model.signatures["serving_default"].inputs
        assert {key: spec.shape for key, spec in inputs.items()} == {
            "x/dense_shape": (2,),
            "x/indices": (None, 2),
            "x/values": (None,),
        }
        answer = model.run("serving_default", feeds)
    assert answer["y"].tolist() == [[0, 5, 0, 0], [0, 0, 0, 6]]


@pytest.mark.parametrize(
    ("feeds", "message"),
    [
        ({}, "takes the inputs: bias (optional), x; it was fed: nothing"),
        ({"x": np.ones((1, 3), np.float32), "z": 1}, "takes the inputs: bias (optional), x; it was fed: x, z"),
        ({"x": np.ones((1, 3))}, "takes 'x' as float32; it was fed float64"),
        ({"x": np.array([b"a"])}, "takes 'x' as float32; it was fed strings"),
        ({"x": np.ones(3, np.float32)}, "takes 'x' with 2 dimensions [?, 3]; it was fed [3]"),
    ],
)
def test_feeds_that_do_not_fit_are_refused(affine, feeds, message):
    with ServedModel(affine) as model, pytest.raises(DataError) as refused:
        model.run("serving_default", feeds)
    assert str(refused.value).endswith(message)


def test_unknown_names_are_refused_with_the_known_ones(affine):
    with ServedModel(affine) as model:
        with pytest.raises(ModelError, match=r"no signature 'serving_defalt'; did you mean 'serving_default'\?"):
            model.run("serving_defalt", {})
        with pytest.raises(DataError, match="gives the outputs: doubled, y; it was asked for: z"):
            model.run("serving_default", {"x": np.ones((1, 3), np.float32)}, ["z"])


def test_what_tensorflow_says_of_a_request_is_one_line(affine):
    with (
        ServedModel(affine) as model,
        pytest.raises(ModelError, match=r"cannot answer: .*Matrix size-incompatible") as told,
    ):
        model.run("serving_default", {"x": np.ones((1, 4), np.float32)})
    assert "\n" not in str(told.value)


def test_models_that_do_not_load_are_refused_in_one_line(affine, tmp_path):
    broken = {
        name: shutil.copytree(affine, tmp_path / name) for name in ("cut_pb", "cut_data", "no_data", "no_pb", "zeros")
    }
    pb, data = "saved_model.pb", "variables/variables.data-00000-of-00001"
    (broken["no_pb"] / pb).unlink()
    (broken["no_data"] / data).unlink()
    (broken["zeros"] / pb).write_bytes(b"")
    for path in (broken["cut_pb"] / pb, broken["cut_data"] / data):
        path.write_bytes(path.read_bytes()[:-9])
    expected = {
        "missing": "no such directory",
        "no_pb": "no saved_model.pb in it",
        "cut_pb": "saved_model.pb is damaged (it is cut off)",
        "zeros": "saved_model.pb is damaged",
        "cut_data": "TensorFlow's loader refuses it",
        "no_data": "TensorFlow's loader refuses it",
    }
    for name, message in expected.items():
        with pytest.raises(ModelError) as refused:
            ServedModel(tmp_path / name)
        assert message in str(refused.value), name
        assert str(tmp_path / name) in str(refused.value)
        assert "\n" not in str(refused.value)


def test_a_wrong_tag_set_is_told_with_those_there_are(tmp_path):
    path = save(tmp_path / "m", echo(tf.float32, []), tags=("serve", "gpu"))
    with pytest.raises(ModelError, match=r"no MetaGraph with the tags \{serve\}; it has: \{gpu,serve\}"):
        ServedModel(path)
    with ServedModel(path, ["gpu", "serve"], threads=1) as model:
        assert model.run("serving_default", {"x": np.float32(3)})["y"] == 3


def test_a_signature_that_names_no_tensor_is_refused(affine, tmp_path):
    for i, name in enumerate(("nowhere:0", "MatMul:7", "MatMul:x")):
        path = shutil.copytree(affine, tmp_path / str(i))
        proto = _read(path)
        proto.meta_graphs[0].signature_def["serving_default"].outputs["y"].name = name
        (path / "saved_model.pb").write_bytes(proto.SerializeToString())
        with ServedModel(path) as model, pytest.raises(ModelError, match=f"names the tensor '{name}'"):
            model.run("serving_default", {"x": np.ones((1, 3), np.float32)})


def test_time_gives_milliseconds_of_each_request(affine):
    with ServedModel(affine) as model:
        taken = model.time("serving_default", {"x": np.ones((1, 3), np.float32)}, 4)
    assert len(taken) == 4
    assert all(0 < one < 5000 for one in taken)


def test_threads_may_share_a_model_and_close_waits(affine):
    model = ServedModel(affine)
    wrong: list[object] = []

    def ask(number: int) -> None:
        for _ in range(100):
            y = model.run("serving_default", {"x": np.full((1, 3), number, np.float32)})["y"]
            if y.tolist() != [[6 * number + 1, 9 * number + 1]]:
                wrong.append(y)

    workers = [threading.Thread(target=ask, args=(number,)) for number in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    model.close()
    model.close()
    assert not wrong
    with pytest.raises(ModelError, match="was closed"):
        model.run("serving_default", {"x": np.ones((1, 3), np.float32)})


def test_a_model_may_be_referenced_weakly_and_is_freed(affine):
    model = ServedModel(affine)
    reference = weakref.ref(model)
    del model
    gc.collect()
    assert reference() is None


def test_ten_thousand_requests_leak_nothing(tmp_path):
    long = np.array([b"x" * 2000] * 8, object)
    with ServedModel(save(tmp_path / "m", echo(tf.string, [None]))) as model:
        for _ in range(500):
            model.run("serving_default", {"x": long})
        before = _rss()
        for _ in range(10_000):
            model.run("serving_default", {"x": long})
    # What one request holds, ten thousand times, would be 160 MB twice.
    assert _rss() - before < 10e6


def _rss() -> int:
    gc.collect()
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def test_the_python_package_is_neither_executed_nor_broken(affine):
    script = f"""
import sys
import numpy as np
from tfslim_core.saved_model.server_loader import ServedModel
with ServedModel({affine!r}, threads=1) as model:
    before = model.run("serving_default", {{"x": np.ones((1, 3), np.float32)}})
assert "tensorflow" not in sys.modules and "tensorflow.python" not in sys.modules
import tensorflow as tf
assert tf.add(1, 2).numpy() == 3
from tensorflow.core.protobuf import config_pb2, meta_graph_pb2
assert tf.compat.v1.ConfigProto is config_pb2.ConfigProto and tf.compat.v1.MetaGraphDef is meta_graph_pb2.MetaGraphDef
with ServedModel({affine!r}) as model:
    after = model.run("serving_default", {{"x": np.ones((1, 3), np.float32)}})
with tf.compat.v1.Session(graph=tf.Graph()) as session:
    tf.compat.v1.saved_model.load(session, ["serve"], {affine!r})
assert after["y"].tolist() == before["y"].tolist() == [[7, 10]]
print("fine")
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.stdout == "fine\n", done.stderr


def _read(path: Path):
    from tensorflow.core.protobuf.saved_model_pb2 import SavedModel

    return SavedModel.FromString((path / "saved_model.pb").read_bytes())
