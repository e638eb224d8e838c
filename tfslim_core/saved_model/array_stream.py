"""Named arrays through a pipe, lossless and without pickle.

A message is the length of a header (8 bytes, little endian), the header (JSON: `meta` and a description of each array),
and the bytes of the arrays. An array of strings is the lengths of its elements as uint64, then the elements.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, BinaryIO

import ml_dtypes
import numpy as np

from tfslim_core.errors import DataError

_STRINGS = "strings"


def write_message(file: BinaryIO, meta: Mapping[str, Any], arrays: Mapping[str, np.ndarray] | None = None) -> None:
    """Write one message and flush. Object arrays hold bytes or str; str comes back as UTF-8 bytes.

    Raises:
        DataError: an object array holds something else.
    """
    encoded = {name: _encode(name, np.asarray(array)) for name, array in (arrays or {}).items()}
    described = [{"name": name, **description} for name, (description, _) in encoded.items()]
    header = json.dumps({"meta": meta, "arrays": described}).encode()
    file.write(len(header).to_bytes(8, "little"))
    file.write(header)
    for _, chunks in encoded.values():
        for chunk in chunks:
            file.write(chunk)
    file.flush()


def read_message(file: BinaryIO) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """The next message: (meta, arrays).

    Raises:
        EOFError: the stream ends before or within a message.
    """
    header = json.loads(_exactly(file, int.from_bytes(_exactly(file, 8), "little")))
    return header["meta"], {described["name"]: _decode(file, described) for described in header["arrays"]}


def _encode(name: str, array: np.ndarray) -> tuple[dict[str, Any], list[bytes | memoryview]]:
    if array.dtype == object:
        values = [value.encode() if isinstance(value, str) else value for value in array.reshape(-1).tolist()]
        if not all(isinstance(value, bytes) for value in values):
            raise DataError(f"the array {name!r} has elements that are neither bytes nor str")
        lengths = np.array([len(value) for value in values], np.uint64)
        return {"dtype": _STRINGS, "shape": array.shape}, [lengths.tobytes(), b"".join(values)]
    # ml_dtypes types have names, while their `str` is a bare number of bytes.
    dtype = array.dtype.name if hasattr(ml_dtypes, array.dtype.name) else array.dtype.str
    raw = np.asarray(array, order="C").reshape(-1)
    return {"dtype": dtype, "shape": array.shape}, [raw.view(np.uint8).data if raw.nbytes else b""]


def _decode(file: BinaryIO, described: Mapping[str, Any]) -> np.ndarray:
    shape = tuple(described["shape"])
    size = int(np.prod(shape, dtype=np.int64))
    if described["dtype"] == _STRINGS:
        array = np.empty(shape, object)
        lengths = np.frombuffer(_exactly(file, 8 * size), np.uint64).tolist()
        array.reshape(-1)[:] = [bytes(_exactly(file, length)) for length in lengths]
        return array
    name = described["dtype"]
    dtype = np.dtype(getattr(ml_dtypes, name)) if hasattr(ml_dtypes, name) else np.dtype(name)
    return np.frombuffer(_exactly(file, size * dtype.itemsize), dtype).reshape(shape)


def _exactly(file: BinaryIO, size: int) -> bytearray:
    data = bytearray(size)
    view, done = memoryview(data), 0
    while done < size:
        count = file.readinto(view[done:])  # type: ignore[attr-defined]
        if not count:
            raise EOFError("the stream ended within a message")
        done += count
    return data
