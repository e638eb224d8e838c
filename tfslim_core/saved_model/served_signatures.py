"""A SavedModel's signatures, read from saved_model.pb without TensorFlow and without reading the weights in it."""

from __future__ import annotations

import importlib
import mmap
import os
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from tfslim_core.errors import ModelError
from tfslim_core.saved_model.c_api import numpy_dtype, wheel

# Numbers of fields in TensorFlow's saved_model.proto, meta_graph.proto, graph.proto and node_def.proto.
_META_GRAPHS = 2
_META_INFO, _GRAPH, _SIGNATURES = 1, 2, 5
_NODE = 1
_NODE_NAME, _NODE_OP = 1, 2

_importing = threading.Lock()


@dataclass(frozen=True)
class TensorSpec:
    """An input or output of a signature.

    name: as in the graph, "x:0". dtype: strings are object, with bytes elements; void where numpy has no such dtype
    (resources, variants, operations). shape: None for an unknown dimension, and for the whole where even the rank is
    unknown. optional: an input that has a default and need not be fed. whole: of the part that holds a sparse tensor's
    shape, what the signature says of that.
    """

    name: str
    dtype: np.dtype[Any]
    shape: tuple[int | None, ...] | None
    optional: bool = False
    whole: tuple[int | None, ...] | None = None


@dataclass(frozen=True)
class Signature:
    """One function that a model serves. A sparse or composite tensor is an entry per part: "key/values", …"""

    name: str
    method_name: str
    inputs: Mapping[str, TensorSpec]
    outputs: Mapping[str, TensorSpec]


@dataclass(frozen=True)
class ServedInterface:
    """What a request may ask of one MetaGraph.

    defaults: signature -> input key -> serialized TensorProto, which the server feeds when a request lacks the key.
    """

    signatures: Mapping[str, Signature]
    defaults: Mapping[str, Mapping[str, bytes]]


def read_signatures(path: str | os.PathLike[str], tags: Sequence[str] = ("serve",)) -> Mapping[str, Signature]:
    """The signatures of the MetaGraph with exactly these tags, without those that are TensorFlow's own bookkeeping.

    Raises:
        ModelError: see `read_interface`.
    """
    return read_interface(path, tags).signatures


def read_interface(path: str | os.PathLike[str], tags: Sequence[str]) -> ServedInterface:
    """The signatures of one MetaGraph and the values of inputs that may be left out.

    Raises:
        ModelError: there is no SavedModel, it is damaged, or no MetaGraph has exactly these tags.
    """
    found: list[list[str]] = []
    try:
        for meta_graph, graph in _meta_graphs(_serialized(Path(path))):
            found.append(sorted(meta_graph.meta_info_def.tags))
            if found[-1] == sorted(set(tags)):
                return _interface(meta_graph, graph)
    except OSError as error:
        raise ModelError(f"{path}: saved_model.pb cannot be read: {error.strerror}") from None
    except (ValueError, _decode_error()) as error:
        raise ModelError(f"{path}: saved_model.pb is damaged ({error}); export the model again") from None
    known = ", ".join("{" + ",".join(tag_set) + "}" for tag_set in found) or "none"
    asked = "{" + ",".join(tags) + "}"
    raise ModelError(f"{path} has no MetaGraph with the tags {asked}; it has: {known} (choose with --tags)")


def signatures_in(meta_graph: Any) -> Mapping[str, Signature]:
    """The same of a MetaGraphDef at hand."""
    return _interface(meta_graph, memoryview(meta_graph.graph_def.SerializeToString())).signatures


def proto_module(name: str) -> ModuleType:
    """`tensorflow.core.<name>`, e.g. "protobuf.meta_graph_pb2", without executing the `tensorflow` package."""
    return wheel_module(f"core.{name}")


def wheel_module(name: str) -> ModuleType:
    """`tensorflow.<name>` without executing the `tensorflow` package.

    While the module is imported an empty one stands in for `tensorflow`; it is gone when this returns, and a later
    `import tensorflow` is the real one. Another thread must not be at its first `import tensorflow` meanwhile.
    """
    name = f"tensorflow.{name}"
    with _importing:
        if name in sys.modules:
            return sys.modules[name]
        if "tensorflow" in sys.modules:
            return importlib.import_module(name)
        stand_in = ModuleType("tensorflow")
        stand_in.__path__ = [str(wheel())]
        sys.modules["tensorflow"] = stand_in
        try:
            return importlib.import_module(name)
        finally:
            if sys.modules.get("tensorflow") is stand_in:
                del sys.modules["tensorflow"]


def _serialized(path: Path) -> memoryview:
    """saved_model.pb, mapped: what is not looked at, such as weights in the graph, is not read from disk either."""
    if not path.is_dir():
        raise ModelError(f"{path}: no such directory; give the directory that holds saved_model.pb")
    if (path / "saved_model.pb").is_file():
        with (path / "saved_model.pb").open("rb") as file:
            return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
    if (path / "saved_model.pbtxt").is_file():
        text_format = importlib.import_module("google.protobuf.text_format")
        message = proto_module("protobuf.saved_model_pb2").SavedModel()
        try:
            text_format.Parse((path / "saved_model.pbtxt").read_bytes(), message)
        except text_format.ParseError as error:
            raise ValueError(str(error)) from None
        return memoryview(message.SerializeToString())
    raise ModelError(f"{path}: no saved_model.pb in it; give the directory of one version of a SavedModel")


def _meta_graphs(saved_model: memoryview) -> Iterator[tuple[Any, memoryview]]:
    """Each MetaGraphDef, with tags and signatures alone, and its serialized GraphDef."""
    meta_graph_def = proto_module("protobuf.meta_graph_pb2").MetaGraphDef
    for number, _, meta_graph in _fields(saved_model):
        if number == _META_GRAPHS:
            parts = list(_fields(meta_graph))
            light = b"".join(whole for number, whole, _ in parts if number in (_META_INFO, _SIGNATURES))
            graph = next((value for number, _, value in parts if number == _GRAPH), memoryview(b""))
            yield meta_graph_def.FromString(light), graph


def _fields(message: memoryview) -> Iterator[tuple[int, memoryview, memoryview]]:
    """(number, the field with its tag, its value) of each length-delimited field of a serialized message.

    Raises:
        ValueError: this is no message, or it is cut off.
    """
    at = 0
    while at < len(message):
        tag, start = _varint(message, at)
        if tag & 7 == 2:
            length, start = _varint(message, start)
            end = start + length
            if end > len(message):
                raise ValueError("it is cut off")
            yield tag >> 3, message[at:end], message[start:end]
        elif tag & 7 == 0:
            _, end = _varint(message, start)
        elif tag & 7 in (1, 5):
            end = start + (8 if tag & 7 == 1 else 4)
        else:
            raise ValueError("it is not a protocol buffer")
        at = end


def _varint(data: memoryview, at: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if at >= len(data):
            raise ValueError("it is cut off")
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
    raise ValueError("it is not a protocol buffer")


def _interface(meta_graph: Any, graph: memoryview) -> ServedInterface:
    served = {name: s for name, s in meta_graph.signature_def.items() if not name.startswith("__saved_model")}
    defaults = {
        name: {key: proto.SerializeToString() for key, proto in signature.defaults.items()}
        for name, signature in served.items()
    }
    inputs = {name: _specs(signature.inputs) for name, signature in served.items()}
    fed = {_node(spec.name) for specs in inputs.values() for spec in specs.values()}
    ops = _ops(graph, fed)
    signatures = {}
    for name in sorted(served):
        optional = {
            key
            for key, spec in inputs[name].items()
            if key in defaults[name] or ops.get(_node(spec.name)) == "PlaceholderWithDefault"
        }
        signatures[name] = Signature(
            name,
            served[name].method_name,
            {key: replace(spec, optional=key in optional) for key, spec in inputs[name].items()},
            _specs(served[name].outputs),
        )
    return ServedInterface(signatures, defaults)


def _ops(graph: memoryview, names: set[str]) -> dict[str, str]:
    """The op of each of these nodes that the GraphDef has."""
    found: dict[str, str] = {}
    for number, _, node in _fields(graph):
        if len(found) == len(names):
            break
        if number == _NODE:
            name = op = ""
            for part, _, value in _fields(node):
                if part == _NODE_NAME:
                    name = bytes(value).decode(errors="replace")
                elif part == _NODE_OP:
                    op = bytes(value).decode(errors="replace")
                if (name and op) or (name and name not in names):
                    break
            if name in names:
                found[name] = op
    return found


def _specs(infos: Mapping[str, Any]) -> dict[str, TensorSpec]:
    return {key: spec for name in sorted(infos) for key, spec in _parts(name, infos[name])}


def _parts(key: str, info: Any) -> Iterator[tuple[str, TensorSpec]]:
    encoding = info.WhichOneof("encoding")
    shape = _shape(info)
    if encoding == "coo_sparse":
        rank = None if shape is None else len(shape)
        sparse, index = info.coo_sparse, np.dtype(np.int64)
        yield f"{key}/dense_shape", TensorSpec(_tensor(sparse.dense_shape_tensor_name), index, (rank,), whole=shape)
        yield f"{key}/indices", TensorSpec(_tensor(sparse.indices_tensor_name), index, (None, rank))
        yield f"{key}/values", TensorSpec(_tensor(sparse.values_tensor_name), _dtype(info.dtype), (None,))
    elif encoding == "composite_tensor":
        for i, component in enumerate(info.composite_tensor.components):
            yield from _parts(f"{key}/component_{i}", component)
    else:
        yield key, TensorSpec(_tensor(info.name), _dtype(info.dtype), shape)


def _shape(info: Any) -> tuple[int | None, ...] | None:
    if not info.HasField("tensor_shape") or info.tensor_shape.unknown_rank:
        return None
    return tuple(dim.size if dim.size >= 0 else None for dim in info.tensor_shape.dim)


def _dtype(number: int) -> np.dtype[Any]:
    dtype = numpy_dtype(number)
    return np.dtype(np.void) if dtype is None else dtype


def _tensor(name: str) -> str:
    return name if ":" in name else f"{name}:0"


def _node(tensor: str) -> str:
    return tensor.partition(":")[0]


def _decode_error() -> type[Exception]:
    error: type[Exception] = importlib.import_module("google.protobuf.message").DecodeError
    return error
