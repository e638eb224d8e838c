"""Which control inputs order something."""

import pytest
import tensorflow as tf

from tests.graphs import building, run, view
from tfslim_core.idle_controls import busy_nodes, without_idle_controls

v1 = tf.compat.v1


def variables():
    """x, and a variable that is read, then assigned, each step in its own node."""
    with building() as g:
        x = v1.placeholder(tf.float32, [2], "x")
        variable = tf.raw_ops.VarHandleOp(dtype=tf.float32, shape=[2], name="variable")
        read = tf.raw_ops.ReadVariableOp(resource=variable, dtype=tf.float32, name="read")
        after_read = tf.raw_ops.Neg(x=read, name="after_read")
        with g.control_dependencies([after_read]):
            write = tf.raw_ops.AssignVariableOp(resource=variable, value=x, name="write")
        draw = tf.raw_ops.RandomUniform(shape=[2], dtype=tf.float32, name="draw")
        idle = tf.raw_ops.Neg(x=x, name="idle")
        with g.control_dependencies([write, draw, idle, variable]):
            y = tf.raw_ops.Abs(x=x, name="y")
    return view(g, [x], [y])


def test_busy_is_what_has_or_sees_an_effect_and_what_runs_after_it():
    assert busy_nodes(variables()) == {"read", "after_read", "write", "y"}


def test_only_what_orders_something_is_waited_for():
    new = {node.name: list(node.input) for node in without_idle_controls(variables())}
    assert new == {"y": ["x", "^write"]}


def test_nodes_can_be_left_out_of_account():
    assert busy_nodes(variables(), besides={"write"}) == {"read", "after_read", "write", "y"}
    assert busy_nodes(variables(), besides={"write", "read"}) == set()


@pytest.mark.parametrize(("insert", "busy"), [(False, False), (True, True)])
def test_a_table_that_nobody_changes_is_no_state(insert, busy):
    with building() as g:
        key = v1.placeholder(tf.int64, [2], "key")
        table = tf.raw_ops.MutableHashTableV2(key_dtype=tf.int64, value_dtype=tf.float32, name="table")
        found = tf.raw_ops.LookupTableFindV2(table_handle=table, keys=key, default_value=0.0, name="find")
        with g.control_dependencies([found]):
            y = tf.raw_ops.Abs(x=found, name="y")
        if insert:
            tf.raw_ops.LookupTableInsertV2(table_handle=table, keys=key, values=[1.0, 2.0], name="insert")
    assert ("find" in busy_nodes(view(g, [key], [y]))) is busy


def test_v1_branches_stay_as_they_are():
    v1.disable_control_flow_v2()
    try:
        with building() as g:
            x = v1.placeholder(tf.float32, [2], "x")
            y = v1.cond(tf.reduce_sum(x) > 0, lambda: tf.constant(1.0), lambda: tf.constant(2.0))
    finally:
        v1.enable_control_flow_v2()
    graph = view(g, [x], [y])
    assert without_idle_controls(graph) == []
    assert run(graph, {"x:0": [1, 1]})[0] == 1.0


def test_a_branch_that_asserts_is_busy_and_one_that_does_not_is_idle():
    def build(asserts):
        with building() as g:
            x = v1.placeholder(tf.float32, [2], "x")
            v1.enable_control_flow_v2()

            def fine():
                if asserts:
                    tf.debugging.Assert(tf.reduce_all(x < 9), [x])
                return tf.reduce_sum(x)

            guard = tf.cond(x[0] > 0, fine, lambda: tf.constant(1.0))
            with g.control_dependencies([guard]):
                y = tf.raw_ops.Abs(x=x, name="y")
        return view(g, [x], [y])

    assert without_idle_controls(build(asserts=True)) == []
    assert [node.name for node in without_idle_controls(build(asserts=False))] == ["y"]
