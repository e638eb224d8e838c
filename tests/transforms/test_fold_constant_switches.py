import numpy as np
import pytest
import tensorflow as tf

from tests.graphs import assert_same_model, building, op_counts, reasons, run, view
from tfslim_core.transforms.fold_constant_switches import fold_constant_switches

v1 = tf.compat.v1
X = {"x:0": np.float32([-2, -0.5, 0.1, 3])}


def v1_cond(predicate, *, more=()):
    """A TensorFlow 1 cond on a constant, with constants of their own on each side."""
    with building() as g:
        v1.disable_control_flow_v2()
        x = v1.placeholder(tf.float32, [4], name="x")
        y = v1.cond(tf.constant(predicate), lambda: tf.nn.relu(x) + 1.0, lambda: tf.tanh(x) * tf.constant([2.0]))
        tf.identity(y, name="y")
    return view(g, ["x:0"], ["y:0", *more])


@pytest.mark.parametrize("predicate", [True, False])
def test_a_switch_on_a_constant(predicate):
    graph = v1_cond(predicate)
    done = fold_constant_switches(graph)
    assert_same_model(graph, done.graph, X)
    counts = op_counts(done.graph)
    assert counts["Switch"] == counts["Merge"] == 0
    assert (counts["Relu"], counts["Tanh"]) == ((1, 0) if predicate else (0, 1))
    assert done.skipped == ()
    assert fold_constant_switches(done.graph).graph is done.graph


def test_which_side_came_is_a_constant():
    with building() as g:
        x = v1.placeholder(tf.float32, [4], name="x")
        low, high = tf.raw_ops.Switch(data=x, pred=tf.constant(True))
        y, index = tf.raw_ops.Merge(inputs=[tf.tanh(low), tf.nn.relu(high)])
        tf.add(y, tf.cast(index, tf.float32), name="y")
    graph = view(g, ["x:0"], ["y:0"])
    done = fold_constant_switches(graph)
    assert_same_model(graph, done.graph, X)
    assert op_counts(done.graph)["Merge"] == 0


def test_an_output_on_the_side_that_never_runs_keeps_the_switch():
    with building() as g:
        x = v1.placeholder(tf.float32, [4], name="x")
        low, high = tf.raw_ops.Switch(data=x, pred=tf.constant(True))
        tf.tanh(low, name="never")
        tf.nn.relu(high, name="y")
    graph = view(g, ["x:0"], ["y:0", "never:0"])
    done = fold_constant_switches(graph)
    assert done.graph is graph
    assert "'never' of the interface" in next(iter(reasons(done).values()))


def test_a_fed_predicate_is_left_alone():
    with building() as g:
        x = v1.placeholder(tf.float32, [4], name="x")
        low, high = tf.raw_ops.Switch(data=x, pred=tf.constant(True, name="p"))
        tf.raw_ops.Merge(inputs=[tf.tanh(low), tf.nn.relu(high)], name="y")
    graph = view(g, ["x:0", "p:0"], ["y:0"])
    done = fold_constant_switches(graph)
    assert done.graph is graph
    assert list(reasons(done).values()) == ["its predicate is fed"]


def test_a_switch_in_a_loop_is_left_alone():
    with building() as g:
        v1.disable_control_flow_v2()
        x = v1.placeholder(tf.float32, [4], name="x")
        _, y = v1.while_loop(
            lambda i, y: i < 3,
            lambda i, y: (i + 1, v1.cond(tf.constant(True), lambda: tf.tanh(y) + 1, lambda: tf.nn.relu(y))),
            [0, x],
        )
        tf.identity(y, name="y")
    graph = view(g, ["x:0"], ["y:0"])
    done = fold_constant_switches(graph)
    assert_same_model(graph, done.graph, X)
    assert done.changes == 0


def functional(predicate):
    with building() as g:
        v1.enable_control_flow_v2()
        try:
            x = v1.placeholder(tf.float32, [4], name="x")
            with tf.control_dependencies([tf.identity(x)]):
                y = tf.cond(tf.constant(True), lambda: tf.nn.relu(x) + 1.0, lambda: tf.tanh(x))
            tf.identity(y, name="y")
        finally:
            v1.disable_control_flow_v2()
    graph = view(g, ["x:0"], ["y:0"])
    node = next(node for node in graph.nodes.values() if node.op in ("If", "StatelessIf"))
    from tfslim_core.graph import constant, renamed

    value, _ = constant("predicate", np.asarray(predicate))
    copy = renamed(node, node.name, ["predicate", *list(node.input)[1:]])
    copy.attr["Tcond"].CopyFrom(value.attr["dtype"])
    copy.attr["_lower_using_switch_merge"].b = False  # a Switch takes nothing but a bool
    return graph.replace([value, copy])


@pytest.mark.parametrize("predicate", [True, False, np.int32(3), np.float32(0), b"text", b""])
def test_an_if_on_a_constant_becomes_a_call(predicate):
    graph = functional(predicate)
    done = fold_constant_switches(graph)
    assert_same_model(graph, done.graph, X)
    counts = op_counts(done.graph)
    assert counts["If"] + counts["StatelessIf"] == 0
    assert counts["PartitionedCall"] + counts["StatefulPartitionedCall"] == 1


@pytest.mark.parametrize("index", [-1, 0, 1, 2, 7])
def test_a_case_takes_the_last_branch_when_out_of_range(index):
    with building() as g:
        v1.enable_control_flow_v2()
        try:
            x = v1.placeholder(tf.float32, [4], name="x")
            branches = [lambda: x + 1, lambda: tf.tanh(x), lambda: x * 3]
            tf.identity(tf.switch_case(tf.constant(index), branches), name="y")
        finally:
            v1.disable_control_flow_v2()
    graph = view(g, ["x:0"], ["y:0"])
    done = fold_constant_switches(graph)
    assert_same_model(graph, done.graph, X)
    counts = op_counts(done.graph)
    assert counts["Case"] + counts["StatelessCase"] == 0


@pytest.mark.parametrize("condition", [True, False])
def test_a_select_on_a_scalar(condition):
    with building() as g:
        x = v1.placeholder(tf.float32, [4], name="x")
        tf.raw_ops.Select(condition=tf.constant(condition), x=tf.tanh(x), y=tf.nn.relu(x), name="y")
    graph = view(g, ["x:0"], ["y:0"])
    done = fold_constant_switches(graph)
    assert_same_model(graph, done.graph, X)
    assert op_counts(done.graph)["Select"] == 0
    wanted = np.tanh(X["x:0"]) if condition else np.maximum(X["x:0"], 0)
    np.testing.assert_allclose(run(done.graph, X)[0], wanted, rtol=1e-5)


def test_select_v2_may_take_the_shape_of_the_other_side():
    with building() as g:
        x = v1.placeholder(tf.float32, [4], name="x")
        tf.raw_ops.SelectV2(condition=tf.constant(True), t=tf.constant(1.0), e=x, name="y")
    graph = view(g, ["x:0"], ["y:0"])
    done = fold_constant_switches(graph)
    assert done.graph is graph
    assert reasons(done) == {"y": "its result may have the shape of the side that is not taken"}
