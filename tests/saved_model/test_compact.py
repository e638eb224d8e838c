"""A compacted graph means what it did, to the last bit."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from tests.saved_models import normal
from tfslim_core.saved_model.compact import compact

tf1 = tf.compat.v1
DTYPES = ["float32", "float64", "int32", "int64", "bool", "int8", "float16", "complex64", "uint8"]


def compacted(value, listed=False):
    graph_def = tf1.GraphDef()
    node = graph_def.node.add(name="c", op="Const")
    tensor = tf.make_tensor_proto(value)
    node.attr["dtype"].type = tensor.dtype
    node.attr["value"].tensor.CopyFrom(tensor)
    before = node.ByteSize()
    compact(graph_def)
    return graph_def, before


def read(graph_def):
    """What TensorFlow itself takes the constant for."""
    with tf1.Session(graph=tf.Graph()) as session:
        tf1.import_graph_def(graph_def, name="")
        return session.run("c:0")


@pytest.mark.parametrize("dtype", DTYPES)
def test_repeated_ends_are_written_once(dtype):
    for value in (np.full((40, 50), 3), np.arange(500) * (np.arange(500) < 7), np.zeros((0, 3)), np.ones(())):
        graph_def, before = compacted(value.astype(dtype))
        found = read(graph_def)
        assert (found.dtype, found.shape) == (np.dtype(dtype), value.shape)
        assert found.tobytes() == value.astype(dtype).tobytes()
        assert graph_def.node[0].ByteSize() <= before


def test_it_is_worth_it():
    graph_def, before = compacted(np.full((40, 50), 3, np.float32))
    assert graph_def.node[0].ByteSize() < 70 < 8000 < before


@settings(max_examples=120, deadline=None, derandomize=True)
@given(
    arrays(
        np.float32,
        st.integers(0, 12),
        elements=st.sampled_from([0.0, -0.0, 1.0, np.nan, np.inf, -np.inf, 1e-45]),
    ),
    st.integers(0, 200),
)
def test_every_bit_of_every_float_survives(start, repeats):
    last = start[-1:] if start.size else np.float32([0])
    value = np.concatenate([start, np.repeat(last, repeats)]).astype(np.float32)
    assert tf.make_ndarray(compacted(value)[0].node[0].attr["value"].tensor).tobytes() == value.tobytes()


def test_a_nan_with_a_payload_and_a_negative_zero_survive():
    for bits in (0x7FC00001, 0xFFC00000, 0x80000000, 0x7F800001):
        value = np.full(300, bits, np.uint32).view(np.float32)
        graph_def, _ = compacted(value)
        assert read(graph_def).tobytes() == value.tobytes()


def test_repeated_strings_survive():
    for value in (np.array([b"a", b"b", b"b", b"b"], object), np.array([b"", b""], object), np.array([[b"x"]], object)):
        assert read(compacted(value)[0]).tolist() == value.tolist()


def test_defaults_go_and_dead_nodes_of_functions_with_them():
    @tf.function
    def inner(x, v):
        tf.math.top_k(x, 2, name="dead")
        v.assign_add(1)
        tf.print("seen")
        return tf.matmul(x, x, transpose_b=True)

    with tf1.Graph().as_default() as graph:
        x = tf1.placeholder(tf.float32, [3, 4], name="x")
        v = tf1.get_variable("v", initializer=0, use_resource=True)
        tf.identity(inner(x, v), name="y")
        tf.group(v.initializer, name="init")
        tf.identity(v.read_value(), name="seen")
    before = graph.as_graph_def()
    after = tf1.GraphDef.FromString(before.SerializeToString())
    compact(after)
    again = tf1.GraphDef.FromString(after.SerializeToString())
    compact(again)
    assert again == after
    (body,) = (function for function in after.library.function if "inner" in function.signature.name)
    assert [node.op for node in body.node_def if node.op == "TopKV2"] == []
    assert {"AssignAddVariableOp", "PrintV2", "MatMul"} <= {node.op for node in body.node_def}
    (product,) = (node for node in body.node_def if node.op == "MatMul")
    assert "transpose_a" not in product.attr
    assert product.attr["transpose_b"].b
    answers = []
    for graph_def in (before, after):
        with tf1.Session(graph=tf.Graph()) as session:
            tf1.import_graph_def(graph_def, name="")
            session.run("init")
            answers.append([session.run("y:0", {"x:0": normal(3, 4)}), session.run("seen:0")])
    np.testing.assert_array_equal(answers[0][0], answers[1][0])
    assert answers[0][1] == answers[1][1] == 1
