"""An encoding is off by no more than its formula says, and TensorFlow decodes the very bits that NumPy does."""

from __future__ import annotations

import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from tests.decoding import in_tensorflow, same_bits
from tfslim_core.encodings import ENCODINGS, NotEncodableError, Sharing, decoded, named
from tfslim_core.encodings import encoded as encoded_as
from tfslim_core.encodings.compressed import entropy
from tfslim_core.encodings.scheme import Form
from tfslim_core.encodings.zigzag import Zigzag
from tfslim_core.errors import ModelError, TransformError
from tfslim_core.graph import constant
from tfslim_core.weights import Encoded, in_memory

MOST = float(np.finfo(np.float32).max)


def normal(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def encoded(weight, name, axes, **options):
    return encoded_as(weight, name, Sharing(axes), **options)


def check_int8(value, axes):
    weight = encoded(in_memory(value), "int8", axes)
    found = weight.read()
    assert (found.dtype, found.shape) == (np.float32, value.shape)
    assert np.isfinite(found).all()
    scale = weight.encoded.parts["scale"].read()
    assert scale.shape == tuple(1 if axis in axes else size for axis, size in enumerate(value.shape))
    formula = np.abs(value.astype(np.float64)).max(axis=axes, keepdims=True, initial=0) / 127
    # Half a step; scales in half precision are up to 0.1 % longer; rounding of the division and the product.
    step = formula * (1 + 2**-10)
    zeros = step < np.finfo(np.float32).tiny  # so small a slice becomes zeros
    assert (np.abs(found - value.astype(np.float64)) <= step * np.where(zeros, 127, 0.5 + 2**-15)).all()
    assert (found[value == 0] == 0).all()
    codes = weight.encoded.parts["codes"].read()
    assert codes.dtype == np.int8
    assert codes.size == 0 or codes.min() >= -127
    assert same_bits(in_tensorflow(weight), found)
    return weight


@pytest.mark.parametrize("axes", [(0,), (1,), (0, 1)])
def test_int8_is_off_by_half_a_step_at_most(axes):
    weight = check_int8(normal(300, 70) * np.logspace(-3, 3, 70, dtype=np.float32), axes)
    assert weight.stored_bytes < 300 * 70 * 1.06
    assert weight.nbytes == 300 * 70 * 4


def test_a_step_is_a_127th_of_the_largest_magnitude():
    value = np.array([[1.27, -0.5, 0.004], [-254, 2, 3.2]], np.float32)
    weight = encoded(in_memory(np.repeat(value, 100, axis=1)), "int8", (1,))
    codes, scale = (weight.encoded.parts[role].read() for role in ("codes", "scale"))
    np.testing.assert_allclose(scale.ravel(), [0.01, 2], rtol=2**-10)
    assert codes[:, ::100].tolist() == [[127, -50, 0], [-127, 1, 2]]


@settings(max_examples=150, deadline=None, derandomize=True)
@given(
    arrays(
        np.float32,
        st.tuples(st.integers(1, 5), st.integers(0, 6), st.integers(1, 4)),
        elements=st.floats(-MOST, MOST, width=32),
    ),
    st.sampled_from([(0,), (1,), (2,), (0, 1), (1, 2), (0, 1, 2)]),
)
def test_any_finite_value_survives_int8(value, axes):
    weight = encoded(in_memory(value), "int8", axes)
    found = weight.read()
    assert np.isfinite(found).all()
    scale = weight.encoded.parts["scale"].read().astype(np.float64)
    # The largest value of all is not quite reached: 127 times its step would be infinite.
    assert (np.abs(found.astype(np.float64) - value) <= scale * (0.5 + 2**-15)).all()
    assert (
        scale <= np.maximum(np.abs(value.astype(np.float64)).max(axis=axes, keepdims=True, initial=0) / 126.5, 1)
    ).all()


@pytest.mark.parametrize(
    "value",
    [
        np.zeros((40, 30), np.float32),
        np.full((40, 30), MOST, np.float32),
        np.full((40, 30), 1e-44, np.float32),
        np.full((40, 30), 3e-38, np.float32),
        np.where(np.arange(30) % 2, normal(40, 30), 0).astype(np.float32),
        np.concatenate([normal(20, 30) * 1e6, normal(20, 30) * 1e-6]),
        normal(1, 1),
        normal(40, 30).T,
        normal(0, 30),
        normal(30, 0),
        normal(7),
        np.float32([0.1] * 2000),
        normal(3, 3, 20, 10),
    ],
    ids=lambda value: "x".join(map(str, value.shape)),
)
@pytest.mark.parametrize("along", ["first", "last"])
def test_odd_values_are_decoded_alike(value, along):
    rank = value.ndim
    axes = (0,) if rank == 1 else tuple(range(1, rank)) if along == "first" else tuple(range(rank - 1))
    check_int8(value, axes)


def test_values_are_encoded_block_by_block_alike(monkeypatch):
    value = normal(1000, 37)
    whole = {axes: encoded(in_memory(value), "int8", axes).read() for axes in [(0,), (1,)]}
    monkeypatch.setattr("tfslim_core.encodings.integers._BLOCK", 100)
    for axes, wanted in whole.items():
        assert same_bits(encoded(in_memory(value), "int8", axes).read(), wanted)


def test_few_scales_are_exact_and_many_are_halves():
    parts = {rows: encoded(in_memory(normal(rows, 100)), "int8", (0,)).encoded.parts["scale"] for rows in (50, 5000)}
    assert {rows: part.dtype.name for rows, part in parts.items()} == {50: "float16", 5000: "float32"}
    tiny = encoded(in_memory(normal(50, 100) * 1e-6), "int8", (0,)).encoded.parts["scale"]
    assert tiny.dtype == np.float32


@pytest.mark.parametrize("name", ["int8", "float16"])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_nan_and_infinity_are_left_alone(name, bad):
    value = normal(10, 10)
    value[3, 4] = bad
    with pytest.raises(NotEncodableError, match="NaN or infinity"):
        encoded(in_memory(value), name, (0,))


def test_float16_is_the_nearest_half_and_refuses_to_overflow():
    value = np.concatenate([normal(100, 3), [[65504, -65504, 1e-9]]]).astype(np.float32)
    weight = encoded(in_memory(value), "float16", ())
    assert same_bits(weight.read(), value.astype(np.float16).astype(np.float32))
    assert same_bits(in_tensorflow(weight), weight.read())
    assert weight.stored_bytes == weight.nbytes // 2
    with pytest.raises(NotEncodableError, match="65504"):
        encoded(in_memory(np.float32([1, -65519.9])), "float16", ())
    assert encoded(in_memory(normal(0, 3)), "float16", ()).read().shape == (0, 3)


def test_only_float32_is_encoded():
    with pytest.raises(NotEncodableError, match="float64, not float32"):
        encoded(in_memory(np.zeros(3)), "int8", (0,))


def test_an_encoding_that_is_not_there_is_told_with_those_that_are():
    with pytest.raises(
        TransformError, match=r"no encoding 'int88'; did you mean 'int8'\? \(there are: float16, bfloat16, int8, .*\)"
    ):
        named("int88")


def test_what_was_stored_reads_as_it_did():
    value = normal(20, 9)
    value[3:9] = 0
    for name in ENCODINGS:
        weight = encoded(in_memory(value), name, (0,))
        assert same_bits(decoded(weight.encoded, Form(weight.dtype, weight.shape)).read(), weight.read())


def test_small_constants_hold_their_value_themselves():
    node, weights = constant("c", normal(3))
    assert (weights, node.attr["value"].tensor.dtype) == ({}, 1)


INTEGERS = [f"{kind}{bits}" for kind in ("int", "uint") for bits in range(2, 9)]


def formula(value, name, sharing):
    """Codes and decoded values by the formula, in a loop over slices: scales are taken as they were found."""
    weight = encoded_as(in_memory(value), name, sharing)
    parts = {role: part.read() for role, part in weight.encoded.parts.items()}
    return weight, parts


@pytest.mark.parametrize("name", INTEGERS)
@pytest.mark.parametrize(
    "sharing", [Sharing((0,)), Sharing((1,)), Sharing((0,), 16), Sharing((1,), 10), Sharing((0, 1))]
)
def test_integers_are_decoded_by_tensorflow_to_the_same_bits(name, sharing):
    value = normal(48, 70) * np.logspace(-2, 2, 70, dtype=np.float32) + np.float32(0.3)
    value[5] = 0
    weight, parts = formula(value, name, sharing)
    bits, affine = int(name.removeprefix("u").removeprefix("int")), name.startswith("u")
    low, high = (0, 2**bits - 1) if affine else (1 - 2 ** (bits - 1), 2 ** (bits - 1) - 1)
    assert (parts["codes"].min(), parts["codes"].max()) == (low, high)
    # The formula, with a scale and a zero point for each element.
    blocks = [size // count for size, count in zip(value.shape, parts["scale"].shape, strict=True)]
    scale, zero = (
        np.repeat(np.repeat(part.astype(np.float32), blocks[0], 0), blocks[1], 1)
        for part in (parts["scale"], parts.get("zero_point", np.zeros_like(parts["scale"])))
    )
    wanted = np.clip(np.rint(value / scale) + zero, low, high)
    assert (parts["codes"] == wanted).all()
    found = weight.read()
    assert same_bits(found, (wanted.astype(np.float32) - zero) * scale)
    assert same_bits(in_tensorflow(weight), found)
    assert (found[value == 0] == 0).all()


@pytest.mark.parametrize("name", [name for name in INTEGERS if not name.endswith("8")])
def test_codes_take_their_bits_and_no_more(name):
    value = np.random.default_rng(1).uniform(-1, 1, (256, 128)).astype(np.float32)
    weight = encoded(in_memory(value), name, (0, 1))
    bits = int(name[-1])
    assert weight.stored_bytes <= value.size * bits / 8 + 8
    assert weight.encoded.parts["codes"].encoded.encoding == f"bits{bits}"


def test_fewer_bits_are_worse_and_smaller_blocks_are_better():
    value = normal(512, 64) * np.random.default_rng(3).lognormal(size=(512, 1)).astype(np.float32)

    def error(name):
        return float(np.square(encoded(in_memory(value), name, (0,)).read() - value).mean())

    errors = [error(f"int{bits}") for bits in range(8, 1, -1)]
    assert errors == sorted(errors)
    assert errors[0] > 0
    assert error("int4/block16") < error("int4/block64") < error("int4") < error("int4/tensor")
    assert error("uint4") < error("int4")  # one more code


def test_a_scale_of_few_bits_clips_when_that_is_nearer():
    value = normal(4000, 8)
    value[0] = 40  # an outlier in each column
    weight = encoded(in_memory(value), "int4", (0,))
    longest = np.abs(value).max(axis=0) / 7
    assert (weight.encoded.parts["scale"].read().ravel() < 0.5 * longest).all()
    clipped = np.clip(np.rint(value / longest), -7, 7) * longest
    assert np.square(weight.read() - value).sum() < 0.5 * np.square(clipped - value).sum()


def test_blocks_that_do_not_divide_are_taken_smaller_or_whole():
    def scales(size, block):
        weight = encoded_as(in_memory(normal(size, 6)), "int4", Sharing((0,), block))
        assert same_bits(in_tensorflow(weight), weight.read())
        return weight.encoded.parts["scale"].shape

    assert scales(300, 64) == (5, 6)  # blocks of 60
    assert scales(128, 64) == (2, 6)
    assert scales(127, 64) == (1, 6)  # a prime
    assert scales(30, 64) == (1, 6)


@pytest.mark.parametrize("shape", [(1,), (7,), (0, 3), (3, 0), (1, 1), (5, 7, 3), (2049,), (3, 3, 5, 7)])
@pytest.mark.parametrize("name", ["int3", "uint5", "int6", "int11", "bfloat16"])
def test_odd_shapes_are_packed_and_decoded_alike(name, shape):
    axes = tuple(range(len(shape) - 1)) or (0,)
    weight = encoded(in_memory(normal(*shape)), name, axes)
    assert weight.shape == shape
    assert same_bits(in_tensorflow(weight), weight.read())


@settings(max_examples=100, deadline=None, derandomize=True)
@given(
    st.sampled_from(INTEGERS),
    arrays(np.float32, st.tuples(st.integers(1, 4), st.integers(1, 6)), elements=st.floats(-MOST, MOST, width=32)),
    st.sampled_from([(0,), (1,), (0, 1)]),
)
def test_any_finite_value_stays_finite(name, value, axes):
    found = encoded(in_memory(value), name, axes).read()
    assert np.isfinite(found).all()
    bound = np.abs(value.astype(np.float64)).max(axis=axes, keepdims=True) * 2 + 1e-37
    assert (np.abs(found.astype(np.float64) - value) <= bound).all()


def compressible(rows, columns):
    """Normal but for an outlier in each column: most codes are near zero."""
    value = normal(rows, columns)
    value[0] = 8
    return value


@pytest.mark.parametrize("name", ["int8", "uint8", "int6", "int4/tensor", "uint3", "int2"])
@pytest.mark.parametrize("shape", [(900, 70), (3000, 1024)])
def test_compressed_codes_come_within_five_percent_of_their_entropy(name, shape):
    value = compressible(*shape)
    weight = encoded_as(in_memory(value), name, Sharing((0,)))
    codes = weight.encoded.parts["codes"]
    plain = encoded_as(in_memory(value), name, Sharing((0,)), compress=False)
    bits = int(name.partition("/")[0][-1])
    assert plain.encoded.parts["codes"].stored_bytes == -(-codes.read().size * bits // 8)
    bound = entropy(codes.read()) * codes.read().size / 8
    assert bound < 0.9 * plain.encoded.parts["codes"].stored_bytes  # else there is nothing to see
    assert codes.stored_bytes <= 1.05 * bound + 300
    assert same_bits(weight.read(), plain.read())
    assert same_bits(in_tensorflow(weight), weight.read())


@pytest.mark.parametrize("bits", [9, 10, 11, 12])
def test_wide_codes_of_one_small_step_take_their_entropy(bits):
    """Outliers make no step longer: what is stored is what the distribution asks for, whatever the range of codes."""
    value = normal(500, 300)
    value[7, 9] = 60
    weight = encoded_as(in_memory(value), f"int{bits}/tensor", Sharing((0,)))
    codes = weight.encoded.parts["codes"]
    found = codes.read()
    assert found.dtype == np.int16
    assert found.max() == 2 ** (bits - 1) - 1
    _, counts = np.unique(found, return_counts=True)
    shares = counts / found.size
    bound = -(shares * np.log2(shares)).sum() * found.size / 8
    assert codes.stored_bytes < 1.02 * bound + 1000
    assert same_bits(in_tensorflow(weight), weight.read())
    assert np.abs(weight.read() - value).max() <= 60 / (2 ** (bits - 1) - 1) * 0.501
    plain = encoded_as(in_memory(value), f"int{bits}/tensor", Sharing((0,)), compress=False)
    assert plain.encoded.parts["codes"].encoded is None
    assert same_bits(in_tensorflow(plain), weight.read())


@pytest.mark.parametrize("name", ["int2.5", "int3.25", "int6.5", "int7.75", "int8.25", "int11.75"])
@pytest.mark.parametrize("sharing", ["/tensor", "", "/block20"])
def test_parts_of_a_bit_are_longer_steps_that_clip_nothing(name, sharing):
    value = np.random.default_rng(1).standard_t(3, (400, 300)).astype(np.float32)
    value[:, 7] = 0
    weight = encoded_as(in_memory(value), name + sharing, Sharing((0,)))
    codes, scale = (weight.encoded.parts[role].read() for role in ("codes", "scale"))
    most = round(2 ** (float(name.removeprefix("int")) - 1)) - 1
    assert np.abs(codes).max() == most
    blocks = np.repeat(scale, 400 // len(scale), 0).astype(np.float32)
    assert np.all(np.abs(weight.read() - value) <= 0.5001 * blocks)
    assert same_bits(weight.read(), (codes * blocks).astype(np.float32))
    assert same_bits(in_tensorflow(weight), weight.read())
    assert (weight.read()[:, 7] == 0).all()


def test_each_part_of_a_bit_is_as_much_smaller():
    value = np.random.default_rng(1).standard_t(5, (400, 300)).astype(np.float32)
    steps = [10 - 0.25 * number for number in range(9)]
    sizes = [encoded_as(in_memory(value), f"int{bits:g}/tensor", Sharing((0,))).stored_bytes for bits in steps]
    quarter = value.size / 4 / 8
    np.testing.assert_allclose(-np.diff(sizes), quarter, rtol=0.25)
    assert sizes[0] - sizes[-1] == pytest.approx(8 * quarter, rel=0.05)


def test_every_code_of_16_bits_survives_its_planes():
    codes = np.arange(-(2**15), 2**15).astype(np.int16)
    planes = {role: in_memory(plane) for role, plane in Zigzag().encode(codes).items()}
    weight = decoded(Encoded("zigzag", planes), Form(np.dtype(np.int16), codes.shape))
    assert same_bits(weight.read(), codes)
    assert same_bits(in_tensorflow(weight), codes)
    assert not planes["high"].read()[2**15 - 127 : 2**15 + 128].any()


def test_what_compresses_badly_or_is_small_is_not():
    uniform = np.random.default_rng(0).integers(-127, 128, (300, 200)).astype(np.float32)
    assert encoded(in_memory(uniform), "int8", (0,)).encoded.parts["codes"].encoded is None
    assert encoded(in_memory(compressible(40, 30)), "int8", (0,)).encoded.parts["codes"].encoded is None


def test_a_damaged_string_is_told():
    weight = encoded(in_memory(compressible(300, 200)), "int8", (0,))
    chunks = weight.encoded.parts["codes"].encoded
    form = Form(np.dtype(np.int8), (300, 200))
    (whole,) = chunks.parts["chunks"].read().tolist()
    for bad, match in [
        (whole[:-9], "too short|damaged"),
        (b"nonsense", "damaged"),
        (zlib.compress(b"\0" * (1 << 22)), "too long"),
        (zlib.compress(b"\0" * 100), "too short"),
    ]:
        strings = np.empty(1, object)
        strings[0] = bad
        with pytest.raises(ModelError, match=match):
            decoded(Encoded("zlib", {"chunks": in_memory(strings)}), form).read()


@pytest.mark.parametrize(
    ("encoding", "parts", "shape", "match"),
    [
        ("int8", {"codes": (np.int8, (4, 6)), "scale": (np.float32, (4, 4))}, (4, 6), "scale has the shape"),
        ("int8", {"codes": (np.int8, (4, 6)), "scale": (np.float32, (2, 3))}, (4, 6), "split along two axes"),
        ("int8", {"codes": (np.int8, (4, 6)), "scale": (np.float32, (1, 1))}, (4, 7), "codes have the shape"),
        ("int8", {"codes": (np.int8, (4, 6)), "scale": (np.int8, (1, 1))}, (4, 6), "has the parts"),
        ("int8", {"codes": (np.int8, (4, 6))}, (4, 6), "has the parts"),
        (
            "uint8",
            {"codes": (np.uint8, (4, 6)), "scale": (np.float32, (1, 6)), "zero_point": (np.uint8, (1, 1))},
            (4, 6),
            "zero point",
        ),
        ("int44", {}, (4, 6), "does not know"),
    ],
)
def test_parts_that_do_not_fit_are_told(encoding, parts, shape, match):
    made = {role: in_memory(np.ones(size, dtype)) for role, (dtype, size) in parts.items()}
    with pytest.raises(ModelError, match=match):
        decoded(Encoded(encoding, made), Form(np.dtype(np.float32), shape))


def test_the_sharing_of_scales_is_named():
    assert named("int4/block32")[1] == "block32"
    for text in ("int4/", "int4/block", "int4/block0", "int4/rows", "int4/block-3", "int4/group4", "sparse/tensor"):
        with pytest.raises(TransformError, match="no sharing of scales"):
            named(text)
