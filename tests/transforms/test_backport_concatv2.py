"""ConcatV2 as Concat: the same values, on old runtimes too."""

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.graphs import assert_same_model, building, op_counts, op_delta, random_feeds, reasons, run, view
from tests.old_tool import transformed, with_default_attributes
from tfslim_core.graph import Graph, control_inputs, make_node
from tfslim_core.transforms.backport_concatv2 import backport_concatv2

v1 = tf.compat.v1


def concat(*tensors, axis, dtype=tf.int32, name="y"):
    axis = axis if tf.is_tensor(axis) else tf.constant(axis, dtype, name="axis")
    return tf.raw_ops.ConcatV2(values=list(tensors), axis=axis, name=name)


def two(axis=1, dtype=tf.int32):
    with building() as g:
        x = v1.placeholder(tf.float32, [2, 3], "x")
        y = concat(x, x * 2.0, axis=axis, dtype=dtype)
    return view(g, [x], [y])


@pytest.mark.parametrize("dtype", [tf.int32, tf.int64])
@pytest.mark.parametrize("axis", [0, 1, -1, -2])
def test_the_axis_comes_first_and_is_int32(axis, dtype):
    graph = two(axis, dtype)
    outcome = backport_concatv2(graph)
    assert (outcome.changes, outcome.skipped) == (1, ())
    assert op_delta(graph, outcome.graph) == {"ConcatV2": -1, "Concat": 1}
    y = outcome.graph.nodes["y"]
    assert list(y.input)[1:] == ["x", "mul"]
    assert set(y.attr) == {"N", "T"}
    assert outcome.graph.value(y.input[0]).dtype == np.int32
    assert_same_model(graph, outcome.graph, random_feeds(graph))


def test_a_stripped_tidx_is_looked_up():
    graph = two()
    node = graph.nodes["y"]
    bare = make_node("ConcatV2", "y", node.input, T=tf.float32)
    bare.attr["N"].i = 2
    outcome = backport_concatv2(graph.replace([bare]))
    assert outcome.changes == 1
    assert_same_model(graph, outcome.graph, random_feeds(graph))


def test_an_axis_that_is_computed():
    with building() as g:
        x = v1.placeholder(tf.float32, [2, 3], "x")
        axis = v1.placeholder(tf.int32, [], "axis")
        long = v1.placeholder(tf.int64, [], "long")
        fed = tf.constant(0, tf.int64, name="fed")
        outputs = [concat(x, x, axis=a, name=n) for a, n in ((axis, "y"), (long, "z"), (fed, "w"))]
    graph = view(g, [x, axis, long, fed], outputs)
    outcome = backport_concatv2(graph)
    assert outcome.changes == 1
    reason = "its axis is of type int64 and not a constant; Concat takes int32"
    assert reasons(outcome) == {"z": reason, "w": reason}
    feeds = {"x:0": np.arange(6.0).reshape(2, 3), "axis:0": 1, "long:0": 0, "fed:0": 1}
    assert_same_model(graph, outcome.graph, feeds)


def test_an_axis_that_is_shared():
    """One new constant for all; the old one stays for whom it is not an axis."""
    with building() as g:
        x = v1.placeholder(tf.float32, [2, 3], "x")
        axis = tf.constant(1, tf.int64, name="axis")
        y = concat(x, x, axis=axis)
        z = concat(y, x, axis=axis, name="z")
    graph = view(g, [x], [z])
    slim = backport_concatv2(graph).graph
    assert op_counts(slim)["Const"] == 1
    assert_same_model(graph, slim, random_feeds(graph))
    kept = view(g, [x], [z, axis])
    slim = backport_concatv2(kept).graph
    assert op_counts(slim)["Const"] == 2
    assert_same_model(kept, slim, random_feeds(kept))


def test_control_inputs_and_hints_are_kept():
    with building() as g:
        x = v1.placeholder(tf.float32, [2, 3], "x")
        with tf.control_dependencies([tf.no_op("first")]):
            axis = tf.constant(1, tf.int64, name="axis")
        with tf.control_dependencies([tf.no_op("second")]):
            y = concat(x, x, axis=axis)
        y.op._set_attr("_class", v1.AttrValue(list=v1.AttrValue.ListValue(s=[b"loc:@x"])))
    graph = view(g, [x], [y])
    slim = backport_concatv2(graph).graph
    assert control_inputs(slim.nodes["y"]) == ["second"]
    assert control_inputs(slim.nodes["axis/int32"]) == ["first"]
    assert slim.nodes["y"].attr["_class"].list.s == [b"loc:@x"]


def test_function_bodies_are_rewritten_too():
    @tf.function
    def inner(x, axis):
        return tf.concat([concat(x, x, axis=axis), concat(x, x, axis=tf.constant(0, tf.int64))], 0)

    with building() as g:
        x = v1.placeholder(tf.float32, [2, 2], "x")
        axis = v1.placeholder(tf.int64, [], "axis")
        y = tf.identity(inner(x, axis), "y")
    graph = view(g, [x, axis], [y])
    outcome = backport_concatv2(graph)
    assert outcome.changes == 2
    assert [name.rpartition("/")[2] for name in reasons(outcome)] == ["y"]
    assert_same_model(graph, outcome.graph, {"x:0": np.arange(4.0).reshape(2, 2), "axis:0": 0})


def test_nothing_to_do():
    with building() as g:
        x = v1.placeholder(tf.float32, [2, 2], "x")
        y = tf.abs(x)
    graph = view(g, [x], [y])
    assert backport_concatv2(graph).graph is graph


@settings(max_examples=25, deadline=None, derandomize=True)
@given(
    rank=st.integers(1, 4),
    number=st.integers(2, 4),
    dtype=st.sampled_from(["float16", "float32", "float64", "int32", "int64", "bool", "string"]),
    index=st.sampled_from([tf.int32, tf.int64]),
    data=st.data(),
)
def test_any_concat(rank, number, dtype, index, data):
    axis = data.draw(st.integers(-rank, rank - 1))
    random = np.random.default_rng(rank)
    with building() as g:
        values = []
        for _ in range(number):
            shape = [2] * rank
            shape[axis] = data.draw(st.integers(0, 3))
            value = random.integers(0, 100, shape)
            values.append(tf.constant(value.astype(str) if dtype == "string" else value.astype(dtype)))
        tf.no_op("axis/int32")
        y = concat(*values, axis=axis, dtype=index)
        z = concat(y, *values, axis=g.get_tensor_by_name("axis:0"), name="z")
    graph = view(g, [], [y, z])
    outcome = backport_concatv2(graph)
    assert outcome.changes == 2
    for wanted, found in zip(run(graph, {}), run(outcome.graph, {}), strict=True):
        assert wanted.dtype == found.dtype
        np.testing.assert_array_equal(wanted, found)


def test_as_the_old_tool_does_it():
    graph = two()
    with tf.Graph().as_default() as g:
        tf.import_graph_def(graph.to_graph_def(), name="")
    old = transformed(with_default_attributes(g.as_graph_def()), ["x"], ["y"], "backport_concatv2")
    new = backport_concatv2(graph).graph
    (expected,) = (node for node in old.node if node.op == "Concat")
    assert list(new.nodes["y"].input) == list(expected.input)
    assert op_counts(Graph.of(old)) == op_counts(new)
    feeds = random_feeds(graph)
    np.testing.assert_array_equal(run(Graph.of(old, graph.inputs, graph.outputs), feeds)[0], run(new, feeds)[0])
