"""A palette is as near as k values can be, lossless where that is enough, and decoded to the same bits."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from tests.decoding import in_tensorflow, same_bits
from tests.graphs import building, run, view
from tfslim_core.encodings import NotEncodableError, Sharing, decoded, encoded, named
from tfslim_core.encodings import palettes as module
from tfslim_core.encodings.scheme import Form
from tfslim_core.errors import ModelError, TransformError
from tfslim_core.quantization.placements import place, use_of
from tfslim_core.weights import Encoded, in_memory

v1 = tf.compat.v1
MOST = float(np.finfo(np.float32).max)
# The least mean squared error of 2, 4, … values for a normal distribution (Max, 1960, table I, N = 2 to 32).
NORMAL = {1: 0.3634, 2: 0.1175, 3: 0.03454, 4: 0.009497, 5: 0.002499}


def normal(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def palette(value, name, **options):
    weight = encoded(in_memory(value), name, Sharing((0,)), **options)
    found = weight.read()
    assert (found.dtype, found.shape) == (np.float32, value.shape)
    assert same_bits(in_tensorflow(weight), found)
    return weight, found


def error(value, found):
    return float(np.square(value.astype(np.float64) - found).mean())


@pytest.mark.parametrize("bits", NORMAL)
def test_a_palette_of_a_normal_distribution_has_the_least_error_there_is(bits):
    value = normal(1000, 300)
    _, found = palette(value, f"palette{bits}")
    assert error(value, found) <= 1.01 * NORMAL[bits]


def test_every_value_is_coded_as_the_nearest_of_the_codebook_as_it_is_stored():
    for value in (normal(60, 50), np.random.default_rng(1).standard_t(2, (60, 50)).astype(np.float32)):
        for name in ("palette3", "palette6", "palette5/group7"):
            weight, found = palette(value, name)
            codebook = weight.encoded.parts["codebook"].read().astype(np.float64)
            groups = np.arange(50) // (7 if "group" in name else 50)
            distance = np.abs(value[..., None] - codebook[groups][None])
            np.testing.assert_allclose(np.abs(value - found), distance.min(axis=-1), rtol=1e-6, atol=1e-6)


def test_lloyd_is_no_worse_than_any_guess_for_two_values():
    value = np.random.default_rng(5).lognormal(size=400).astype(np.float32)
    _, found = palette(value, "palette1")
    ordered = np.sort(value.astype(np.float64))
    best = min(
        ((ordered[:cut] - ordered[:cut].mean()) ** 2).sum() + ((ordered[cut:] - ordered[cut:].mean()) ** 2).sum()
        for cut in range(1, 400)
    )
    assert np.square(value - found.astype(np.float64)).sum() <= 1.02 * best


@pytest.mark.parametrize("bits", range(1, 9))
def test_few_values_are_kept_bit_for_bit(bits):
    values = np.random.default_rng(bits).permutation(
        np.append(normal((1 << bits) - 2, seed=bits), np.float32([-0.0, 0.0])).astype(np.float32)
    )
    value = np.random.default_rng(1).choice(values, (100, 40)).astype(np.float32)
    value.reshape(-1)[: values.size] = values
    weight, found = palette(value, f"palette{bits}")
    assert same_bits(found, value)
    assert weight.encoded.parts["codebook"].shape == (1, 1 << bits)
    assert weight.stored_bytes < value.size * bits / 8 + 4 * (1 << bits) + 300


def test_subnormal_and_huge_values_of_few_are_kept_too():
    value = np.random.default_rng(0).choice(np.float32([1e-44, -1e-44, 1e-38, MOST, -MOST, 0]), (30, 20))
    assert same_bits(palette(value, "palette3")[1], value)


def test_codes_take_their_bits_and_no_more():
    value = np.random.default_rng(0).uniform(-1, 1, (256, 128)).astype(np.float32)
    for bits in range(1, 8):
        weight, _ = palette(value, f"palette{bits}")
        assert weight.encoded.parts["codes"].encoded.encoding == f"bits{bits}"
        assert weight.stored_bytes <= value.size * bits / 8 + 4 * (1 << bits)


def test_a_codebook_for_each_group_of_the_last_axis_is_nearer():
    value = normal(200, 48) * np.logspace(-2, 2, 48, dtype=np.float32)
    errors, counts = [], []
    for name in ("palette4", "palette4/group20", "palette4/group16", "palette4/group1"):
        weight, found = palette(value, name)
        errors.append(error(value, found))
        counts.append(weight.encoded.parts["codebook"].shape)
    assert counts == [(1, 16), (3, 16), (3, 16), (48, 16)]
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 0.5 * errors[0]


@pytest.mark.parametrize("shape", [(5, 10), (5, 1), (4, 3, 7), (0, 6), (6, 0), (10,), (1, 9), ()])
@pytest.mark.parametrize("group", [1, 3, 4, 6, 9, 100])
def test_groups_of_odd_shapes_are_decoded_alike(shape, group):
    weight, _ = palette(normal(*shape).reshape(shape), f"palette2/group{group}")
    again = decoded(weight.encoded, Form(weight.dtype, weight.shape))
    assert same_bits(again.read(), weight.read())


def test_many_codebooks_are_halves_where_that_is_as_near():
    def dtype(value):
        return palette(value, "palette6/group4")[0].encoded.parts["codebook"].dtype.name

    assert dtype(normal(200, 40)) == "float16"
    assert dtype(normal(5000, 8)) == "float32"  # few codebooks
    assert dtype(1 + 1e-3 * normal(200, 40)) == "float32"  # halves are no nearer to each other than that
    assert dtype(normal(200, 40) * 1e6) == "float32"  # beyond what halves hold
    assert dtype(normal(200, 40) * 1e-7) == "float32"


@pytest.mark.parametrize(
    "value",
    [
        np.zeros((40, 30), np.float32),
        np.full((40, 30), MOST, np.float32),
        np.where(np.arange(1200) % 7, 0, normal(1200)).reshape(40, 30).astype(np.float32),
        np.concatenate([normal(20, 30) * 1e30, normal(20, 30) * 1e-30]).astype(np.float32),
        (1 + 1e-6 * normal(400, 30)).astype(np.float32),
        np.sign(normal(40, 30))
        * np.float32(MOST)
        * np.random.default_rng(0).uniform(0, 1, (40, 30)).astype(np.float32),
        normal(40, 30).T,
    ],
    ids=["zeros", "largest", "mostly zeros", "two scales", "near one", "up to the largest", "transposed"],
)
@pytest.mark.parametrize("name", ["palette1", "palette4", "palette8", "palette3/group8"])
def test_odd_values_are_coded_by_finite_ones_between_them(value, name):
    _, found = palette(value, name)
    assert float(found.min()) >= float(value.min()) - abs(float(value.min())) * 2**-11  # a codebook of halves
    assert float(found.max()) <= float(value.max()) + abs(float(value.max())) * 2**-11
    spread = np.square(value - value.mean(dtype=np.float64)).mean()
    assert error(value, found) <= spread
    assert same_bits(palette(value, name)[1], found)


def test_most_being_alike_leaves_the_codebook_to_the_rest():
    value = np.zeros(30_000, np.float32)
    value[:400] = normal(400)
    _, found = palette(value.reshape(100, 300), "palette4")
    assert error(value[:400], found.reshape(-1)[:400]) < 0.02


@settings(max_examples=80, deadline=None, derandomize=True)
@given(
    arrays(np.float32, st.tuples(st.integers(0, 4), st.integers(1, 9)), elements=st.floats(-MOST, MOST, width=32)),
    st.integers(1, 8),
    st.integers(1, 10),
)
def test_any_finite_values_stay_among_their_like(value, bits, group):
    found = encoded(in_memory(value), f"palette{bits}/group{group}", Sharing((0,))).read()
    assert found.shape == value.shape
    assert np.isfinite(found).all()
    if value.size:
        most = np.abs(value.astype(np.float64)).max()
        assert np.abs(found).max() <= most * (1 + 2**-11)
        assert np.abs(found.astype(np.float64) - value).max() <= np.ptp(value.astype(np.float64)) + most * 2**-11
    if np.unique(value.view(np.uint32)).size <= 1 << bits:
        assert same_bits(found, value)


def test_runs_of_sorted_elements_give_nearly_the_same_codebook(monkeypatch):
    value = np.random.default_rng(0).standard_t(4, (300, 100)).astype(np.float32)
    whole = error(value, palette(value, "palette5")[1])
    monkeypatch.setattr(module, "_POINTS", 16_000)
    monkeypatch.setattr(module, "_BLOCK", 999)
    assert whole <= error(value, palette(value, "palette5")[1]) <= 1.02 * whole


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_nan_and_infinity_are_left_alone(bad):
    value = normal(10, 10)
    value[3, 4] = bad
    with pytest.raises(NotEncodableError, match="NaN or infinity"):
        encoded(in_memory(value), "palette4", Sharing((0,)))


@pytest.mark.parametrize("shape", [(300,), (300, 24), (30, 4, 25)], ids=str)
@pytest.mark.parametrize("name", ["palette4", "palette8", "palette3/group10"])
def test_gathered_rows_of_codes_are_decoded_alike(shape, name):
    with building() as graph:
        w = tf.constant(normal(*shape), name="w")
        ids = v1.placeholder(tf.int32, [None, 2], name="ids")
        outputs = [tf.gather(w, ids), tf.raw_ops.Gather(params=w, indices=ids)]
    graph = view(graph, [ids], outputs)
    use = use_of(graph, "w")
    stored = encoded(graph.weights["w"], name, Sharing(use.axes))
    edit = place(graph, graph.fresh_names(), "w", stored, use, "rows")
    changed = graph.replace(edit.nodes, drop=edit.drop, weights=edit.weights)
    assert "w" not in changed.nodes
    feeds = {"ids:0": np.array([[0, 5], [29, 7]], np.int32)}
    for found in run(changed, feeds):
        assert found.tobytes() == stored.read()[feeds["ids:0"]].tobytes()


def test_as_many_groups_as_rows_are_no_rows_of_their_own():
    with building() as graph:
        w = tf.constant(normal(6, 600), name="w")
        ids = v1.placeholder(tf.int32, [None], name="ids")
        outputs = [tf.gather(w, ids)]
    graph = view(graph, [ids], outputs)
    use = use_of(graph, "w")
    stored = encoded(graph.weights["w"], "palette4/group100", Sharing(use.axes))
    assert stored.encoded.parts["codebook"].shape[0] == 6
    edit = place(graph, graph.fresh_names(), "w", stored, use, "rows")
    changed = graph.replace(edit.nodes, drop=edit.drop, weights=edit.weights)
    ids = np.array([5, 0, 5, 2], np.int32)
    assert run(changed, {"ids:0": ids})[0].tobytes() == stored.read()[ids].tobytes()


@pytest.mark.parametrize(
    ("codes", "codebook", "match"),
    [
        ((4, 7), (1, 16), "codes have the shape"),
        ((4, 6), (16,), "codebook has the shape"),
        ((4, 6), (1, 8), "codebook has the shape"),
        ((4, 6), (4, 16), "codebook has the shape"),  # of 6 positions: 1, 2, 3 or 6 groups
        ((4, 6), (0, 16), "codebook has the shape"),
    ],
)
def test_parts_that_do_not_fit_are_told(codes, codebook, match):
    parts = {"codes": in_memory(np.zeros(codes, np.uint8)), "codebook": in_memory(np.zeros(codebook, np.float32))}
    with pytest.raises(ModelError, match=match):
        decoded(Encoded("palette4", parts), Form(np.dtype(np.float32), (4, 6)))


def test_a_code_beyond_the_codebook_is_told():
    parts = {"codes": in_memory(np.full((4, 6), 16, np.uint8)), "codebook": in_memory(np.zeros((1, 16), np.float32))}
    with pytest.raises(ModelError, match="more than 4 bits"):
        decoded(Encoded("palette4", parts), Form(np.dtype(np.float32), (4, 6))).read()


def test_the_sharing_of_codebooks_is_named():
    assert named("palette4/group16") == ("palette4", "group16")
    for text in ("palette4/", "palette4/group", "palette4/group0", "palette4/channel", "palette4/block8"):
        with pytest.raises(TransformError, match="no sharing of codebooks"):
            named(text)
    with pytest.raises(TransformError, match="no encoding 'palette9'; did you mean 'palette"):
        named("palette9")
