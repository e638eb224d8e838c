import numpy as np
import pytest
import tensorflow as tf

from tests.graphs import building, view
from tfslim_core import c_eager
from tfslim_core.errors import GraphError
from tfslim_core.graph import Graph, Input, make_node
from tfslim_core.static_shapes import static_shapes

v1 = tf.compat.v1


def test_what_is_known_of_shapes():
    with building() as g:
        x = v1.placeholder(tf.float32, [None, 4], "x")
        any_rank = v1.placeholder(tf.float32, None, "any")
        w = tf.constant(np.ones([4, 300], np.float32), name="w")
        y = tf.matmul(x, w, name="y")
        first, _ = tf.split(y, 2, 1, name="parts")
        scalar = tf.reduce_sum(first, name="sum")
        z = any_rank * scalar
    graph = view(g, [x, any_rank], [z])
    asked = {"w": (4, 300), "y": (None, 300), "parts": (None, 150), "sum": (), "any": None}
    assert static_shapes(graph, [Input(name, 0) for name in asked]) == {Input(n, 0): s for n, s in asked.items()}
    assert static_shapes(graph, []) == {}


def test_of_what_is_fed_nothing_but_its_placeholder_counts():
    with building() as g:
        y = tf.abs(tf.constant([1.0, 2.0]), name="y")
        tf.identity(y, name="z")
    assert static_shapes(view(g, [], ["z:0"]), [Input("z", 0)]) == {Input("z", 0): (2,)}
    assert static_shapes(view(g, ["y:0"], ["z:0"]), [Input("z", 0)]) == {Input("z", 0): None}


def test_shapes_that_contradict_are_an_error():
    with building() as g:
        x = v1.placeholder(tf.float32, [2, 3], "x")
        tf.matmul(x, x, transpose_b=True, name="bad")
    graph_def = g.as_graph_def()
    next(node for node in graph_def.node if node.name == "bad").attr["transpose_b"].b = False
    with pytest.raises(GraphError, match="bad"):
        static_shapes(Graph.of(graph_def, ["x:0"], ["bad:0"]), [Input("bad", 0)])


@pytest.mark.parametrize(
    "array",
    [
        np.array([1.5, -2], np.float32),
        np.array(7, np.int64),
        np.array([b"a\0", b"", b"x" * 40], object),
        np.zeros([0, 3], np.float16),
        np.array([True, False]),
        np.arange(6, dtype=np.complex64).reshape(2, 3),
    ],
)
def test_a_value_comes_back_as_it_went_in(array):
    value = c_eager.Value.of_proto(tf.make_tensor_proto(array))
    found = value.array()
    assert (found.dtype, found.shape) == (array.dtype, array.shape)
    np.testing.assert_array_equal(found, array)
    node = make_node("Identity", "i", ["x"], T=tf.as_dtype(tf.make_tensor_proto(array).dtype))
    np.testing.assert_array_equal(c_eager.execute(node, [value])[0].array(), array)


def test_an_op_computes_all_its_outputs_and_takes_stripped_attributes():
    three = c_eager.Value.of(np.array([3, 1, 2], np.float32))
    node = make_node("TopKV2", "top", ["x", "k"], T=tf.float32)  # sorted and Tk are left out
    values, indices = c_eager.execute(node, [three, c_eager.Value.of(np.array(2, np.int32))])
    assert values.array().tolist() == [3, 2]
    assert indices.array().tolist() == [0, 2]


@pytest.mark.parametrize(
    ("node", "why"),
    [
        (make_node("MatMul", "m", ["x", "x"], T=tf.float32), r"In\[0\]"),
        (make_node("Split", "s", ["x", "x"], T=tf.float32), "lacks the attribute 'num_split'"),
        (make_node("NoSuchOp", "n", ["x"]), "NoSuchOp"),
    ],
)
def test_what_tensorflow_cannot_compute_is_an_error(node, why):
    value = c_eager.Value.of(np.ones(3, np.float32))
    with pytest.raises(GraphError, match=why):
        c_eager.execute(node, [value] * len(node.input))
