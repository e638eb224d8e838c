from __future__ import annotations

import io

import ml_dtypes
import numpy as np
import pytest

from tfslim_core.errors import DataError
from tfslim_core.saved_model.array_stream import read_message, write_message

ARRAYS = {
    "matrix": np.arange(6, dtype=np.float32).reshape(2, 3).T,
    "scalar": np.array(5, np.int64),
    "nothing": np.empty((0, 4), np.int8),
    "flags": np.array([True, False]),
    "complex": np.array([1 + 2j]),
    "bfloat16": np.array([1.5, np.nan], ml_dtypes.bfloat16),
    "int4": np.array([-8, 7], ml_dtypes.int4),
    "strings": np.array([[b"a\0b\0", b""], [b"\xff" * 1000, "ä".encode()]], object),
    "one string": np.array(b"x", object),
    "no strings": np.empty((3, 0), object),
    "fixed": np.array([b"ab", b"c"]),
    "text": np.array(["äb", ""]),
}


def test_arrays_come_back_as_they_were():
    file = io.BytesIO()
    write_message(file, {"first": 1}, ARRAYS)
    write_message(file, {"second": ["x"]})
    file.seek(0)
    meta, arrays = read_message(file)
    assert meta == {"first": 1}
    assert list(arrays) == list(ARRAYS)
    for name, array in ARRAYS.items():
        assert (arrays[name].dtype, arrays[name].shape) == (array.dtype, array.shape), name
        assert repr(arrays[name].tolist()) == repr(array.tolist()), name
        assert arrays[name].flags.writeable, name
    assert read_message(file) == ({"second": ["x"]}, {})


def test_str_elements_come_back_as_utf8():
    file = io.BytesIO()
    write_message(file, {}, {"x": np.array(["ä"], object)})
    file.seek(0)
    assert read_message(file)[1]["x"].tolist() == ["ä".encode()]


@pytest.mark.parametrize("cut", [0, 3, 20, -1])
def test_a_stream_that_ends_early_is_an_end_of_file(cut):
    file = io.BytesIO()
    write_message(file, {}, ARRAYS)
    with pytest.raises(EOFError):
        read_message(io.BytesIO(file.getvalue()[:cut]))


def test_objects_are_refused_before_anything_is_written():
    file = io.BytesIO()
    with pytest.raises(DataError, match="'x' has elements that are neither bytes nor str"):
        write_message(file, {}, {"y": np.ones(3), "x": np.array([{}], object)})
    assert file.getvalue() == b""
