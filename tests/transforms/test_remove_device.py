import tensorflow as tf
from hypothesis import given, settings

from tests.edited_graphs import FUNCTIONS_FEEDS, function_nodes, graphs, with_functions, with_generic_function
from tests.graphs import assert_same_model, building, random_feeds, view
from tests.old_tool import transformed
from tfslim_core import transforms
from tfslim_core.graph import Graph
from tfslim_core.transforms.remove_device import remove_device

v1 = tf.compat.v1


def removed(graph):
    outcome = remove_device(graph)
    again = remove_device(outcome.graph)
    assert (again.changes, again.graph) == (0, outcome.graph)
    assert outcome.skipped == ()
    nodes = [*outcome.graph.nodes.values(), *function_nodes(outcome.graph)]
    assert not any(node.device for node in nodes)
    return outcome


def placed():
    """A layer on a device that is not here, of nodes that wish to be beside each other."""
    with building() as g:
        x = v1.placeholder(tf.float32, [2], "x")
        with tf.device("/job:trainer/device:GPU:3"):
            r = tf.nn.relu(x, name="r")
        with g.colocate_with(r.op):
            y = tf.add(r, x, name="y")
    return view(g, [x], [y])


def test_devices_go_and_colocation_stays():
    graph = placed()
    outcome = removed(graph)
    assert outcome.changes == sum(bool(node.device) for node in graph.nodes.values()) > 0
    assert list(outcome.graph.nodes["y"].attr["_class"].list.s) == [b"loc:@r"]
    expected = Graph.of(transformed(graph.to_graph_def(), ["x"], ["y"], "remove_device"), graph.inputs, graph.outputs)
    assert_same_model(expected, outcome.graph, random_feeds(graph))
    assert dict(expected.nodes) == dict(outcome.graph.nodes)


def test_the_interface_loses_its_device_too():
    with building() as g, tf.device("/device:CPU:0"):
        x = v1.placeholder(tf.float32, [2], "x")
        y = tf.nn.relu(x, name="y")
    graph = view(g, [x], [y])
    slim, steps = transforms.apply(graph, "remove_device")
    assert steps[0].changes == 2
    assert_same_model(graph, slim, random_feeds(graph))


def test_function_bodies_lose_theirs_too():
    graph = with_functions()
    on_device = [node for node in function_nodes(graph) if node.device]
    outcome = removed(graph)
    assert outcome.changes == len(on_device) > 0
    assert_same_model(graph, outcome.graph, FUNCTIONS_FEEDS)


def test_functions_whose_type_the_caller_decides_lose_theirs_too():
    assert removed(with_generic_function()).changes == 1


def test_nothing_to_do_gives_the_graph_back():
    graph = removed(placed()).graph
    assert removed(graph).graph is graph


@settings(max_examples=30, deadline=None, derandomize=True)
@given(graphs(shuffled=True))
def test_numbers_stay(graph):
    outcome = removed(graph)
    assert outcome.changes == sum(bool(node.device) for node in graph.nodes.values())
    assert outcome.graph.weights.keys() == graph.weights.keys()
    assert_same_model(graph, outcome.graph, random_feeds(graph), rtol=0, atol=0)
