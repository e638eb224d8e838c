"""Bodies in the place of calls: the same answers and effects, under the same names outside."""

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.graphs import (
    assert_same_interface,
    assert_same_model,
    building,
    normal,
    op_counts,
    random_feeds,
    reasons,
    run,
    view,
)
from tests.old_tool import transformed, with_default_attributes
from tfslim_core import transforms
from tfslim_core.graph import Graph, control_inputs, make_node, renamed
from tfslim_core.transforms.inline_partitionedcall import inline_partitionedcall

v1 = tf.compat.v1
CALLS = {"PartitionedCall", "StatefulPartitionedCall"}


def calls(graph):
    return [name for name, node in graph.nodes.items() if node.op in CALLS]


def calls_everywhere(graph):
    bodies = [n.op for function in graph.functions.values() for n in function.node_def]
    return len(calls(graph)) + sum(op in CALLS for op in bodies)


def called(function, *shapes, name="y", **more):
    """A graph of one call, whose outputs are read by Identity nodes y0, y1, …"""
    with building() as g:
        inputs = [v1.placeholder(tf.float32, shape, f"x{i}") for i, shape in enumerate(shapes)]
        found = tf.nest.flatten(tf.function(function, autograph=False)(*inputs))
        outputs = [tf.identity(tensor, f"{name}{i}") for i, tensor in enumerate(found)]
    return view(g, inputs, outputs, **more)


def without_functions(graph):
    """The same, of a graph that must have no call left."""
    outcome = inline_partitionedcall(graph)
    assert outcome.skipped == ()
    assert calls_everywhere(outcome.graph) == 0
    return outcome.graph


def test_a_call_becomes_its_body():
    graph = called(lambda x: tf.nn.relu(x, "relu") * 2.0, [2, 3])
    (call,) = calls(graph)
    outcome = inline_partitionedcall(graph)
    assert (outcome.changes, outcome.skipped) == (1, ())
    assert f"{call}/relu" in outcome.graph.nodes
    assert not outcome.graph.functions
    assert_same_model(graph, outcome.graph, random_feeds(graph))


def test_stateful_calls_are_inlined():
    graph = called(lambda x: tf.abs(x), [2, 3])
    (call,) = calls(graph)
    stateful = renamed(graph.nodes[call], call)
    stateful.op = "StatefulPartitionedCall"
    graph = graph.replace([stateful])
    assert_same_model(graph, without_functions(graph), random_feeds(graph))


def test_nested_calls_are_inlined():
    inner = tf.function(lambda x: (x + 1.0, x * 2.0))
    middle = tf.function(lambda x: inner(inner(x)[1])[0] - inner(x)[1])
    graph = called(lambda x: middle(x) + middle(x * 3.0), [2, 3])
    assert len(graph.functions) == 3
    assert_same_model(graph, without_functions(graph), random_feeds(graph))


def test_every_output_argument_of_an_op_is_read_at_its_place():
    """The old tool reads output 0 instead of TopKV2's second and of a batch norm's other ones."""

    def body(x, image):
        values, places = tf.math.top_k(x, 2)
        low, middle, high = tf.split(x, 3, axis=1)
        norm = tf.raw_ops.FusedBatchNormV3(
            x=image, scale=normal(4), offset=normal(4, seed=1), mean=[], variance=[], is_training=True
        )
        return (
            places,
            tf.unique(tf.reshape(x, [-1]))[1],
            high,
            middle,
            low,
            values,
            norm.batch_mean,
            norm.batch_variance,
        )

    graph = called(body, [2, 3], [2, 5, 5, 4])
    slim = without_functions(graph)
    for wanted, found in zip(run(graph, random_feeds(graph)), run(slim, random_feeds(graph)), strict=True):
        np.testing.assert_array_equal(wanted, found)


def test_control_inputs_inside_and_around_a_function_are_kept():
    """An assert in the body still stops the request, also where nobody but a control input waits for the call."""

    def body(x):
        with tf.control_dependencies([tf.debugging.assert_positive(x, "it has to be positive")]):
            return x * 2.0

    with building() as g:
        x = v1.placeholder(tf.float32, [3], "x")
        call = tf.function(body, autograph=False)(x)
        y = tf.identity(call, "y")
        with tf.control_dependencies([call.op]):
            z = tf.sqrt(x, "z")
    for outputs in ([y], [z]):
        graph = view(g, [x], outputs)
        slim = without_functions(graph)
        assert_same_model(graph, slim, {"x:0": np.array([1.0, 2, 3])})
        for one in (graph, slim):
            with pytest.raises(tf.errors.InvalidArgumentError, match="it has to be positive"):
                run(one, {"x:0": np.array([1.0, -2, 3])})


def test_a_call_that_is_an_output_keeps_its_name_and_its_ports():
    inner = tf.function(lambda x: (x + 1.0, tf.reduce_sum(x), tf.constant(3)))
    single = tf.function(lambda x: x * 2.0)
    with building() as g:
        x = v1.placeholder(tf.float32, [2, 3], "x")
        inner(x)
        single(x)
    names = calls(view(g, [x], []))
    graph = view(g, [x], [f"{names[0]}:1", f"{names[0]}:0", f"{names[0]}:2", f"{names[1]}:0"])
    slim = without_functions(graph)
    assert [slim.nodes[name].op for name in names] == ["IdentityN", "Identity"]
    assert_same_interface(graph, slim)
    for wanted, found in zip(run(graph, random_feeds(graph)), run(slim, random_feeds(graph)), strict=True):
        assert wanted.dtype == found.dtype
        np.testing.assert_array_equal(wanted, found)


def counting(outputs=(), **more):
    """A counter that `call` adds 1 to; the call gives its argument, or nothing."""
    with building() as g:
        x = v1.placeholder(tf.float32, [2], "x")
        counter = tf.raw_ops.VarHandleOp(dtype=tf.float32, shape=[], shared_name="count", name="counter")
        tf.raw_ops.AssignVariableOp(resource=counter, value=tf.constant(0.0)).name  # noqa: B018
        start = g.get_operations()[-1]

        @tf.function(autograph=False)
        def count(handle, x):
            tf.raw_ops.AssignAddVariableOp(resource=handle, value=tf.constant(1.0))
            return [x * 2.0] if outputs else []

        count(counter, x)
        now = tf.raw_ops.ReadVariableOp(resource=counter, dtype=tf.float32, name="now")
    (call,) = (op.name for op in g.get_operations() if op.type in CALLS)
    return view(g, [x], [f"{call}:0", now] if outputs else [now], [call]), start.name, call


@pytest.mark.parametrize("outputs", [False, True])
def test_a_call_that_is_run_for_its_effect_keeps_name_and_effect(outputs):
    graph, start, call = counting(outputs)
    slim = without_functions(graph)
    assert slim.nodes[call].op == ("Identity" if outputs else "NoOp")
    assert control_inputs(slim.nodes[call])
    assert slim.targets == graph.targets
    for one in (graph, slim):
        with tf.Graph().as_default():
            tf.import_graph_def(one.to_graph_def(), name="")
            with v1.Session() as session:
                session.run(start)
                for _ in range(3):
                    session.run(call, {"x:0": [1, 2]})
                assert session.run("now:0") == 3


def test_a_call_that_is_fed_is_left():
    graph = called(lambda x: x * 2.0, [2])
    (call,) = calls(graph)
    graph = Graph.of(graph.to_graph_def(), ["x0:0", f"{call}:0"], graph.outputs)
    outcome = inline_partitionedcall(graph)
    assert outcome.graph is graph
    assert reasons(outcome) == {call: "it is fed"}


def test_a_fed_call_beside_others():
    inner = tf.function(lambda x: x * 2.0)
    with building() as g:
        x = v1.placeholder(tf.float32, [2], "x")
        first = inner(x)
        second = inner(first + 1.0)
        third = tf.identity(inner(second), "third")
    graph = view(g, [x, second], [third])
    outcome = inline_partitionedcall(graph)
    assert (outcome.changes, len(outcome.skipped)) == (2, 1)
    assert calls(outcome.graph) == [second.op.name]
    assert len(outcome.graph.functions) == 1
    assert_same_model(graph, outcome.graph, {"x:0": np.ones(2), second.name: np.array([3.0, 4])})
    whole = Graph.of(outcome.graph.to_graph_def(), ["x:0"], ["third:0"])
    assert_same_model(Graph.of(graph.to_graph_def(), ["x:0"], ["third:0"]), whole, {"x:0": np.array([1.0, 2])})


def test_a_function_that_calls_itself_is_left():
    graph = called(lambda x: x * 2.0, [2])
    (call,) = calls(graph)
    (function,) = graph.functions.values()
    (name,) = graph.functions
    copy = type(function)()
    copy.CopyFrom(function)
    again = renamed(graph.nodes[call], "again", [function.signature.input_arg[0].name])
    copy.node_def.append(again)
    graph = graph.replace(library=[copy])
    outcome = inline_partitionedcall(graph)
    assert outcome.graph is graph
    assert reasons(outcome)[call] == f"its function {name!r} calls itself"


def test_a_recursion_through_a_branch_ends():
    """Calls are inlined; the branch keeps its function, which now holds the same branch. (TensorFlow runs no such.)"""
    graph = Graph.of(v1.GraphDef.FromString(_factorial()), ["n:0"], ["y:0"])
    outcome = inline_partitionedcall(graph)
    assert outcome.changes == 2
    assert calls_everywhere(outcome.graph) == 0
    assert len(outcome.graph.functions) == len(graph.functions) - 1
    branches = [n for f in outcome.graph.functions.values() for n in f.node_def if n.op in ("If", "StatelessIf")]
    assert len(branches) == 1
    assert inline_partitionedcall(outcome.graph).graph is outcome.graph


def _factorial():
    """y = n!, by functions: fact(n) = If(n > 1, more, one)(n); more(n) = n * fact(n - 1)."""

    def fact(n):
        return tf.cond(n > 1.0, lambda: n * tf.abs(n - 1.0), lambda: 1.0)

    with building() as g:
        v1.enable_control_flow_v2()
        try:
            n = v1.placeholder(tf.float32, [], "n")
            tf.identity(tf.function(fact, autograph=False)(n), "y")
        finally:
            v1.disable_control_flow_v2()
    graph_def = g.as_graph_def()
    (call,) = (node for node in graph_def.node if node.op in CALLS)
    for function in graph_def.library.function:
        for index, node in enumerate(function.node_def):
            if node.op == "Abs":
                again = renamed(call, node.name, node.input)
                readers = [other for other in function.node_def if f"{node.name}:y:0" in other.input]
                for other in readers:
                    other.input[list(other.input).index(f"{node.name}:y:0")] = f"{node.name}:output:0"
                function.node_def[index].CopyFrom(again)
    return graph_def.SerializeToString()


def test_calls_in_the_bodies_of_loops_and_branches_are_inlined():
    inner = tf.function(lambda x: tf.nn.relu(x) + tf.constant(normal(512)))

    def body(x):
        x = tf.while_loop(lambda i, x: i < 3, lambda i, x: (i + 1, inner(inner(x)) * 0.5), [0, x])[1]
        return tf.cond(tf.reduce_sum(x) > 0, lambda: inner(x), lambda: -x)

    v1.enable_control_flow_v2()
    try:
        graph = called(body, [512])
    finally:
        v1.disable_control_flow_v2()
    before = len(graph.functions)
    slim = without_functions(graph)
    assert len(slim.functions) < before
    assert_same_model(graph, slim, random_feeds(graph))


def test_an_effect_in_a_loop_stays_an_effect():
    def checked(x):
        tf.debugging.assert_less(x, 10.0, "too much")
        return x * 2.0

    inner = tf.function(checked, autograph=False)
    v1.enable_control_flow_v2()
    try:
        graph = called(lambda x: tf.while_loop(lambda i, x: i < 3, lambda i, x: (i + 1, inner(x)), [0, x])[1], [2])
    finally:
        v1.disable_control_flow_v2()
    slim = without_functions(graph)
    assert_same_model(graph, slim, {"x0:0": np.array([1.0, 2])})
    for one in (graph, slim):
        with pytest.raises(tf.errors.InvalidArgumentError, match="too much"):
            run(one, {"x0:0": np.array([1.0, 4])})


def test_unused_functions_go_and_used_ones_stay():
    graph = called(lambda x: tf.map_fn(lambda row: row * 2.0, x), [2, 3])
    outcome = inline_partitionedcall(graph)
    assert {node.op for node in outcome.graph.nodes.values()}.isdisjoint(CALLS)
    assert len(outcome.graph.functions) < len(graph.functions)
    assert_same_model(graph, outcome.graph, random_feeds(graph))


def test_large_constants_become_weights():
    graph = called(lambda x: tf.matmul(x, tf.constant(normal(30, 40), name="w")), [2, 30])
    assert not graph.weights
    slim = without_functions(graph)
    assert [weight.shape for weight in slim.weights.values()] == [(30, 40)]
    assert_same_model(graph, slim, random_feeds(graph))


def test_names_that_are_taken_and_colocation():
    graph = called(lambda x: tf.nn.relu(x, "relu") * 2.0, [2, 3])
    (call,) = calls(graph)
    (function,) = graph.functions.values()
    copy = type(function)()
    copy.CopyFrom(function)
    for node in copy.node_def:
        node.attr["_class"].list.s.append(b"loc:@relu")
    neighbour = make_node("Identity", f"{call}/relu", ["x0"], T=tf.float32)
    neighbour.attr["_class"].list.s.append(f"loc:@{call}".encode())
    graph = graph.replace([neighbour], library=[copy])
    slim = without_functions(graph)
    assert slim.nodes[f"{call}/relu"].op == "Identity"
    assert slim.nodes[f"{call}/relu_1"].op == "Relu"
    assert not any("_class" in node.attr for node in slim.nodes.values())
    assert_same_model(graph, slim, random_feeds(graph))


def test_a_call_in_a_v1_loop():
    inner = tf.function(lambda x: tf.matmul(x, tf.constant(normal(3, 3))) + 1.0)
    with building() as g:
        v1.disable_control_flow_v2()
        try:
            x = v1.placeholder(tf.float32, [2, 3], "x")
            y = v1.while_loop(lambda i, v: i < 3, lambda i, v: (i + 1, inner(v) * 0.3), [0, x])[1]
        finally:
            v1.enable_control_flow_v2()
    graph = view(g, [x], [y])
    assert_same_model(graph, without_functions(graph), random_feeds(graph))


def test_nothing_to_do():
    with building() as g:
        x = v1.placeholder(tf.float32, [2], "x")
        y = tf.abs(x)
    graph = view(g, [x], [y])
    outcome = inline_partitionedcall(graph)
    assert (outcome.graph, outcome.changes) == (graph, 0)


def test_what_was_behind_a_call_is_folded():
    graph = called(lambda x: tf.matmul(x, tf.transpose(tf.constant(normal(40, 30)))), [2, 30])
    slim, _ = transforms.apply(graph, "inline_partitionedcall fold_constants remove_nodes(op=Identity)")
    assert op_counts(slim)["Transpose"] == 0
    assert_same_model(graph, slim, random_feeds(graph))


@st.composite
def library(draw):
    """Functions of two tensors that may call those before them; each is asked for twice."""
    made = []

    def of(steps, number):
        def body(a, b):
            for kind, index in steps:
                if kind == "call" and number:
                    a, b = made[index % number](a, b)
                elif kind == "swap":
                    a, b = b, a
                elif kind == "split":
                    low, high = tf.split(a, 2, axis=1)
                    a = tf.concat([high, low], 1)
                elif kind == "top":
                    b = b + tf.cast(tf.math.top_k(a, 4)[1], tf.float32)
                elif kind == "control":
                    with tf.control_dependencies([tf.debugging.assert_less(a, 1e9)]):
                        a = a * 0.5
                else:
                    a = a + b * float(index + 1)
            return a, b

        return tf.function(body, autograph=False)

    kinds = st.sampled_from(["call", "call", "swap", "split", "top", "control", "add"])
    for number in range(draw(st.integers(1, 3))):
        steps = draw(st.lists(st.tuples(kinds, st.integers(0, 5)), min_size=1, max_size=4))
        made.append(of(steps, number))
    with building() as g:
        x = v1.placeholder(tf.float32, [2, 4], "x")
        a, b = made[-1](x, x * 0.3)
        with tf.control_dependencies([a.op] if draw(st.booleans()) else []):
            c, d = made[0](b, a)
    direct = draw(st.booleans())
    with g.as_default():
        outputs = [c, d] if direct else [tf.identity(c), tf.identity(d)]
    return view(g, [x], outputs)


@settings(max_examples=25, deadline=None, derandomize=True)
@given(graph=library())
def test_any_library(graph):
    slim = without_functions(graph)
    assert_same_interface(graph, slim)
    feeds = random_feeds(graph)
    for wanted, found in zip(run(graph, feeds), run(slim, feeds), strict=True):
        np.testing.assert_allclose(found, wanted, rtol=1e-6, atol=1e-6)


def test_as_the_old_tool_does_it():
    """On the bodies that it can inline."""
    graph = called(lambda x: tf.nn.relu(x, "relu") * 2.0, [2, 3])
    (call,) = calls(graph)
    plain = renamed(graph.nodes[call], call)
    plain.op = "PartitionedCall"
    graph = graph.replace([plain])
    with tf.Graph().as_default() as g:
        tf.import_graph_def(graph.to_graph_def(), name="")
    old = transformed(with_default_attributes(g.as_graph_def()), ["x0"], ["y0"], "inline_partitionedcall")
    old = Graph.of(old, graph.inputs, graph.outputs)
    slim = without_functions(graph)
    named = {name: node.op for name, node in slim.nodes.items()}
    assert {name: node.op for name, node in old.nodes.items() if name.startswith(f"{call}/")}.items() <= named.items()
    np.testing.assert_array_equal(run(old, random_feeds(graph))[0], run(slim, random_feeds(graph))[0])


def test_a_note_on_the_gradient_of_a_function_that_goes_goes():
    """TensorFlow refuses a note on a function that is not there."""
    with building() as g:
        x = v1.placeholder(tf.float32, [3], "x")
        y = tf.function(lambda a: tf.sin(a))(x)
        y = tf.identity(tf.cond(tf.reduce_sum(x) > 0, lambda: tf.cos(y), lambda: y * 2), "y")
    graph_def = g.as_graph_def()
    callee = next(node.attr["f"].func.name for node in graph_def.node if node.op in CALLS)
    graph_def.library.gradient.add(function_name=callee, gradient_func=callee)
    graph = Graph.of(graph_def, ["x:0"], ["y:0"])
    outcome = inline_partitionedcall(graph)
    assert outcome.graph.functions
    assert callee not in outcome.graph.functions
    assert_same_model(graph, outcome.graph, random_feeds(graph))
