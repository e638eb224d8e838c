"""Sparse weights come back bit for bit, or with their values rounded and their zeros as they were."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from tests.decoding import in_tensorflow, same_bits
from tfslim_core.encodings import NotEncodableError, Sharing, by_row, decoded, encoded
from tfslim_core.encodings.scheme import Form
from tfslim_core.errors import ModelError
from tfslim_core.weights import Encoded, in_memory


def pruned(*shape, share=0.9, seed=0):
    random = np.random.default_rng(seed)
    return np.where(random.random(shape) < share, 0, random.normal(size=shape)).astype(np.float32)


def sparse(value, name="sparse", **options):
    weight = encoded(in_memory(value), name, Sharing((0,)), **options)
    assert same_bits(in_tensorflow(weight), weight.read())
    return weight


def with_odd_values(value):
    """Numbers that arithmetic would not hand on: -0.0, a signalling NaN with a payload, subnormal ones, infinities."""
    patterns = np.uint32([0x80000000, 0x7F812345, 0xFFC00001, 1, 0x80000001, 0x7F800000, 0xFF800000, 0x00400000])
    copy = value.copy()
    copy.reshape(-1)[5 : 5 + patterns.size] = patterns.view(np.float32)
    return copy


@pytest.mark.parametrize("shape", [(100, 70), (5000,), (3, 3, 20, 30), (1, 999)], ids=str)
@pytest.mark.parametrize("compress", [True, False])
def test_every_bit_survives(shape, compress):
    value = with_odd_values(pruned(*shape))
    weight = sparse(value, compress=compress)
    assert same_bits(weight.read(), value)
    assert weight.stored_bytes <= value.size / 8 + 4 * np.count_nonzero(value.view(np.uint32)) + 8


def test_the_mask_is_compressed_where_that_is_smaller():
    value = pruned(1000, 1000, share=0.99)
    weight = sparse(value)
    assert same_bits(weight.read(), value)
    assert weight.encoded.parts["codes"].stored_bytes < 0.7 * value.size / 8


@pytest.mark.parametrize(("name", "most"), [("sparse16", 2**-11), ("sparse8", 1 / 253)])
def test_values_are_rounded_and_zeros_stay(name, most):
    value = pruned(200, 150)
    weight = sparse(value, name)
    found = weight.read()
    assert (found[value == 0] == 0).all()
    assert np.abs(found - value).max() <= most * np.abs(value).max()
    assert np.abs(found - value).max() > 0
    bytes_each = {"sparse16": 2, "sparse8": 1}[name]
    assert weight.stored_bytes <= value.size / 8 + bytes_each * np.count_nonzero(value) + 8
    assert same_bits(decoded(weight.encoded, Form(weight.dtype, weight.shape)).read(), found)


@pytest.mark.parametrize("name", ["sparse", "sparse16", "sparse8"])
def test_all_zeros_are_nothing_but_a_mask(name):
    value = np.zeros((40, 30), np.float32)
    weight = sparse(value, name)
    assert same_bits(weight.read(), value)
    assert weight.stored_bytes <= 1200 / 8 + 4


@pytest.mark.parametrize("name", ["sparse16", "sparse8"])
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_rounded_values_are_finite(name, bad):
    value = pruned(20, 20)
    value[3, 4] = bad
    with pytest.raises(NotEncodableError, match="NaN or infinity"):
        sparse(value, name)


def test_what_halves_cannot_hold_is_told():
    with pytest.raises(NotEncodableError, match="65504"):
        sparse(pruned(20, 20) * 1e6, "sparse16")


@pytest.mark.parametrize(("name", "share"), [("sparse", 1 / 32), ("sparse16", 1 / 16), ("sparse8", 1 / 8)])
def test_a_mask_that_takes_more_than_it_saves_is_refused(name, share):
    value = np.arange(1, 3201, dtype=np.float32)
    value[: int(share * 3200)] = 0
    with pytest.raises(NotEncodableError, match="too few of its values are zero"):
        sparse(value, name)
    value[int(share * 3200)] = 0
    assert sparse(value, name).stored_bytes < value.size * {"sparse": 4, "sparse16": 2, "sparse8": 1}[name] + 8


def test_an_empty_weight_has_no_zeros():
    with pytest.raises(NotEncodableError, match="too few"):
        sparse(np.zeros((0, 5), np.float32))


def test_it_has_no_rows():
    assert not by_row("sparse")
    assert not by_row("sparse8")


@settings(max_examples=60, deadline=None, derandomize=True)
@given(arrays(np.uint32, st.tuples(st.integers(0, 5), st.integers(1, 9)), fill=st.just(0)), st.integers(0, 9))
def test_any_bits_survive(patterns, zeros):
    value = np.concatenate([patterns, np.zeros((zeros, patterns.shape[1]), np.uint32)]).view(np.float32)
    try:
        weight = encoded(in_memory(value), "sparse", Sharing((0,)))
    except NotEncodableError:
        return
    assert same_bits(weight.read(), value)


@pytest.mark.parametrize(
    ("codes", "values", "match"),
    [
        (np.ones((4, 7), np.uint8), np.ones(24, np.float32), "codes have the shape"),
        (np.ones((4, 6), np.uint8), np.ones((24, 1), np.float32), "values are"),
        (np.ones((4, 6), np.uint8), np.ones(24, np.int32), "values are"),
        (np.ones((4, 6), np.uint8), np.ones(23, np.float32), "too few or too many"),
        (np.zeros((4, 6), np.uint8), np.ones(1, np.float32), "too few or too many"),
    ],
)
def test_parts_that_do_not_fit_are_told(codes, values, match):
    with pytest.raises(ModelError, match=match):
        decoded(
            Encoded("sparse", {"codes": in_memory(codes), "values": in_memory(values)}),
            Form(np.dtype(np.float32), (4, 6)),
        ).read()
