import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.graphs import assert_same_model, building, op_counts, random_feeds, reasons, run, view
from tfslim_core.graph import Graph, control_inputs
from tfslim_core.transforms.remove_nodes import remove_nodes

v1 = tf.compat.v1


def removed(graph, *op, **parameters):
    outcome = remove_nodes(graph, op=op, **parameters)
    again = remove_nodes(outcome.graph, op=op, **parameters)
    assert again.changes == 0
    assert again.graph is outcome.graph
    return outcome


def waits_for(graph, name):
    """Everything that runs before a node."""
    found, todo = set(), [name]
    while todo:
        for text in graph.nodes[todo.pop()].input:
            source = text.lstrip("^").partition(":")[0]
            if source not in found:
                found.add(source)
                todo.append(source)
    return found


@settings(max_examples=40, deadline=None, derandomize=True)
@given(st.data())
def test_computes_the_same_and_loses_no_order(data):
    with building() as g:
        x = v1.placeholder(tf.float32, [2, 3], "x")
        pool = [x, *tf.split(x, 3, axis=1)]
        checks = []
        for number in range(data.draw(st.integers(3, 12))):
            a, b = (data.draw(st.sampled_from(pool)) for _ in range(2))
            kind = data.draw(st.sampled_from(["Identity", "Identity", "Stop", "Add", "Assert"]))
            before = [data.draw(st.sampled_from(checks))] if checks and data.draw(st.booleans()) else []
            with g.control_dependencies(before):
                if kind == "Assert":
                    checks.append(tf.raw_ops.Assert(condition=tf.reduce_all(a < 99), data=[a], name=f"assert_{number}"))
                    continue
                made = {
                    "Identity": lambda: tf.raw_ops.Identity(input=a, name=f"n{number}"),  # noqa: B023
                    "Stop": lambda: tf.raw_ops.StopGradient(input=a, name=f"n{number}"),  # noqa: B023
                    "Add": lambda: tf.raw_ops.AddV2(x=a, y=b, name=f"n{number}"),  # noqa: B023
                }[kind]()
            pool.append(made)
            if data.draw(st.booleans()):
                checks.append(made.op)
        last = pool[-1]
        with g.control_dependencies(checks[-1:]):
            outputs = [tf.raw_ops.AddV2(x=last, y=x, name="y")]
        outputs += [data.draw(st.sampled_from(pool))]
    graph = view(g, [x], outputs)
    outcome = removed(graph, "Identity", "StopGradient")
    assert_same_model(graph, outcome.graph, random_feeds(graph))
    left = {name for name, n in outcome.graph.nodes.items() if n.op in ("Identity", "StopGradient")}
    assert left <= graph.interface
    for name in ("y", *(n for n in graph.interface)):
        asserts = {n for n in waits_for(graph, name) if n.startswith("assert_")}
        assert asserts <= waits_for(outcome.graph, name)


def test_each_control_input_comes_once():
    with building() as g:
        x = v1.placeholder(tf.float32, [2], "x")
        check = tf.raw_ops.Assert(condition=tf.reduce_all(x < 99), data=[x], name="assert")
        with g.control_dependencies([check]):
            a, b = tf.raw_ops.Identity(input=x, name="a"), tf.raw_ops.Identity(input=x, name="b")
        with g.control_dependencies([check, a]):
            y = tf.raw_ops.AddV2(x=a, y=b, name="y")
    graph = view(g, [x], [y])
    assert list(removed(graph, "Identity").graph.nodes["y"].input) == ["x", "x", "^assert"]


def test_later_ports_are_kept():
    with building() as g:
        x = v1.placeholder(tf.float32, [4], "x")
        y = tf.raw_ops.Neg(x=tf.raw_ops.Identity(input=tf.raw_ops.TopKV2(input=x, k=2, name="top").indices), name="y")
    assert list(removed(view(g, [x], [y]), "Identity").graph.nodes["y"].input) == ["top:1"]


def test_max_inputs_bounds_the_data_inputs():
    with building() as g:
        x = v1.placeholder(tf.float32, [2], "x")
        y = tf.raw_ops.Neg(x=tf.raw_ops.AddV2(x=x, y=tf.constant(1.0), name="add"), name="y")
    graph = view(g, [x], [y])
    assert removed(graph, "AddV2").changes == 0
    assert list(removed(graph, "AddV2", max_inputs=2).graph.nodes["y"].input) == ["x"]


def test_numeric_checks_and_prints_may_be_removed():
    with building() as g:
        x = v1.placeholder(tf.float32, [2], "x")
        y = tf.raw_ops.Neg(x=tf.raw_ops.CheckNumerics(tensor=tf.raw_ops.Print(input=x, data=[x]), message=""), name="y")
    graph = view(g, [x], [y])
    assert op_counts(removed(graph, "CheckNumerics", "Print", max_inputs=2).graph) == {"Placeholder": 1, "Neg": 1}


def test_an_op_with_an_effect_is_left_alone():
    with building() as g:
        x = v1.placeholder(tf.float32, [2], "x")
        line = tf.raw_ops.PyFunc(input=[x], token="t", Tout=[tf.float32], name="call")[0]
        y = tf.raw_ops.Neg(x=line)
    assert reasons(removed(view(g, [x], [y]), "PyFunc")) == {"call": "PyFunc has an effect of its own"}


def test_a_node_that_changes_the_type_is_left_alone():
    with building() as g:
        x = v1.placeholder(tf.float32, [2], "x")
        y = tf.raw_ops.Neg(x=tf.cast(x, tf.int32, name="cast"))
    assert reasons(removed(view(g, [x], [y]), "Cast")) == {"cast": "it changes the type"}


def test_a_node_whose_other_outputs_are_read_is_left_alone():
    with building() as g:
        x = v1.placeholder(tf.float32, [4], "x")
        top = tf.raw_ops.Unique(x=x, name="unique")
        y, z = tf.raw_ops.Neg(x=top[0]), tf.raw_ops.Neg(x=top[1])
    assert reasons(removed(view(g, [x], [y, z]), "Unique")) == {"unique": "an output other than the first is read"}


@pytest.mark.parametrize("role", ["input", "output", "target"])
def test_nodes_of_the_interface_stay(role):
    with building() as g:
        x = v1.placeholder(tf.float32, [2], "x")
        a = tf.raw_ops.Identity(input=x, name="a")
        y = tf.raw_ops.Neg(x=a)
    graph = view(g, [x, a] if role == "input" else [x], [y, a] if role == "output" else [y], ["a"] * (role == "target"))
    assert reasons(removed(graph, "Identity")) == {"a": "it is part of the interface"}


def test_a_read_of_a_ref_variable_is_left_alone():
    with building() as g:
        x = v1.placeholder(tf.float32, [2], "x")
        variable = tf.raw_ops.VariableV2(shape=[2], dtype=tf.float32, name="v")
        y = x + tf.raw_ops.Identity(input=variable, name="read")
    assert "pins the moment" in reasons(removed(view(g, [x], [y]), "Identity"))["read"]


def test_many_control_inputs_are_not_multiplied():
    with building() as g:
        x = v1.placeholder(tf.float32, [2], "x")
        checks = [tf.raw_ops.Assert(condition=tf.reduce_all(x < 99), data=[x]) for _ in range(20)]
        with g.control_dependencies(checks):
            a = tf.raw_ops.Identity(input=x, name="a")
        outputs = [tf.raw_ops.Neg(x=a) for _ in range(20)]
    outcome = removed(view(g, [x], outputs), "Identity")
    assert reasons(outcome) == {"a": "each of its 20 readers would get its 20 control inputs"}


def v1_graph(build):
    v1.disable_control_flow_v2()
    try:
        with building() as g:
            x = v1.placeholder(tf.float32, [2], "x")
            y = build(x)
    finally:
        v1.enable_control_flow_v2()
    return view(g, [x], [y])


def same_on(graph, slim, *feeds):
    for value in feeds:
        for was, now in zip(run(graph, {"x:0": value}), run(slim, {"x:0": value}), strict=True):
            np.testing.assert_array_equal(was, now)


def test_v1_branches_compute_the_same():
    """The identities at a Switch have control readers: they say which branch is live."""
    graph = v1_graph(
        lambda x: v1.cond(
            tf.reduce_sum(x) > 0,
            lambda: tf.identity(tf.constant([1.0, 2.0])) + tf.identity(tf.identity(x)),
            lambda: tf.identity(x) * 3.0,
        )
    )
    outcome = removed(graph, "Identity")
    assert outcome.changes >= 3
    assert "its control edges say which branch of a Switch is live" in reasons(outcome).values()
    same_on(graph, outcome.graph, [1.0, 5.0], [-1.0, -5.0])


def test_a_control_edge_of_a_branch_is_not_moved_to_the_switch():
    """Without this, the constant of the branch not taken would be live too."""
    graph = v1_graph(lambda x: v1.cond(tf.reduce_sum(x) > 0, lambda: tf.constant(1.0), lambda: tf.constant(2.0)))
    outcome = removed(graph, "Identity")
    same_on(graph, outcome.graph, [1.0, 5.0], [-1.0, -5.0])
    constants = [n for n in outcome.graph.nodes.values() if n.op == "Const" and control_inputs(n)]
    assert all(outcome.graph.nodes[control_inputs(n)[0]].op == "Identity" for n in constants)


def test_v1_loops_compute_the_same():
    graph = v1_graph(
        lambda x: v1.while_loop(
            lambda i, a: i < 5,
            lambda i, a: (tf.identity(i) + 1, tf.identity(tf.identity(a) * tf.identity(tf.constant(2.0))) + 1.0),
            [0, x],
        )[1]
    )
    outcome = removed(graph, "Identity")
    assert outcome.changes >= 3
    same_on(graph, outcome.graph, [1.0, 5.0], [-1.0, -5.0])


def test_a_chain_is_removed_in_one_sweep():
    with building() as g:
        x = y = v1.placeholder(tf.float32, [2], "x")
        for _ in range(300):
            y = tf.raw_ops.Identity(input=y)
        y = tf.raw_ops.Neg(x=y)
    assert op_counts(removed(view(g, [x], [y]), "Identity").graph) == {"Placeholder": 1, "Neg": 1}


def test_stale_notes_do_no_harm():
    with building() as g:
        x = v1.placeholder(tf.float32, [2], "x")
        y = tf.raw_ops.Neg(x=tf.raw_ops.Identity(input=x, name="a"), name="y")
    graph_def = g.as_graph_def()
    next(n for n in graph_def.node if n.name == "y").attr["_class"].list.s.append(b"loc:@a")
    graph = Graph.of(graph_def, [x.name], [y.name])
    assert_same_model(graph, removed(graph, "Identity").graph, random_feeds(graph))


def test_function_bodies_too():
    def step(count, x):
        return count + 1, tf.identity(tf.tanh(tf.identity(x) + 0.5))

    with building() as g:
        x = tf.compat.v1.placeholder(tf.float32, [3], name="x")
        tf.compat.v1.enable_control_flow_v2()
        try:
            _, y = tf.while_loop(lambda count, x: count < 3, step, [0, x])
        finally:
            tf.compat.v1.disable_control_flow_v2()
        y = tf.identity(y, name="y")
    graph = view(g, [x], [y])

    def in_bodies(graph):
        return sum(node.op == "Identity" for function in graph.functions.values() for node in function.node_def)

    done = remove_nodes(graph, op=("Identity",))
    assert in_bodies(graph) - in_bodies(done.graph) >= 1
    assert_same_model(graph, done.graph, {"x:0": np.float32([-1, 0, 2])})


@pytest.mark.parametrize(("op", "exact"), [("Identity", True), ("CheckNumerics", True), ("Relu", False)])
def test_taking_out_what_computes_is_said_to_change_the_answers(op, exact):
    with building() as g:
        x = tf.compat.v1.placeholder(tf.float32, [3], name="x")
        y = tf.tanh(tf.nn.relu(tf.debugging.check_numerics(tf.identity(x), "bad")), name="y")
    assert remove_nodes(view(g, [x], [y]), op=(op,)).exact is exact
