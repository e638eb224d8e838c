"""An encoding is off by no more than its formula says, and TensorFlow decodes the very bits that NumPy does."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from tfslim_core.encodings import ENCODINGS, NotEncodableError, decoded, encoded, encoding
from tfslim_core.errors import TransformError
from tfslim_core.graph import Graph, Input, constant, external_constant
from tfslim_core.saved_model.write import with_values
from tfslim_core.weights import in_memory

tf1 = tf.compat.v1
MOST = float(np.finfo(np.float32).max)


def normal(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def in_tensorflow(weight):
    """The weight's value as the decoding ops of its encoding compute it in a session."""
    nodes, parts, weights = [], {}, {}
    graph = Graph({})
    names = graph.fresh_names()
    for role, part in weight.encoded.parts.items():
        node, more = external_constant(names(role), part)
        nodes.append(node)
        weights |= more
        parts[role] = Input(node.name, 0)
    dtypes = {role: tf.as_dtype(part.dtype) for role, part in weight.encoded.parts.items()}
    decoding = encoding(weight.encoded.encoding).decoding_ops("value", parts, dtypes, names)
    assert decoding[-1].name == "value"
    graph_def = with_values(graph.replace([*nodes, *decoding], weights=weights))
    config = tf1.ConfigProto()
    config.graph_options.optimizer_options.opt_level = -1
    with tf1.Session(graph=tf.Graph(), config=config) as session:
        tf1.import_graph_def(graph_def, name="")
        return session.run("value:0")


def same_bits(a, b):
    return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()


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
    monkeypatch.setattr("tfslim_core.encodings._BLOCK", 100)
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
        TransformError, match=r"no encoding 'int88'; did you mean 'int8'\? \(there are: float16, int8\)"
    ):
        encoding("int88")


def test_what_was_stored_reads_as_it_did():
    for name in ENCODINGS:
        weight = encoded(in_memory(normal(20, 9)), name, (0,))
        assert same_bits(decoded(weight.encoded).read(), weight.read())


def test_small_constants_hold_their_value_themselves():
    node, weights = constant("c", normal(3))
    assert (weights, node.attr["value"].tensor.dtype) == ({}, 1)
