"""What a path is, by what is in it: names and extensions are only asked where the content does not tell."""

from __future__ import annotations

import json
import os
import zipfile
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

import tensorflow as tf
from google.protobuf.text_format import ParseError
from tensorflow.core.protobuf import saved_model_pb2

from tfslim_core.bundle import is_bundle
from tfslim_core.errors import ModelError, nearest
from tfslim_core.importing.protos import read_graph_proto, text_kind

KNOWN = (
    "a SavedModel directory, a frozen graph (.pb, .pbtxt), a checkpoint with its .meta or a graph, "
    "or a Keras file (.keras, .h5)"
)
_HDF5 = b"\x89HDF\r\n\x1a\n"
_ZIP = b"PK\x03\x04"
_TABLE_END = bytes.fromhex("57fb808b247547db")  # of LevelDB's tables, which checkpoints are made of
_FOREIGN = {
    ".onnx": "an ONNX model",
    ".pt": "a PyTorch model",
    ".pth": "a PyTorch model",
    ".safetensors": "a safetensors file, weights without a graph",
    ".pkl": "a pickle, which is never opened",
    ".joblib": "a pickle, which is never opened",
}


class Kind(Enum):
    """A format, in words."""

    SAVED_MODEL = "SavedModel"
    BUNDLE = "bundle"
    GRAPH = "frozen GraphDef"
    META_GRAPH = "MetaGraphDef"
    CHECKPOINT = "checkpoint"
    KERAS = "Keras file"
    KERAS_HDF5 = "Keras HDF5 file"


@dataclass(frozen=True)
class Recognized:
    """path: the model's directory, its file, or a checkpoint's prefix, whose files are `prefix.index` and so on."""

    kind: Kind
    path: Path


def recognize(path: Path) -> Recognized:
    """Tell what a path names.

    A checkpoint is named by its prefix, its .index, .meta or a data file, its directory or the `checkpoint` file there.

    Raises:
        ModelError: it does not exist, or is nothing that can be opened; the line says what would be, or where it is.
    """
    if path.is_dir():
        return _directory(path)
    if path.is_file():
        try:
            return _file(path)
        except OSError as error:
            raise ModelError(f"{path}: cannot be read: {error.strerror}") from None
    if is_checkpoint(path):
        return Recognized(Kind.CHECKPOINT, path)
    siblings = [name for one in _listed(path.parent) for name in (one.name, _without_suffix(one).name)]
    what = f"; {path.parent} is not there either" if not path.parent.is_dir() else nearest(path.name, siblings)
    raise ModelError(f"{path}: no such directory, file or checkpoint{what}")


def is_checkpoint(prefix: Path) -> bool:
    """Whether there is an index, or a checkpoint of TensorFlow before 0.12, under this prefix."""
    return index_of(prefix).is_file() or (prefix.is_file() and _is_table(prefix)) or bool(_old_shards(prefix))


def index_of(prefix: Path) -> Path:
    """The file that lists a checkpoint's tensors."""
    return prefix.with_name(prefix.name + ".index")


def files_of(prefix: Path) -> list[Path]:
    """A checkpoint's files."""
    if index_of(prefix).is_file():
        return [
            index_of(prefix),
            *sorted(f for f in _listed(prefix.parent) if f.name.startswith(f"{prefix.name}.data-")),
        ]
    return [prefix] if prefix.is_file() else _old_shards(prefix)


def _old_shards(prefix: Path) -> list[Path]:
    return sorted(f for f in _listed(prefix.parent) if f.name.startswith(f"{prefix.name}-") and "-of-" in f.name)


def _listed(folder: Path) -> list[Path]:
    return sorted(folder.iterdir()) if folder.is_dir() else []


def _directory(path: Path) -> Recognized:
    # Whatever it is: what reads it tells what is wrong with a pipe, or a link out of the model.
    if any(os.path.lexists(path / name) for name in ("saved_model.pb", "saved_model.pbtxt")):
        return Recognized(Kind.SAVED_MODEL, path)
    if is_bundle(path):
        return Recognized(Kind.BUNDLE, path)
    if path.name == "variables" and any(path.parent.glob("saved_model.pb*")):
        raise ModelError(f"{path} is not a SavedModel but the variables of one: give {path.parent}")
    if (path / "checkpoint").is_file():
        return Recognized(Kind.CHECKPOINT, latest(path / "checkpoint"))
    prefixes = [one.with_suffix("") for one in _listed(path) if one.suffix == ".index"]
    if len(prefixes) == 1:
        return Recognized(Kind.CHECKPOINT, prefixes[0])
    if prefixes:
        names = ", ".join(prefix.name for prefix in prefixes)
        raise ModelError(
            f"{path} holds several checkpoints and no `checkpoint` file that says which: name one of {names}"
        )
    entries = _listed(path)
    if not entries:
        raise ModelError(f"{path} is not a SavedModel: it holds no saved_model.pb, nor anything else")
    below = [one.name for one in entries if any(one.glob("saved_model.pb*"))]
    if below:
        several = f", the highest of {len(below)}" if len(below) > 1 else ""
        best = max(below, key=lambda name: (int(name) if name.isdigit() else -1, name))
        raise ModelError(f"{path} is not a SavedModel, it holds one in {best}{several}: give {path / best}")
    files = [one.name for one in entries if one.suffix in (".pb", ".pbtxt", ".keras", ".h5", ".hdf5", ".meta")]
    hint = f"; did you mean {path / files[0]}?" if len(files) == 1 else f"; it holds {', '.join(files)}" * bool(files)
    raise ModelError(f"{path} is not a SavedModel: it holds no saved_model.pb{hint}")


def latest(state: Path) -> Path:
    """The checkpoint that a `checkpoint` file names.

    Raises:
        ModelError: it cannot be parsed, or that checkpoint is not there.
    """
    try:
        named = tf.train.get_checkpoint_state(str(state.parent), state.name)
    except (tf.errors.OpError, ParseError, UnicodeDecodeError, AssertionError, ValueError):
        named = None
    if named is None or not named.model_checkpoint_path:
        raise ModelError(f"{state} does not name a checkpoint; give a checkpoint's prefix instead")
    # It may have been written as an absolute path on another machine.
    wanted = Path(named.model_checkpoint_path)
    for prefix in (wanted, state.parent / wanted.name):
        if is_checkpoint(prefix) and prefix.resolve().is_relative_to(state.parent.resolve()):
            return state.parent / prefix.name if prefix.parent.resolve() == state.parent.resolve() else prefix
    raise ModelError(f"{state} names the checkpoint {wanted.name!r}, which is not beside it")


def _file(path: Path) -> Recognized:
    with path.open("rb") as file:
        head = file.read(4096)
    if not head:
        raise ModelError(f"{path} is an empty file")
    if path.name in ("saved_model.pb", "saved_model.pbtxt"):
        return Recognized(Kind.SAVED_MODEL, path.parent)
    if path.name == "checkpoint" and head.lstrip().startswith(b"model_checkpoint_path"):
        return Recognized(Kind.CHECKPOINT, latest(path))
    if path.name.endswith(".index") or ".data-" in path.name:
        prefix = path.with_name(path.name.removesuffix(".index").split(".data-")[0])
        if not index_of(prefix).is_file():
            raise ModelError(f"{path}: {index_of(prefix).name} is missing beside it, without which nothing can be read")
        return Recognized(Kind.CHECKPOINT, prefix)
    if head.startswith(_HDF5):
        return Recognized(Kind.KERAS_HDF5, path)
    if head.startswith(_ZIP):
        return _zip(path)
    if head[4:8] == b"TFL3":
        raise ModelError(
            f"{path} is a TensorFlow Lite model, which cannot be turned back; give the model it was made of"
        )
    if head.startswith(b"\x1f\x8b") or head[257:262] == b"ustar":
        raise ModelError(f"{path} is an archive: unpack it, and give what is in it")
    if head.lstrip().startswith(b"{"):
        raise ModelError(f"{path} is {_json(path)}; what can be opened: {KNOWN}")
    if path.suffix.lower() in _FOREIGN:
        raise ModelError(f"{path} is {_FOREIGN[path.suffix.lower()]}; what can be opened: {KNOWN}")
    if _is_table(path):
        return Recognized(Kind.CHECKPOINT, path)
    return _graph(path, head)


def _graph(path: Path, head: bytes) -> Recognized:
    try:
        proto = read_graph_proto(path)
    except ModelError:
        if text_kind(head) is not None or path.suffix in (".pb", ".pbtxt", ".meta"):
            raise
        raise ModelError(f"{path} is nothing that is known; what can be opened: {KNOWN}") from None
    if isinstance(proto, saved_model_pb2.SavedModel):
        raise ModelError(
            f"{path} is the saved_model.pb of a SavedModel under another name: put it back into its directory"
        )
    if isinstance(proto, tf.compat.v1.GraphDef):
        return Recognized(Kind.GRAPH, path)
    prefix = _without_suffix(path)
    if path.suffix == ".meta" and is_checkpoint(prefix):
        return Recognized(Kind.CHECKPOINT, prefix)
    return Recognized(Kind.META_GRAPH, path)


def _zip(path: Path) -> Recognized:
    try:
        with zipfile.ZipFile(path) as packed:
            names = packed.namelist()
    except (zipfile.BadZipFile, ValueError, NotImplementedError):
        raise ModelError(f"{path} is a damaged zip: it was cut off, or is no zip after all") from None
    if "config.json" in names:
        return Recognized(Kind.KERAS, path)
    inner = [name for name in names if name.endswith("saved_model.pb")]
    if inner:
        raise ModelError(
            f"{path} is a zip that holds a SavedModel in {Path(inner[0]).parent}: unpack it, and give that"
        )
    if any(name.endswith("data.pkl") for name in names):
        raise ModelError(f"{path} is {_FOREIGN['.pt']}; what can be opened: {KNOWN}")
    raise ModelError(f"{path} is a zip without a model that is known; what can be opened: {KNOWN}")


def _json(path: Path) -> str:
    try:
        found = json.loads(path.read_bytes())
    except (ValueError, RecursionError):
        return "text"
    if isinstance(found, dict) and found.get("format") in ("graph-model", "layers-model"):
        return "a TensorFlow.js model, which cannot be turned back"
    if isinstance(found, dict) and "class_name" in found and "config" in found:
        return "a Keras architecture without weights: save the model as .keras"
    return "JSON, no model"


def _is_table(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            file.seek(-8, 2)
            return file.read() == _TABLE_END
    except OSError:
        return False


def _without_suffix(path: Path) -> Path:
    """The prefix of a checkpoint's file."""
    return path.with_name(path.name.removesuffix(path.suffix) if path.suffix in (".meta", ".index") else path.name)
