import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.edited_graphs import FUNCTIONS_FEEDS, function_nodes, graphs, with_functions, with_generic_function
from tests.graphs import assert_same_model, building, random_feeds, reasons, run, view
from tests.old_tool import transformed
from tfslim_core import transforms
from tfslim_core.errors import TransformError
from tfslim_core.graph import Graph
from tfslim_core.transforms.set_device import set_device

v1 = tf.compat.v1
CPU = "/device:CPU:0"


def edited(graph, **parameters):
    outcome = set_device(graph, **parameters)
    again = set_device(outcome.graph, **parameters)
    assert (again.changes, again.graph) == (0, outcome.graph)
    return outcome


def devices(graph):
    return {name: node.device for name, node in graph.nodes.items()}


def partly_placed():
    with building() as g:
        x = v1.placeholder(tf.float32, [2], "x")
        with tf.device("/job:localhost/task:0"):
            r = tf.nn.relu(x, name="r")
        y = tf.add(r, x, name="y")
    return view(g, [x], [y])


def test_all_nodes_get_it():
    graph = partly_placed()
    outcome = edited(graph, device=CPU)
    assert set(devices(outcome.graph).values()) == {CPU}
    assert outcome.changes == 3
    assert_same_model(graph, outcome.graph, random_feeds(graph))


def test_only_those_that_have_none():
    outcome = edited(partly_placed(), device=CPU, if_default=True)
    assert devices(outcome.graph) == {"x": CPU, "r": "/job:localhost/task:0", "y": CPU}
    assert not outcome.skipped


def test_none_is_a_device_too():
    assert set(devices(edited(partly_placed()).graph).values()) == {""}
    assert edited(partly_placed(), if_default=True).changes == 0


@pytest.mark.parametrize("if_default", [False, True])
def test_the_old_tool_sets_the_same(if_default):
    graph = partly_placed()
    call = f'set_device(device="{CPU}", if_default={str(if_default).lower()})'
    old = transformed(graph.to_graph_def(), ["x"], ["y"], call)
    slim, _ = transforms.apply(graph, call)
    assert {node.name: node for node in old.node} == dict(slim.nodes)


@pytest.mark.parametrize(
    ("device", "full"),
    [
        ("/cpu:0", CPU),
        ("gpu", "/device:GPU:*"),
        ("/job:worker/replica:0/task:1/device:GPU:2", "/job:worker/replica:0/task:1/device:GPU:2"),
    ],
)
def test_a_short_name_is_written_out(device, full):
    assert set(devices(edited(partly_placed(), device=device).graph).values()) == {full}


@pytest.mark.parametrize("device", ["/foo:1", "/replica:x", " /cpu:0", "/job:a b", "/device:CPU:0:1", "/job:"])
def test_what_is_no_device_is_an_error(device):
    with pytest.raises(TransformError, match=f"set_device: '{device}' is not a device"):
        edited(partly_placed(), device=device)


def test_function_bodies_get_it_too():
    """The old tool leaves functions as they are."""
    graph = with_functions()
    outcome = edited(graph, device=CPU)
    assert {node.device for node in function_nodes(outcome.graph)} == {CPU}
    assert outcome.changes == sum(node.device != CPU for node in (*graph.nodes.values(), *function_nodes(graph)))
    assert_same_model(graph, outcome.graph, FUNCTIONS_FEEDS)
    assert edited(with_generic_function(), device=CPU).changes == 2


def strictly(graph):
    """The outputs when no node may run elsewhere than it was told to."""
    with tf.Graph().as_default():
        tf.import_graph_def(graph.to_graph_def(), name="")
        config = v1.ConfigProto(allow_soft_placement=False, device_count={"CPU": 2})
        with v1.Session(config=config) as session:
            return session.run(list(graph.outputs), {"x:0": [1.0, 2.0]})


def test_a_node_that_has_to_be_beside_another_goes_where_that_is():
    with building() as g:
        x = v1.placeholder(tf.float32, [2], "x")
        with tf.device("/device:CPU:1"):
            r = tf.nn.relu(x, name="r")
        with g.device(None), g.colocate_with(r.op):
            beside = tf.tanh(r, name="beside")
        y = tf.add(beside, x, name="y")
    graph_def = g.as_graph_def()
    next(node for node in graph_def.node if node.name == "beside").device = ""
    graph = Graph.of(graph_def, [x.name], [y.name])
    outcome = edited(graph, device=CPU, if_default=True)
    assert reasons(outcome) == {"beside": "it has to be beside a node on /device:CPU:1"}
    assert strictly(graph)[0].tolist() == strictly(outcome.graph)[0].tolist()
    assert set(devices(edited(graph, device=CPU).graph).values()) == {CPU}


def test_what_reads_a_table_goes_where_it_is():
    with building() as g:
        x = v1.placeholder(tf.int64, [2], "x")
        with tf.device("/device:CPU:1"):
            table = tf.raw_ops.HashTableV2(key_dtype=tf.int64, value_dtype=tf.int64, name="table")
        y = tf.raw_ops.LookupTableFindV2(table_handle=table, keys=x, default_value=tf.constant(0, tf.int64), name="y")
    outcome = edited(view(g, [x], [y]), device=CPU, if_default=True)
    assert reasons(outcome) == {"y": "it has to be beside a node on /device:CPU:1"}


@settings(max_examples=30, deadline=None, derandomize=True)
@given(graphs(shuffled=True), st.booleans())
def test_numbers_stay(graph, if_default):
    outcome = edited(graph, device="/device:CPU:0", if_default=if_default)
    left = reasons(outcome)
    assert if_default or not left
    for name, node in outcome.graph.nodes.items():
        kept = name in left or (if_default and graph.nodes[name].device)
        assert node.device == (graph.nodes[name].device if kept else CPU)
    assert_same_model(graph, outcome.graph, random_feeds(graph), rtol=0, atol=0)
    run(edited(graph).graph, random_feeds(graph))
