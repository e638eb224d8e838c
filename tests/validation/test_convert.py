import base64
import datetime
import decimal

import ml_dtypes
import numpy as np
import pytest

from tfslim_core.errors import DataError
from tfslim_core.validation.convert import cast, from_array, from_flat, from_nested, from_text

F32, I32, I64, BOOL, STRING = map(np.dtype, (np.float32, np.int32, np.int64, np.bool_, object))


def same(found, expected):
    expected = np.asarray(expected)
    assert found.dtype == expected.dtype
    assert found.shape == expected.shape
    assert found.tolist() == expected.tolist()


def strings(*values):
    return np.array(values, object)


def test_json_values_become_arrays():
    same(from_nested([[1, 2.5], [3, 4]], F32, (2, None)), np.float32([[1, 2.5], [3, 4]]))
    same(from_nested(7, I32, ()), np.int32(7))
    same(from_nested(7.0, I32, ()), np.int32(7))
    same(from_nested(True, BOOL, ()), np.bool_(True))
    same(from_nested([0.5], np.dtype(ml_dtypes.bfloat16), (1,)), np.array([0.5], ml_dtypes.bfloat16))
    same(from_nested("grün", STRING, ()), np.array("grün".encode(), object))
    encoded = {"b64": base64.b64encode(b"\xff\x00").decode()}
    same(from_nested([encoded, "a"], STRING, (2,)), strings(b"\xff\x00", b"a"))


@pytest.mark.parametrize(
    ("value", "dtype", "shape", "says"),
    [
        ([1, 2], F32, (3,), "expected shape [3], found [2]"),
        (1, F32, (1,), "expected shape [1], found []"),
        ([[1, 2], [3]], F32, (None, None), "lists differ in length"),
        ([["a", "b"], ["c"]], STRING, (None, None), "lists differ in length"),
        ("1", F32, (), "expected numbers, found strings"),
        (None, F32, (), "expected numbers"),
        ([1, None], F32, (2,), "expected numbers"),
        (1.5, I32, (), "found fractions"),
        (2**31, I32, (), "out of its range"),
        (2**63, I64, (), "out of its range"),
        (float("nan"), I32, (), "found fractions"),
        (1e300, F32, (), "out of its range"),
        (1, BOOL, (), "expected booleans, found whole numbers"),
        (True, F32, (), "expected numbers, found booleans"),
        (1, STRING, (), "expected strings, found int"),
        (None, STRING, (), "expected strings"),
        ({"b64": "***"}, STRING, (), "base64"),
    ],
)
def test_json_values_that_do_not_fit_are_refused(value, dtype, shape, says):
    with pytest.raises(DataError) as error:
        from_nested(value, dtype, shape)
    assert says in str(error.value)


def test_flat_values_take_the_shape_with_one_unknown_dimension_inferred():
    same(from_flat([1, 2, 3, 4], F32, (2, 2)), np.float32([[1, 2], [3, 4]]))
    same(from_flat([1, 2, 3, 4, 5, 6], F32, (None, 3)), np.float32([[1, 2, 3], [4, 5, 6]]))
    same(from_flat([5], I64, ()), np.int64(5))
    same(from_flat([b"a"], STRING, ()), np.array(b"a", object))
    same(from_flat([b"a", b"b"], STRING, None), strings(b"a", b"b"))
    same(from_flat([], F32, (None, 3)), np.zeros((0, 3), np.float32))


@pytest.mark.parametrize(
    ("value", "dtype", "shape", "says"),
    [
        ([1, 2, 3], F32, (2, 2), "expected values for shape [2, 2], found 3 values"),
        ([1, 2, 3], F32, (None, 2), "expected values for shape [?, 2], found 3 values"),
        ([1, 2, 3], F32, (None, None), "more than one unknown"),
        ([b"a"], F32, (1,), "expected numbers, found strings"),
        ([1], STRING, (1,), "expected strings, found whole numbers"),
    ],
)
def test_flat_values_that_do_not_fit_are_refused(value, dtype, shape, says):
    with pytest.raises(DataError) as error:
        from_flat(value, dtype, shape)
    assert says in str(error.value)


def test_text_becomes_one_scalar():
    same(from_text(" 1.5", F32, ()), np.float32(1.5))
    same(from_text("12", I64, (1,)), np.int64([12]))
    same(from_text("-9007199254740993", I64, ()), np.int64(-9007199254740993))
    same(from_text("3.0", I64, ()), np.int64(3))
    same(from_text("FALSE", BOOL, ()), np.bool_(False))
    same(from_text(" a b", STRING, ()), np.array(b" a b", object))


@pytest.mark.parametrize(
    ("text", "dtype"),
    [
        ("", F32),
        ("1.5", I64),
        ("nan", I64),
        ("1_000", I64),
        ("9007199254740993.0", I64),
        ("1_0.5", F32),
        ("yes", BOOL),
        ("x", F32),
    ],
)
def test_text_that_is_no_such_value_is_refused(text, dtype):
    with pytest.raises(DataError):
        from_text(text, dtype, ())


def test_arrays_keep_their_batch_axis():
    same(from_array(np.arange(6.0).reshape(2, 3), F32, (3,)), np.arange(6, dtype=np.float32).reshape(2, 3))
    same(from_array(np.array(["ä", "b"]), STRING, ()), strings("ä".encode(), b"b"))
    same(from_array(np.array([b"x", b"y"]), STRING, ()), strings(b"x", b"y"))
    with pytest.raises(DataError, match="expected shape"):
        from_array(np.zeros((2, 4)), F32, (3,))
    with pytest.raises(DataError, match="expected strings"):
        from_array(np.zeros(2), STRING, ())


@pytest.mark.parametrize(
    "value",
    [
        np.zeros((2, 3), np.complex64),
        np.zeros((2, 3), "M8[s]"),
        np.zeros((2, 3), "m8[s]"),
        np.zeros((2, 3), [("a", "f4")]),
        np.zeros((2, 3), "V4"),
    ],
)
@pytest.mark.parametrize("dtype", [F32, I64, BOOL])
def test_arrays_without_real_numbers_are_refused(value, dtype):
    with pytest.raises(DataError, match="found values of the dtype"):
        from_array(value, dtype, (3,))


def test_bfloat16_is_read_though_numpy_writes_it_without_a_name(tmp_path):
    bfloat16 = np.dtype(ml_dtypes.bfloat16)
    np.savez(tmp_path / "a.npz", x=np.arange(6).reshape(2, 3).astype(bfloat16))
    found = from_array(np.load(tmp_path / "a.npz")["x"], bfloat16, (3,))
    same(found, np.arange(6).reshape(2, 3).astype(bfloat16))
    same(cast(found, F32), np.float32([[0, 1, 2], [3, 4, 5]]))


@pytest.mark.parametrize(
    ("value", "says"), [(datetime.date(2020, 1, 1), "values of type date"), (decimal.Decimal(1), "of type Decimal")]
)
def test_what_parquet_holds_beside_numbers_is_named(value, says):
    with pytest.raises(DataError, match=says):
        from_nested([value], F32, (1,))


def test_casting_keeps_numbers_that_fit():
    same(cast(np.array([1, 255]), np.dtype(np.uint8)), np.uint8([1, 255]))
    with pytest.raises(DataError):
        cast(np.array([-1]), np.dtype(np.uint64))  # wraps to a number that wraps back
