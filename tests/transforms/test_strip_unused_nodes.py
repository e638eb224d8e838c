import pytest
import tensorflow as tf

from tests.graphs import assert_same_model, building, op_counts, random_feeds, run, view
from tfslim_core.errors import TransformError
from tfslim_core.graph import Graph, control_inputs
from tfslim_core.transforms.strip_unused_nodes import strip_unused_nodes

v1 = tf.compat.v1


def chain():
    """x -> a -> b -> y, and z beside it."""
    with building() as g:
        x = v1.placeholder(tf.float32, [2, 3], "x")
        v1.placeholder(tf.float32, [], "unused_input")
        a = tf.raw_ops.Neg(x=x, name="a")
        b = tf.raw_ops.Abs(x=a, name="b")
        y = tf.raw_ops.Sqrt(x=b, name="y")
        z = tf.raw_ops.Exp(x=a, name="z")
    return g, x, y, z


def stripped(graph, **parameters):
    outcome = strip_unused_nodes(graph, **parameters)
    again = strip_unused_nodes(outcome.graph, **parameters)
    assert (again.changes, again.graph) == (0, outcome.graph)
    return outcome


def test_what_no_output_needs_goes_and_inputs_stay():
    g, x, y, _ = chain()
    graph = view(g, [x, "unused_input:0"], [y])
    outcome = stripped(graph)
    assert set(graph.nodes) - set(outcome.graph.nodes) == {"z"}
    assert_same_model(graph, outcome.graph, random_feeds(graph))


def test_the_init_op_and_what_it_runs_after_stay():
    with building() as g:
        x = v1.placeholder(tf.float32, [2], "x")
        table = tf.raw_ops.HashTableV2(key_dtype=tf.int64, value_dtype=tf.float32, name="table")
        fill = tf.raw_ops.LookupTableImportV2(table_handle=table, keys=tf.constant([1], tf.int64), values=[2.0])
        with g.control_dependencies([fill]):
            init = tf.no_op("init")
        y = tf.raw_ops.Neg(x=x)
    graph = view(g, [x], [y], [init.name])
    assert stripped(graph).graph is graph


def test_functions_that_nobody_calls_go():
    @tf.function
    def called(x):
        return x + 1.0

    @tf.function
    def uncalled(x):
        return x - 1.0

    with building() as g:
        x = v1.placeholder(tf.float32, [2], "x")
        y, z = called(x), uncalled(x)
    graph = view(g, [x], [y])
    assert len(graph.functions) == 2
    outcome = stripped(graph)
    assert len(outcome.graph.functions) == 1
    assert z.op.name not in outcome.graph.nodes
    assert_same_model(graph, outcome.graph, random_feeds(graph))


def test_control_inputs_with_nothing_to_wait_for_go():
    with building() as g:
        x = v1.placeholder(tf.float32, [2], "x")
        check = tf.raw_ops.Assert(condition=tf.reduce_all(x < 99), data=[x], name="assert")
        idle = tf.raw_ops.Neg(x=x, name="idle")
        with g.control_dependencies([idle, tf.constant(1.0, name="c"), check]):
            y = tf.raw_ops.Abs(x=x, name="y")
    graph = view(g, [x], [y])
    outcome = stripped(graph)
    assert control_inputs(outcome.graph.nodes["y"]) == ["assert"]
    assert not {"idle", "c"} & set(outcome.graph.nodes)


def test_control_inputs_stay_in_v1_control_flow():
    with building() as g:
        v1.disable_control_flow_v2()
        try:
            x = v1.placeholder(tf.float32, [2], "x")
            y = v1.cond(tf.reduce_sum(x) > 0, lambda: tf.constant(1.0), lambda: tf.constant(2.0))
        finally:
            v1.enable_control_flow_v2()
    graph = view(g, [x], [y])
    slim = stripped(graph).graph
    assert [run(slim, {"x:0": [value, value]})[0] for value in (1, -1)] == [1.0, 2.0]


def test_colocation_with_a_node_that_goes_is_forgotten():
    g, x, y, _ = chain()
    graph_def = g.as_graph_def()
    next(node for node in graph_def.node if node.name == "b").attr["_class"].list.s.extend([b"loc:@z", b"loc:@a"])
    graph = Graph.of(graph_def, [x.name], [y.name])
    slim = stripped(graph).graph
    assert list(slim.nodes["b"].attr["_class"].list.s) == [b"loc:@a"]
    assert_same_model(graph, slim, random_feeds(graph))


@pytest.mark.parametrize(
    ("parameters", "dtype", "shape"),
    [
        ({"shape": "2,-1"}, tf.float32, [2, None]),
        ({"type": "float"}, tf.float32, None),
        ({"name": ("b",), "type_for_name": ("float",), "shape_for_name": ("2,3",)}, tf.float32, [2, 3]),
        ({"type": "int32", "name": ("b:0",), "type_for_name": ("float",), "shape_for_name": ("",)}, tf.float32, []),
    ],
)
def test_an_input_becomes_a_placeholder_where_a_type_or_shape_is_given(parameters, dtype, shape):
    g, _, y, _ = chain()
    graph = view(g, ["b:0"], [y])
    slim = stripped(graph, **parameters).graph
    assert op_counts(slim) == {"Placeholder": 1, "Sqrt": 1}
    node = slim.nodes["b"]
    assert tf.as_dtype(node.attr["dtype"].type) == dtype
    assert tf.TensorShape(node.attr["shape"].shape) == tf.TensorShape(shape)


def test_an_input_that_is_no_placeholder_stays_unless_told():
    g, _, y, _ = chain()
    graph = view(g, ["b:0"], [y])
    assert op_counts(stripped(graph).graph) == {"Placeholder": 1, "Neg": 1, "Abs": 1, "Sqrt": 1}


def test_a_placeholder_keeps_its_type_shape_and_default():
    with building() as g:
        x = v1.placeholder_with_default(tf.constant([1.0, 2.0]), [2], "x")
        y = tf.raw_ops.Neg(x=x)
    graph = view(g, [x], [y])
    assert stripped(graph, type="float", shape="7").graph is graph


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"type": "int64"}, "'b' is float32, its readers cannot take int64"),
        ({"type": "flaot"}, "no type 'flaot'"),
        ({"shape": "2,a"}, "no shape '2,a'"),
        ({"name": ("b",), "type_for_name": ("float",)}, "1 times name, but 0 times shape_for_name"),
        (
            {"name": ("bb",), "type_for_name": ("float",), "shape_for_name": ("",)},
            "'bb' is not an input; did you mean 'b'?",
        ),
    ],
)
def test_what_is_wrong_is_said(parameters, message):
    g, _, y, _ = chain()
    with pytest.raises(TransformError) as error:
        strip_unused_nodes(view(g, ["b:0"], [y]), **parameters)
    assert message in str(error.value)


def test_a_node_of_several_outputs_cannot_become_a_placeholder():
    with building() as g:
        x = v1.placeholder(tf.float32, [4], "x")
        y = tf.raw_ops.Neg(x=tf.raw_ops.TopKV2(input=x, k=2, name="top").values)
    with pytest.raises(TransformError, match="has 2 outputs"):
        strip_unused_nodes(view(g, ["top:0"], [y]), shape="2")


def test_a_graph_without_outputs_is_an_error():
    g, x, _, _ = chain()
    with pytest.raises(TransformError, match="no outputs"):
        strip_unused_nodes(view(g, [x]))
