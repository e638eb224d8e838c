import numpy as np
import tensorflow as tf
from hypothesis import given, settings

from tests.edited_graphs import FUNCTIONS_FEEDS, V1_FEEDS, function_nodes, graphs, v1_control_flow, with_functions
from tests.graphs import assert_same_model, building, op_delta, random_feeds, reasons, run, values, view
from tests.old_tool import transformed, with_default_attributes
from tfslim_core.graph import Graph, data_inputs
from tfslim_core.transforms.obfuscate_names import obfuscate_names

v1 = tf.compat.v1


def obfuscated(graph):
    outcome = obfuscate_names(graph)
    again = obfuscate_names(outcome.graph)
    assert (again.changes, again.graph) == (0, outcome.graph)
    assert obfuscate_names(graph).graph == outcome.graph
    assert op_delta(graph, outcome.graph) == {}
    return outcome


def layered(count):
    with building() as g:
        x = y = v1.placeholder(tf.float32, [2], "x")
        for number in range(count):
            y = tf.raw_ops.Sin(x=y, name=f"block/layer_{number}")
        y = tf.raw_ops.Neg(x=y, name="y")
    return view(g, [x], [y])


def test_names_are_counted_in_base_62_as_the_old_tool_does():
    graph = layered(70)
    outcome = obfuscated(graph)
    names = list(outcome.graph.nodes)
    assert names[:12] == ["x", *"0123456789a"]
    assert {"A", "Z", "10", "19"} <= set(names)
    assert outcome.changes == 70
    assert_same_model(graph, outcome.graph, random_feeds(graph))
    old = transformed(graph.to_graph_def(), ["x"], ["y"], "obfuscate_names")
    assert [node.name for node in old.node] == names


def test_names_of_the_interface_are_never_given():
    with building() as g:
        x = v1.placeholder(tf.float32, [2], "0")
        y = tf.raw_ops.Neg(x=tf.raw_ops.Sin(x=tf.raw_ops.Sin(x=x)), name="2")
    graph = view(g, [x], [y])
    slim = obfuscated(graph).graph
    assert list(slim.nodes) == ["0", "1", "3", "2"]
    assert_same_model(graph, slim, random_feeds(graph))


def test_inputs_and_outputs_given_with_a_port_are_known():
    """The old tool takes `top:1` for another name, and renames the output."""
    with building() as g:
        x = v1.placeholder(tf.float32, [4], "x")
        top = tf.raw_ops.TopKV2(input=x, k=2, name="top")
    graph = view(g, [x], [top.values, top.indices])
    assert graph.outputs == ("top:0", "top:1")
    slim = obfuscated(graph).graph
    assert {"x", "top"} < set(slim.nodes)
    assert_same_model(graph, slim, random_feeds(graph))
    old = transformed(with_default_attributes(graph.to_graph_def()), ["x:0"], ["top:0", "top:1"], "obfuscate_names")
    assert "top" not in {node.name for node in old.node}


def test_colocation_follows():
    """The old tool leaves wishes to be placed beside nodes that are gone: TensorFlow refuses the graph."""
    with building() as g:
        x = v1.placeholder(tf.float32, [2], "x")
        a = tf.raw_ops.Sin(x=x, name="block/a")
        b = tf.raw_ops.Sin(x=a, name="block/b")
        b.op._set_attr("_class", v1.AttrValue(list={"s": [b"loc:@block/a", b"loc:@x"]}))
        y = tf.raw_ops.Neg(x=b, name="y")
    graph = view(g, [x], [y])
    slim = obfuscated(graph).graph
    assert list(slim.nodes["1"].attr["_class"].list.s) == [b"loc:@0", b"loc:@x"]
    assert_same_model(graph, slim, random_feeds(graph))


def test_values_of_large_constants_move():
    with building() as g:
        x = v1.placeholder(tf.float32, [2, 3], "x")
        tables = [tf.constant(np.linspace(k, 1 - k, 999).reshape(333, 3), tf.float32, name=f"w/{k}") for k in (1, 2)]
        y = tf.add(x, tf.reduce_mean(tables[0] - 2 * tables[1], 0), name="y")
    graph = view(g, [x], [y])
    slim = obfuscated(graph).graph
    assert len(slim.weights) == 2
    assert all(len(name) == 1 for name in slim.weights)
    assert [v.tolist() for v in values(slim).values()] == [v.tolist() for v in values(graph).values()]
    assert_same_model(graph, slim, random_feeds(graph))


def test_what_holds_a_state_keeps_its_name():
    with building() as g:
        x = v1.placeholder(tf.int64, [2], "x")
        table = tf.raw_ops.HashTableV2(key_dtype=tf.int64, value_dtype=tf.int64, name="0")
        y = tf.raw_ops.LookupTableFindV2(table_handle=table, keys=x, default_value=tf.constant(0, tf.int64), name="y")
        keys = tf.constant([1, 2], tf.int64)
        init = tf.raw_ops.InitializeTableV2(table_handle=table, keys=keys, values=keys * 5, name="fill")
        main = tf.group(init, name="main")
    graph = view(g, [x], [y], [main])
    outcome = obfuscated(graph)
    assert reasons(outcome) == {"0": "it holds a state, which is known by its name"}
    assert {"x", "y", "main", "0"} < set(outcome.graph.nodes)
    assert "fill" not in outcome.graph.nodes
    with tf.Graph().as_default():
        tf.import_graph_def(outcome.graph.to_graph_def(), name="")
        with v1.Session() as session:
            session.run("main")
            assert session.run("y:0", {"x:0": [2, 7]}).tolist() == [10, 0]


def test_control_flow_of_tensorflow_1():
    graph = v1_control_flow()
    slim = obfuscated(graph).graph
    for value in V1_FEEDS:
        assert run(graph, {"x:0": value})[0].tolist() == run(slim, {"x:0": value})[0].tolist()


def test_function_bodies_get_short_names_too():
    graph = with_functions()
    outcome = obfuscated(graph)
    assert list(outcome.graph.functions) == list(graph.functions)
    before, after = function_nodes(graph), function_nodes(outcome.graph)
    short = {node.name for node in after if len(node.name) == 1}
    assert outcome.changes > len(short) > 5
    returned = {text.partition(":")[0] for function in graph.functions.values() for text in function.ret.values()}
    assert {node.name for node in after} - short <= returned | {"check"}
    assert sum(node.ByteSize() for node in after) < sum(node.ByteSize() for node in before)
    for name, function in outcome.graph.functions.items():
        assert function.signature == graph.functions[name].signature
    assert_same_model(graph, outcome.graph, FUNCTIONS_FEEDS)


def test_where_a_node_came_from_is_forgotten():
    graph_def = layered(2).to_graph_def()
    graph_def.node[1].experimental_debug_info.original_node_names.append("secret/name")
    slim = obfuscated(Graph.of(graph_def, ["x:0"], ["y:0"])).graph
    assert b"secret" not in slim.to_graph_def().SerializeToString()
    assert b"block" not in slim.to_graph_def().SerializeToString()
    assert list(graph_def.node[1].experimental_debug_info.original_node_names) == ["secret/name"]


@settings(max_examples=30, deadline=None, derandomize=True)
@given(graphs(shuffled=True))
def test_any_graph(graph):
    slim = obfuscated(graph).graph
    assert len(slim.nodes) == len(graph.nodes)
    assert graph.interface <= set(slim.nodes)
    assert all(len(name) == 1 for name in set(slim.nodes) - graph.interface)
    for old, new in zip(graph.nodes.values(), slim.nodes.values(), strict=True):
        assert (old.op, len(old.input), old.device) == (new.op, len(new.input), new.device)
        assert [source.port for source in data_inputs(old)] == [source.port for source in data_inputs(new)]
    assert_same_model(graph, slim, random_feeds(graph), rtol=0, atol=0)
