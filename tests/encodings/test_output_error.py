"""Rounding that heeds inputs: never worse in the outputs than plain rounding, much better where inputs are alike."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.decoding import in_tensorflow, same_bits
from tfslim_core.encodings import Moments, Sharing, encoded, heeds_moments, needs_moments
from tfslim_core.encodings.output_error import DAMPING
from tfslim_core.weights import in_memory


def normal(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def correlated(rows, count, rho, seed=1):
    """[rows, count]: each input is rho times the one before it, and noise."""
    found = normal(rows, count, seed=seed)
    for column in range(1, count):
        found[:, column] = rho * found[:, column - 1] + np.sqrt(1 - rho**2) * found[:, column]
    return found


def moments_of(inputs, summed=(0,)):
    return Moments((inputs.T @ inputs)[None], summed)


def both(value, name, moments, axes=(0,), decode=True):
    plain = encoded(in_memory(value), name, Sharing(axes))
    fed = encoded(in_memory(value), name, Sharing(axes), moments=moments)
    assert not decode or same_bits(in_tensorflow(fed), fed.read())
    return plain, fed


# Damping takes some of what could be had; plain rounding is 1.
@pytest.mark.parametrize(
    ("name", "rho", "most"),
    [
        *((name, 0.9, 0.65) for name in ("int8", "int4", "int3", "int4/block64", "int4/tensor", "uint4", "palette4")),
        *((name, 0.99, 0.4) for name in ("int8", "int4", "int3", "int4/block64", "int4/tensor", "uint4", "palette4")),
    ],
)
def test_correlated_inputs_are_answered_much_better(name, rho, most):
    seen, unseen = correlated(2000, 192, rho), correlated(500, 192, rho, seed=2)
    value = normal(192, 80, seed=3)
    plain, fed = both(value, name, moments_of(seen))
    errors = [np.square(unseen @ (weight.read() - value)).sum() for weight in (plain, fed)]
    assert errors[1] < most**2 * errors[0]
    assert fed.stored_bytes < 1.02 * plain.stored_bytes


@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    st.integers(1, 40),
    st.integers(1, 9),
    st.integers(1, 60),
    st.sampled_from(["int8", "int4", "int2", "uint3", "int3/block8", "int2/tensor", "palette2", "palette1"]),
    st.floats(0, 0.999),
    st.integers(0, 10**6),
)
def test_no_column_is_worse_than_plainly_rounded(inputs, columns, rows, name, rho, seed):
    """On the same grid: the scale of 8 bits hangs on nothing else."""
    x = correlated(rows, inputs, rho, seed) * np.float32(10) ** normal(inputs, seed=seed + 1)
    value = normal(inputs, columns, seed=seed + 2) ** 3
    moments = moments_of(x)
    plain, fed = both(value, name, moments, decode=False)
    matrix = moments.matrices[0].astype(np.float64)
    matrix += DAMPING * np.diag(matrix).mean() * np.eye(inputs)
    scale = {role: part.read() for role, part in fed.encoded.parts.items() if role != "codes"}
    if all(same_bits(plain.encoded.parts[role].read(), part) for role, part in scale.items()):
        errors = [np.diag((d := one.read().astype(np.float64) - value).T @ matrix @ d) for one in (plain, fed)]
        assert (errors[1] <= errors[0] * 1.0001 + 1e-12).all()


@pytest.mark.parametrize("name", ["int8", "int4", "uint4", "int3/block16", "int4/tensor", "palette3"])
def test_independent_inputs_of_equal_size_change_nothing(name):
    value = normal(96, 40)
    plain, fed = both(value, name, Moments(np.eye(96, dtype=np.float32)[None] * 7, (0,)))
    assert same_bits(plain.read(), fed.read())


def test_large_inputs_choose_the_scale():
    """One input is a thousand times the others: its weights, small ones, are what a short scale is for."""
    value = normal(256, 32)
    value[0] *= 0.1
    x = normal(1000, 256)
    x[:, 0] *= 1000
    plain, fed = both(value, "int4", moments_of(x))
    errors = [np.square(x @ (one.read() - value)).sum() for one in (plain, fed)]
    assert errors[1] < 0.6 * errors[0]
    # Where only the diagonal is known, rows make up for none, but the scale is chosen the same.
    diagonal = encoded(in_memory(value), "int4", Sharing((0,)), moments=Moments(np.square(x).sum(0)[None], (0,)))
    assert same_bits(diagonal.encoded.parts["scale"].read(), fed.encoded.parts["scale"].read())


@pytest.mark.parametrize(
    ("shape", "summed", "apart", "axes"),
    [
        ((60, 20), (0,), (), (0,)),
        ((20, 60), (1,), (), (1,)),
        ((1, 60, 20), (1,), (), (0, 1)),
        ((3, 2, 10, 7), (0, 1, 2), (), (0, 1, 2)),
        ((3, 3, 6, 2), (0, 1), (2,), (0, 1)),
        ((4, 5, 6), (2, 0), (1,), (0, 2)),
    ],
)
@pytest.mark.parametrize("name", ["int4", "int3/block10", "uint4", "palette3", "int6/input", "int4/tensor"])
def test_all_layouts(shape, summed, apart, axes, name):
    """Each group of a weight is rounded as a matrix of its own would be, given its inputs and its scales."""
    value = normal(*shape, seed=4)
    groups = int(np.prod([shape[axis] for axis in apart]))
    count = int(np.prod([shape[axis] for axis in summed]))
    x = [correlated(400, count, 0.95, seed=group) for group in range(groups)]
    moments = Moments(np.stack([some.T @ some for some in x]), summed, apart)
    plain = encoded(in_memory(value), "int6/tensor" if name.endswith("/input") else name, Sharing(axes))
    _, fed = both(value, name, moments, axes)
    off = [moments.as_columns(one.read() - value) for one in (plain, fed)]
    assert off[0].shape == (groups, count, value.size // groups // count)
    errors = [sum(np.square(some @ d).sum() for some, d in zip(x, one, strict=True)) for one in off]
    assert errors[1] < 0.6 * errors[0]
    np.testing.assert_array_equal(moments.from_columns(moments.as_columns(value), shape), value)
    damped = [m + DAMPING * np.trace(m) / count * np.eye(count) for m in moments.matrices.astype(np.float64)]
    wanted = sum(np.trace(d.T @ m @ d) for m, d in zip(damped, off[1].astype(np.float64), strict=True))
    np.testing.assert_allclose(moments.error(fed.read() - value), wanted, rtol=1e-3)


@pytest.mark.parametrize("name", ["int4", "int2", "palette3", "int6/input"])
@pytest.mark.parametrize("rows", [np.ones((1, 30)), np.zeros((5, 30)), np.eye(1, 30), np.full((3, 30), 1e-30)])
def test_a_sample_that_tells_little(rows, name):
    """One example, one input that is ever used, none at all: no weight is off by more than it is large."""
    value = normal(30, 50)
    plain, fed = both(value, name, moments_of(rows.astype(np.float32)))
    assert np.abs(fed.read() - value).max() < np.abs(value).max()
    errors = [np.square(one.read() - value).sum() for one in (plain, fed)]
    assert name.endswith("input") or errors[1] < 20 * errors[0]
    assert np.isfinite(fed.read()).all()


def test_a_dead_channel_of_many_is_rounded_plainly():
    value = normal(3, 3, 4, 5)
    x = correlated(200, 9, 0.9)
    matrices = np.stack([x.T @ x, np.zeros((9, 9), np.float32), x.T @ x, x.T @ x])
    plain, fed = both(value, "int8", Moments(matrices, (0, 1), (2,)), (0, 1))
    differs = (plain.read() != fed.read()).any(axis=(0, 1, 3))
    assert differs.tolist() == [True, False, True, True]


def test_extreme_values():
    value = normal(16, 8)
    value[:, 1], value[:, 2], value[3, 3], value[:, 4] = 0, 1e-42, 3e38, 1e30
    moments = moments_of(correlated(100, 16, 0.9))
    for name in ("int8", "int4", "uint4", "int4/tensor", "int4/input", "int12/input", "palette4"):
        found = both(value, name, moments)[1].read()
        assert np.isfinite(found).all(), name
    empty = np.zeros((16, 0), np.float32)
    assert both(empty, "int4", moments)[1].read().shape == (16, 0)


def test_twice_the_same():
    value, moments = normal(200, 90), moments_of(correlated(300, 200, 0.9))
    for name in ("int4", "palette4", "int6/input"):
        one, other = (encoded(in_memory(value), name, Sharing((0,)), moments=moments).read() for _ in range(2))
        assert same_bits(one, other)


def test_a_step_for_each_input_takes_fewer_bytes():
    """Inputs of very different size: compressed codes of as small an error in the outputs are smaller."""
    size = np.logspace(0, -2, 512, dtype=np.float32)
    x, value = normal(2000, 512) * size, normal(512, 256, seed=1)
    moments = moments_of(x)
    alike = encoded(in_memory(value), "int6/tensor", Sharing((0,)), moments=moments)
    own = encoded(in_memory(value), "int8/input", Sharing((0,)), moments=moments)
    assert same_bits(in_tensorflow(own), own.read())
    assert own.encoded.parts["scale"].shape == (512, 1)
    errors = [np.square(x @ (one.read() - value)).sum() for one in (alike, own)]
    assert errors[1] < errors[0]
    assert own.stored_bytes < 0.92 * alike.stored_bytes
    # Of a table's rows it is known how often each is read.
    counts = Moments((size * 1000)[None].round(), (0,))
    table = encoded(in_memory(value), "int8/input", Sharing((1,)), moments=counts)
    scale = table.encoded.parts["scale"].read().ravel()
    assert (np.diff(scale) >= 0).all()
    np.testing.assert_allclose(scale[-1] / scale[0], np.sqrt((1000 + 50 * 0.21) / (10 + 50 * 0.21)), rtol=0.25)


def test_who_heeds_inputs():
    assert all(map(heeds_moments, ("int8", "int4/block32", "uint4", "palette4", "int8/input", "int4/tensor")))
    assert not any(map(heeds_moments, ("float16", "bfloat16", "sparse8", "lossless", "palette4/group16")))
    assert needs_moments("int8/input")
    assert not needs_moments("int8/tensor")
    # Without moments all inputs count alike.
    value = normal(64, 64)
    alike, own = (encoded(in_memory(value), f"int4/{how}", Sharing((0,))) for how in ("tensor", "input"))
    assert same_bits(alike.read(), own.read())
