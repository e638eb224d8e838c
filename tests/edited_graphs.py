"""Graphs to edit: a random one, one with TensorFlow 1 loops and branches, one with functions."""

from __future__ import annotations

import random

import numpy as np
import tensorflow as tf
from hypothesis import strategies as st

from tests.graphs import building, view
from tfslim_core.graph import Graph, make_node

v1 = tf.compat.v1


@st.composite
def graphs(draw, shuffled=False):
    """A random graph: fan-out, several ports, control edges, devices, colocation, large constants, any node order."""
    with building() as g:
        x = v1.placeholder(tf.float32, [2, 3], "x")
        tensors, nodes = [x], []
        for number in range(draw(st.integers(2, 12))):
            a, b = (draw(st.sampled_from(tensors)) for _ in range(2))
            waits = [draw(st.sampled_from(nodes))] if nodes and draw(st.integers(0, 2)) == 0 else []
            device = draw(st.sampled_from(["", "", "/device:CPU:0", "/job:localhost"]))
            name = draw(st.sampled_from(["0", "1", "a", "scope/a", "scope/b", f"layer_{number}"]))
            with g.control_dependencies(waits), tf.device(device):
                kind = draw(st.sampled_from(["add", "sin", "split", "assert", "const", "large"]))
                if kind == "split":
                    found = tf.split(a, 3, axis=1, name=name)
                    made = tf.raw_ops.ConcatV2(values=found[::-1], axis=1)
                elif kind == "assert":
                    nodes.append(tf.raw_ops.Assert(condition=tf.reduce_all(a < 1e6), data=[a], name=name))
                    continue
                elif kind == "const":
                    made = a * tf.constant([1.0, -2.0, 0.5], name=name)
                elif kind == "large":
                    table = np.linspace(-1, 1, 999, dtype=np.float32).reshape(333, 3)
                    made = a + tf.reduce_sum(tf.constant(table, name=name) ** 2, 0)
                else:
                    made = tf.add(a, b, name=name) if kind == "add" else tf.sin(a, name=name)
            if draw(st.booleans()):
                made.op._set_attr(
                    "_class",
                    tf.compat.v1.AttrValue(list={"s": [b"loc:@" + draw(st.sampled_from(tensors)).op.name.encode()]}),
                )
            tensors.append(made)
            nodes.append(made.op)
        outputs = [tf.raw_ops.AddV2(x=tensors[-1], y=x, name="y"), draw(st.sampled_from(tensors[1:] or [x]))]
    graph_def = g.as_graph_def()
    if shuffled:
        order = list(graph_def.node)
        random.Random(draw(st.integers(0, 99))).shuffle(order)
        del graph_def.node[:]
        graph_def.node.extend(order)
    return Graph.of(graph_def, [x.name], [y.name for y in dict.fromkeys(y.ref() for y in outputs) for y in [y.deref()]])


def v1_control_flow():
    """A loop of TensorFlow 1 with a branch in it, and a branch after it; constants hang on control edges."""
    v1.disable_control_flow_v2()
    try:
        with building() as g:
            x = v1.placeholder(tf.float32, [2], "x")

            def step(i, a):
                halved = v1.cond(tf.reduce_sum(a) > 20, lambda: a * tf.constant(0.5), lambda: a + tf.constant(1.0))
                return i + 1, halved * tf.constant([1.5, 1.25])

            _, looped = v1.while_loop(lambda i, a: i < 5, step, [0, x])
            y = v1.cond(tf.reduce_sum(x) > 0, lambda: tf.constant([1.0, 2.0]), lambda: looped * 3.0)
            y = tf.add(y, looped, name="y")
    finally:
        v1.enable_control_flow_v2()
    return view(g, [x], [y])


V1_FEEDS = ([1.0, 5.0], [-1.0, -5.0], [9.0, 30.0])


def with_functions():
    """A While whose body has a constant of 2 KiB, a split and an assert, and calls a function on a device."""
    table = np.linspace(-1, 1, 512, dtype=np.float32)

    @tf.function(input_signature=[tf.TensorSpec([512], tf.float32)], autograph=False)
    def shifted(x):
        with tf.device("/device:CPU:0"):
            return tf.nn.relu(x) + tf.identity(table)

    def step(count, x):
        checked = tf.raw_ops.Assert(condition=tf.reduce_all(x < 1e6), data=[x], name="check")
        low, high = tf.split(shifted(x), 2)
        with tf.control_dependencies([checked]):
            low = tf.identity(low, name="checked")
        return count + 1, tf.concat([high, tf.nn.relu(low)], 0)

    with building() as g:
        x = v1.placeholder(tf.float32, [512], name="x")
        v1.enable_control_flow_v2()
        _, y = tf.while_loop(lambda count, x: count < 3, step, [0, x])
        y = tf.nn.relu(y, name="y")
    return view(g, [x], [y])


FUNCTIONS_FEEDS = {"x:0": np.linspace(-2, 2, 512, dtype=np.float32)}


def function_nodes(graph):
    """The nodes of the library's functions."""
    return [node for function in graph.functions.values() for node in function.node_def]


def with_generic_function():
    """A call of a function whose type the caller decides; its node has a device and a note."""
    graph_def = v1.GraphDef()
    function = graph_def.library.function.add()
    function.signature.name = "negated"
    function.signature.input_arg.add(name="x", type_attr="T")
    function.signature.output_arg.add(name="y", type_attr="T")
    function.signature.attr.add(name="T", type="type")
    inner = function.node_def.add(name="neg", op="Neg", input=["x"], device="/device:CPU:0")
    inner.attr["T"].placeholder = "T"
    inner.attr["_note"].i = 1
    function.ret["y"] = "neg:y:0"
    graph_def.node.append(make_node("Placeholder", "x", [], dtype=tf.float32))
    graph_def.node.append(make_node("negated", "call", ["x"], T=tf.float32))
    return Graph.of(graph_def, ["x:0"], ["call:0"])
