"""A bundle as a TFLite model: the same signatures and answers, for TFLite's interpreter and for TensorFlow Serving."""

import shutil

import keras
import numpy as np
import pytest
import tensorflow as tf
from tensorflow.core.protobuf import meta_graph_pb2

from tests.keras_models import exported
from tests.saved_models import GUESSLANG, normal, save_v1, save_v2, served, tf1
from tfslim_core import api, storage
from tfslim_core._tf_private import lite_schema
from tfslim_core.bundle import read_bundle
from tfslim_core.errors import DataError, ModelError, UsageError
from tfslim_core.saved_model.fresh_process import ModelProcess, Request, answers
from tfslim_core.saved_model.served_signatures import Signature, TensorSpec
from tfslim_core.served import open_served, signatures_of
from tfslim_core.tflite import reexport
from tfslim_core.tflite.converter import convert, explained
from tfslim_core.tflite.interpreter import LiteModel
from tfslim_core.tflite.reexport import check_interface, write_tflite
from tfslim_core.tflite.signatures import read_lite_signatures, served_signature_defs
from tfslim_core.validation.job import validate


class Words(tf.Module):
    """Strings through a table; two signatures that differ."""

    def __init__(self):
        super().__init__()
        keys = tf.constant(["a", "b\0c", "é"])
        self.table = tf.lookup.StaticHashTable(
            tf.lookup.KeyValueTensorInitializer(keys, tf.constant([1, 2, 3], tf.int64)), 0
        )
        self.rows = tf.Variable(normal(4, 8))

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string)])
    def rows_of(self, words):
        return {"rows": tf.gather(self.rows, self.table.lookup(words)), "count": tf.size(words)}

    @tf.function(input_signature=[tf.TensorSpec([None, 8], tf.float32)])
    def score(self, x):
        return {"scores": tf.nn.softmax(x @ tf.transpose(self.rows))}


def quiet(*_):
    pass


@pytest.fixture(scope="module")
def dense(tmp_path_factory):
    """A Keras classifier: bundle, original, and its TFLite models by how they are quantized."""
    folder = tmp_path_factory.mktemp("dense")
    keras.utils.set_random_seed(3)
    layers = [keras.layers.Input((40,), name="x"), keras.layers.Dense(96, activation="tanh"), keras.layers.Dense(7)]
    original = exported(keras.Sequential(layers), folder / "original")
    api.freeze(original, folder / "bundle")
    np.savez(folder / "data.npz", x=normal(70, 40, seed=5))
    reports = {
        kind: api.reexport(
            folder / "bundle",
            folder / kind,
            format="tflite",
            tflite_quantize=kind,
            data={"data": str(folder / "data.npz")} if kind == "int8" else None,
        )
        for kind in ("none", "dynamic", "int8")
    }
    return folder, reports


@pytest.fixture(scope="module")
def words(tmp_path_factory):
    folder = tmp_path_factory.mktemp("words")
    module = Words()
    save_v2(folder / "original", module, serving_default=module.rows_of, score=module.score)
    (folder / "original/assets.extra").mkdir()
    (folder / "original/assets.extra/tf_serving_warmup_requests").write_bytes(b"")
    (folder / "original/assets.extra/notes.txt").write_text("kept")
    api.freeze(folder / "original", folder / "bundle")
    return folder, api.reexport(folder / "bundle", folder / "lite", format="tflite")


def test_the_answers_are_the_original_s_for_batches_of_any_size(dense):
    folder, reports = dense
    assert max(reports["none"].errors.values()) < 1e-5
    with LiteModel(folder / "none") as lite:
        for batch in (1, 5, 3, 1):
            feeds = {"x": normal(batch, 40, seed=batch)}
            for name in ("serve", "serving_default"):
                wanted = served(folder / "original", [(name, feeds)])[0]["output_0"]
                np.testing.assert_allclose(lite.run(name, feeds)["output_0"], wanted, atol=1e-5)


def test_the_public_interpreter_reads_the_file_that_was_described_anew(dense):
    folder, _ = dense
    feeds = {"x": normal(2, 40)}
    wanted = served(folder / "original", [("serving_default", feeds)])[0]["output_0"]
    for kind, close in (("none", 1e-5), ("dynamic", 0.2), ("int8", 0.2)):
        runner = tf.lite.Interpreter(str(folder / kind / "model.tflite")).get_signature_runner("serving_default")
        np.testing.assert_allclose(runner(**feeds)["output_0"], wanted, atol=close)
        assert np.ptp(wanted) > 1


def test_quantized_ones_are_smaller_and_say_how_far_off_they_are(dense):
    folder, reports = dense
    sizes = {kind: (folder / kind / "model.tflite").stat().st_size for kind in reports}
    assert sizes["dynamic"] < 0.6 * sizes["none"] > sizes["int8"]
    for kind in ("dynamic", "int8"):
        assert 1e-5 < max(reports[kind].errors.values()) < 0.1
    assert any("XNNPACK computes" in note for note in reports["none"].notes)


def test_signatures_that_are_one_are_converted_once_and_both_reached_by_tensorflow_serving(dense):
    folder, _ = dense
    found = read_lite_signatures(folder / "none/model.tflite")
    assert {name: one.subgraph for name, one in found.items()} == {"serve": 0, "serving_default": 0}
    told = served_signature_defs(folder / "none/model.tflite")
    assert set(told) == {"serve", "serving_default"}
    for definition in told.values():
        assert definition.method_name == "tensorflow/serving/predict"
        assert [dim.size for dim in definition.inputs["x"].tensor_shape.dim] == [-1, 40]
        # As the server does: it cuts what it reads at the first zero byte.
        again = meta_graph_pb2.SignatureDef.FromString(definition.SerializeToString().split(b"\0")[0])
        assert again == definition
        graph = lite_schema().Model.GetRootAs((folder / "none/model.tflite").read_bytes(), 0).Subgraphs(0)
        tensors = {graph.Tensors(i).Name().decode() for i in [*graph.InputsAsNumpy(), *graph.OutputsAsNumpy()]}
        assert {info.name for info in [*definition.inputs.values(), *definition.outputs.values()]} <= tensors


def test_weights_lie_where_kernels_want_them(dense):
    data = (dense[0] / "none/model.tflite").read_bytes()
    model = lite_schema().Model.GetRootAs(data, 0)
    lengths = 0
    for i in range(model.BuffersLength()):
        buffer = model.Buffers(i)
        if buffer.DataLength() > 1000:
            array = buffer.DataAsNumpy()
            start = array.__array_interface__["data"][0] - np.frombuffer(data, np.uint8).__array_interface__["data"][0]
            assert start % 16 == 0
            lengths += len(array)
    assert lengths > 40 * 96 * 4


def test_strings_a_table_a_scalar_and_two_signatures_come_through(words):
    folder, report = words
    with LiteModel(folder / "lite") as lite:
        for asked in ([b"a", b"b\0c", b""], ["é", "nothing"]):
            feeds = {"words": np.array(asked, object)}
            wanted = served(folder / "original", [("serving_default", feeds)])[0]
            found = lite.run("serving_default", feeds)
            assert np.array_equal(found["rows"], wanted["rows"])
            assert found["count"] == wanted["count"] == len(asked)
        feeds = {"x": normal(3, 8)}
        wanted = served(folder / "original", [("score", feeds)])[0]["scores"]
        np.testing.assert_allclose(lite.run("score", feeds)["scores"], wanted, atol=1e-6)
    assert report.errors.keys() == {"serving_default/rows", "serving_default/count", "score/scores"}


def test_what_tensorflow_serving_cannot_reach_is_said(words):
    folder, report = words
    assert any("reaches serving_default of this file, not score" in note for note in report.notes)
    definition = served_signature_defs(folder / "lite/model.tflite")
    assert set(definition) == {"serving_default"}
    assert b"\0" not in definition["serving_default"].SerializeToString()  # a scalar's shape would be one
    assert (folder / "lite/assets.extra/notes.txt").read_text() == "kept"
    assert not (folder / "lite/assets.extra/tf_serving_warmup_requests").exists()
    assert any("warmup" in note and "left out" in note for note in report.notes)


def test_an_op_without_a_kernel_is_named_with_its_node_and_nothing_is_left(tmp_path):
    def build():
        x = tf1.placeholder(tf.string, [None], "x")
        return {"serving_default": ({"x": x}, {"y": tf1.strings.to_hash_bucket_fast(x, 10, name="bucket")})}

    api.freeze(save_v1(tmp_path / "original", build), tmp_path / "bundle")
    with pytest.raises(
        ModelError, match=r"^TFLite has no kernel for StringToHashBucketFast of .*node 'bucket'"
    ) as told:
        api.reexport(tmp_path / "bundle", tmp_path / "lite", format="tflite")
    assert "\n" not in str(told.value)
    assert "serve the SavedModel" in str(told.value)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bundle", "original"]


def test_a_refusal_that_is_not_about_kernels_is_one_line_too(tmp_path):
    if not GUESSLANG.exists():
        pytest.skip("the models of the tests are not there")
    api.freeze(GUESSLANG, tmp_path / "bundle")
    with pytest.raises(ModelError, match=r"refuses the model: TensorListReserve \(node 'map/TensorArray.*1-bit"):
        api.reexport(tmp_path / "bundle", tmp_path / "lite", format="tflite")


def test_words_of_the_converter_that_nobody_knows_yet_are_shortened():
    assert explained("RuntimeError: " + "strange\n" * 200).count("\n") == 0
    assert len(explained("x" * 5000)) < 500


def test_a_converter_that_dies_is_told_of(tmp_path):
    with pytest.raises(ModelError, match=r"TFLite's converter ended with exit code 1: .*nothing here"):
        convert(tmp_path / "nothing here", tmp_path / "out.tflite", ["serve"], ["serving_default"])


def test_sparse_inputs_and_lost_defaults_are_refused_or_told(tmp_path):
    def build():
        sparse = tf1.sparse_placeholder(tf.float32, [None, 4], "s")
        return {"serving_default": ({"s": sparse}, {"y": tf1.sparse_tensor_to_dense(sparse)})}

    api.freeze(save_v1(tmp_path / "original", build), tmp_path / "bundle")
    with pytest.raises(ModelError, match="TFLite has no sparse or composite tensors, and the input 's' of signature"):
        api.reexport(tmp_path / "bundle", tmp_path / "lite", format="tflite")


def test_options_of_another_format_and_int8_without_data_are_usage_errors(dense, tmp_path):
    with pytest.raises(UsageError, match="for --format tflite"):
        api.reexport(dense[0] / "bundle", tmp_path / "out", tflite_quantize="dynamic")
    with pytest.raises(UsageError, match="give --data"):
        api.reexport(dense[0] / "bundle", tmp_path / "out", format="tflite", tflite_quantize="int8")


def test_int8_wants_requests_for_each_signature(words, tmp_path):
    given = {"score": [{"x": normal(1, 8)}]}
    with pytest.raises(ModelError, match=r"int8 needs requests for each signature.* none for serving_default"):
        write_tflite(read_bundle(words[0] / "bundle"), tmp_path, "int8", given, quiet)


def test_what_no_file_can_hold_is_refused_at_once(dense, tmp_path, monkeypatch):
    monkeypatch.setattr(reexport, "MOST_BYTES", 10_000)  # of 18,048
    with pytest.raises(ModelError, match=r"the weights take 1\d,\d+ bytes, and a TFLite file holds"):
        write_tflite(read_bundle(dense[0] / "bundle"), tmp_path, "none", {}, quiet)
    assert not list(tmp_path.iterdir())


def test_an_interface_that_changed_is_refused(dense, words):
    before, after = (signatures_of(folder / "original") for folder, _ in (dense, words))
    with pytest.raises(ModelError, match="made the signatures"):
        check_interface(before, after)
    wanted = {"serving_default": before["serving_default"]}
    with pytest.raises(ModelError, match=r"made string \[\?\] of the input 'words' .* is nothing"):
        check_interface(wanted, {"serving_default": after["serving_default"]})


def test_an_output_s_size_is_no_news_where_requests_have_one_size_alone():
    def signature(rows, scored):
        x, y = (TensorSpec(name, np.dtype(np.float32), (size, 4)) for name, size in (("x", rows), ("y", scored)))
        return {"serving_default": Signature("serving_default", "predict", {"x": x}, {"y": y})}

    check_interface(signature(1, None), signature(1, 1))
    check_interface(signature(None, None), signature(None, None))
    with pytest.raises(ModelError, match=r"float32 \[1, 4\] of the output 'y'"):
        check_interface(signature(None, None), signature(None, 1))


def test_a_damaged_file_is_one_line(dense, tmp_path):
    data = (dense[0] / "none/model.tflite").read_bytes()
    for size in (0, 6, 100, 2000, len(data) // 2):
        (tmp_path / "cut.tflite").write_bytes(data[:size])
        with pytest.raises(ModelError, match=r"damaged|not a TFLite model"):
            LiteModel(tmp_path / "cut.tflite")


def test_requests_that_do_not_fit_are_data_errors(dense):
    with LiteModel(dense[0] / "none") as lite:
        with pytest.raises(DataError, match="takes 'x' as"):
            lite.run("serving_default", {"x": normal(2, 41)})
        with pytest.raises(DataError, match="takes the inputs: x"):
            lite.run("serving_default", {"y": normal(2, 40)})
        with pytest.raises(ModelError, match="did you mean 'serving_default'"):
            lite.run("serving_defaul", {"x": normal(2, 40)})
        lite.close()
        with pytest.raises(ModelError, match="was closed"):
            lite.run("serving_default", {"x": normal(2, 40)})


def test_a_file_without_signatures_is_served_as_tensorflow_serving_takes_it(tmp_path):
    module = Words()
    converter = tf.lite.TFLiteConverter.from_concrete_functions([module.score.get_concrete_function()], module)
    (tmp_path / "bare.tflite").write_bytes(converter.convert())
    with open_served(tmp_path / "bare.tflite") as lite:
        ((name, signature),) = lite.signatures.items()
        assert name == "serving_default"
        (answer,) = lite.run(name, {next(iter(signature.inputs)): normal(2, 8)}).values()
        assert answer.shape == (2, 4)


def test_a_process_of_its_own_answers_and_measures(dense):
    folder, _ = dense
    request = Request("serving_default", {"x": normal(4, 40)})
    (found,) = answers(folder / "none/model.tflite", [request])
    np.testing.assert_allclose(
        found["output_0"], served(folder / "original", [("serving_default", request.feeds)])[0]["output_0"], atol=1e-5
    )
    with ModelProcess(folder / "none", [request], threads=1) as process:
        assert len(process.time(0, 3)) == 3
        assert 0 < process.load_seconds < 5
        assert process.peak_rss_bytes() < 200e6


def test_validate_takes_it_as_the_optimized_model_as_directory_or_file(dense, tmp_path):
    folder, _ = dense
    verdicts = []
    for name in ("none", "none/model.tflite"):
        out = tmp_path / name.replace("/", "-")
        out.mkdir()
        found = validate(
            *(folder / "original", folder / name, {"data": str(folder / "data.npz")}),
            out=out,
            gates=["top1_agreement>=1", "rel_l2_error<=0.0001"],
            batch_size=32,  # and 6 that are left
            measure_costs=name == "none",
        )
        verdicts.append(found.verdict)
        assert found.verdict.verdict == "pass", found.verdict.reasons
        assert found.verdict.datasets["data"].examples == 70
    first, second = verdicts
    assert first.models.optimized.bytes == (folder / "none/model.tflite").stat().st_size
    assert first.models.optimized.digest == second.models.optimized.digest == storage.digest(folder / "none")
    latency = first.datasets["data"].latency_ms
    assert set(latency.original) == set(latency.optimized) == {"1", "32"}
    assert first.models.optimized.load_seconds
    api.publish(folder / "none", tmp_path / "base", verdict=tmp_path / "none/verdict.json")
    assert (tmp_path / "base/1/model.tflite").is_file()


def test_validate_says_what_a_tflite_model_lacks(dense, words, tmp_path):
    with pytest.raises(ModelError, match=r"takes|inputs x|has the inputs"):
        validate(dense[0] / "original", words[0] / "lite", {"data": str(dense[0] / "data.npz")}, out=tmp_path)


def test_a_directory_with_both_is_the_saved_model(dense, tmp_path):
    shutil.copytree(dense[0] / "original", tmp_path / "both")
    shutil.copy(dense[0] / "dynamic/model.tflite", tmp_path / "both")
    assert type(open_served(tmp_path / "both")).__name__ == "ServedModel"
    assert type(open_served(tmp_path / "both/model.tflite")).__name__ == "LiteModel"
