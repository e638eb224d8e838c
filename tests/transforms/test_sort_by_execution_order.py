import random

import pytest
import tensorflow as tf
from hypothesis import given, settings

from tests.edited_graphs import FUNCTIONS_FEEDS, V1_FEEDS, graphs, v1_control_flow, with_functions
from tests.graphs import assert_same_model, building, random_feeds, run, view, whole_graph_def
from tests.old_tool import OldToolError, transformed, with_default_attributes
from tfslim_core.errors import GraphError
from tfslim_core.graph import Graph, make_node, parse_input
from tfslim_core.transforms.sort_by_execution_order import sort_by_execution_order

v1 = tf.compat.v1


def is_in_order(nodes, given=()):
    """Whether each node comes after what it reads; a loop's way back to its Merge does not count."""
    ops = {node.name: node.op for node in nodes}
    seen = set(given)
    for node in nodes:
        for text in node.input:
            source = text.lstrip("^").partition(":")[0]
            if source not in seen and not (node.op == "Merge" and ops[source] == "NextIteration"):
                return False
        seen.add(node.name)
    return True


def ordered(graph):
    outcome = sort_by_execution_order(graph)
    again = sort_by_execution_order(outcome.graph)
    assert (again.changes, again.graph) == (0, outcome.graph)
    assert again.graph is outcome.graph
    assert is_in_order(list(outcome.graph.nodes.values()))
    assert dict(outcome.graph.nodes) == dict(graph.nodes)
    assert bool(outcome.changes) == (outcome.graph is not graph)
    return outcome


def shuffled(graph_def, seed=1):
    nodes = list(graph_def.node)
    random.Random(seed).shuffle(nodes)
    del graph_def.node[:]
    graph_def.node.extend(nodes)
    return graph_def


def test_readers_come_after_what_they_read():
    with building() as g:
        x = v1.placeholder(tf.float32, [2], "x")
        check = tf.raw_ops.Assert(condition=tf.reduce_all(x < 9), data=[x], name="check")
        with g.control_dependencies([check]):
            y = tf.raw_ops.Neg(x=tf.raw_ops.Relu(features=x, name="r"), name="y")
    graph_def = view(g, [x], [y]).to_graph_def()
    nodes = list(graph_def.node)[::-1]
    del graph_def.node[:]
    graph_def.node.extend(nodes)
    graph = Graph.of(graph_def, [x.name], [y.name])
    assert not is_in_order(nodes)
    outcome = ordered(graph)
    names = list(outcome.graph.nodes)
    assert names.index("check") < names.index("r") < names.index("y")
    assert outcome.changes == sum(a != b for a, b in zip(graph.nodes, names, strict=True))
    assert_same_model(graph, outcome.graph, random_feeds(graph))


def test_a_graph_in_order_stays_as_it_is():
    """Even where another order would do as well."""
    with building() as g:
        x = v1.placeholder(tf.float32, [2], "x")
        a = tf.raw_ops.Neg(x=x, name="a")
        b = tf.raw_ops.Neg(x=a, name="b")
        c = tf.raw_ops.Neg(x=x, name="c")
    graph = view(g, [x], [b, c])
    assert list(graph.nodes) == ["x", "a", "b", "c"]
    assert ordered(graph).graph is graph


@pytest.mark.parametrize("seed", range(4))
def test_loops_of_tensorflow_1(seed):
    graph = v1_control_flow()
    graph = Graph.of(shuffled(graph.to_graph_def(), seed), graph.inputs, graph.outputs)
    outcome = ordered(graph)
    assert outcome.changes
    for value in V1_FEEDS:
        assert run(graph, {"x:0": value})[0].tolist() == run(outcome.graph, {"x:0": value})[0].tolist()


def test_what_joins_two_branches_comes_after_both():
    """The old tool puts a Merge after the first of its inputs."""
    graph = v1_control_flow()
    graph = Graph.of(shuffled(graph.to_graph_def()), graph.inputs, graph.outputs)
    old = transformed(with_default_attributes(graph.to_graph_def()), ["x"], ["y"], "sort_by_execution_order")
    assert not is_in_order(list(old.node))
    names = list(ordered(graph).graph.nodes)
    for name, node in graph.nodes.items():
        sources = [parse_input(text).node for text in node.input]
        if node.op == "Merge" and not any(graph.nodes[source].op == "NextIteration" for source in sources):
            assert names.index(name) > max(names.index(source) for source in sources)


def test_nodes_that_wait_for_each_other_are_an_error():
    nodes = [
        make_node("Placeholder", "x", [], dtype=tf.float32),
        make_node("AddV2", "a", ["x", "b"], T=tf.float32),
        make_node("Neg", "b", ["a"], T=tf.float32),
    ]
    graph_def = v1.GraphDef(node=nodes)
    with pytest.raises(GraphError, match="waits for its own result: the graph has a cycle"):
        sort_by_execution_order(Graph.of(graph_def, ["x:0"], ["b:0"]))
    with pytest.raises(OldToolError):
        transformed(graph_def, ["x"], ["b"], "sort_by_execution_order")


def test_function_bodies_are_sorted_too():
    graph = with_functions()
    graph_def = graph.to_graph_def()
    for function in graph_def.library.function:
        nodes = list(function.node_def)[::-1]
        del function.node_def[:]
        function.node_def.extend(nodes)
    mixed = Graph.of(graph_def, graph.inputs, graph.outputs, weights=graph.weights)
    outcome = sort_by_execution_order(mixed)
    assert sort_by_execution_order(outcome.graph).changes == 0
    for function in outcome.graph.functions.values():
        arguments = [argument.name for argument in function.signature.input_arg]
        assert is_in_order(list(function.node_def), arguments)
    assert {n: len(f.node_def) for n, f in outcome.graph.functions.items()} == {
        n: len(f.node_def) for n, f in graph.functions.items()
    }
    assert_same_model(graph, outcome.graph, FUNCTIONS_FEEDS)


@settings(max_examples=30, deadline=None, derandomize=True)
@given(graphs(shuffled=True))
def test_any_graph_in_any_order(graph):
    outcome = ordered(graph)
    assert outcome.graph.weights == graph.weights
    assert_same_model(graph, outcome.graph, random_feeds(graph), rtol=0, atol=0)
    positions = {name: place for place, name in enumerate(outcome.graph.nodes)}
    for node in outcome.graph.nodes.values():
        assert all(positions[parse_input(text).node] < positions[node.name] for text in node.input)


@settings(max_examples=8, deadline=None, derandomize=True)
@given(graphs(shuffled=True))
def test_the_old_tool_has_the_same_nodes(graph):
    graph_def = with_default_attributes(whole_graph_def(graph))
    old = transformed(graph_def, ["x"], [name.removesuffix(":0") for name in graph.outputs], "sort_by_execution_order")
    assert {node.name for node in old.node} == set(ordered(graph).graph.nodes)
    assert is_in_order(list(old.node))
