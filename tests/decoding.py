"""What the decoding ops of a stored weight compute."""

from __future__ import annotations

import tensorflow as tf

from tfslim_core.encodings import decoding
from tfslim_core.encodings.scheme import Form, Nodes
from tfslim_core.graph import Graph, Input, external_constant
from tfslim_core.saved_model.write import with_values

tf1 = tf.compat.v1


def in_tensorflow(weight):
    """The weight's value as the decoding ops of its encoding compute it in a session."""
    made, weights = [], {}
    names = Graph({}).fresh_names()

    def leaf(roles, part):
        node, more = external_constant(names("/".join(roles)), part)
        made.append(node)
        weights.update(more)
        return Input(node.name, 0)

    nodes = Nodes("value", names)
    value = decoding(nodes, weight.encoded, Form(weight.dtype, weight.shape), leaf)
    assert nodes.made[-1].name == value.node
    graph_def = with_values(Graph({}).replace([*made, *nodes.made], weights=weights))
    config = tf1.ConfigProto()
    config.graph_options.optimizer_options.opt_level = -1
    with tf1.Session(graph=tf.Graph(), config=config) as session:
        tf1.import_graph_def(graph_def, name="")
        return session.run(f"{value.node}:0")


def same_bits(a, b):
    return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()
