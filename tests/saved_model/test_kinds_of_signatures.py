"""Composite tensors, defaults and methods of signatures come through all stages, and the stages check them."""

import numpy as np
import pytest
import tensorflow as tf

from tests.saved_models import (
    assert_alike,
    in_python,
    in_session,
    interface,
    meta_graph,
    normal,
    save_v1,
    save_v2,
    served,
    tf1,
)
from tfslim_core import api
from tfslim_core.saved_model.composite_inputs import Ragged, Sparse, composites
from tfslim_core.saved_model.served_signatures import read_signatures

SPARSE = {
    "indices": np.array([[0, 1], [1, 3]]),
    "values": np.array([5, 6], np.float32),
    "dense_shape": np.array([2, 4]),
}


class Composite(tf.Module):
    def __init__(self):
        super().__init__()
        self.weight = tf.Variable(normal(1, 6000))

    @tf.function(
        input_signature=[
            tf.RaggedTensorSpec([None, None], tf.float32, 1),
            tf.SparseTensorSpec([None, 4], tf.float32),
        ]
    )
    def both(self, r, s):
        totals = tf.sparse.reduce_sum(s, axis=1, keepdims=True)
        return {
            "rows": tf.reduce_sum(r, 1),
            "r": r * 2,
            "s": tf.sparse.map_values(tf.multiply, s, 3.0),
            "wide": tf.reshape(totals, [-1, 1]) @ self.weight,
        }


class Defaults(tf.Module):
    def __init__(self):
        super().__init__()
        self.weight = tf.Variable(normal(4, 6000))

    @tf.function(
        input_signature=[
            tf.TensorSpec([None, 4], tf.float32),
            tf.TensorSpec([], tf.float32),
            tf.TensorSpec([None], tf.string),
        ]
    )
    def scaled(self, x, scale=tf.constant(2.0), names=tf.constant(["a", "bcd"])):  # noqa: B008
        return {"y": (x @ self.weight) * scale, "lengths": tf.strings.length(names)}


def through_all_stages(original, folder, encoding="float16"):
    """The servable, and the reports of the stages."""
    reports = [
        api.freeze(original, folder / "frozen"),
        api.transform(folder / "frozen", folder / "transformed"),
        api.quantize(folder / "transformed", folder / "quantized", encoding=encoding),
        api.reexport(folder / "quantized", folder / "slim"),
    ]
    return folder / "slim", reports


def assert_checked(reports, *outputs):
    """Every stage but the last, which has nothing to compare with, compared these outputs."""
    for report in reports:
        assert not [note for note in report.notes if "not checked" in note]
    for report in reports[:-1]:
        assert set(outputs) <= set(report.errors)


def test_ragged_and_sparse_tensors_of_tensorflow_2(tmp_path):
    module = Composite()
    original = save_v2(tmp_path / "original", module, serving_default=module.both)
    slim, reports = through_all_stages(original, tmp_path)
    kinds = {
        k: info.WhichOneof("encoding") for k, info in meta_graph(slim).signature_def["serving_default"].outputs.items()
    }
    assert kinds == {"r": "composite_tensor", "s": "coo_sparse", "rows": "name", "wide": "name"}
    assert interface(slim) == interface(original)
    parts = ["r/component_0", "r/component_1", "s/values", "s/indices", "s/dense_shape", "rows", "wide"]
    assert_checked(reports, *(f"serving_default/{part}" for part in parts))
    feeds = {"r": normal(5), "r_1": np.array([0, 2, 2, 5]), "s": SPARSE["indices"], "s_1": SPARSE["values"]}
    request = [("serving_default", feeds | {"s_2": SPARSE["dense_shape"]})]
    assert_alike(served(original, request), served(slim, request), rtol=1e-2, atol=1e-3)
    before, after = (
        tf.saved_model.load(str(path)).signatures["serving_default"](
            **{k: tf.constant(v) for k, v in request[0][1].items()}
        )
        for path in (original, slim)
    )
    assert after["r"].to_list() == before["r"].to_list()
    assert after["s"].values.numpy().tolist() == [15, 18]


def test_sparse_tensors_of_tensorflow_1(tmp_path):
    def build():
        s = tf1.sparse_placeholder(tf.float32, [None, 4], name="s")
        weight = tf1.get_variable("w", initializer=normal(4, 6000))
        doubled = tf.SparseTensor(s.indices, s.values * 2, s.dense_shape)
        product = tf1.sparse.sparse_dense_matmul(s, weight)
        return {"serving_default": ({"s": s}, {"product": product, "doubled": doubled, "s": s})}

    original = save_v1(tmp_path / "original", build)
    slim, reports = through_all_stages(original, tmp_path)
    assert interface(slim) == interface(original)
    assert meta_graph(slim).signature_def["serving_default"].inputs["s"].WhichOneof("encoding") == "coo_sparse"
    assert_checked(reports, "serving_default/product", "serving_default/doubled/values", "serving_default/s/indices")
    request = [("serving_default", {f"s/{part}": value for part, value in SPARSE.items()})]
    assert_alike(served(original, request), served(slim, request), rtol=1e-2, atol=1e-2)
    answers = []
    for path in (original, slim):
        with tf1.Session(graph=tf1.Graph()) as session:
            signature = tf1.saved_model.load(session, ["serve"], str(path)).signature_def["serving_default"]
            fed, got = (info.coo_sparse for info in (signature.inputs["s"], signature.outputs["doubled"]))
            feeds = {getattr(fed, f"{part}_tensor_name"): value for part, value in SPARSE.items()}
            answers.append(session.run([got.values_tensor_name, got.indices_tensor_name], feeds))
    for before, after in zip(*answers, strict=True):
        assert after.tolist() == before.tolist()


def test_defaults_of_inputs(tmp_path):
    module = Defaults()
    original = save_v2(tmp_path / "original", module, serving_default=module.scaled)
    slim, reports = through_all_stages(original, tmp_path)
    before, after = (meta_graph(path).signature_def["serving_default"].defaults for path in (original, slim))
    assert set(after) == {"scale", "names"}
    assert dict(after) == dict(before)
    assert interface(slim) == interface(original)
    assert_checked(reports, "serving_default/y", "serving_default/lengths")
    x = normal(3, 4)
    asked = [{"x": x}, {"x": x, "scale": np.float32(-1)}, {"x": x, "names": np.array([b"one"], object)}]
    requests = [("serving_default", feeds) for feeds in asked]
    found = served(slim, requests)
    assert_alike(served(original, requests), found, rtol=1e-2, atol=1e-2)
    assert [answer["lengths"].tolist() for answer in found] == [[1, 3], [1, 3], [3]]
    np.testing.assert_allclose(found[0]["y"], -2 * found[1]["y"], rtol=1e-5)
    whole = [("serving_default", {**asked[1], **asked[2]})]
    assert_alike(served(original, whole), in_python(slim, whole), rtol=1e-2, atol=1e-2)


def test_classify_and_regress_take_examples(tmp_path):
    def build():
        examples = tf1.placeholder(tf.string, [None], "examples")
        parsed = tf1.parse_example(examples, {"x": tf1.FixedLenFeature([3], tf.float32, [1.0, 2.0, 3.0])})["x"]
        weight = tf1.get_variable("w", initializer=normal(3, 6000))
        scores = tf.nn.softmax(tf.matmul(parsed, weight))
        names = tf.tile([[str(i) for i in range(6000)]], [tf.shape(examples)[0], 1])
        return {
            "serving_default": ({"inputs": examples}, {"classes": names, "scores": scores}),
            "regression": ({"inputs": examples}, {"outputs": scores[:, :1]}),
            "predict": ({"examples": examples}, {"scores": scores}),
        }

    methods = {"serving_default": "tensorflow/serving/classify", "regression": "tensorflow/serving/regress"}
    original = save_v1(tmp_path / "original", build, methods=methods)
    slim, reports = through_all_stages(original, tmp_path)
    definitions = meta_graph(slim).signature_def
    assert {name: definitions[name].method_name.rpartition("/")[2] for name in definitions} == {
        "serving_default": "classify",
        "regression": "regress",
        "predict": "predict",
    }
    assert interface(slim) == interface(original)
    assert_checked(reports, "serving_default/scores", "serving_default/classes", "regression/outputs")
    values = tf.train.FloatList(value=[0.5, -1, 2])
    feature = {"x": tf.train.Feature(float_list=values)}
    example = tf.train.Example(features=tf.train.Features(feature=feature)).SerializeToString()
    batch = np.array([example, b""], object)
    requests = [
        ("serving_default", {"inputs": batch}),
        ("regression", {"inputs": batch}),
        ("predict", {"examples": batch}),
    ]
    wanted = served(original, requests)
    for loader in (served, in_session, in_python):
        assert_alike(wanted, loader(slim, requests), rtol=2e-2, atol=1e-4)


@pytest.mark.parametrize("batch", [1, 2, 5])
def test_parts_of_one_tensor_are_found_and_fit_each_other(tmp_path, batch):
    module = Composite()
    save_v2(tmp_path / "original", module, serving_default=module.both)
    inputs = read_signatures(tmp_path / "original")["serving_default"].inputs
    found = composites(inputs)
    assert found == [Ragged("r", "r_1"), Sparse("s", "s_1", "s_2")]
    rng = np.random.default_rng(0)
    ragged, sparse = (one.feeds(inputs, batch, 8, rng) for one in found)
    rows = tf.RaggedTensor.from_row_splits(ragged["r"], ragged["r_1"])
    assert rows.nrows() == batch
    dense = tf.sparse.to_dense(tf.SparseTensor(sparse["s"], sparse["s_1"], sparse["s_2"]))
    assert dense.shape[0] == batch
    assert not composites({"x": inputs["s_1"], "y": inputs["r"]})
