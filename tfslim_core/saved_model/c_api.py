"""TensorFlow's C API out of the wheel's shared libraries, and numpy arrays as its tensors.

The `tensorflow` package is found, not executed: a process that serves through this file starts in half a second.
"""

from __future__ import annotations

import ctypes
import importlib.util
import itertools
from ctypes import POINTER, c_char_p, c_int, c_int64, c_size_t, c_void_p
from functools import cache
from pathlib import Path

import ml_dtypes
import numpy as np

from tfslim_core.errors import DataError, ModelError

DT_STRING = 7
# From 1 on, as TensorFlow's types.proto numbers them; quantized types have the form of their integers.
# None: resources and variants, which only exist inside a session.
# fmt: off
_DTYPES: tuple[type | None, ...] = (
    np.float32, np.float64, np.int32, np.uint8, np.int16, np.int8, object, np.complex64, np.int64, np.bool_,
    np.int8, np.uint8, np.int32, ml_dtypes.bfloat16, np.int16, np.uint16, np.uint16, np.complex128, np.float16,
    None, None, np.uint32, np.uint64, ml_dtypes.float8_e5m2, ml_dtypes.float8_e4m3fn, ml_dtypes.float8_e4m3fnuz,
    ml_dtypes.float8_e4m3b11fnuz, ml_dtypes.float8_e5m2fnuz, ml_dtypes.int4, ml_dtypes.uint4,
    ml_dtypes.int2, ml_dtypes.uint2,
)
# fmt: on
_STRING_BYTES = 24  # sizeof(TF_TString), part of the binary interface that custom ops link against
_SMALL_STRING_BYTES = 22  # what a TF_TString holds without memory of its own


class Output(ctypes.Structure):
    """TF_Output: one output of one operation of a graph."""

    _fields_ = (("operation", c_void_p), ("index", c_int))


_Free = ctypes.CFUNCTYPE(None, c_void_p, c_size_t, c_void_p)
_PROTOTYPES: dict[str, tuple[object, list[object]]] = {
    "TF_NewStatus": (c_void_p, []),
    "TF_DeleteStatus": (None, [c_void_p]),
    "TF_GetCode": (c_int, [c_void_p]),
    "TF_Message": (c_char_p, [c_void_p]),
    "TF_NewGraph": (c_void_p, []),
    "TF_DeleteGraph": (None, [c_void_p]),
    "TF_GraphOperationByName": (c_void_p, [c_void_p, c_char_p]),
    "TF_OperationNumOutputs": (c_int, [c_void_p]),
    "TF_OperationOutputType": (c_int, [Output]),
    "TF_NewSessionOptions": (c_void_p, []),
    "TF_DeleteSessionOptions": (None, [c_void_p]),
    "TF_SetConfig": (None, [c_void_p, c_void_p, c_size_t, c_void_p]),
    "TF_LoadSessionFromSavedModel": (
        c_void_p,
        [c_void_p, c_void_p, c_char_p, POINTER(c_char_p), c_int, c_void_p, c_void_p, c_void_p],
    ),
    "TF_CloseSession": (None, [c_void_p, c_void_p]),
    "TF_DeleteSession": (None, [c_void_p, c_void_p]),
    "TF_SessionRun": (
        None,
        [
            *(c_void_p, c_void_p),
            *(POINTER(Output), POINTER(c_void_p), c_int),
            *(POINTER(Output), POINTER(c_void_p), c_int),
            *(c_void_p, c_int, c_void_p, c_void_p),
        ],
    ),
    "TF_AllocateTensor": (c_void_p, [c_int, POINTER(c_int64), c_int, c_size_t]),
    "TF_NewTensor": (c_void_p, [c_int, POINTER(c_int64), c_int, c_void_p, c_size_t, _Free, c_void_p]),
    "TF_DeleteTensor": (None, [c_void_p]),
    "TF_TensorFromProto": (None, [c_void_p, c_void_p, c_void_p]),
    "TF_NewBufferFromString": (c_void_p, [c_char_p, c_size_t]),
    "TF_DeleteBuffer": (None, [c_void_p]),
    "TF_TensorType": (c_int, [c_void_p]),
    "TF_NumDims": (c_int, [c_void_p]),
    "TF_Dim": (c_int64, [c_void_p, c_int]),
    "TF_TensorByteSize": (c_size_t, [c_void_p]),
    "TF_TensorData": (c_void_p, [c_void_p]),
    "TF_StringCopy": (None, [c_void_p, c_char_p, c_size_t]),
    "TF_StringGetDataPointer": (c_void_p, [c_void_p]),
    "TF_StringGetSize": (c_size_t, [c_void_p]),
    "TF_StringDealloc": (None, [c_void_p]),
}


class Status:
    """A TF_Status for one block: `with Status() as status: call(..., status.pointer)`; then look at `problem()`."""

    def __enter__(self) -> Status:
        self.pointer: int = library().TF_NewStatus()
        return self

    def __exit__(self, *_: object) -> None:
        library().TF_DeleteStatus(self.pointer)

    def problem(self) -> str | None:
        """The first line of the message when the status is not OK, else None."""
        if library().TF_GetCode(self.pointer) == 0:
            return None
        lines = (library().TF_Message(self.pointer) or b"").decode(errors="replace").strip().splitlines()
        return lines[0].strip() if lines else "no reason given"


def wheel() -> Path:
    """The directory of the installed `tensorflow` package, found without executing it.

    Raises:
        ModelError: TensorFlow is not installed.
    """
    spec = importlib.util.find_spec("tensorflow")
    if spec is None or not spec.submodule_search_locations:
        raise ModelError("TensorFlow is not installed; call: pip install tensorflow")
    return Path(next(iter(spec.submodule_search_locations)))


@cache
def library() -> ctypes.CDLL:
    """TensorFlow's libraries with their prototypes declared; shared with the Python package where that is loaded.

    Raises:
        ModelError: the installed TensorFlow has no such libraries, or they do not load.
    """
    folder = wheel()
    try:
        # Never RTLD_GLOBAL: numpy.random, imported afterwards, would bind to symbols in here and crash.
        framework = ctypes.CDLL(str(folder / "libtensorflow_framework.so.2"))
        loaded = ctypes.CDLL(str(folder / "libtensorflow_cc.so.2"))
    except OSError as error:
        raise ModelError(f"cannot load TensorFlow's C++ libraries: {error}; is the TensorFlow wheel whole?") from None
    for name, (result, arguments) in _PROTOTYPES.items():
        function = getattr(loaded, name, None) or getattr(framework, name, None)
        if function is None:
            raise ModelError(f"the TensorFlow in {folder} has no {name}; install the version that tfslim asks for")
        function.restype, function.argtypes = result, arguments
        setattr(loaded, name, function)
    return loaded


def numpy_dtype(number: int) -> np.dtype[np.generic] | None:
    """The dtype for a number of TensorFlow's types.proto: object for strings; None where numpy has none such."""
    kind = _DTYPES[number - 1] if 1 <= number <= len(_DTYPES) else None
    return None if kind is None else np.dtype(kind)


def to_tensor(array: np.ndarray, data_type: int) -> int:
    """A new TF_Tensor holding a copy of `array`; the caller deletes it.

    array: any shape; of the dtype `numpy_dtype(data_type)`, or, for DT_STRING, of bytes or str (as UTF-8).

    Raises:
        DataError: an element of a string array is neither bytes nor str.
    """
    dims = (c_int64 * array.ndim)(*array.shape)
    if data_type == DT_STRING:
        return _to_string_tensor(array, dims)
    array = np.asarray(array, order="C")
    tensor: int = library().TF_AllocateTensor(data_type, dims, array.ndim, array.nbytes)
    ctypes.memmove(library().TF_TensorData(tensor), array.ctypes.data, array.nbytes)
    return tensor


def tensor_from_proto(serialized: bytes) -> int:
    """A new TF_Tensor from a serialized TensorProto; the caller deletes it.

    Raises:
        ModelError: it is no valid TensorProto.
    """
    tf = library()
    tensor: int = tf.TF_AllocateTensor(1, (c_int64 * 1)(0), 1, 0)
    buffer = tf.TF_NewBufferFromString(serialized, len(serialized))
    with Status() as status:
        tf.TF_TensorFromProto(buffer, tensor, status.pointer)
        problem = status.problem()
    tf.TF_DeleteBuffer(buffer)
    if problem:
        tf.TF_DeleteTensor(tensor)
        raise ModelError(f"the default value of an input is not a tensor: {problem}")
    return tensor


def from_tensor(tensor: int) -> np.ndarray | None:
    """A copy of a TF_Tensor as an array (strings: object dtype, bytes elements); None where numpy has no such dtype."""
    tf = library()
    data_type = tf.TF_TensorType(tensor)
    dtype = numpy_dtype(data_type)
    if dtype is None:
        return None
    array = np.empty([tf.TF_Dim(tensor, axis) for axis in range(tf.TF_NumDims(tensor))], dtype)
    if not array.size:
        return array  # an empty tensor that came out of a TensorProto has no memory, and asking for it is fatal
    data = tf.TF_TensorData(tensor)
    if data_type == DT_STRING:
        pointer, size, read = tf.TF_StringGetDataPointer, tf.TF_StringGetSize, ctypes.string_at
        places = range(data or 0, (data or 0) + _STRING_BYTES * array.size, _STRING_BYTES)
        array.reshape(-1)[:] = [read(pointer(place), size(place)) for place in places]
    elif array.nbytes:
        ctypes.memmove(array.ctypes.data, data, array.nbytes)
    return array


def _to_string_tensor(array: np.ndarray, dims: ctypes.Array[c_int64]) -> int:
    values = [_as_bytes(value) for value in array.reshape(-1).tolist()]
    memory = np.zeros(_STRING_BYTES * len(values) + 64, np.uint8)  # zeros are empty strings
    start = memory.ctypes.data + -memory.ctypes.data % 64
    copy = library().TF_StringCopy
    for place, value in zip(itertools.count(start, _STRING_BYTES), values, strict=False):
        copy(place, value, len(value))
    long = [start + _STRING_BYTES * i for i, value in enumerate(values) if len(value) > _SMALL_STRING_BYTES]
    ticket = next(_tickets)
    _lent[ticket] = (memory, long)
    tensor: int = library().TF_NewTensor(
        DT_STRING, dims, array.ndim, start, _STRING_BYTES * len(values), _give_back, ticket
    )
    return tensor


def _as_bytes(value: object) -> bytes:
    if isinstance(value, bytes):
        return value
    if isinstance(value, str):
        return value.encode()
    raise DataError(f"a string input got an element of type {type(value).__name__}; give bytes or str")


# Memory of string tensors that TensorFlow still holds. It does not free the strings in a tensor that it did not make,
# and an op may keep the tensor beyond the request, so they are freed when TensorFlow says that it is done with them.
_lent: dict[int, tuple[np.ndarray, list[int]]] = {}
_tickets = itertools.count(1)


def _free_strings(_data: int, _size: int, ticket: int) -> None:
    _memory, long = _lent.pop(ticket)
    for place in long:
        library().TF_StringDealloc(place)


_give_back = _Free(_free_strings)  # a name of its own: TensorFlow keeps a pointer to it
