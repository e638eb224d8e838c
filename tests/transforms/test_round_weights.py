"""Few values, zero among them, none beyond the range."""

import gzip

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.graphs import building, normal, op_delta, random_feeds, reasons, relative_error, run, values, view
from tests.old_tool import transformed, with_default_attributes
from tfslim_core import transforms
from tfslim_core.errors import TransformError
from tfslim_core.graph import Graph
from tfslim_core.transforms.round_weights import round_weights, rounded
from tfslim_core.weights import Weight

v1 = tf.compat.v1


def graph_of(*constants, **more):
    """x @ w + … with the given values as constants c0, c1, …"""
    with building() as g:
        x = v1.placeholder(tf.float32, [], "x")
        outputs = [tf.cast(tf.constant(value, name=f"c{i}"), tf.float32) * x for i, value in enumerate(constants)]
    return view(g, [x], outputs, **more)


@pytest.mark.parametrize("num_steps", [2, 3, 16, 256])
@pytest.mark.parametrize("shift", [0, 0.3, 5, -5])
def test_exactly_num_steps_values_and_none_beyond_the_maximum(num_steps, shift):
    """The old tool gives one more, half a step above the largest."""
    value = normal(100, 1000) + np.float32(shift)
    new = rounded(value, num_steps)
    assert len(np.unique(new)) == num_steps if num_steps < 256 else len(np.unique(new)) > 200
    assert value.min() <= new.min() <= new.max() <= value.max()
    step = np.ptp(value) / (num_steps - 1)
    assert np.abs(new - value).max() <= step * 0.5001


def test_every_one_of_the_values_is_there():
    value = np.random.default_rng(0).uniform(-0.4, 1.0, 100_000).astype(np.float32)
    assert len(np.unique(rounded(value, 256))) == 256


def test_zero_is_kept_and_so_is_sparsity():
    value = normal(64, 64)
    value[np.random.default_rng(1).uniform(size=value.shape) < 0.8] = 0
    graph = graph_of(value, normal(5, 5) * (np.arange(25).reshape(5, 5) % 2))
    new = values(round_weights(graph, num_steps=7).graph)
    assert (new["c0"][value == 0] == 0).all()
    assert not np.signbit(new["c0"][new["c0"] == 0]).any()
    assert (new["c1"].ravel()[::2] == 0).all()


def test_an_array_without_zero_in_its_range_keeps_both_ends():
    value = np.float32([3, 4, 4.1, 5, 6] * 10)
    assert np.unique(rounded(value, 4)).tolist() == [3, 4, 5, 6]


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float64", "float32"])
def test_all_floating_point_types(dtype):
    kind = tf.as_dtype(dtype).as_numpy_dtype
    graph = graph_of(normal(40, 30).astype(kind), normal(4, 5).astype(kind))
    outcome = round_weights(graph, num_steps=16)
    assert (outcome.changes, outcome.skipped) == (2, ())
    for name, new in values(outcome.graph).items():
        assert new.dtype == kind
        assert len(np.unique(new)) <= 16
        old = values(graph)[name].astype(float)
        assert np.abs(new.astype(float) - old).max() <= np.ptp(old) / 15 * 0.51
    assert op_delta(graph, outcome.graph) == {}


def test_a_compressed_model_is_smaller_and_answers_nearly_the_same():
    with building() as g:
        x = v1.placeholder(tf.float32, [None, 100], "x")
        y = tf.matmul(tf.nn.relu(tf.matmul(x, tf.constant(normal(100, 200)))), tf.constant(normal(200, 10, seed=1)))
    graph = view(g, [x], [y])
    slim = round_weights(graph).graph
    sizes = [len(gzip.compress(b"".join(w.read().tobytes() for w in one.weights.values()))) for one in (graph, slim)]
    assert sizes[1] < 0.45 * sizes[0]
    assert 0 < relative_error(graph, slim) < 0.02


def test_small_constants_and_other_types_stay():
    graph = graph_of(normal(15), np.arange(400), np.float32(2))
    outcome = round_weights(graph)
    assert outcome.graph is graph
    assert (outcome.changes, outcome.skipped) == (0, ())


def test_not_finite_values_stay():
    small, large = normal(30), normal(300)
    small[3], large[5] = np.nan, np.inf
    graph = graph_of(small, large)
    outcome = round_weights(graph)
    assert reasons(outcome) == {"c0": "it holds NaN or infinity"}
    for name, value in values(outcome.graph).items():
        np.testing.assert_array_equal(value, values(graph)[name])


@pytest.mark.parametrize("value", [np.full(20, 3.5, np.float32), np.zeros(400, np.float32)])
def test_one_value_over_and_over_stays(value):
    np.testing.assert_array_equal(values(round_weights(graph_of(value)).graph)["c0"], value)


@pytest.mark.parametrize("end", [np.finfo(np.float64).max, 5e-324, 1e-310])
def test_ranges_at_the_end_of_float64(end):
    value = np.linspace(-1, 1, 50) * end
    new = rounded(value, 4)
    assert np.isfinite(new).all()
    assert np.abs(new / 2 - value / 2).max() <= np.abs(end)


def test_constants_of_the_interface_stay():
    with building() as g:
        c = tf.constant(normal(20), name="c")
        y = tf.abs(c)
    outcome = round_weights(view(g, [], [c, y]))
    assert reasons(outcome) == {"c": "it is part of the interface"}


def test_large_weights_are_not_read():
    graph = graph_of(normal(300))
    reads = []
    known = graph.weights["c0"]
    graph = graph.replace(weights={"c0": Weight(known.dtype, known.shape, lambda: reads.append(1) or known.read())})
    outcome = round_weights(graph, num_steps=5)
    assert not reads
    assert len(np.unique(outcome.graph.value("c0"))) == 5


def test_encoded_weights_and_their_scales_stay():
    """A scale that is rounded to zero would take a whole channel with it."""
    with building() as g:
        x = v1.placeholder(tf.float32, [None, 100], "x")
        ids = v1.placeholder(tf.int64, [None], "ids")
        y = tf.matmul(x, tf.constant(normal(100, 50), name="small"))
        z = tf.matmul(x, tf.constant(normal(100, 500), name="large"))
        t = tf.gather(tf.constant(normal(100_000, 48), name="table"), ids)
    graph = view(g, [x, ids], [y, z, t])
    slim, _ = transforms.apply(graph, "quantize_weights")
    outcome = round_weights(slim, num_steps=4)
    assert outcome.graph is slim
    assert reasons(outcome) == {
        "large": "it is stored as int8",
        "small/scale": "it is the scale of an encoded weight",
        "table/scale": "it is the scale of an encoded weight",
    }


def test_function_bodies_are_rounded_too():
    @tf.function
    def inner(x):
        return x * tf.constant(normal(20)) + tf.constant(normal(400).reshape(20, 20))

    with building() as g:
        x = v1.placeholder(tf.float32, [20], "x")
        y = tf.identity(inner(x), "y")
    graph = view(g, [x], [y])
    outcome = round_weights(graph, num_steps=4)
    assert outcome.changes == 2
    feeds = random_feeds(graph)
    assert np.abs(run(outcome.graph, feeds)[0] - run(graph, feeds)[0]).max() > 0.05


def test_too_few_steps_are_an_error():
    with pytest.raises(TransformError, match="num_steps=1"):
        transforms.apply(graph_of(normal(20)), "round_weights(num_steps=1)")


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    numbers=st.lists(st.floats(-(2.0**100), 2.0**100, width=32), min_size=16, max_size=60),
    num_steps=st.integers(2, 20),
    dtype=st.sampled_from([np.float32, np.float64, np.float16]),
)
def test_any_values(numbers, num_steps, dtype):
    with np.errstate(over="ignore"):
        value = np.array(numbers).astype(dtype)
    new = rounded(value, num_steps)
    if not np.isfinite(value).all():
        np.testing.assert_array_equal(new, value)
        return
    assert len(np.unique(new)) <= num_steps or np.ptp(value.astype(float)) == 0
    assert value.min() <= new.min() <= new.max() <= value.max()
    step = np.ptp(value.astype(np.float64)) / (num_steps - 1)
    slack = np.spacing(np.abs(value).max()).astype(np.float64)
    assert np.abs(new.astype(np.float64) - value.astype(np.float64)).max() <= step / 2 * (1 + 1e-9) + slack
    assert (new[value == 0] == 0).all()
    np.testing.assert_array_equal(rounded(value, num_steps), new)


def test_as_near_as_the_old_tool():
    with building() as g:
        x = v1.placeholder(tf.float32, [3, 100], "x")
        weights = np.random.default_rng(0).uniform(-1, 1.5, [100, 50]).astype(np.float32)
        y = tf.matmul(x, tf.constant(weights, name="w"), name="y")
    graph = view(g, [x], [y])
    old = Graph.of(
        transformed(with_default_attributes(g.as_graph_def()), ["x"], ["y"], "round_weights(num_steps=32)"),
        ["x:0"],
        ["y:0"],
    )
    new = round_weights(graph, num_steps=32).graph
    wanted = graph.value("w")
    errors = [np.abs(one.value("w") - wanted).max() for one in (old, new)]
    assert errors[1] < errors[0] * 1.05
    assert (len(np.unique(old.value("w"))), len(np.unique(new.value("w")))) == (33, 32)
