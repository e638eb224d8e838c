"""Single ops, computed by TensorFlow's C++ runtime on the CPU: the values that a server would compute."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from ctypes import POINTER, c_char, c_char_p, c_int, c_size_t, c_void_p
from functools import cache
from typing import Any

import tensorflow as tf

from tfslim_core import ops
from tfslim_core.errors import GraphError, ModelError
from tfslim_core.graph import NodeDef
from tfslim_core.saved_model import c_api
from tfslim_core.weights import Array

_PROTOTYPES: dict[str, tuple[object, list[object]]] = {
    "TFE_NewContextOptions": (c_void_p, []),
    "TFE_ContextOptionsSetConfig": (None, [c_void_p, c_char_p, c_size_t, c_void_p]),
    "TFE_DeleteContextOptions": (None, [c_void_p]),
    "TFE_NewContext": (c_void_p, [c_void_p, c_void_p]),
    "TFE_ContextClearCaches": (None, [c_void_p]),
    "TFE_NewTensorHandle": (c_void_p, [c_void_p, c_void_p]),
    "TFE_DeleteTensorHandle": (None, [c_void_p]),
    "TFE_TensorHandleDeviceMemorySize": (c_size_t, [c_void_p, c_void_p]),
    "TFE_TensorHandleResolve": (c_void_p, [c_void_p, c_void_p]),
    "TFE_NewOp": (c_void_p, [c_void_p, c_char_p, c_void_p]),
    "TFE_DeleteOp": (None, [c_void_p]),
    "TFE_OpSetAttrValueProto": (None, [c_void_p, c_char_p, POINTER(c_char), c_size_t, c_void_p]),
    "TFE_OpAddInput": (None, [c_void_p, c_void_p, c_void_p]),
    "TFE_Execute": (None, [c_void_p, POINTER(c_void_p), POINTER(c_int), c_void_p]),
}


@cache
def _library() -> ctypes.CDLL:
    found = c_api.library()
    for name, (result, arguments) in _PROTOTYPES.items():
        function = getattr(found, name)
        function.restype, function.argtypes = result, arguments
    return found


@cache
def _context() -> int:
    """The runtime's state, made once and kept: devices and threads."""
    tf_c = _library()
    config = tf.compat.v1.ConfigProto(allow_soft_placement=True, device_count={"GPU": 0}).SerializeToString()
    options = tf_c.TFE_NewContextOptions()
    with c_api.Status() as status:
        tf_c.TFE_ContextOptionsSetConfig(options, config, len(config), status.pointer)
        context: int | None = tf_c.TFE_NewContext(options, status.pointer)
        problem = status.problem()
    tf_c.TFE_DeleteContextOptions(options)
    if context is None:
        raise GraphError(f"TensorFlow's runtime does not start: {problem}")
    return context


class Value:
    """A tensor that the runtime holds, until nobody here does."""

    __slots__ = ("_pointer",)

    def __init__(self, pointer: int) -> None:
        """Take over a handle of the runtime."""
        self._pointer = pointer

    def __del__(self) -> None:
        _library().TFE_DeleteTensorHandle(self._pointer)

    @classmethod
    def of(cls, array: Array) -> Value:
        """A copy of an array."""
        return cls._of_tensor(c_api.to_tensor(array, tf.as_dtype(array.dtype).as_datatype_enum))

    @classmethod
    def of_proto(cls, tensor: Any) -> Value:
        """The value of a TensorProto.

        Raises:
            GraphError: it has none.
        """
        try:
            return cls._of_tensor(c_api.tensor_from_proto(tensor.SerializeToString()))
        except ModelError as error:
            raise GraphError(f"it is not a tensor: {error}") from None

    @classmethod
    def _of_tensor(cls, tensor: int) -> Value:
        with c_api.Status() as status:
            pointer = _library().TFE_NewTensorHandle(tensor, status.pointer)
            problem = status.problem()
        _library().TF_DeleteTensor(tensor)
        if problem:
            raise GraphError(problem)
        return cls(pointer)

    @property
    def nbytes(self) -> int:
        """Bytes that the runtime holds."""
        with c_api.Status() as status:
            size: int = _library().TFE_TensorHandleDeviceMemorySize(self._pointer, status.pointer)
        return size

    def array(self) -> Array:
        """A copy as an array; strings are bytes in an array of objects.

        Raises:
            GraphError: numpy has no such dtype.
        """
        with c_api.Status() as status:
            tensor = _library().TFE_TensorHandleResolve(self._pointer, status.pointer)
            problem = status.problem()
        if problem:
            raise GraphError(problem)
        found = c_api.from_tensor(tensor)
        _library().TF_DeleteTensor(tensor)
        if found is None:
            raise GraphError("its value has a dtype that numpy does not have")
        return found


def execute(node: NodeDef, inputs: Sequence[Value]) -> list[Value]:
    """The outputs of an op that calls no function.

    Raises:
        GraphError: TensorFlow cannot compute it, or does not know it.
    """
    tf_c = _library()
    count = c_int(len(ops.output_dtypes(node, {})))
    results = (c_void_p * count.value)()
    attributes = []
    for name, key, default in _attributes(node.op):
        value = default if name not in node.attr else node.attr[name].SerializeToString()
        if value is None:
            raise GraphError(f"the attribute {name!r} is missing")
        attributes.append((key, value))
    with c_api.Status() as status:
        op = tf_c.TFE_NewOp(_context(), node.op.encode(), status.pointer)
        if op is None:
            raise GraphError(status.problem() or f"op {node.op!r} is not known")
        for key, value in attributes:
            tf_c.TFE_OpSetAttrValueProto(op, key, value, len(value), status.pointer)
        for given in inputs:
            tf_c.TFE_OpAddInput(op, given._pointer, status.pointer)
        if status.problem() is None:
            tf_c.TFE_Execute(op, results, ctypes.byref(count), status.pointer)
        problem = status.problem()
        tf_c.TFE_DeleteOp(op)
    if problem:
        raise GraphError(problem)
    return [Value(pointer) for pointer in results if pointer is not None]


@cache
def _attributes(op: str) -> list[tuple[str, bytes, bytes | None]]:
    """The attributes of an op: name, encoded name, and default."""
    return [
        (
            declared.name,
            declared.name.encode(),
            declared.default_value.SerializeToString() if declared.HasField("default_value") else None,
        )
        for declared in ops.op_def(op, {}).attr
    ]


def forget() -> None:
    """Free what the runtime keeps for the next time that it computes the same op."""
    _library().TFE_ContextClearCaches(_context())
