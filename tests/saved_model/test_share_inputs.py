"""Signatures that take the same inputs share placeholders; those that must not, do not."""

import numpy as np
import pytest
import tensorflow as tf

from tfslim_core.graph import Graph
from tfslim_core.saved_model.share_inputs import share_inputs

tf1 = tf.compat.v1


def built(build):
    """A graph and SignatureDefs out of `build() -> {signature: (inputs, outputs)}`."""
    with tf.Graph().as_default() as graph:
        made = {
            name: tf1.saved_model.predict_signature_def(inputs, outputs) for name, (inputs, outputs) in build().items()
        }
        graph_def = graph.as_graph_def()
    inputs = [info.name for signature in made.values() for info in signature.inputs.values()]
    outputs = [info.name for signature in made.values() for info in signature.outputs.values()]
    return Graph.of(graph_def, dict.fromkeys(inputs), dict.fromkeys(outputs)), made


def placeholders(graph):
    return [name for name, node in graph.nodes.items() if node.op == "Placeholder"]


def answer(graph, signature, feeds):
    with tf.Graph().as_default() as imported:
        tf.import_graph_def(graph.to_graph_def(), name="")
        with tf1.Session(graph=imported) as session:
            fetched = {key: info.name for key, info in signature.outputs.items()}
            return session.run(fetched, {signature.inputs[key].name: value for key, value in feeds.items()})


def x_placeholder(name, dtype=tf.float32, shape=(None, 2)):
    return tf1.placeholder(dtype, shape, name=name)


def test_one_function_under_two_names_is_held_once():
    def build():
        made = {}
        for name in ("a", "b"):
            x = x_placeholder(f"x_{name}")
            made[name] = ({"x": x}, {"y": tf.identity(tf.tanh(x) * 3.0, name=f"y_{name}")})
        return made

    graph, signatures = built(build)
    fewer = share_inputs(graph, signatures)
    assert placeholders(fewer) == ["x_a"]
    assert sum(node.op == "Tanh" for node in fewer.nodes.values()) == 1
    assert signatures["b"].inputs["x"].name == "x_a:0"
    x = np.array([[1, 2]], np.float32)
    for signature in signatures.values():
        np.testing.assert_allclose(answer(fewer, signature, {"x": x})["y"], np.tanh(x) * 3, rtol=1e-6)


@pytest.mark.parametrize(
    ("dtype", "shape"), [(tf.float64, (None, 2)), (tf.float32, (None, 3)), (tf.float32, None)], ids=str
)
def test_placeholders_of_another_kind_stay(dtype, shape):
    def build():
        a, b = x_placeholder("a"), x_placeholder("b", dtype, shape)
        return {"a": ({"x": a}, {"y": tf.identity(a)}), "b": ({"x": b}, {"y": tf.identity(b)})}

    graph, signatures = built(build)
    assert share_inputs(graph, signatures) is graph


def test_inputs_of_other_keys_stay():
    def build():
        a, b = x_placeholder("a"), x_placeholder("b")
        return {"a": ({"left": a}, {"y": tf.identity(a)}), "b": ({"right": b}, {"y": tf.identity(b)})}

    graph, signatures = built(build)
    assert share_inputs(graph, signatures) is graph


def test_a_signature_that_reads_both_keeps_them_apart():
    def build():
        a, b = x_placeholder("a"), x_placeholder("b")
        return {
            "one": ({"x": a}, {"y": tf.identity(a)}),
            "two": ({"x": b, "z": a}, {"y": a - b}),
        }

    graph, signatures = built(build)
    shared = share_inputs(graph, signatures)
    assert sorted(placeholders(shared)) == ["a", "b"]
    feeds = {"x": np.ones((1, 2), np.float32), "z": np.full((1, 2), 5, np.float32)}
    np.testing.assert_array_equal(answer(shared, signatures["two"], feeds)["y"], [[4, 4]])


def test_an_input_that_is_an_output_moves_with_it():
    def build():
        a, b = x_placeholder("a"), x_placeholder("b")
        return {"a": ({"x": a}, {"y": tf.tanh(a)}), "b": ({"x": b}, {"same": b})}

    graph, signatures = built(build)
    shared = share_inputs(graph, signatures)
    assert signatures["b"].outputs["same"].name == "a:0"
    assert shared.outputs == ("Tanh:0", "a:0")
