import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings

from tests.edited_graphs import FUNCTIONS_FEEDS, V1_FEEDS, graphs, v1_control_flow, with_functions
from tests.graphs import assert_same_model, building, op_delta, random_feeds, reasons, run, view
from tests.old_tool import transformed, with_default_attributes
from tfslim_core.graph import Graph, control_inputs, data_inputs, renamed
from tfslim_core.transforms.remove_control_dependencies import remove_control_dependencies
from tfslim_core.transforms.strip_unused_nodes import strip_unused_nodes

v1 = tf.compat.v1
STATE = "it keeps the order in which a state is read and changed"
AWAITED = "the init op or a function's effect waits for it and its control inputs"
BRANCH = "its control inputs say in which loop or on which branch it runs"


def removed(graph):
    outcome = remove_control_dependencies(graph)
    again = remove_control_dependencies(outcome.graph)
    assert (again.changes, again.graph) == (0, outcome.graph)
    assert op_delta(graph, outcome.graph) == {}
    for name, node in graph.nodes.items():
        assert data_inputs(outcome.graph.nodes[name]) == data_inputs(node)
    return outcome


def checked():
    with building() as g:
        x = v1.placeholder(tf.float32, [2], "x")
        check = tf.raw_ops.Assert(condition=tf.reduce_all(x < 99), data=[x], name="check")
        both = tf.group(check, tf.raw_ops.CheckNumerics(tensor=x, message="", name="finite"), name="both")
        with g.control_dependencies([both]):
            y = tf.raw_ops.Sin(x=x, name="y")
    return view(g, [x], [y])


def test_nothing_is_waited_for_any_more():
    graph = checked()
    outcome = removed(graph)
    assert outcome.changes == 2
    assert not outcome.skipped
    assert not any(control_inputs(node) for node in outcome.graph.nodes.values())
    assert_same_model(graph, outcome.graph, random_feeds(graph))


def test_an_assert_that_nothing_waits_for_does_not_run():
    """As was asked for; strip_unused_nodes then drops it."""
    graph = checked()
    slim = removed(graph).graph
    np.testing.assert_allclose(run(slim, {"x:0": [1.0, 1000.0]})[0], np.sin([1.0, 1000.0]), rtol=1e-5)
    with pytest.raises(tf.errors.InvalidArgumentError, match="assertion failed"):
        run(graph, {"x:0": [1.0, 1000.0]})
    assert {node.op for node in strip_unused_nodes(slim).graph.nodes.values()} == {"Placeholder", "Sin"}


def test_the_old_tool_removes_the_same():
    graph = checked()
    old = transformed(with_default_attributes(graph.to_graph_def()), ["x"], ["y"], "remove_control_dependencies")
    assert {node.name: list(node.input) for node in old.node} == {
        name: list(node.input) for name, node in removed(graph).graph.nodes.items()
    }


def with_table(values=None):
    """A table that the init op `main` fills, over two groups; the look-up waits for nothing."""
    with building() as g:
        x = v1.placeholder(tf.int64, [2], "x")
        table = tf.raw_ops.HashTableV2(key_dtype=tf.int64, value_dtype=tf.int64, name="table")
        keys = tf.constant([1, 2], tf.int64)
        fill = tf.raw_ops.InitializeTableV2(table_handle=table, keys=keys, values=keys * 5, name="fill")
        main = tf.group(tf.group(fill, name="inner"), name="main")
        y = tf.raw_ops.LookupTableFindV2(table_handle=table, keys=x, default_value=tf.constant(0, tf.int64))
        with g.control_dependencies([x]):
            y = tf.identity(y, name="y")
    return view(g, [x], [y], [main])


def test_the_init_op_still_fills_the_tables():
    """Its only inputs are control inputs; without them every look-up would give the default, or fail."""
    graph = with_table()
    outcome = removed(graph)
    assert reasons(outcome) == {"main": AWAITED, "inner": AWAITED}
    assert not control_inputs(outcome.graph.nodes["y"])
    with tf.Graph().as_default():
        tf.import_graph_def(outcome.graph.to_graph_def(), name="")
        with v1.Session() as session:
            session.run("main")
            assert session.run("y:0", {"x:0": [2, 7]}).tolist() == [10, 0]


def counting():
    with building() as g:
        x = v1.placeholder(tf.float32, [], "x")
        counter = tf.raw_ops.VarHandleOp(dtype=tf.float32, shape=[], name="counter")
        with g.control_dependencies([tf.raw_ops.AssignVariableOp(resource=counter, value=x, name="set")]):
            added = tf.raw_ops.AssignAddVariableOp(resource=counter, value=tf.constant(1.0, name="added"), name="add")
        with g.control_dependencies([added]):
            read = tf.raw_ops.ReadVariableOp(resource=counter, dtype=tf.float32, name="read")
        with g.control_dependencies([tf.raw_ops.Assert(condition=read < 99, data=[read], name="check")]):
            y = tf.raw_ops.Sin(x=read, name="y")
    return view(g, [x], [y])


def test_a_variable_is_read_after_it_was_written():
    graph = counting()
    outcome = removed(graph)
    assert list(graph.nodes["added"].input) == ["^set"], "what is added says for the add what to wait for"
    assert reasons(outcome) == {"added": STATE, "read": STATE}
    assert control_inputs(graph.nodes["y"]) == ["check"]
    assert not control_inputs(outcome.graph.nodes["y"])
    for value in (1.0, 5.0):
        assert run(outcome.graph, {"x:0": value}) == pytest.approx([np.sin(value + 1)])


def test_a_variable_is_read_before_it_is_written():
    with building() as g:
        x = v1.placeholder(tf.float32, [], "x")
        counter = tf.raw_ops.VarHandleOp(dtype=tf.float32, shape=[], name="counter")
        read = tf.raw_ops.ReadVariableOp(resource=counter, dtype=tf.float32, name="read")
        with g.control_dependencies([read]):
            add = tf.raw_ops.AssignAddVariableOp(resource=counter, value=x, name="add")
        with g.control_dependencies([add]):
            later = tf.raw_ops.ReadVariableOp(resource=counter, dtype=tf.float32, name="later")
        y = tf.raw_ops.Sub(x=later, y=read, name="y")
    outcome = removed(view(g, [x], [y]))
    assert reasons(outcome) == {"add": STATE, "later": STATE}
    assert list(outcome.graph.nodes["add"].input) == ["counter", "x", "^read"]


def test_a_reference_to_a_variable_is_read_after_it_was_written():
    with building() as g:
        x = v1.placeholder(tf.float32, [2], "x")
        variable = tf.raw_ops.VariableV2(shape=[2], dtype=tf.float32, name="v")
        with g.control_dependencies([tf.raw_ops.Assign(ref=variable, value=x, name="set").op]):
            y = tf.raw_ops.Neg(x=tf.raw_ops.Identity(input=variable, name="read"), name="y")
    graph = view(g, [x], [y])
    outcome = removed(graph)
    assert reasons(outcome) == {"read": STATE}
    assert_same_model(graph, outcome.graph, {"x:0": [1.0, 2.0]})


def test_loops_and_branches_of_tensorflow_1():
    """A constant in a loop or on a branch has nothing but its control input to say so."""
    graph = v1_control_flow()
    waiting = {name for name, node in graph.nodes.items() if control_inputs(node)}
    outcome = removed(graph)
    assert outcome.graph is graph
    assert reasons(outcome) == dict.fromkeys(waiting, BRANCH)
    assert waiting
    old = transformed(with_default_attributes(graph.to_graph_def()), ["x"], ["y"], "remove_control_dependencies")
    broken = Graph.of(old, graph.inputs, graph.outputs)
    found = []
    for value in V1_FEEDS:
        try:
            found.append(run(broken, {"x:0": value})[0].tolist() == run(graph, {"x:0": value})[0].tolist())
        except (ValueError, tf.errors.OpError):
            found.append(False)
    assert not all(found), "the old tool removes them, and breaks the model"


def test_outside_of_a_loop_of_tensorflow_1_control_inputs_go():
    graph_def = v1_control_flow().to_graph_def()
    with tf.Graph().as_default() as g:
        tf.import_graph_def(graph_def, name="")
        x = g.get_tensor_by_name("x:0")
        with g.control_dependencies([tf.raw_ops.Assert(condition=tf.reduce_all(x < 99), data=[x], name="check")]):
            z = tf.raw_ops.Sin(x=x, name="z")
    graph = view(g, ["x:0"], ["y:0", z])
    outcome = removed(graph)
    assert outcome.changes == 1
    assert "z" not in reasons(outcome)
    assert_same_model(graph, outcome.graph, random_feeds(graph))


def test_function_bodies_wait_for_nothing_either():
    graph = with_functions()

    def waits(graph):
        return [n.name for f in graph.functions.values() for n in f.node_def if any("^" in text for text in n.input)]

    assert "checked" in waits(graph)
    outcome = removed(graph)
    assert "checked" not in waits(outcome.graph)
    assert all(name.rpartition("/")[2] in waits(outcome.graph) for name in reasons(outcome))
    assert_same_model(graph, outcome.graph, FUNCTIONS_FEEDS)


def test_in_a_function_variables_are_read_after_they_were_written():
    @tf.function(input_signature=[tf.TensorSpec([], tf.float32), tf.TensorSpec([], tf.resource)], autograph=False)
    def count(x, counter):
        tf.raw_ops.AssignVariableOp(resource=counter, value=x)
        tf.raw_ops.AssignAddVariableOp(resource=counter, value=tf.constant(1.0))
        return tf.sin(tf.raw_ops.ReadVariableOp(resource=counter, dtype=tf.float32))

    with building() as g:
        x = v1.placeholder(tf.float32, [], "x")
        y = tf.identity(count(x, tf.raw_ops.VarHandleOp(dtype=tf.float32, shape=[], name="counter")), name="y")
    graph = view(g, [x], [y])
    outcome = removed(graph)
    left = {name.rpartition("/")[2] for name in reasons(outcome)}
    assert {"ReadVariableOp", "AssignAddVariableOp"} <= left
    for value in (1.0, 5.0):
        assert run(outcome.graph, {"x:0": value}) == pytest.approx([np.sin(value + 1)])


def test_a_graph_without_any_stays_as_it_is():
    graph = checked()
    bare = graph.replace([renamed(node, name, data_inputs(node)) for name, node in graph.nodes.items()])
    assert removed(bare).graph is bare


@settings(max_examples=30, deadline=None, derandomize=True)
@given(graphs(shuffled=True))
def test_numbers_stay(graph):
    outcome = removed(graph)
    assert not any(control_inputs(node) for node in outcome.graph.nodes.values())
    assert outcome.changes == sum(bool(control_inputs(node)) for node in graph.nodes.values())
    assert_same_model(graph, outcome.graph, random_feeds(graph), rtol=1e-5, atol=1e-5)  # one sum may round otherwise
