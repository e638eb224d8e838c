"""Whatever a weight holds, of whatever dtype: it comes back bit for bit, or is not touched."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from tests.decoding import in_tensorflow, same_bits
from tfslim_core.encodings import NotEncodableError, Sharing, decoded, encoded, is_exact, lossless
from tfslim_core.encodings.byte_planes import BytePlanes
from tfslim_core.encodings.constants import Fill, Lookup, Range
from tfslim_core.encodings.distinct import bit_patterns
from tfslim_core.encodings.scheme import Form
from tfslim_core.errors import ModelError
from tfslim_core.weights import DTYPES, Encoded, in_memory

BFLOAT16 = tf.bfloat16.as_numpy_dtype
FORMS = [np.dtype(tf.as_dtype(name).as_numpy_dtype) for name in DTYPES]


def normal(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def noise(dtype, count=5000, seed=0):
    """Numbers of random bits, NaN and subnormal ones among them; booleans are 0 and 1."""
    data = np.random.default_rng(seed).integers(0, 256, count * dtype.itemsize, dtype=np.uint8)
    return data.view(dtype) if dtype != np.bool_ else data > 127


def check(value, scheme, **options):
    """The weight, stored in that scheme; None: as it is."""
    weight = lossless(in_memory(value), **options)
    if scheme is None:
        assert weight is None
        return None
    assert weight.encoded.encoding == scheme
    assert (weight.dtype, weight.shape) == (value.dtype, value.shape)
    assert same_bits(weight.read(), value)
    found = in_tensorflow(weight)
    assert (found.dtype, found.shape) == (value.dtype, value.shape)
    assert found.tobytes() == value.tobytes()
    assert weight.stored_bytes <= min(0.95 * value.nbytes, value.nbytes - 1024)
    return weight


@pytest.mark.parametrize("dtype", FORMS, ids=str)
def test_one_value_is_stored_once(dtype):
    value = np.repeat(noise(dtype, 1), 6000).reshape(20, 300)
    assert check(value, "fill").stored_bytes == dtype.itemsize


@pytest.mark.parametrize("bits", [0x80000000, 0x7F812345, 0xFFFFFFFF, 0x7F800000, 1], ids=hex)
def test_one_value_of_odd_bits_too(bits):
    check(np.full((30, 40), bits, np.uint32).view(np.float32), "fill")


def test_two_zeros_are_two_values():
    value = np.zeros(3000, np.float32)
    value[77] = -0.0
    assert check(value, "sparse").stored_bytes < 500


@pytest.mark.parametrize("dtype", [np.int32, np.int64, np.float32, np.float64])
@pytest.mark.parametrize(
    "value",
    [
        np.arange(5000),
        np.arange(5000).reshape(50, 100) * -3 + 7,
        np.arange(2, 60000, 12),
    ],
    ids=["counted", "downwards", "from two"],
)
def test_a_range_is_two_numbers(value, dtype):
    value = value.astype(dtype)
    assert check(value, "range").stored_bytes == 2 * value.itemsize


@pytest.mark.parametrize(
    "value",
    [
        np.linspace(0, 1, 3000, endpoint=False),
        np.linspace(-1, 1, 1001),
        np.arange(4000, dtype=np.float32) * np.float32(0.1) + np.float32(0.3),
        np.arange(4000) * 0.1,
        np.int32(2**31 - 5) + np.arange(3000, dtype=np.int32),  # wraps
    ],
    ids=["linspace", "linspace around zero", "float32", "float64", "wraps"],
)
def test_ranges_as_numpy_computes_them_are_found(value):
    check(value, "range")


def test_what_is_nearly_a_range_is_none():
    value = np.arange(5000)
    value[4321] += 1
    assert check(value, "zlib").stored_bytes < value.nbytes / 3
    tiny = np.arange(5000, dtype=np.float32) * np.float32(1e-41)  # subnormal, which TensorFlow takes for zero
    assert Range().encode(tiny) is None
    assert Range().encode(np.float32([np.nan, 1, 2])) is None
    assert Range().encode(np.float32([np.inf] * 9)) is None


@pytest.mark.parametrize("dtype", FORMS, ids=str)
@pytest.mark.parametrize("count", [2, 3, 17, 256])
def test_few_values_are_looked_up(dtype, count):
    values = np.unique(bit_patterns(noise(dtype, 4000)))[:count].view(dtype)
    value = np.random.default_rng(1).choice(values, (4000, 2))
    if dtype.itemsize == 1 and len(values) == 256:
        check(value, None)  # bytes that are evenly spread
    else:
        weight = check(value, "lookup")
        bits = max(1, (len(values) - 1).bit_length())
        assert weight.stored_bytes <= 8000 * bits / 8 + 256 * dtype.itemsize


def test_more_than_256_values_are_not_looked_up():
    assert Lookup().encode(np.arange(257)) is None
    assert Lookup().encode(np.arange(256)) is not None


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int32, np.int64])
def test_mostly_zeros_are_sparse_and_their_values_stored_in_turn(dtype):
    value = np.where(np.random.default_rng(0).random((400, 200)) < 0.8, 0, 1e6 * normal(400, 200)).astype(dtype)
    weight = check(value, "sparse")
    if dtype != np.float32:
        assert weight.encoded.parts["values"].encoded.encoding.startswith("bytes")


def test_layers_are_stored_by_bytes_since_their_exponents_are_few():
    weight = check(normal(300, 200), "bytes4")
    assert weight.stored_bytes < 0.87 * weight.nbytes
    wide = check(normal(300, 200).astype(np.float64), "bytes8")  # three bytes of each are zeros
    assert wide.stored_bytes < 0.5 * wide.nbytes
    check(normal(300, 200).astype(np.float16), "bytes2")
    check((normal(300, 200) + 1j * normal(300, 200, seed=1)).astype(np.complex64), "bytes8")


@pytest.mark.parametrize("dtype", [np.int16, np.uint32, np.int32, np.int64, np.uint64])
def test_small_integers_are_stored_by_bytes(dtype):
    value = np.random.default_rng(0).integers(1, 5000, (100, 90)).astype(dtype)
    weight = check(value, "bytes2" if value.itemsize == 2 else f"bytes{value.itemsize}")
    assert weight.stored_bytes <= value.size * 2.2


@pytest.mark.parametrize("dtype", [np.float32, np.float16, np.int64, BFLOAT16], ids=str)
def test_what_repeats_is_compressed(dtype):
    value = np.tile(1e3 * normal(700), 900).astype(dtype).reshape(900, 700)
    weight = check(value, "zlib")
    assert weight.stored_bytes < value.nbytes / 20
    check(value, None, compress=False)


@pytest.mark.parametrize("dtype", FORMS, ids=str)
def test_noise_and_what_is_small_is_left(dtype):
    if dtype != np.bool_:
        check(noise(dtype, 5000), None)
    check(np.zeros(1024 // dtype.itemsize, dtype), None)
    check(np.zeros((0, 7), dtype), None)
    check(np.zeros((), dtype), None)


def test_less_than_a_kibibyte_is_not_worth_it():
    value = np.append(noise(np.dtype(np.float32), 20000), np.zeros(250, np.float32))
    check(value, None)


def test_what_is_stored_already_and_strings_are_left():
    once = lossless(in_memory(np.zeros(5000)))
    assert lossless(once) is None
    assert lossless(in_memory(np.array([b"a" * 9] * 5000, object))) is None


def test_it_is_an_encoding_that_can_be_asked_for():
    value = np.arange(5000)
    weight = encoded(in_memory(value), "lossless", Sharing((0,)))
    assert weight.encoded.encoding == "range"
    with pytest.raises(NotEncodableError, match="would not be smaller"):
        encoded(in_memory(noise(np.dtype(np.float32))), "lossless", Sharing((0,)))
    assert is_exact("lossless")
    assert is_exact("sparse")
    assert not is_exact("sparse8")
    assert not is_exact("palette8/tensor")


@settings(max_examples=100, deadline=None, derandomize=True)
@given(
    st.sampled_from(FORMS),
    arrays(np.uint8, st.integers(1, 40)),
    st.integers(1, 3),
    st.integers(60, 120),
)
def test_any_bytes_come_back(dtype, pattern, every, times):
    data = np.repeat(np.tile(pattern, times), every)
    data = data[: data.size // dtype.itemsize * dtype.itemsize]
    value = data.view(dtype) if dtype != np.bool_ else data > 99
    weight = lossless(in_memory(value))
    if weight is not None:
        assert same_bits(weight.read(), value)


@pytest.mark.parametrize("scheme", [Fill(), Range(), Lookup()])
def test_transposed_arrays_are_taken_as_they_look(scheme):
    value = {"Fill": np.full((3, 4), 7), "Range": np.arange(12).reshape(4, 3).T, "Lookup": normal(4, 3).T}
    value = value[type(scheme).__name__]
    parts = scheme.encode(value)
    if parts is not None:
        assert same_bits(
            np.ascontiguousarray(scheme.decode(parts, Form(value.dtype, value.shape))), np.array(value, order="C")
        )
    assert (parts is None) == isinstance(scheme, Range)


@pytest.mark.parametrize(
    ("scheme", "parts", "match"),
    [
        ("fill", {"value": np.zeros(1, np.int64)}, "value has the shape"),
        ("fill", {"value": np.zeros((), np.int32)}, "value is int32"),
        ("range", {"start": np.zeros((), np.int64), "delta": np.zeros(1, np.int64)}, "delta has the shape"),
        ("range", {"start": np.zeros((), np.int32), "delta": np.zeros((), np.int64)}, "start is int32"),
        ("lookup", {"codes": np.zeros((2, 3), np.uint8), "values": np.zeros(3, np.int64)}, "codes have the shape"),
        (
            "lookup",
            {"codes": np.zeros((2, 4), np.uint8), "values": np.zeros((3, 1), np.int64)},
            "values have the shape",
        ),
        ("lookup", {"codes": np.zeros((2, 4), np.uint8), "values": np.zeros(3, np.int32)}, "values is int32"),
        ("lookup", {"codes": np.full((2, 4), 3, np.uint8), "values": np.zeros(3, np.int64)}, "lacks a value"),
        ("bytes8", {f"plane{n}": np.zeros(8 if n else 7, np.uint8) for n in range(8)}, "plane0 has the shape"),
        ("bytes4", {f"plane{n}": np.zeros(8, np.uint8) for n in range(4)}, "int64 has 8 bytes"),
    ],
)
def test_parts_that_do_not_fit_are_told(scheme, parts, match):
    stored = Encoded(scheme, {role: in_memory(part) for role, part in parts.items()})
    with pytest.raises(ModelError, match=match):
        decoded(stored, Form(np.dtype(np.int64), (2, 4))).read()


def test_planes_are_the_bytes_from_the_lowest():
    parts = BytePlanes(4).encode(np.int32([0x01020304, 0x11121314]))
    assert [part.tolist() for part in parts.values()] == [[4, 0x14], [3, 0x13], [2, 0x12], [1, 0x11]]
