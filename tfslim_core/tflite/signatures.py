"""What a TFLite file says that it serves, read without running it.

A file has a subgraph for each signature, and says which tensor of it each key means. Beside that it may hold
SignatureDefs for TensorFlow Serving, which runs the first subgraph and no other.

Source: tensorflow/lite/schema/schema.fbs, tensorflow/lite/tools/signature/signature_def_util.cc.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from flatbuffers import flexbuffers
from google.protobuf.message import DecodeError

from tfslim_core._tf_private import lite_schema
from tfslim_core.errors import ModelError
from tfslim_core.saved_model.served_signatures import Signature, TensorSpec, proto_module

SERVING_METADATA = "signature_defs_metadata"
PREDICT = "tensorflow/serving/predict"
_IDENTIFIER = b"TFL3"
# As the schema numbers them; None for what numpy cannot hold.
# fmt: off
_DTYPES: tuple[type | None, ...] = (
    np.float32, np.float16, np.int32, np.uint8, np.int64, object, np.bool_, np.int16, np.complex64, np.int8, np.float64,
    np.complex128, np.uint64, None, None, np.uint32, np.uint16,
)
# fmt: on


@dataclass(frozen=True)
class LiteSignature:
    """A signature, the subgraph that computes it, and which of its tensors each key means."""

    signature: Signature
    subgraph: int
    inputs: Mapping[str, int]
    outputs: Mapping[str, int]


def read_lite_signatures(file: Path) -> dict[str, LiteSignature]:
    """The signatures of a TFLite file, by name.

    One without any (of an old converter) is taken as TensorFlow Serving takes it: what it computes is
    `serving_default`, and keys are the names of tensors.

    Raises:
        ModelError: it cannot be read, or is not a TFLite model.
    """
    with _told(file) as model:
        methods = {name: one.method_name for name, one in _served(model).items()}
        found = {}
        for i in range(model.SignatureDefsLength()):
            one = model.SignatureDefs(i)
            name = _text(one.SignatureKey())
            inputs = {_text(e.Name()): e.TensorIndex() for e in map(one.Inputs, range(one.InputsLength()))}
            outputs = {_text(e.Name()): e.TensorIndex() for e in map(one.Outputs, range(one.OutputsLength()))}
            found[name] = _signature(model, name, methods.get(name, PREDICT), one.SubgraphIndex(), inputs, outputs)
        return found or {"serving_default": _unnamed(model)}


def served_signature_defs(file: Path) -> dict[str, Any]:
    """The SignatureDefs that TensorFlow Serving reads from the file, by name; none where it makes up its own.

    Raises:
        ModelError: it cannot be read, or is not a TFLite model.
    """
    with _told(file) as model:
        return _served(model)


@contextmanager
def _told(file: Path) -> Iterator[Any]:
    """The model in a file; whatever does not fit in it is a damaged one."""
    try:
        data = file.read_bytes()
        if data[4:8] != _IDENTIFIER:
            raise ModelError(f"{file} is not a TFLite model; export it again")
        yield lite_schema().Model.GetRootAs(data, 0)
    except OSError as error:
        raise ModelError(f"{file}: it cannot be read: {error.strerror}") from None
    except (struct.error, TypeError, ValueError, IndexError, AttributeError, UnicodeDecodeError, DecodeError) as error:
        raise ModelError(f"{file}: the TFLite model is damaged ({error}); export it again") from None


def _served(model: Any) -> dict[str, Any]:
    for i in range(model.MetadataLength()):
        entry = model.Metadata(i)
        if _text(entry.Name()) == SERVING_METADATA:
            stored = flexbuffers.GetRoot(model.Buffers(entry.Buffer()).DataAsNumpy().tobytes()).AsMap
            signature_def = proto_module("protobuf.meta_graph_pb2").SignatureDef
            return {key: signature_def.FromString(value) for key, value in _strings(stored)}
    return {}


def _strings(stored: Any) -> list[tuple[str, bytes]]:
    """A flexbuffer's map of strings, whose bytes are no UTF-8."""
    pairs = zip(stored.Keys, stored.Values, strict=True)
    return [(bytes(key.AsKeyBytes).decode(), bytes(value.AsStringBytes)) for key, value in pairs]


def _unnamed(model: Any) -> LiteSignature:
    graph = model.Subgraphs(0)
    inputs, outputs = (
        {_text(graph.Tensors(i).Name()).partition(":")[0]: int(i) for i in indices}
        for indices in (graph.InputsAsNumpy(), graph.OutputsAsNumpy())
    )
    return _signature(model, "serving_default", PREDICT, 0, inputs, outputs)


def _signature(
    model: Any, name: str, method: str, subgraph: int, inputs: Mapping[str, int], outputs: Mapping[str, int]
) -> LiteSignature:
    graph = model.Subgraphs(subgraph)
    specs = [{key: _spec(graph.Tensors(i)) for key, i in sorted(part.items())} for part in (inputs, outputs)]
    return LiteSignature(Signature(name, method, *specs), subgraph, inputs, outputs)


def _spec(tensor: Any) -> TensorSpec:
    shape: tuple[int | None, ...] | None = None
    if tensor.ShapeLength():
        known = tensor.ShapeSignatureAsNumpy() if tensor.ShapeSignatureLength() else tensor.ShapeAsNumpy()
        shape = tuple(None if size < 0 else int(size) for size in known)
    elif tensor.HasRank():
        shape = ()
    dtype = _DTYPES[tensor.Type()] if tensor.Type() < len(_DTYPES) else None
    return TensorSpec(_text(tensor.Name()), np.dtype(np.void if dtype is None else dtype), shape)


def _text(value: bytes | None) -> str:
    return (value or b"").decode()
