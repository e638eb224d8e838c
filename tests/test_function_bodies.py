"""Function bodies as graphs, and back."""

import numpy as np
import pytest
import tensorflow as tf

from tests.graphs import assert_same_model, building, op_counts, view
from tfslim_core import registry, transforms
from tfslim_core.function_bodies import body_of, is_generic, rewrite_bodies, with_body
from tfslim_core.graph import Graph, make_node
from tfslim_core.registry import Outcome, Skipped, transform

v1 = tf.compat.v1


def looping():
    """A While whose body adds a constant of 2 KiB, splits, and prints."""
    table = np.linspace(-1, 1, 512, dtype=np.float32)

    def step(count, x):
        low, high = tf.split(x + table, 2)
        return count + 1, tf.concat([high, tf.sigmoid(low)], 0)

    with building() as graph:
        x = v1.placeholder(tf.float32, [512], name="x")
        v1.enable_control_flow_v2()
        try:
            _, y = tf.while_loop(lambda count, x: count < 3, step, [0, x])
        finally:
            v1.disable_control_flow_v2()
        y = tf.identity(y, name="y")
    return view(graph, [x], [y])


def test_a_body_is_a_graph_and_comes_back_the_same():
    graph = looping()
    name = next(node.attr["body"].func.name for node in graph.nodes.values() if node.op in ("While", "StatelessWhile"))
    body = body_of(graph, name)
    assert op_counts(body)["Split"] == 1
    assert body.weights, "the constant of 2 KiB is a weight"
    assert len(body.inputs) == len(body.outputs) == len(graph.functions[name].signature.input_arg)
    again = with_body(graph.functions[name], body)
    assert again == graph.functions[name]


def test_rewritten_bodies_are_used():
    graph = looping()

    def with_tanh(name, body):
        if not any(node.op == "Sigmoid" for node in body.nodes.values()):
            return body
        old = next(node for node in body.nodes.values() if node.op == "Sigmoid")
        return body.replace([make_node("Tanh", old.name, old.input, T=tf.float32)])

    feeds = {"x:0": np.linspace(-2, 2, 512, dtype=np.float32)}
    new = rewrite_bodies(graph, with_tanh)
    assert_same_model(graph, graph, feeds)
    with pytest.raises(AssertionError, match="Mismatched"):
        assert_same_model(graph, new, feeds)
    assert rewrite_bodies(graph, lambda name, body: body) is graph


def test_the_registry_runs_a_transform_in_bodies_too():
    @transform("to_tanh_for_this_test", enters_functions=True)
    def to_tanh(graph: Graph, *, wanted: str = "Tanh") -> Outcome:
        """Put another op in the place of Sigmoid."""
        new = [
            make_node(wanted, node.name, node.input, T=tf.float32)
            for node in graph.nodes.values()
            if node.op == "Sigmoid"
        ]
        return Outcome(graph.replace(new) if new else graph, len(new), tuple(Skipped(n.name, "seen") for n in new))

    from tfslim_core import registry

    try:
        done = to_tanh(looping(), wanted="Relu")
        assert done.changes == 1
        assert [skipped.node.rpartition("/")[2] for skipped in done.skipped] == ["Sigmoid"]
        ops = {node.op for function in done.graph.functions.values() for node in function.node_def}
        assert "Relu" in ops
        assert "Sigmoid" not in ops
    finally:
        del registry._registered["to_tanh_for_this_test"]


def test_what_a_body_runs_for_its_effect_is_a_target():
    @tf.function(input_signature=[tf.TensorSpec([], tf.float32)])
    def shouts(x):
        tf.print("x is", x)
        return x + 1

    graph_def = shouts.get_concrete_function().graph.as_graph_def()
    function = shouts.get_concrete_function().function_def
    graph_def.library.function.add().CopyFrom(function)
    graph = Graph.of(tf.compat.v1.GraphDef(library=graph_def.library, versions=graph_def.versions))
    body = body_of(graph, function.signature.name)
    assert any("PrintV2" in target for target in body.targets)


def test_a_function_whose_types_the_caller_decides_has_no_body():
    function = v1.GraphDef().library.function.add()
    function.signature.name = "any"
    function.signature.input_arg.add(name="x", type_attr="T")
    function.signature.output_arg.add(name="y", type_attr="T")
    function.signature.attr.add(name="T", type="type")
    function.ret["y"] = "x"
    assert is_generic(function)
    graph_def = v1.GraphDef()
    graph_def.library.function.add().CopyFrom(function)
    assert body_of(Graph.of(graph_def), "any") is None


def test_a_body_at_hand_is_what_would_be_read():
    graph = looping()
    for call in registry.parse(transforms.DEFAULT):
        graph = call.transform.function(graph, **call.arguments).graph
        anew = Graph.of(graph.to_graph_def(), graph.inputs, graph.outputs, graph.targets, graph.weights)
        for name in graph.functions:
            at_hand, read = body_of(graph, name), body_of(anew, name)
            for fact in ("inputs", "outputs", "targets", "readers", "order", "by_op"):
                assert getattr(at_hand, fact) == getattr(read, fact), (call, name, fact)
            assert [at_hand.facts(node) for node in at_hand.nodes] == [read.facts(node) for node in read.nodes]
            assert at_hand.weights.keys() == read.weights.keys()
            assert at_hand.rest is graph.rest
