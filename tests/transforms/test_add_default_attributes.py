import tensorflow as tf
from hypothesis import given, settings

from tests.edited_graphs import FUNCTIONS_FEEDS, function_nodes, graphs, with_functions, with_generic_function
from tests.graphs import assert_same_model, building, random_feeds, view
from tests.old_tool import transformed
from tfslim_core.graph import Graph
from tfslim_core.ops import op_def
from tfslim_core.transforms.add_default_attributes import add_default_attributes

v1 = tf.compat.v1


def stripped(graph):
    """The graph as a SavedModel is exported: without the attributes that equal their default."""
    graph_def = graph.to_graph_def()
    for node in [*graph_def.node, *(n for f in graph_def.library.function for n in f.node_def)]:
        if node.op not in graph.functions:
            for declared in op_def(node.op, {}).attr:
                if declared.HasField("default_value") and node.attr.get(declared.name) == declared.default_value:
                    del node.attr[declared.name]
    return Graph.of(graph_def, graph.inputs, graph.outputs, weights=graph.weights)


def completed(graph):
    outcome = add_default_attributes(graph)
    again = add_default_attributes(outcome.graph)
    assert (again.changes, again.graph) == (0, outcome.graph)
    assert outcome.skipped == ()
    return outcome


def convolution():
    with building() as g:
        x = v1.placeholder(tf.float32, [1, 4, 4, 2], "x")
        y = tf.raw_ops.Conv2D(input=x, filter=tf.ones([2, 2, 2, 3]), strides=[1, 1, 1, 1], padding="SAME", name="y")
        tf.raw_ops.Conv2D(input=x, filter=tf.ones([2, 2, 2, 3]), strides=[1, 1, 1, 1], padding="VALID", name="z")
    return stripped(view(g, [x], [y]))


def test_what_was_stripped_comes_back():
    graph = convolution()
    assert set(graph.nodes["y"].attr) == {"T", "strides", "padding"}
    outcome = completed(graph)
    y = outcome.graph.nodes["y"]
    assert y.attr["data_format"].s == b"NHWC"
    assert list(y.attr["dilations"].list.i) == [1, 1, 1, 1]
    assert y.attr["use_cudnn_on_gpu"].b
    assert "data_format" not in graph.nodes["y"].attr


def test_a_value_that_is_there_stays():
    with building() as g:
        x = v1.placeholder(tf.float32, [3, 3], "x")
        y = tf.raw_ops.MatMul(a=x, b=x, transpose_b=True, name="y")
    graph = stripped(view(g, [x], [y]))
    slim = completed(graph).graph
    assert slim.nodes["y"].attr["transpose_b"].b
    assert "transpose_a" in slim.nodes["y"].attr
    assert_same_model(graph, slim, random_feeds(graph))


def test_the_old_tool_gives_the_same_nodes():
    graph = convolution()
    slim = completed(graph).graph
    old = transformed(graph.to_graph_def(), ["x"], ["y"], "add_default_attributes")
    assert {node.name: node for node in old.node} == dict(slim.nodes)


def test_versions_stay():
    graph_def = convolution().to_graph_def()
    graph_def.versions.producer = 1234
    graph_def.versions.min_consumer = 12
    graph = Graph.of(graph_def, ["x:0"], ["y:0"])
    assert completed(graph).graph.to_graph_def().versions == graph_def.versions


def test_functions_are_completed_too():
    graph = stripped(with_functions())
    call = next(node for node in function_nodes(graph) if node.op == "PartitionedCall")
    assert "executor_type" not in call.attr
    outcome = completed(graph)
    call = next(node for node in function_nodes(outcome.graph) if node.op == "PartitionedCall")
    assert "executor_type" in call.attr
    assert_same_model(graph, outcome.graph, FUNCTIONS_FEEDS)


def test_a_call_by_a_functions_name_has_no_defaults():
    graph = with_generic_function()
    graph_def = graph.to_graph_def()
    declared = graph_def.library.function[0].signature.attr.add(name="flag", type="bool")
    declared.default_value.b = True
    graph = Graph.of(graph_def, graph.inputs, graph.outputs)
    slim = completed(graph).graph
    assert slim.nodes["call"] is graph.nodes["call"]


def test_large_constants_stay_weights():
    graph = stripped(with_functions())
    assert completed(graph).graph.weights.keys() == graph.weights.keys()


@settings(max_examples=30, deadline=None, derandomize=True)
@given(graphs())
def test_stripping_and_completing_gives_the_graph_back(graph):
    slim = completed(stripped(graph)).graph
    assert {n.name: n.SerializeToString(deterministic=True) for n in slim.nodes.values()} == {
        n.name: n.SerializeToString(deterministic=True) for n in completed(graph).graph.nodes.values()
    }
    assert_same_model(graph, slim, random_feeds(graph), rtol=0, atol=0)
