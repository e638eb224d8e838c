import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.edited_graphs import graphs, with_functions
from tests.graphs import assert_same_model, building, op_delta, random_feeds, reasons, run, values, view
from tests.old_tool import OldToolError, transformed, with_default_attributes
from tfslim_core.errors import TransformError
from tfslim_core.graph import Graph
from tfslim_core.transforms.rename_node import rename_node

v1 = tf.compat.v1


def edited(graph, old, new):
    return rename_node(graph, old_node_name=old, new_node_name=new)


def layered():
    """Both outputs of `top` are read, once after `check`; `beside` wishes to be placed beside `top`."""
    with building() as g:
        x = v1.placeholder(tf.float32, [4], "x")
        top = tf.raw_ops.TopKV2(input=x, k=2, name="top")
        check = tf.raw_ops.Assert(condition=tf.reduce_all(x < 99), data=[x], name="check")
        beside = tf.raw_ops.Neg(x=top.values, name="beside")
        beside.op._set_attr("_class", v1.AttrValue(list={"s": [b"loc:@top", b"other"]}))
        with g.control_dependencies([check]):
            y = tf.add(beside, tf.cast(top.indices, tf.float32), name="y")
    return view(g, [x], [y])


def test_readers_follow_at_each_port():
    graph = layered()
    outcome = edited(graph, "top", "block/best")
    assert outcome.changes == 1
    assert list(outcome.graph.nodes["beside"].input) == ["block/best"]
    assert list(outcome.graph.nodes["Cast"].input) == ["block/best:1", "^check"]
    assert op_delta(graph, outcome.graph) == {}
    assert_same_model(graph, outcome.graph, random_feeds(graph))


def test_control_inputs_follow():
    outcome = edited(layered(), "check", "assert")
    assert list(outcome.graph.nodes["Cast"].input) == ["top:1", "^assert"]


def test_colocation_follows():
    """The old tool leaves a wish to be placed beside a node that is gone, and TensorFlow refuses the graph."""
    graph = layered()
    slim = edited(graph, "top", "best").graph
    assert list(slim.nodes["beside"].attr["_class"].list.s) == [b"loc:@best", b"other"]
    run(slim, random_feeds(graph))
    graph_def = with_default_attributes(graph.to_graph_def())
    old = transformed(graph_def, ["x"], ["y"], "rename_node(old_node_name=top, new_node_name=best)")
    with pytest.raises(ValueError, match="unknown node 'top'"):
        run(Graph.of(old, graph.inputs, graph.outputs), random_feeds(graph))


def test_the_value_of_a_large_constant_moves_with_it():
    with building() as g:
        x = v1.placeholder(tf.float32, [2, 3], "x")
        y = tf.add(x, tf.reduce_sum(tf.constant(np.linspace(0, 1, 999).reshape(333, 3), tf.float32, name="w"), 0))
    graph = view(g, [x], [y])
    slim = edited(graph, "w", "weights/w").graph
    assert set(slim.weights) == {"weights/w"}
    np.testing.assert_array_equal(values(slim)["weights/w"], values(graph)["w"])
    assert_same_model(graph, slim, random_feeds(graph))


def test_the_order_of_the_nodes_stays():
    graph = layered()
    slim = edited(graph, "top", "best").graph
    assert [name.replace("best", "top") for name in slim.nodes] == list(graph.nodes)


def test_the_old_tool_renames_the_same():
    graph_def = with_default_attributes(layered().to_graph_def())
    for node in graph_def.node:
        node.attr.pop("_class", None)
    graph = Graph.of(graph_def, ["x:0"], ["y:0"])
    old = transformed(graph_def, ["x"], ["y"], "rename_node(old_node_name=top, new_node_name=best)")
    for node in old.node:
        node.input[:] = [name.removesuffix(":0") for name in node.input]
    assert {node.name: node for node in old.node} == dict(edited(graph, "top", "best").graph.nodes)


@pytest.mark.parametrize("name", ["x", "y", "check"])
def test_the_interface_keeps_its_names(name):
    graph = layered()
    graph = Graph.of(graph.to_graph_def(), graph.inputs, graph.outputs, ["check"])
    outcome = edited(graph, name, "other")
    assert outcome.graph is graph
    assert reasons(outcome) == {name: "it is part of the interface, whose names stay"}


@pytest.mark.parametrize("kind", ["variable", "ref variable", "table"])
def test_what_holds_a_state_keeps_its_name(kind):
    with building() as g:
        x = v1.placeholder(tf.int64, [2], "x")
        if kind == "variable":
            handle = tf.raw_ops.VarHandleOp(dtype=tf.int64, shape=[2], name="state")
            y = x + tf.raw_ops.ReadVariableOp(resource=handle, dtype=tf.int64)
        elif kind == "ref variable":
            y = x + tf.raw_ops.Identity(input=tf.raw_ops.VariableV2(shape=[2], dtype=tf.int64, name="state"))
        else:
            handle = tf.raw_ops.HashTableV2(key_dtype=tf.int64, value_dtype=tf.int64, name="state")
            default = tf.constant(0, tf.int64)
            y = tf.raw_ops.LookupTableFindV2(table_handle=handle, keys=x, default_value=default)
    outcome = edited(view(g, [x], [y]), "state", "other")
    assert (outcome.changes, reasons(outcome)) == (0, {"state": "it holds a state, which is known by its name"})


def test_a_name_that_is_taken_is_an_error():
    with pytest.raises(TransformError, match=r"'top' cannot become 'y': a node \(AddV2\) has that name already"):
        edited(layered(), "top", "y")
    with pytest.raises(OldToolError, match="alreading using"):
        transformed(layered().to_graph_def(), ["x"], ["y"], "rename_node(old_node_name=top, new_node_name=y)")


def test_an_unknown_node_is_no_change():
    graph = layered()
    outcome = edited(graph, "topp", "y")
    assert outcome.graph is graph
    assert reasons(outcome) == {"topp": "there is no such node; did you mean 'top'?"}
    assert edited(edited(graph, "top", "best").graph, "top", "best").changes == 0


def test_the_same_name_is_no_change():
    graph = layered()
    assert edited(graph, "top", "top").graph is graph


@pytest.mark.parametrize("name", ["", "_top", "a b", "a:0", "^a", "/a", "-a", "a>", "a>_b", "a\\b", "é", "a\n"])
def test_a_name_that_tensorflow_refuses_is_an_error(name):
    with pytest.raises(TransformError, match="is not a name that a node can have"):
        edited(layered(), "top", name)


@pytest.mark.parametrize("name", ["0", ".a", "a/b_c-d.e", "a/", "ns>op"])
def test_a_name_that_tensorflow_takes(name):
    graph = layered()
    assert_same_model(graph, edited(graph, "top", name).graph, random_feeds(graph))


def test_functions_keep_their_nodes():
    graph = with_functions()
    inner = next(node.name for function in graph.functions.values() for node in function.node_def if node.op == "Split")
    outcome = edited(graph, inner, "other")
    assert outcome.graph is graph
    assert reasons(outcome)[inner].startswith("there is no such node")


@settings(max_examples=30, deadline=None, derandomize=True)
@given(graphs(shuffled=True), st.data())
def test_there_and_back_is_the_same_graph(graph, data):
    name = data.draw(st.sampled_from(sorted(set(graph.nodes) - graph.interface) or ["none"]))
    new = data.draw(st.sampled_from([name + "_1", name.rpartition("/")[0] or "scope", "00"]).filter(lambda n: n))
    if new in graph.nodes:
        return
    there = edited(graph, name, new)
    assert not [n for n in there.graph.nodes.values() if name in [i.lstrip("^").partition(":")[0] for i in n.input]]
    assert edited(there.graph, new, name).graph == graph
    assert_same_model(graph, there.graph, random_feeds(graph), rtol=0, atol=0)
