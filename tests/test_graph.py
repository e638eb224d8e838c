"""The view of a graph, and what is made of it."""

import tensorflow as tf

from tests.graphs import building, random_feeds, run
from tfslim_core.graph import Graph, only_needed

v1 = tf.compat.v1


def test_only_needed_leaves_no_note_on_the_gradient_of_a_function_that_is_gone():
    with building() as g:
        x = v1.placeholder(tf.float32, [3], "x")
        tf.identity(tf.function(lambda a: tf.sin(a))(x), "y")
        tf.identity(tf.function(lambda a: tf.cos(a))(x), "unneeded")
    graph_def = g.as_graph_def()
    unneeded = next(node for node in graph_def.node if node.name == "unneeded")
    callee = next(node.attr["f"].func.name for node in graph_def.node if node.name == unneeded.input[0])
    graph_def.library.gradient.add(function_name=callee, gradient_func=callee)
    graph = only_needed(Graph.of(graph_def, ["x:0"], ["y:0"]))
    run(graph, random_feeds(graph))
