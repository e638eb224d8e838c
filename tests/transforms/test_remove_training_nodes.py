import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.graphs import assert_same_model, building, op_counts, op_delta, random_feeds, reasons, run, view
from tfslim_core.graph import Graph, control_inputs
from tfslim_core.transforms.remove_training_nodes import remove_training_nodes
from tfslim_core.transforms.strip_unused_nodes import strip_unused_nodes

v1 = tf.compat.v1


def removed(graph, **parameters):
    outcome = remove_training_nodes(graph, **parameters)
    again = remove_training_nodes(outcome.graph, **parameters)
    assert (again.changes, again.graph) == (0, outcome.graph)
    return outcome


def bodies(graph):
    return {node.op for function in graph.functions.values() for node in function.node_def}


# What looks on


def test_nodes_that_only_look_are_taken_out():
    with building() as g:
        x = v1.placeholder(tf.float32, [3], "x")
        y = tf.raw_ops.StopGradient(input=x)
        y = tf.raw_ops.PreventGradient(input=y, message="no")
        y = tf.raw_ops.CheckNumerics(tensor=y, message="finite")
        y = tf.raw_ops.CheckNumericsV2(tensor=y, message="finite")
        y = tf.raw_ops.Print(input=y, data=[x, y], message="x")
        y = tf.raw_ops.DebugIdentityV2(input=y)
        y = tf.raw_ops.Snapshot(input=y)
        y = tf.raw_ops.Neg(x=y, name="y")
    graph = view(g, [x], [y])
    outcome = removed(graph)
    assert op_counts(outcome.graph) == {"Placeholder": 1, "Neg": 1}
    assert outcome.changes == 7
    assert_same_model(graph, outcome.graph, random_feeds(graph), rtol=0, atol=0)


def test_identities_are_not_its_business():
    with building() as g:
        x = v1.placeholder(tf.float32, [3], "x")
        y = tf.raw_ops.Neg(x=tf.raw_ops.Identity(input=x))
    graph = view(g, [x], [y])
    assert removed(graph).graph is graph


def test_an_output_that_passes_its_input_on_stays():
    with building() as g:
        x = v1.placeholder(tf.float32, [3], "x")
        y = tf.raw_ops.StopGradient(input=tf.raw_ops.Neg(x=x), name="y")
    graph = view(g, [x], [y])
    outcome = removed(graph)
    assert outcome.graph is graph
    assert reasons(outcome) == {"y": "it is part of the interface"}


# What is only run


def asserting():
    """y = -x after an assert that all of x is below 9."""
    with building() as g:
        x = v1.placeholder(tf.float32, [3], "x")
        check = tf.raw_ops.Assert(condition=tf.reduce_all(x < 9), data=["x is", x], name="assert")
        with g.control_dependencies([check]):
            y = tf.raw_ops.Neg(x=x, name="y")
    return view(g, [x], [y])


def test_an_assert_goes_with_its_condition():
    graph = asserting()
    outcome = removed(graph)
    assert op_counts(outcome.graph) == {"Placeholder": 1, "Neg": 1}
    assert_same_model(graph, outcome.graph, random_feeds(graph), rtol=0, atol=0)
    with pytest.raises(tf.errors.InvalidArgumentError, match="assertion failed"):
        run(graph, {"x:0": [1, 2, 10]})
    assert run(outcome.graph, {"x:0": [1, 2, 10]})[0].tolist() == [-1, -2, -10]


def test_asserts_can_be_kept():
    graph = asserting()
    assert removed(graph, keep_asserts=True).graph is graph
    with building() as g:
        x = v1.placeholder(tf.float32, [3], "x")
        y = tf.raw_ops.Neg(x=tf.raw_ops.StopGradient(input=tf.raw_ops.CheckNumerics(tensor=x, message="")))
    assert op_counts(removed(view(g, [x], [y]), keep_asserts=True).graph) == {
        "Placeholder": 1,
        "CheckNumerics": 1,
        "Neg": 1,
    }


def test_a_condition_that_is_read_elsewhere_stays():
    with building() as g:
        x = v1.placeholder(tf.float32, [3], "x")
        fine = tf.reduce_all(x < 9)
        check = tf.raw_ops.Assert(condition=fine, data=[x])
        with g.control_dependencies([check]):
            y = tf.raw_ops.Neg(x=x, name="y")
        z = tf.cast(fine, tf.float32, name="z")
    graph = view(g, [x], [y, z])
    outcome = removed(graph)
    assert op_delta(graph, outcome.graph) == {"Assert": -1}
    assert_same_model(graph, outcome.graph, random_feeds(graph))


def test_prints_and_summaries_go():
    with building() as g:
        x = v1.placeholder(tf.float32, [3], "x")
        line = tf.raw_ops.PrintV2(input=tf.strings.as_string(tf.reduce_sum(x)))
        writer = tf.raw_ops.SummaryWriter()
        summary = tf.raw_ops.WriteScalarSummary(
            writer=writer, step=tf.constant(1, tf.int64), tag="sum", value=tf.reduce_sum(x)
        )
        with g.control_dependencies([line, summary]):
            y = tf.raw_ops.Neg(x=x, name="y")
    graph = view(g, [x], [y])
    slim = removed(graph).graph
    assert "PrintV2" not in op_counts(slim)
    assert "WriteScalarSummary" not in op_counts(slim)
    assert slim.nodes["y"].input == ["x", "^WriteScalarSummary"]
    assert slim.nodes["WriteScalarSummary"].op == "NoOp", "the writer may do something, and is waited for"


def test_what_it_waited_for_is_still_waited_for():
    """The variable is read, checked, and only then overwritten."""
    with building() as g:
        x = v1.placeholder(tf.float32, [2], "x")
        variable = tf.raw_ops.VarHandleOp(dtype=tf.float32, shape=[2], name="variable")
        first = tf.raw_ops.AssignVariableOp(resource=variable, value=[1.0, 2.0], name="first")
        with g.control_dependencies([first]):
            read = tf.raw_ops.ReadVariableOp(resource=variable, dtype=tf.float32, name="read")
        check = tf.raw_ops.Assert(condition=tf.reduce_all(read < 9, name="fine"), data=[read], name="assert")
        with g.control_dependencies([check]):
            write = tf.raw_ops.AssignVariableOp(resource=variable, value=x, name="write")
        with g.control_dependencies([write]):
            y = tf.raw_ops.Neg(x=read, name="y")
    graph = view(g, [x], [y])
    slim = removed(graph).graph
    assert slim.nodes["assert"].op == "NoOp"
    assert set(control_inputs(slim.nodes["assert"])) == {"fine", "read"}
    assert_same_model(graph, slim, {"x:0": np.array([5, 6], np.float32)})


def test_a_chain_of_asserts_goes():
    with building() as g:
        x = v1.placeholder(tf.float32, [3], "x")
        before = []
        for number in range(50):
            with g.control_dependencies(before):
                before = [tf.raw_ops.Assert(condition=tf.reduce_all(x < 9 + number), data=[x])]
        with g.control_dependencies(before):
            y = tf.raw_ops.Neg(x=x, name="y")
    assert op_counts(removed(view(g, [x], [y])).graph) == {"Placeholder": 1, "Neg": 1}


def test_an_assert_that_is_the_init_op_stays():
    with building() as g:
        x = v1.placeholder(tf.float32, [3], "x")
        tf.raw_ops.Assert(condition=tf.constant(True), data=["never"], name="init")
        y = tf.raw_ops.Neg(x=x)
    graph = view(g, [x], [y], ["init"])
    outcome = removed(graph)
    assert outcome.graph is graph
    assert reasons(outcome) == {"init": "it is part of the interface"}


# Functions


def guarded(keep=True):
    @tf.function(input_signature=[tf.TensorSpec([2], tf.float32)])
    def guarded_tanh(x):
        tf.debugging.assert_less(x, 9.0)
        tf.print("x is", x)
        return tf.tanh(tf.stop_gradient(tf.debugging.check_numerics(x, "finite")))

    with building() as g:
        x = v1.placeholder(tf.float32, [2], "x")
        y = tf.identity(guarded_tanh(x), "y")
    return view(g, [x], [y])


def test_in_bodies_checks_prints_and_branches_that_only_check_go():
    graph = guarded()
    assert {"If", "Assert", "PrintV2", "CheckNumerics", "StopGradient"} <= bodies(graph)
    slim = removed(graph).graph
    assert not {"If", "StatelessIf", "Assert", "PrintV2", "CheckNumerics", "StopGradient"} & bodies(slim)
    assert_same_model(graph, slim, random_feeds(graph))
    name = graph.nodes[next(n for n in graph.nodes if "Call" in graph.nodes[n].op)].attr["f"].func.name
    slim = strip_unused_nodes(slim).graph
    assert [node.op for node in slim.functions[name].node_def] == ["Tanh", "Identity"]
    assert not slim.functions[name].control_ret


def test_in_bodies_asserts_can_be_kept():
    graph = guarded()
    slim = removed(graph, keep_asserts=True).graph
    assert {"If", "Assert", "CheckNumerics"} <= bodies(slim)
    assert not {"PrintV2", "StopGradient"} & bodies(slim)
    with pytest.raises(tf.errors.InvalidArgumentError, match="assertion failed"):
        run(slim, {"x:0": [1, 10]})


def test_a_branch_that_does_more_than_check_stays():
    with building() as g:
        x = v1.placeholder(tf.float32, [2], "x")
        variable = tf.raw_ops.VarHandleOp(dtype=tf.float32, shape=[2], name="variable")
        first = tf.raw_ops.AssignVariableOp(resource=variable, value=[1.0, 2.0], name="first")
        v1.enable_control_flow_v2()

        def writes():
            check = tf.raw_ops.Assert(condition=tf.reduce_all(x < 9), data=[x])
            with tf.control_dependencies([check]):
                tf.raw_ops.AssignVariableOp(resource=variable, value=x)
            return tf.constant(1)

        with g.control_dependencies([first]):
            branch = tf.cond(x[0] > 0, writes, lambda: tf.constant(0))
        with g.control_dependencies([branch]):
            read = tf.raw_ops.ReadVariableOp(resource=variable, dtype=tf.float32, name="read")
        y = tf.raw_ops.Neg(x=read, name="y")
    graph = view(g, [x], [y])
    slim = removed(graph).graph
    assert "Assert" not in bodies(slim)
    assert "AssignVariableOp" in bodies(slim)
    for value in ([3, 4], [-3, 4]):
        assert_same_model(graph, slim, {"x:0": np.array(value, np.float32)})


# TensorFlow 1 control flow


@pytest.mark.parametrize("value", [[1.0, 5.0], [-1.0, -5.0]])
def test_v1_branches_with_asserts_compute_the_same(value):
    v1.disable_control_flow_v2()
    try:
        with building() as g:
            x = v1.placeholder(tf.float32, [2], "x")

            def checked():
                with tf.control_dependencies([tf.debugging.Assert(tf.reduce_all(x < 99), [x])]):
                    return tf.stop_gradient(x * 2.0)

            def asserted():
                check = tf.raw_ops.Assert(condition=tf.reduce_all(x < 0), data=[x])
                with tf.control_dependencies([check]):
                    return tf.constant([7.0, 8.0])

            guard = v1.assert_less(x, 99.0)
            with g.control_dependencies([guard]):
                y = v1.cond(tf.reduce_sum(x) > 0, checked, asserted, name="choice")
            y = tf.identity(y, "y")
    finally:
        v1.enable_control_flow_v2()
    graph = view(g, [x], [y])
    slim = removed(graph).graph
    assert op_counts(graph)["Assert"] == 3
    assert op_counts(slim)["Assert"] == 0
    assert_same_model(graph, slim, {"x:0": np.array(value, np.float32)})


def test_v1_loops_compute_the_same():
    v1.disable_control_flow_v2()
    try:
        with building() as g:
            x = v1.placeholder(tf.float32, [2], "x")

            def step(i, a):
                with tf.control_dependencies([tf.raw_ops.Assert(condition=tf.reduce_all(a < 99), data=[a])]):
                    return i + 1, tf.stop_gradient(a * 2.0)

            y = tf.identity(v1.while_loop(lambda i, a: i < 3, step, [0, x])[1], "y")
    finally:
        v1.enable_control_flow_v2()
    graph = view(g, [x], [y])
    slim = removed(graph).graph
    assert op_counts(slim)["Assert"] == 0
    assert_same_model(graph, slim, random_feeds(graph))


# Placeholders with a default


def test_defaults_are_frozen_on_request_unless_they_are_inputs():
    with building() as g:
        x = v1.placeholder_with_default(tf.constant([1.0, 2.0]), [2], "x")
        training = v1.placeholder_with_default(tf.constant(False), [], "keras_learning_phase")
        y = tf.where(training, x * 0.0, x * 2.0, name="y")
    graph = view(g, [x], [y])
    assert removed(graph).graph is graph
    outcome = removed(graph, freeze_defaults=True)
    assert op_delta(graph, outcome.graph) == {"PlaceholderWithDefault": -1}
    assert set(outcome.graph.nodes) & {"x", "keras_learning_phase"} == {"x"}
    assert reasons(outcome) == {"x": "it is part of the interface"}
    assert_same_model(graph, outcome.graph, {"x:0": np.array([3, 4], np.float32)})


# Dropout


def old_dropout(x, keep, shape=None):
    """As TensorFlow did it until 1.12; `shape` is that of the mask."""
    uniform = tf.raw_ops.RandomUniform(shape=tf.shape(x) if shape is None else shape, dtype=x.dtype, seed=1, seed2=2)
    drawn = uniform * tf.constant(1, x.dtype) + tf.constant(0, x.dtype)
    return tf.raw_ops.Mul(x=tf.raw_ops.RealDiv(x=x, y=keep), y=tf.floor(keep + drawn), name="dropout")


def middle_dropout(x, rate, shape=None):
    """From 1.13 on."""
    uniform = tf.raw_ops.RandomUniform(shape=tf.shape(x) if shape is None else shape, dtype=x.dtype, seed=1, seed2=2)
    scale = tf.raw_ops.RealDiv(x=tf.constant(1, x.dtype), y=tf.constant(1, x.dtype) - rate)
    return tf.raw_ops.Mul(x=tf.cast(uniform >= rate, x.dtype), y=x * scale, name="dropout")


def new_dropout(x, rate, shape=None):
    """In TensorFlow 2."""
    uniform = tf.raw_ops.RandomUniform(shape=tf.shape(x) if shape is None else shape, dtype=x.dtype, seed=1, seed2=2)
    kept = x * tf.constant(1 / (1 - 0.0), x.dtype)
    return tf.raw_ops.SelectV2(condition=uniform >= rate, t=kept, e=tf.constant(0, x.dtype), name="dropout")


SPELLINGS = {"old": (old_dropout, 1.0), "middle": (middle_dropout, 0.0), "new": (new_dropout, 0.0)}


@settings(max_examples=30, deadline=None, derandomize=True)
@given(st.data())
def test_a_dropout_that_drops_nothing_goes(data):
    spelling, idle = SPELLINGS[data.draw(st.sampled_from(sorted(SPELLINGS)))]
    dtype = data.draw(st.sampled_from([tf.float32, tf.float64, tf.float16]))
    shape = data.draw(st.sampled_from([None, [2, 3], [1, 3], [3], [1]]))
    is_output = data.draw(st.booleans())
    known = data.draw(st.booleans())
    with building() as g:
        x = v1.placeholder(dtype, [2, 3] if known else [None, 3], "x")
        dropout = spelling(tf.raw_ops.Abs(x=x), tf.constant(idle, dtype), shape)
        y = tf.raw_ops.Neg(x=dropout, name="y")
    graph = view(g, [x], [y, dropout] if is_output else [y])
    outcome = removed(graph)
    goes = known or shape != [2, 3]
    assert outcome.changes == goes
    if goes:
        wanted = {"Placeholder": 1, "Abs": 1, "Neg": 1}
        assert op_counts(outcome.graph) == (wanted | {"Identity": 1} if is_output else wanted)
    else:
        assert reasons(outcome) == {"dropout": "what it draws may have another shape than what it masks"}
    assert_same_model(graph, outcome.graph, random_feeds(graph, unknown=2), rtol=0, atol=0)


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_a_dropout_that_drops_stays(spelling):
    make, _ = SPELLINGS[spelling]
    with building() as g:
        x = v1.placeholder(tf.float32, [2, 3], "x")
        y = tf.raw_ops.Neg(x=make(x, tf.constant(0.25)), name="y")
    outcome = removed(view(g, [x], [y]))
    assert outcome.changes == 0
    rate = 0.75 if spelling == "old" else 0.25
    assert reasons(outcome) == {
        "dropout": f"it drops values at random, at a rate of {rate}; without, answers would change"
    }


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_a_rate_that_is_fed_is_taken_from_its_default_on_request(spelling):
    make, idle = SPELLINGS[spelling]
    with building() as g:
        x = v1.placeholder(tf.float32, [2, 3], "x")
        rate = v1.placeholder_with_default(tf.constant(idle), [], "rate")
        y = tf.raw_ops.Neg(x=make(x, rate), name="y")
    graph = view(g, [x], [y])
    outcome = removed(graph)
    assert "freeze_defaults=true" in reasons(outcome)["dropout"]
    assert outcome.changes == 0
    slim = removed(graph, freeze_defaults=True).graph
    assert op_counts(slim) == {"Placeholder": 1, "Neg": 1}
    assert_same_model(graph, slim, random_feeds(graph), rtol=0, atol=0)
    listed = view(g, [x, rate], [y])
    assert "freeze_defaults=true" in reasons(removed(listed, freeze_defaults=True))["dropout"]


def test_a_mask_of_more_rows_than_its_tensor_is_left_alone():
    with building() as g:
        x = v1.placeholder(tf.float32, [1, 3], "x")
        y = tf.raw_ops.Neg(x=old_dropout(x, tf.constant(1.0), [4, 3]), name="y")
    graph = view(g, [x], [y])
    outcome = removed(graph)
    assert outcome.graph is graph
    assert "another shape" in reasons(outcome)["dropout"]


def test_other_masks_are_left_alone():
    with building() as g:
        x = v1.placeholder(tf.float32, [2, 3], "x")
        normal = tf.raw_ops.RandomStandardNormal(shape=[2, 3], dtype=tf.float32)
        y = x * tf.cast(normal >= 0.0, tf.float32) * tf.floor(x + 1.0)
    graph = view(g, [x], [y])
    assert removed(graph).graph is graph


def test_what_a_dropout_waited_for_is_still_waited_for():
    with building() as g:
        x = v1.placeholder(tf.float32, [2, 3], "x")
        variable = tf.raw_ops.VarHandleOp(dtype=tf.float32, shape=[2, 3], name="variable")
        write = tf.raw_ops.AssignVariableOp(resource=variable, value=x, name="write")
        with g.control_dependencies([write]):
            kept = old_dropout(x, tf.constant(1.0))
        y = tf.raw_ops.Neg(x=kept, name="y")
    graph = view(g, [x], [y])
    slim = removed(graph).graph
    assert set(slim.nodes) == {"x", "variable", "write", "y"}
    assert list(slim.nodes["y"].input) == ["x", "^write"]


def test_values_that_the_scaled_tensor_gives_to_others_stay():
    with building() as g:
        x = v1.placeholder(tf.float32, [2, 3], "x")
        scaled = tf.raw_ops.RealDiv(x=x, y=tf.constant(1.0), name="scaled")
        uniform = tf.raw_ops.RandomUniform(shape=tf.shape(x), dtype=tf.float32)
        dropout = tf.raw_ops.Mul(x=scaled, y=tf.floor(tf.constant(1.0) + uniform))
        y = tf.raw_ops.AddV2(x=tf.raw_ops.Neg(x=dropout), y=tf.exp(scaled), name="y")
    graph = view(g, [x], [y])
    slim = removed(graph).graph
    assert op_counts(slim) == {"Placeholder": 1, "Const": 1, "RealDiv": 1, "Neg": 1, "Exp": 1, "AddV2": 1}
    assert_same_model(graph, slim, random_feeds(graph), rtol=0, atol=0)


def test_in_bodies_dropouts_go_too():
    with building() as g:
        x = v1.placeholder(tf.float32, [None, 3], "x")
        v1.enable_control_flow_v2()
        y = tf.cond(tf.reduce_sum(x) > 0, lambda: -old_dropout(x, tf.constant(1.0)), lambda: tf.stop_gradient(x) * 2.0)
        y = tf.identity(y, "y")
    graph = view(g, [x], [y])
    slim = removed(graph).graph
    assert not {"RandomUniform", "Floor", "StopGradient"} & bodies(slim)
    for sign in (1, -1):
        assert_same_model(graph, slim, {"x:0": sign * np.arange(6, dtype=np.float32).reshape(2, 3)})


def test_stale_notes_do_no_harm():
    graph_def = asserting().to_graph_def()
    next(n for n in graph_def.node if n.name == "y").attr["_class"].list.s.append(b"loc:@assert")
    graph = Graph.of(graph_def, ["x:0"], ["y:0"])
    assert_same_model(graph, removed(graph).graph, random_feeds(graph))
