"""Warm-up requests of a slim model: kept, made, replayed."""

import shutil

import numpy as np
import pytest
import tensorflow as tf
from tensorflow.core.framework import tensor_pb2

import tfslim_core
from tests.saved_models import normal, save_v1, served, slimmed
from tfslim_core import stages, storage
from tfslim_core.errors import DataError, ModelError
from tfslim_core.quantization.encode_weights import Choice
from tfslim_core.quantization.harm import NO_HARM
from tfslim_core.validation.messages import examples_log, predict_log
from tfslim_core.validation.readers import WARMUP_FILE
from tfslim_core.validation.tfrecord import frame, read_frames
from tfslim_core.warmup_requests import warmed
from tfslim_core.warmup_requests.replay import keep_fitting, replayed
from tfslim_core.warmup_requests.requests_file import requests_file, write_records

tf1 = tf.compat.v1
SESSION_RUN = bytes.fromhex("2a090a0712050a03783a30")  # as tensorflow-serving-api writes one
MULTI_INFERENCE = bytes.fromhex("22090a070a050a031a0163")


HUGE = tensor_pb2.TensorProto(
    dtype=1, float_val=[1.0], tensor_shape={"dim": [{"size": 2**20}, {"size": 2**20}]}
).SerializeToString()


def tensor(value):
    return tf.make_tensor_proto(value).SerializeToString()


def build():
    x, ids = tf1.placeholder(tf.float32, [None, 16], name="x"), tf1.placeholder(tf.int32, [None], name="ids")
    weights = tf1.get_variable("weights", initializer=normal(16, 512), use_resource=True)
    table = tf1.get_variable("table", initializer=normal(50, 16, seed=1), use_resource=True)
    return {
        "serving_default": ({"x": x}, {"y": tf.matmul(x, weights)}),
        "rows": ({"ids": ids}, {"row": tf.gather(table, ids)}),
    }


RECORDS = [
    predict_log("", {"x": tensor(normal(2, 16))}),
    predict_log("rows", {"ids": tensor(np.array([1, 2, 3], np.int32))}),
]
FAILS = predict_log("rows", {"ids": tensor(np.array([77], np.int32))})


def warm(model, *records):
    file = requests_file(model)
    file.unlink(missing_ok=True)
    file.parent.mkdir(exist_ok=True)
    file.write_bytes(b"".join(map(frame, records)))
    return model


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    return save_v1(tmp_path_factory.mktemp("model") / "original", build)


@pytest.fixture
def model(plain, tmp_path):
    shutil.copytree(plain, tmp_path / "original")
    return tmp_path / "original"


def slim_and_notes(model, folder, change=None, signatures=None, wanted=None):
    """A slim model whose requests were kept or made, and what is told of them."""
    slim = slimmed(model, folder / "made", change, signatures=signatures)
    return slim.path, warmed(slim.path, slim.bundle.manifest, wanted, lambda *_: None)


def in_int8(bundle):
    return stages.quantized(bundle, Choice("int8"), NO_HARM, lambda *_: None)


def test_requests_are_kept_byte_for_byte_and_replayed(model, tmp_path):
    slim, notes = slim_and_notes(warm(model, *RECORDS), tmp_path, in_int8)
    assert len(notes) == 1
    assert notes[0].startswith("2 warm-up requests replayed, off by at most 0.0")
    assert requests_file(slim).read_bytes() == requests_file(model).read_bytes()


def test_without_requests_nothing_is_said(model, tmp_path):
    assert slim_and_notes(model, tmp_path)[1] == []


def test_slim_makes_them_and_replays_them(model, tmp_path):
    np.savez(tmp_path / "data.npz", x=normal(100, 16))
    data = {"some": str(tmp_path / "data.npz")}
    report = tfslim_core.slim(warm(model, *RECORDS), tmp_path / "slim", data=data, warmup=6)
    notes = report.context.stages[-1].notes
    assert "that were there are replaced" in notes
    assert (
        "6 warm-up requests to 'serving_default' made, of 1 and 32 examples each; 6 warm-up requests replayed" in notes
    )
    with requests_file(report.path).open("rb") as file:
        assert len(list(read_frames(file))) == 6
    assert report.verdict.models.optimized.digest == storage.digest(report.path), "judged with the requests in it"


def test_reexport_keeps_them_or_makes_them(model, tmp_path):
    np.savez(tmp_path / "data.npz", ids=np.arange(40, dtype=np.int32))
    tfslim_core.freeze(warm(model, *RECORDS), tmp_path / "bundle")
    report = tfslim_core.reexport(tmp_path / "bundle", tmp_path / "kept")
    assert "2 warm-up requests replayed, with equal answers" in report.notes
    shutil.rmtree(model)
    asked = {"data": {"some": str(tmp_path / "data.npz")}, "signature": "rows"}
    report = tfslim_core.reexport(tmp_path / "bundle", tmp_path / "made", warmup=3, **asked)
    assert report.notes[-2:] == [
        "3 warm-up requests to 'rows' made, of 1 and 32 examples each",
        "3 warm-up requests replayed",
    ]
    with requests_file(report.path).open("rb") as file:
        assert len(list(read_frames(file))) == 3


def test_a_request_that_fails_on_the_result_alone_is_an_error(model, tmp_path):
    """The original as it would be if its table had 100 rows: the request is answered there and not by the result."""

    def larger():
        signatures = build()
        ids = tf1.placeholder(tf.int32, [None], name="more_ids")
        table = tf1.get_variable("more", initializer=normal(100, 16), use_resource=True)
        return {**signatures, "rows": ({"ids": ids}, {"row": tf.gather(table, ids)})}

    original = save_v1(tmp_path / "larger", larger)
    with pytest.raises(ModelError, match="warm-up request 2 to signature 'rows' fails on the result: "):
        replayed(warm(model, *RECORDS, FAILS), original, ["serve"])
    with pytest.raises(ModelError, match="the original is not at hand"):
        replayed(model, None, ["serve"])
    assert replayed(warm(model, *RECORDS), None, ["serve"]) == ["2 warm-up requests replayed"]


def test_an_answer_of_another_shape_is_an_error(model, tmp_path):
    def narrower():
        signatures = build()
        x = tf1.placeholder(tf.float32, [None, 16], name="other_x")
        return {**signatures, "serving_default": ({"x": x}, {"y": x * 2})}

    original = save_v1(tmp_path / "narrower", narrower)
    with pytest.raises(ModelError, match=r"warm-up request 0 .* another shape came out at 'y'"):
        replayed(warm(model, *RECORDS), original, ["serve"])


def test_a_request_that_fails_on_both_is_a_note(model, tmp_path):
    replay, failing = slim_and_notes(warm(model, FAILS, *RECORDS), tmp_path)[1]
    assert replay == "2 warm-up requests replayed, with equal answers"
    assert failing.startswith("1 warm-up request (number 0) failed, with the original too")


def test_requests_to_a_signature_that_was_not_kept_are_left_out(model, tmp_path):
    slim, (left, replay) = slim_and_notes(warm(model, *RECORDS), tmp_path, signatures=["rows"])
    assert left == "1 warm-up request to serving_default left out, which the result does not have"
    assert replay.startswith("1 warm-up request replayed")
    with requests_file(slim).open("rb") as file:
        assert list(read_frames(file)) == RECORDS[1:]
    assert served(slim, [("rows", {"ids": np.array([4], np.int32)})])[0]["row"].shape == (1, 16)


def test_where_none_is_left_the_file_goes(model):
    warm(model, predict_log("gone", {"x": tensor(1.0)}))
    assert keep_fitting(model, ["serve"]) == ["1 warm-up request to gone left out, which the result does not have"]
    assert not requests_file(model).exists()
    assert keep_fitting(model, ["serve"]) == []


def test_a_session_run_is_refused(model, tmp_path):
    with pytest.raises(ModelError, match="request 2 is a session_run_log; it names tensors of the graph"):
        slim_and_notes(warm(model, *RECORDS, SESSION_RUN), tmp_path)


@pytest.mark.parametrize(
    ("content", "note"),
    [
        (b"", "the file of warm-up requests is empty"),
        (b"no record", "is cut off"),
        (frame(RECORDS[0])[:-1], "is cut off"),
        (frame(RECORDS[0])[:-1] + b"x", "does not have its checksum"),
        (frame(b"\xff\xff") + frame(RECORDS[0]), "number 0: it is no PredictionLog"),
        (frame(b""), "number 0: it is no PredictionLog"),
        (frame(RECORDS[0]) + frame(MULTI_INFERENCE), "1: a PredictionLog with a multi_inference_log is not a request"),
        (frame(examples_log("classify_log", "rows", [b""])), "failed, with the original too"),
        (frame(predict_log("", {"wrong": tensor(1.0)})), "failed, with the original too"),
        (frame(predict_log("", {"x": tensor(np.zeros((2, 16)))})), "failed, with the original too"),
        (frame(predict_log("", {"x": b"\xff"})), "the PredictionLog is damaged"),
        (frame(predict_log("", {"x": HUGE})), "holds a tensor of 1,099,511,627,776 elements"),
        (
            frame(predict_log("", {"x": tensor_pb2.TensorProto(dtype=20).SerializeToString()})),
            "not replayed; the first, number 0",
        ),
    ],
    ids=range(13),
)
def test_a_file_that_no_server_takes_is_kept_and_said(model, content, note):
    file = requests_file(model)
    file.parent.mkdir()
    file.write_bytes(content)
    told = replayed(model, model, ["serve"])
    assert any(note in one for one in told), told
    assert file.read_bytes() == content


def test_more_than_a_server_takes_are_told_and_never_written(model, tmp_path):
    warm(model, *(RECORDS[1:] * 1001))
    told = replayed(model, model, ["serve"])
    assert told[0].startswith("there are more than 1,000 warm-up requests; a server loads no model")
    assert told[1] == "1000 warm-up requests replayed, with equal answers"
    with pytest.raises(DataError, match="1,001 warm-up requests are more than"):
        write_records(tmp_path / WARMUP_FILE, RECORDS[1:] * 1001)
    assert not (tmp_path / WARMUP_FILE).exists()
