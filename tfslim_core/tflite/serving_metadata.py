"""Tell TensorFlow Serving what a TFLite file serves.

The server runs the first subgraph alone. Without SignatureDefs in the file's metadata it makes one up, whose keys are
names of tensors; so they are written, for all signatures that the first subgraph answers, with keys and method names as
they were. The server takes each serialized SignatureDef as a C string: one that holds a zero byte it would cut off
there, so that empty messages (a scalar's shape) are left out.

Source: tensorflow_serving/servables/tensorflow/tflite_session.cc (TfLiteSession::Create),
tensorflow/lite/tools/signature/signature_def_util.cc.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import flatbuffers
import numpy as np
from flatbuffers import flexbuffers

from tfslim_core._tf_private import lite_schema
from tfslim_core.errors import ModelError
from tfslim_core.saved_model.served_signatures import proto_module
from tfslim_core.tflite.signatures import SERVING_METADATA, read_lite_signatures

_ALIGNMENT = 16  # of weights in the file; kernels read them where they lie


def describe_signatures(file: Path, signatures: Mapping[str, Any], converted: Mapping[str, str]) -> list[str]:
    """Give the file's signatures their names, and write those that the server can reach into its metadata.

    signatures: all SignatureDefs by name. converted: name -> what that signature is called in the file; several may be
    one there, and get an entry each.

    Returns:
        The names of those that the server can reach.

    Raises:
        ModelError: the file cannot be read.
    """
    found = read_lite_signatures(file)
    schema = lite_schema()
    model = schema.ModelT.InitFromPackedBuf(file.read_bytes(), 0)
    entries = {entry.signatureKey.decode(): entry for entry in model.signatureDefs}
    model.signatureDefs = [
        schema.SignatureDefT(same.inputs, same.outputs, name, same.subgraphIndex)
        for name, same in ((name, entries[converted[name]]) for name in sorted(signatures))
    ]
    reached = [name for name in sorted(signatures) if found[converted[name]].subgraph == 0]
    stored = {name: _serialized(signatures[name], found[converted[name]].signature) for name in reached}
    buffer = schema.BufferT()
    buffer.data = np.frombuffer(_flexbuffer(stored), np.uint8)
    entry = schema.MetadataT()
    entry.name, entry.buffer = SERVING_METADATA, len(model.buffers)
    model.buffers.append(buffer)
    model.metadata = [*(model.metadata or []), entry]
    file.write_bytes(_packed(model))
    return reached


def _serialized(wanted: Any, converted: Any) -> bytes:
    """The signature with the names that its tensors have in the file."""
    made = proto_module("protobuf.meta_graph_pb2").SignatureDef()
    made.CopyFrom(wanted)
    made.ClearField("defaults")
    for infos, specs in ((made.inputs, converted.inputs), (made.outputs, converted.outputs)):
        for key, info in infos.items():
            info.name = specs[key].name
            shape = info.tensor_shape
            if not shape.unknown_rank and all(dim.size for dim in shape.dim) and shape.dim:
                for dim in shape.dim:
                    dim.name = ""
            else:
                info.ClearField("tensor_shape")
    data: bytes = made.SerializeToString(deterministic=True)
    if b"\0" in data:
        raise ModelError(f"a signature cannot be told to TensorFlow Serving: it serializes with a zero byte: {wanted}")
    return data


def _flexbuffer(entries: Mapping[str, bytes]) -> bytes:
    builder = flexbuffers.Builder()
    with builder.Map():
        for key, value in entries.items():
            builder.Key(key.encode())
            # A string of bytes: the server reads it as one, and a blob as nothing.
            builder._WriteBlob(value, append_zero=True, type_=flexbuffers.Type.STRING)
    return bytes(builder.Finish())


def _packed(model: Any) -> bytes:
    model.buffers = [_Aligned(buffer) for buffer in model.buffers]
    builder = flatbuffers.Builder(sum(len(b.data) for b in _with_data(model.buffers)) + 1024 * 1024)
    builder.Finish(model.Pack(builder), file_identifier=b"TFL3")
    return bytes(builder.Output())


def _with_data(buffers: Iterable[_Aligned]) -> list[_Aligned]:
    return [buffer for buffer in buffers if buffer.data is not None]


class _Aligned:
    """A buffer of the model that is packed where the schema says it must lie; the generated code takes any place."""

    def __init__(self, buffer: Any) -> None:
        self.data: Any = buffer.data
        self._rest = buffer

    def Pack(self, builder: Any) -> Any:  # noqa: N802  # the name that the generated code calls
        """Write it."""
        schema = lite_schema()
        if self.data is not None:
            data = np.asarray(self.data, np.uint8).tobytes()
            builder.StartVector(1, len(data), _ALIGNMENT)
            builder.head -= len(data)
            builder.Bytes[builder.head : builder.head + len(data)] = data
            builder.vectorNumElems = len(data)
            vector = builder.EndVector()
        schema.BufferStart(builder)
        if self.data is not None:
            schema.BufferAddData(builder, vector)
        schema.BufferAddOffset(builder, self._rest.offset)
        schema.BufferAddSize(builder, self._rest.size)
        return schema.BufferEnd(builder)
