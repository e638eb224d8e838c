"""Small graphs for tests: build one as TensorFlow 1 did, run it, and compare two."""

from __future__ import annotations

from collections import Counter
from contextlib import contextmanager

import numpy as np
import tensorflow as tf

from tfslim_core.graph import Graph, constant, constant_value, make_node, parse_input

v1 = tf.compat.v1


@contextmanager
def building():
    """A fresh TensorFlow graph to build in; `view` then makes a `Graph` of it."""
    graph = tf.Graph()
    with graph.as_default():
        yield graph


def view(graph, inputs=(), outputs=(), targets=()):
    """The checked view of a TensorFlow graph; `inputs` and `outputs` are tensors or their names."""
    names = [[getattr(tensor, "name", tensor) for tensor in tensors] for tensors in (inputs, outputs)]
    return Graph.of(graph.as_graph_def(), *names, [getattr(target, "name", target) for target in targets])


def whole_graph_def(graph):
    """The GraphDef with the weights put back as constants."""
    graph_def = graph.to_graph_def()
    for node in graph_def.node:
        if node.name in graph.weights:
            node.attr["value"].tensor.CopyFrom(tf.make_tensor_proto(graph.weights[node.name].read()))
    return graph_def


def run(graph, feeds, fetches=None):
    """The values of the outputs, or of the tensors or nodes `fetches`.

    Without TensorFlow's own graph optimizer: it aborts the process on a convolution of unknown shape whose result is
    multiplied by a constant of rank 4, and it would hide what a transform leaves to be done.
    """
    config = v1.ConfigProto()
    config.graph_options.rewrite_options.disable_meta_optimizer = True
    with tf.Graph().as_default():
        tf.import_graph_def(_with_nhwc_convolutions(whole_graph_def(graph)), name="")
        with v1.Session(config=config) as session:
            return session.run(list(fetches or graph.outputs), {name: feeds[name] for name in feeds})


def _with_nhwc_convolutions(graph_def):
    """The graph with a transpose before and after each NCHW convolution, which CPUs do not compute."""
    result = v1.GraphDef(library=graph_def.library, versions=graph_def.versions)
    for node in graph_def.node:
        result.node.append(node)
        if node.op != "Conv2D" or node.attr["data_format"].s != b"NCHW":
            continue
        conv = result.node[-1]
        conv.name = f"{node.name}/nhwc"
        conv.attr["data_format"].s = b"NHWC"
        for key in ("strides", "dilations"):
            if key in node.attr:
                sizes = node.attr[key].list.i
                conv.attr[key].list.i[:] = [sizes[axis] for axis in (0, 2, 3, 1)]
        for name, source, order in (
            (f"{node.name}/before", node.input[0], (0, 2, 3, 1)),
            (node.name, conv.name, (0, 3, 1, 2)),
        ):
            permutation = constant(f"{name}/order", np.array(order, np.int32))[0]
            result.node.append(permutation)
            result.node.append(make_node("Transpose", name, [source, permutation.name], T=tf.float32))
            result.node[-1].attr["T"].CopyFrom(node.attr["T"])
        conv.input[0] = f"{node.name}/before"
    return result


def normal(*shape, seed=0, scale=1.0, dtype=np.float32):
    """Normally distributed numbers, the same each time."""
    return (np.random.default_rng(seed).normal(size=shape) * scale).astype(dtype)


def random_feeds(graph, seed=0, unknown=3):
    """A random value for each float input; a dimension that is unknown is `unknown` long."""
    random = np.random.default_rng(seed)
    feeds = {}
    for tensor in graph.inputs:
        node = graph.nodes[parse_input(tensor).node]
        shape = [unknown if d.size < 0 else d.size for d in node.attr["shape"].shape.dim]
        dtype = tf.as_dtype(node.attr["dtype"].type).as_numpy_dtype
        feeds[tensor] = random.normal(size=shape).astype(dtype)
    return feeds


def assert_same_interface(before, after):
    assert (after.inputs, after.outputs, after.targets) == (before.inputs, before.outputs, before.targets)
    for name in before.interface:
        assert name in after.nodes


def assert_same_model(before, after, feeds, rtol=1e-5, atol=1e-5):
    """The interface is whole and every output the same; an output that is one number over and over proves nothing."""
    assert_same_interface(before, after)
    for name, wanted, found in zip(before.outputs, run(before, feeds), run(after, feeds), strict=True):
        if isinstance(wanted, bytes):
            assert found == wanted, name
            continue
        assert (found.dtype, found.shape) == (wanted.dtype, wanted.shape), name
        if wanted.dtype.kind == "f" and wanted.size > 1:
            assert np.ptp(wanted) > 0, f"{name} is constant"
        if wanted.dtype.kind in "fc":
            np.testing.assert_allclose(found, wanted, rtol=rtol, atol=atol, err_msg=name)
        else:
            np.testing.assert_array_equal(found, wanted, err_msg=name)


def relative_error(before, after, feeds=None):
    """The largest relative L2 error of an output; the interface is whole."""
    assert_same_interface(before, after)
    feeds = feeds or random_feeds(before)
    return max(
        float(np.linalg.norm(a - b) / np.linalg.norm(a))
        for a, b in zip(run(before, feeds), run(after, feeds), strict=True)
    )


def op_counts(graph):
    return Counter(node.op for node in graph.nodes.values())


def op_delta(before, after):
    """How many nodes of each op came or went."""
    delta = op_counts(after)
    delta.subtract(op_counts(before))
    return {op: count for op, count in delta.items() if count}


def values(graph):
    """The constants' values by name."""
    return {
        name: graph.weights[name].read() if name in graph.weights else constant_value(node)
        for name, node in graph.nodes.items()
        if node.op == "Const"
    }


def reasons(outcome):
    return {skipped.node: skipped.reason for skipped in outcome.skipped}
