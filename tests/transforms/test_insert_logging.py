import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.edited_graphs import FUNCTIONS_FEEDS, V1_FEEDS, function_nodes, graphs, v1_control_flow, with_functions
from tests.graphs import assert_same_model, building, op_delta, random_feeds, reasons, run, view
from tests.old_tool import transformed, with_default_attributes
from tfslim_core import transforms
from tfslim_core.transforms.insert_logging import insert_logging

v1 = tf.compat.v1


def layered():
    """Both outputs of `top` are read; `late` waits for `a`; nobody reads `y`."""
    with building() as g:
        x = v1.placeholder(tf.float32, [4], "x")
        top = tf.raw_ops.TopKV2(input=x, k=2, name="top")
        a = tf.raw_ops.Relu(features=top.values, name="net/a")
        b = tf.raw_ops.Neg(x=tf.cast(top.indices, tf.float32), name="net/b")
        with g.control_dependencies([a]):
            late = tf.raw_ops.Sin(x=b, name="late")
        y = tf.add(a, late, name="y")
    return view(g, [x], [y])


FEEDS = {"x:0": [1.0, 4.0, 3.0, 2.0]}


def test_a_print_comes_after_each_node_that_is_wanted(capfd):
    graph = layered()
    outcome = insert_logging(graph, op=("Relu",), message="values: ")
    assert op_delta(graph, outcome.graph) == {"Print": 1}
    assert list(outcome.graph.nodes["net/a__print__"].input) == ["net/a", "net/a"]
    assert outcome.graph.nodes["y"].input[0] == "net/a__print__"
    assert "^net/a__print__" in outcome.graph.nodes["late"].input
    assert_same_model(graph, outcome.graph, FEEDS, rtol=0, atol=0)
    assert "values: [4 3]" in capfd.readouterr().err


def test_all_outputs_that_are_read_are_printed(capfd):
    graph, _ = transforms.apply(layered(), "insert_logging(op=TopKV2, show_op=true, show_name=true, message=m)")
    run(graph, FEEDS)
    assert ";TopKV2;;top__print__;m[4 3][1 2]" in capfd.readouterr().err
    assert list(graph.nodes["net/a"].input) == ["top__print__"]
    assert graph.nodes["Cast"].input[0] == "top:1"


def test_op_and_prefix_both_apply():
    def logged(**parameters):
        outcome = insert_logging(layered(), **parameters)
        return {name.removesuffix("__print__") for name in outcome.graph.nodes if name.endswith("__print__")}

    assert logged(prefix=("net/",)) == {"net/a", "net/b"}
    assert logged(prefix=("net/a", "late")) == {"net/a", "late"}
    assert logged(prefix=("net/",), op=("Neg", "Sin")) == {"net/b"}
    assert logged() == {"x", "top/k", "top", "net/a", "net/b", "Cast", "late"}


def test_the_old_tool_inserts_the_same():
    graph = layered()
    call = "insert_logging(show_op=true, show_name=true, message=m, first_n=3, summarize=5)"
    old = transformed(with_default_attributes(graph.to_graph_def()), ["x"], ["y"], call)
    slim = transforms.apply(graph, call)[0]
    prints = {node.name: node for node in old.node if node.op == "Print"}
    assert prints.keys() == {name for name, node in slim.nodes.items() if node.op == "Print"}
    for name, node in prints.items():
        assert dict(node.attr) == dict(slim.nodes[name].attr)


def test_nobody_reads_an_output_without_readers():
    assert reasons(insert_logging(layered(), op=("AddV2",))) == {"y": "nobody reads it"}


def test_first_n(capfd):
    graph = insert_logging(layered(), op=("Relu",), message="seen", first_n=1, summarize=1).graph
    with tf.Graph().as_default():
        tf.import_graph_def(graph.to_graph_def(), name="")
        with v1.Session() as session:
            for _ in range(3):
                session.run("y:0", FEEDS)
    assert capfd.readouterr().err.count("seen[4...]") == 1


def test_resources_cannot_be_printed():
    with building() as g:
        x = v1.placeholder(tf.float32, [2], "x")
        handle = tf.raw_ops.VarHandleOp(dtype=tf.float32, shape=[2], name="v")
        ref = tf.raw_ops.VariableV2(shape=[2], dtype=tf.float32, name="ref")
        y = x + tf.raw_ops.ReadVariableOp(resource=handle, dtype=tf.float32) + tf.raw_ops.Identity(input=ref)
    outcome = insert_logging(view(g, [x], [y]), op=("VarHandleOp", "VariableV2"))
    assert reasons(outcome) == {
        "v": "a value of type resource cannot be printed",
        "ref": "a value of type float32_ref cannot be printed",
    }


def test_a_fed_node_prints_what_is_fed():
    """Its other output would have to be computed, from an input that is not given."""
    with building() as g:
        top = tf.raw_ops.TopKV2(input=v1.placeholder(tf.float32, [4], "x"), k=2, name="top")
        y = tf.raw_ops.Neg(x=top.values, name="y")
        z = tf.raw_ops.Neg(x=top.indices, name="z")
    slim = insert_logging(view(g, [top.values], [y, z]), op=("TopKV2",)).graph
    assert run(slim, {"top:0": [5.0, 3.0]}, ["y:0"])[0].tolist() == [-5.0, -3.0]
    slim = insert_logging(view(g, [top.indices], [y, z]), op=("TopKV2",)).graph
    assert run(slim, {"top:1": [1, 2]}, ["z:0"])[0].tolist() == [-1, -2]


@pytest.mark.parametrize("value", V1_FEEDS)
def test_control_flow_of_tensorflow_1(value):
    """A Print of both sides of a Switch would never run."""
    graph = v1_control_flow()
    outcome = insert_logging(graph)
    assert outcome.changes > 10
    assert "it decides what runs in a loop or on a branch" in reasons(outcome).values()
    feeds = {"x:0": value}
    np.testing.assert_allclose(run(outcome.graph, feeds)[0], run(graph, feeds)[0], rtol=1e-5)


def test_function_bodies_print_each_time_they_run(capfd):
    graph = with_functions()
    outcome = insert_logging(graph, op=("Split",), message="halves")
    assert [node.op for node in function_nodes(outcome.graph)].count("Print") == 1
    assert_same_model(graph, outcome.graph, FUNCTIONS_FEEDS)
    assert capfd.readouterr().err.count("halves[") == 3


@settings(max_examples=25, deadline=None, derandomize=True)
@given(graphs(shuffled=True), st.sampled_from([(), ("Sin",), ("AddV2", "Const"), ("Split",)]))
def test_numbers_stay(graph, op):
    outcome = insert_logging(graph, op=op, first_n=0)
    assert op_delta(graph, outcome.graph) == ({"Print": outcome.changes} if outcome.changes else {})
    assert_same_model(graph, outcome.graph, random_feeds(graph))
