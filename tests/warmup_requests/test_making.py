"""Warm-up requests made from a sample of the data."""

import json

import numpy as np
import pytest
import tensorflow as tf
from tensorflow.core.protobuf import meta_graph_pb2

import tfslim_core
from tests.saved_models import normal, save_v1, served
from tfslim_core import storage
from tfslim_core.errors import DataError, ModelError, TfslimError, UsageError
from tfslim_core.saved_model.fresh_process import Request
from tfslim_core.saved_model.served_signatures import read_signatures
from tfslim_core.validation.messages import parse_example, parse_prediction_log
from tfslim_core.validation.readers import WARMUP_FILE
from tfslim_core.validation.sources import open_dataset, records_of
from tfslim_core.validation.tfrecord import read_frames
from tfslim_core.warmup_requests import Wanted, making
from tfslim_core.warmup_requests.requests_file import write_records

tf1 = tf.compat.v1

# What tensorflow-serving-api 2.21 serializes for requests made with its own classes.
SERVING_API = {
    "predict": "32400a3e0a090a016d1a046c6f6f6b12110a0174120c08071204120208014202c3a4121b0a0178121608011208120208011202"
    "080222080000c03f000000c01a0179",
    "classify": "121e0a1c0a031a016312150a130a110a0f0a0d0a0161120812060a040000c03f",
    "regress in context": "1a290a27122512230a110a0f0a0d0a0161120812060a040000c03f120e0a0c0a0a0a016212051a030a0103",
}


def build():
    x = tf1.placeholder(tf.float32, [None, 16], name="x")
    ids = tf1.placeholder(tf.int32, [None, 3], name="ids")
    text = tf1.placeholder(tf.string, [None], name="text")
    examples = tf1.placeholder(tf.string, [None], name="examples")
    fixed = tf1.placeholder(tf.float32, [4, 16], name="fixed")
    sparse = tf1.sparse_placeholder(tf.float32, [None, 16], name="sparse")
    weights = tf1.get_variable("weights", initializer=normal(16, 64), use_resource=True)
    table = tf1.get_variable("table", initializer=normal(50, 16, seed=1), use_resource=True)
    features = tf.io.parse_example(examples, {"x": tf.io.FixedLenFeature([16], tf.float32)})["x"]
    return {
        "serving_default": (
            {"x": x, "ids": ids},
            {"y": tf.matmul(x + tf.reduce_sum(tf.gather(table, ids), 1), weights)},
        ),
        "spell": ({"text": text}, {"length": tf.strings.length(text)}),
        "classify": ({"inputs": examples}, {"scores": tf.matmul(features, weights)}),
        "shout": ({"inputs": text}, {"length": tf.strings.length(text)}),
        "fixed": ({"fixed": fixed}, {"y": tf.matmul(fixed, weights)}),
        "sparse": ({"sparse": sparse_info(sparse)}, {"sum": tf.sparse.reduce_sum(sparse, 1)}),
    }


def sparse_info(sparse):
    return tf1.saved_model.build_tensor_info(sparse)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    methods = {"classify": "tensorflow/serving/classify", "shout": "tensorflow/serving/classify"}
    return save_v1(tmp_path_factory.mktemp("model") / "original", build, methods=methods)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Files by the signature that they feed."""
    folder = tmp_path_factory.mktemp("data")
    rng = np.random.default_rng(0)
    np.savez(folder / "numbers.npz", x=normal(300, 16), ids=rng.integers(0, 50, (300, 3), np.int32))
    np.savez(folder / "fixed.npz", fixed=normal(30, 16))
    (folder / "text.jsonl").write_text("".join(json.dumps({"text": f"größe {n}"}) + "\n" for n in range(20)))
    (folder / "inputs.jsonl").write_text("".join(json.dumps({"inputs": f"größe {n}"}) + "\n" for n in range(20)))
    value = tf.train.Feature(float_list=tf.train.FloatList(value=[0.5] * 16))
    example = tf.train.Example(features=tf.train.Features(feature={"x": value})).SerializeToString()
    write_records(folder / "examples.tfrecord", [example] * 8)
    return {
        "serving_default": folder / "numbers.npz",
        "spell": folder / "text.jsonl",
        "classify": folder / "examples.tfrecord",
        "shout": folder / "inputs.jsonl",
        "fixed": folder / "fixed.npz",
    }


def made(model, out, data, signature, **options):
    """The requests in the file that was written, as (signature, inputs or examples)."""
    path = out / WARMUP_FILE
    report = tfslim_core.warmup(model, path, data={"some": str(data[signature])}, signature=signature, **options)
    with path.open("rb") as file:
        logs = [parse_prediction_log(log) for log in read_frames(file)]
    assert report.requests == len(logs)
    return logs


def test_half_of_the_requests_have_one_example_and_half_a_typical_batch(model, data, tmp_path):
    before = storage.digest(model)
    logs = made(model, tmp_path, data, "serving_default", count=16)
    assert [len(inputs["x"]) for _, inputs in logs] == [1, 32] * 8
    assert {signature for signature, _ in logs} == {"serving_default"}
    assert {key: (value.dtype, value.shape[1:]) for key, value in logs[0][1].items()} == {
        "x": (np.float32, (16,)),
        "ids": (np.int32, (3,)),
    }
    with np.load(data["serving_default"]) as rows:
        known = {row.tobytes(): number for number, row in enumerate(rows["x"])}
        for _, inputs in logs:
            for x, ids in zip(inputs["x"], inputs["ids"], strict=True):
                assert rows["ids"][known[x.tobytes()]].tolist() == ids.tolist()
    assert storage.digest(model) == before, "the model is left as it is"


def test_the_sample_is_drawn_by_the_seed(model, data, tmp_path):
    files = [tmp_path / name for name in "abc"]
    for path, seed in zip(files, (0, 0, 1), strict=True):
        tfslim_core.warmup(model, path, data={"some": str(data["serving_default"])}, count=4, seed=seed)
    first, again, other = (path.read_bytes() for path in files)
    assert first == again != other


def test_small_data_makes_as_many_requests_as_it_has_examples_for(model, data, tmp_path):
    logs = made(model, tmp_path, data, "spell", count=1000)
    sizes = sorted(len(inputs["text"]) for _, inputs in logs)
    assert sizes == [1] * 20 + [20]
    assert {text.decode() for _, inputs in logs for text in inputs["text"]} == {f"größe {n}" for n in range(20)}


def test_a_batch_of_a_fixed_size_is_kept_to(model, data, tmp_path):
    logs = made(model, tmp_path, data, "fixed")
    assert [inputs["fixed"].shape for _, inputs in logs] == [(4, 16)] * 7
    assert len({inputs["fixed"].tobytes() for _, inputs in logs}) == 7


def test_examples_for_a_classify_signature_are_a_classify_log(model, data, tmp_path):
    logs = made(model, tmp_path, data, "classify", count=3)
    assert all(isinstance(examples, list) for _, examples in logs)
    assert parse_example(logs[0][1][0])["x"] == [0.5] * 16


def test_texts_for_a_classify_signature_are_a_predict_log(model, data, tmp_path):
    """A ClassificationRequest holds tf.Examples; with anything else in it a server could not even parse the file."""
    logs = made(model, tmp_path, data, "shout", count=3)
    assert all(isinstance(inputs, dict) for _, inputs in logs)


def test_our_own_reader_takes_the_file_as_data(model, data, tmp_path):
    made(model, tmp_path, data, "serving_default", count=4)
    records = list(records_of(open_dataset("warm", str(tmp_path / WARMUP_FILE))))
    assert [record.rows for record in records] == [1, 32, 1, 32]
    assert {record.signature for record in records} == {"serving_default"}


def test_requests_stay_below_a_bound_in_bytes(model, data, tmp_path, monkeypatch):
    monkeypatch.setattr(making, "MOST_BYTES", 3000)
    made(model, tmp_path, data, "serving_default", count=100)
    assert 1000 < (tmp_path / WARMUP_FILE).stat().st_size < 6000


def test_requests_that_the_model_does_not_answer_are_left_out(model, tmp_path):
    ids = np.zeros((4, 3), np.int32)
    ids[1] = 1000  # not in the table
    np.savez(tmp_path / "data.npz", x=normal(4, 16), ids=ids)
    report = tfslim_core.warmup(model, tmp_path / "out", data={"some": str(tmp_path / "data.npz")})
    assert report.requests == 3
    assert "2 of the data's requests left out, which fail" in report.notes[0]
    np.savez(tmp_path / "bad.npz", x=normal(1, 16), ids=ids[1:2])
    with pytest.raises(DataError, match="answers none of 1 warm-up requests"):
        tfslim_core.warmup(model, tmp_path / "none", data={"some": str(tmp_path / "bad.npz")})
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"count": 1001}, UsageError, "1,001 warm-up requests: a server takes 1 to 1,000"),
        ({"count": 0}, UsageError, "0 warm-up requests"),
        ({"data": {}}, UsageError, "give --data"),
        ({"signature": "speak"}, ModelError, "no signature 'speak'"),
        ({"signature": "spell"}, DataError, "takes the keys: text"),
    ],
)
def test_what_cannot_be_made_is_refused(model, data, tmp_path, options, error, message):
    asked = {"data": {"some": str(data["serving_default"])}, **options}
    with pytest.raises(error, match=message):
        tfslim_core.warmup(model, tmp_path / "out", **asked)
    assert not (tmp_path / "out").exists()


def test_a_sparse_input_is_no_part_of_a_request(model):
    definition = meta_graph_pb2.SignatureDef(method_name="tensorflow/serving/predict")
    definition.inputs["sparse"].coo_sparse.SetInParent()
    with pytest.raises(ModelError, match="'sparse/values' is not a plain tensor"):
        making._log(Request("sparse", {"sparse/values": np.zeros(1, np.float32)}), definition)
    assert "sparse/values" in read_signatures(model)["sparse"].inputs


@pytest.mark.parametrize("kind", SERVING_API)
def test_what_servings_own_classes_write_is_read(kind):
    name, inputs = parse_prediction_log(bytes.fromhex(SERVING_API[kind]))
    if kind == "predict":
        assert (name, sorted(inputs)) == ("look", ["t", "x"])
        assert (inputs["x"].tolist(), inputs["t"].tolist()) == ([[1.5, -2.0]], ["ä".encode()])
    else:
        assert name == ("c" if kind == "classify" else "")
        assert parse_example(inputs[0]) == ({"a": [1.5]} if kind == "classify" else {"a": [1.5], "b": [3]})


def test_what_is_written_is_what_servings_own_classes_write():
    definition = meta_graph_pb2.SignatureDef()
    for key, dtype in (("x", tf.float32), ("t", tf.string)):
        definition.inputs[key].name = f"{key}:0"
        definition.inputs[key].dtype = dtype.as_datatype_enum
    feeds = {"x": np.array([[1.5, -2.0]], np.float32), "t": np.array(["ä"], object)}
    ours = making._log(Request("look", feeds), definition)
    theirs = bytes.fromhex(SERVING_API["predict"])
    # Without the model's name and the output filter of the recorded one.
    shorter = theirs[4:].replace(b"\x0a\x09\x0a\x01m\x1a\x04look", b"\x0a\x06\x1a\x04look").removesuffix(b"\x1a\x01y")
    assert ours == bytes([0x32, len(shorter) + 2, 0x0A, len(shorter)]) + shorter


def test_wanted_requests_need_data_and_data_needs_them():
    with pytest.raises(UsageError, match="give --warmup N too"):
        making.wanted_requests(None, {"some": "x.npz"}, None, 0)
    with pytest.raises(TfslimError, match="give --data"):
        making.wanted_requests(5, {}, None, 0)
    assert making.wanted_requests(None, {}, None, 0) is None
    assert making.wanted_requests(5, {"a": "b"}, "s", 3) == Wanted({"a": "b"}, 5, "s", 3)


def test_the_requests_are_answered(model, data, tmp_path):
    logs = made(model, tmp_path, data, "serving_default", count=2)
    answers = served(model, logs)
    assert [len(answer["y"]) for answer in answers] == [1, 32]
