"""The protocol buffers in TFRecord files: tf.Example, and TF Serving's PredictionLog (warm-up records).

PredictionLog is declared here, in a private pool and with its wire numbers alone: tensorflow-serving-api is not needed,
and messages that are passed on as they are (Example, TensorProto) stay bytes.
Source: tensorflow_serving/apis/{prediction_log,predict,classification,input,model}.proto.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from functools import cache
from typing import Any, Literal

import numpy as np
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.message import DecodeError
from numpy.typing import NDArray

from tfslim_core.errors import DataError, ModelError
from tfslim_core.saved_model.c_api import from_tensor, library, tensor_from_proto
from tfslim_core.saved_model.served_signatures import proto_module

_MOST_ELEMENTS = 2**28  # of a request's tensor; a gigabyte of floats

_MESSAGES: Mapping[str, Mapping[str, tuple[int, str, str]]] = {
    # message -> field -> (number, label, type)
    "PredictionLog": {
        "classify_log": (2, "optional", "RequestLog"),
        "regress_log": (3, "optional", "RequestLog"),
        "multi_inference_log": (4, "optional", "RequestLog"),
        "session_run_log": (5, "optional", "RequestLog"),
        "predict_log": (6, "optional", "RequestLog"),
        "predict_streamed_log": (7, "optional", "RequestLog"),
    },
    "RequestLog": {"request": (1, "optional", "bytes")},
    "PredictRequest": {"model_spec": (1, "optional", "ModelSpec"), "inputs": (2, "repeated", "Entry")},
    "ExamplesRequest": {"model_spec": (1, "optional", "ModelSpec"), "input": (2, "optional", "Input")},
    "Entry": {"key": (1, "optional", "bytes"), "value": (2, "optional", "bytes")},
    "ModelSpec": {"signature_name": (3, "optional", "bytes")},
    "Input": {"example_list": (1, "optional", "ExampleList"), "with_context": (2, "optional", "ExampleList")},
    "ExampleList": {"examples": (1, "repeated", "bytes"), "context": (2, "optional", "bytes")},
}


def parse_example(data: bytes) -> dict[str, list[Any]]:
    """A tf.Example's values by feature name; features without values have an empty list.

    Raises:
        DataError: the bytes are no tf.Example.
    """
    try:
        example = proto_module("example.example_pb2").Example.FromString(data)
    except DecodeError:
        raise DataError("the record is no tf.Example") from None
    values = {}
    for key, feature in example.features.feature.items():
        kind = feature.WhichOneof("kind")
        values[key] = list(getattr(feature, kind).value) if kind else []
    return values


def parse_prediction_log(data: bytes) -> tuple[str, dict[str, NDArray[Any]] | list[bytes]] | None:
    """What a PredictionLog asked: the signature's name, and arrays by input key or serialized tf.Examples.

    None where the bytes are no PredictionLog.

    Raises:
        DataError: it is one, of a kind that is not a request to one signature, or its tensors are damaged.
    """
    try:
        log = _message("PredictionLog").FromString(data)
    except DecodeError:
        return None
    kinds = [field.name for field, _ in log.ListFields()]
    if not kinds:
        return None
    try:
        if kinds == ["predict_log"]:
            request = _message("PredictRequest").FromString(log.predict_log.request)
            inputs = {entry.key.decode(): _array(entry.value) for entry in request.inputs}
            return request.model_spec.signature_name.decode(), inputs
        if kinds[0] in ("classify_log", "regress_log"):
            request = _message("ExamplesRequest").FromString(getattr(log, kinds[0]).request)
            listed = request.input.example_list.examples or request.input.with_context.examples
            context = request.input.with_context.context
            # Messages add up when their bytes are joined.
            examples = [context + example for example in listed]
            # What another message holds may read as a request of nothing, or of what is no example.
            if not examples:
                raise DataError(f"a PredictionLog with a {kinds[0]} has no example")
            for example in examples:
                parse_example(example)
            return request.model_spec.signature_name.decode(), examples
    except (DecodeError, UnicodeDecodeError, ModelError) as error:
        raise DataError(f"the PredictionLog is damaged: {error}") from None
    raise DataError(f"a PredictionLog with a {kinds[0]} is not a request to one signature")


def predict_log(signature: str, inputs: Mapping[str, bytes]) -> bytes:
    """A PredictionLog of a PredictRequest. inputs: serialized TensorProtos by input key."""
    request = _message("PredictRequest")()
    request.model_spec.signature_name = signature.encode()
    for key in sorted(inputs):
        request.inputs.add(key=key.encode(), value=inputs[key])
    return _logged("predict_log", request)


def examples_log(kind: Literal["classify_log", "regress_log"], signature: str, examples: Iterable[bytes]) -> bytes:
    """A PredictionLog of a request to classify, or to regress, serialized tf.Examples."""
    request = _message("ExamplesRequest")()
    request.model_spec.signature_name = signature.encode()
    request.input.example_list.examples.extend(examples)
    return _logged(kind, request)


def _logged(kind: str, request: Any) -> bytes:
    log = _message("PredictionLog")()
    getattr(log, kind).request = request.SerializeToString(deterministic=True)
    made: bytes = log.SerializeToString(deterministic=True)
    return made


def _array(tensor_proto: bytes) -> NDArray[Any]:
    proto = proto_module("framework.tensor_pb2").TensorProto.FromString(tensor_proto)
    # A single value may stand for any number of elements: a few bytes would ask for all memory.
    elements = math.prod(dim.size for dim in proto.tensor_shape.dim)
    if not 0 <= elements <= _MOST_ELEMENTS:
        raise DataError(f"a PredictionLog holds a tensor of {elements:,} elements, more than {_MOST_ELEMENTS:,}")
    tensor = tensor_from_proto(tensor_proto)
    try:
        array = from_tensor(tensor)
    finally:
        library().TF_DeleteTensor(tensor)
    if array is None:
        raise DataError("a PredictionLog holds a tensor that has no form in numpy")
    return np.asarray(array)


@cache
def _message(name: str) -> Any:
    file = descriptor_pb2.FileDescriptorProto(name="requests.proto", package="requests", syntax="proto3")
    proto = descriptor_pb2.FieldDescriptorProto
    for message, fields in _MESSAGES.items():
        declared = file.message_type.add(name=message)
        for field, (number, label, kind) in fields.items():
            declared.field.add(
                name=field,
                number=number,
                label=proto.LABEL_REPEATED if label == "repeated" else proto.LABEL_OPTIONAL,
                type=proto.TYPE_BYTES if kind == "bytes" else proto.TYPE_MESSAGE,
                type_name=None if kind == "bytes" else f".requests.{kind}",
            )
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName(f"requests.{name}"))
