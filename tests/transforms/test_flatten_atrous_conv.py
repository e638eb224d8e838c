import numpy as np
import pytest
import tensorflow as tf
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from tests.graphs import assert_same_model, building, op_counts, op_delta, random_feeds, reasons, run, view
from tests.old_tool import OldToolError, transformed, with_default_attributes
from tfslim_core.graph import Graph, control_inputs
from tfslim_core.transforms.flatten_atrous_conv import flatten_atrous_conv
from tfslim_core.transforms.fold_batch_norms import fold_batch_norms

v1 = tf.compat.v1
RANDOM = np.random.default_rng(3)


def const(*shape):
    return tf.constant(RANDOM.normal(size=shape).astype(np.float32))


def atrous(x, weights, block, paddings, crops, padding="VALID", bias=False, kind="Conv2D", again=None, **more):
    y = tf.raw_ops.SpaceToBatchND(input=x, block_shape=block, paddings=paddings, name="spread")
    arguments = {"strides": [1] * 4, "padding": padding, "name": "conv", **more}
    y = getattr(tf.raw_ops, kind)(input=y, filter=weights, **arguments)
    if bias:
        y = tf.nn.bias_add(y, const(weights.shape[3]), name="bias")
    return tf.raw_ops.BatchToSpaceND(input=y, block_shape=again or block, crops=crops, name="y")


def flattened(graph, **feeds):
    outcome = flatten_atrous_conv(graph)
    assert_same_model(graph, outcome.graph, feeds or random_feeds(graph), rtol=1e-4, atol=1e-4)
    return outcome


def simple(paddings, crops, block=(2, 2), size=(8, 8), **more):
    with building() as g:
        x = v1.placeholder(tf.float32, [2, *size, 3], "x")
        y = atrous(x, const(3, 3, 3, 4), list(block), paddings, crops, **more)
    return view(g, [x], [y])


def attributes(graph, name="y"):
    conv = graph.nodes[name]
    return conv.attr["padding"].s.decode(), list(conv.attr["dilations"].list.i)


def test_halves_of_what_the_filter_sees_are_same():
    graph = simple([[2, 2], [2, 2]], [[0, 0], [0, 0]])
    outcome = flattened(graph)
    assert op_delta(graph, outcome.graph) == {"SpaceToBatchND": -1, "BatchToSpaceND": -1, "Const": -4}
    assert attributes(outcome.graph) == ("SAME", [1, 2, 2, 1])


def test_a_valid_dilated_convolution_stays_valid():
    outcome = flattened(simple([[0, 0], [0, 0]], [[0, 0], [0, 0]]))
    assert attributes(outcome.graph) == ("VALID", [1, 2, 2, 1])
    outcome = flattened(simple([[0, 1], [0, 2]], [[0, 1], [0, 2]], (2, 3), (9, 10)))
    assert attributes(outcome.graph) == ("VALID", [1, 2, 3, 1])


def test_other_paddings_are_explicit():
    outcome = flattened(simple([[1, 2], [3, 0]], [[0, 1], [1, 0]], (2, 3), (7, 9)))
    assert attributes(outcome.graph)[0] == "EXPLICIT"
    assert list(outcome.graph.nodes["y"].attr["explicit_paddings"].list.i) == [0, 0, 1, 1, 2, 0, 0, 0]


def test_the_filter_does_not_grow():
    graph = simple([[2, 2], [2, 2]], [[0, 0], [0, 0]])
    slim = flatten_atrous_conv(graph).graph
    filters = [slim.constant_shape(n.name) for n in slim.nodes.values() if n.op == "Const"]
    assert filters == [(3, 3, 3, 4)]


def test_a_filter_that_is_computed_and_a_bias_in_between():
    with building() as g:
        x = v1.placeholder(tf.float32, [2, 8, 8, 3], "x")
        weights = v1.placeholder(tf.float32, [3, 3, 3, 4], "filter")
        y = atrous(x, weights, [2, 2], [[2, 2], [2, 2]], [[0, 0], [0, 0]], bias=True)
    graph = view(g, [x, weights], [y])
    outcome = flattened(graph)
    assert (outcome.graph.nodes["y"].op, attributes(outcome.graph, "conv")[0]) == ("BiasAdd", "EXPLICIT")


def test_after_fold_batch_norms():
    with building() as g:
        x = v1.placeholder(tf.float32, [2, 8, 8, 3], "x")
        y = atrous(x, const(3, 3, 3, 4), [2, 2], [[2, 2], [2, 2]], [[0, 0], [0, 0]])
        y = tf.multiply(y, const(4)) + const(4)
        y = tf.multiply(y, 2.0, name="z")
    graph = view(g, [x], [y])
    slim = flatten_atrous_conv(fold_batch_norms(graph).graph).graph
    assert op_counts(slim) == {"Placeholder": 1, "Conv2D": 1, "BiasAdd": 1, "Const": 2}
    assert_same_model(graph, slim, random_feeds(graph), rtol=1e-4, atol=1e-4)


def test_images_of_a_size_that_is_not_known():
    with building() as g:
        x = v1.placeholder(tf.float32, [None, None, None, 3], "x")
        y = atrous(x, const(3, 3, 3, 4), [2, 2], [[2, 2], [2, 2]], [[0, 0], [0, 0]])
    graph = view(g, [x], [y])
    outcome = flatten_atrous_conv(graph)
    for size in (2, 4, 10):
        assert_same_model(graph, outcome.graph, random_feeds(graph, unknown=size), rtol=1e-4, atol=1e-4)


def test_stripped_default_attributes_are_looked_up():
    graph_def = simple([[2, 2], [2, 2]], [[0, 0], [0, 0]]).to_graph_def()
    for node in graph_def.node:
        for key in ("data_format", "dilations", "explicit_paddings", "Tblock_shape", "Tcrops", "Tpaddings"):
            node.attr.pop(key, None)
    graph = Graph.of(graph_def, ["x:0"], ["y:0"])
    assert flattened(graph).changes == 1


def test_control_inputs_stay():
    with building() as g:
        x = v1.placeholder(tf.float32, [2, 8, 8, 3], "x")
        check = tf.raw_ops.Assert(condition=tf.reduce_all(x < 99), data=[x], name="assert")
        weights = const(3, 3, 3, 4)
        y = tf.raw_ops.SpaceToBatchND(input=x, block_shape=[2, 2], paddings=[[2, 2], [2, 2]])
        with g.control_dependencies([check]):
            y = tf.nn.conv2d(y, weights, 1, "VALID")
        y = tf.raw_ops.BatchToSpaceND(input=y, block_shape=[2, 2], crops=[[0, 0], [0, 0]], name="y")
    slim = flattened(view(g, [x], [y])).graph
    assert control_inputs(slim.nodes["y"]) == ["assert"]


def test_one_spread_image_for_two_convolutions():
    with building() as g:
        x = v1.placeholder(tf.float32, [2, 8, 8, 3], "x")
        spread = tf.raw_ops.SpaceToBatchND(input=x, block_shape=[2, 2], paddings=[[2, 2], [2, 2]])
        outputs = []
        for number in range(2):
            y = tf.nn.conv2d(spread, const(3, 3, 3, 4), 1, "VALID")
            crops = [[0, 0], [0, 0]]
            outputs.append(tf.raw_ops.BatchToSpaceND(input=y, block_shape=[2, 2], crops=crops, name=f"y_{number}"))
    outcome = flattened(view(g, [x], outputs))
    assert (outcome.changes, op_counts(outcome.graph)["SpaceToBatchND"]) == (2, 0)


def test_function_bodies_are_entered():
    with building() as g:
        x = v1.placeholder(tf.float32, [2, 8, 8, 3], "x")
        weights = const(3, 3, 3, 4)

        @tf.function
        def body(x, weights):
            return atrous(x, weights, [2, 2], [[2, 2], [2, 2]], [[0, 0], [0, 0]])

        y = tf.identity(body(x, weights), "out")
    graph = view(g, [x], [y])
    outcome = flattened(graph)
    assert outcome.changes >= 1
    assert not any("SpaceToBatch" in n.op for f in outcome.graph.functions.values() for n in f.node_def)


def reason(graph):
    outcome = flatten_atrous_conv(graph)
    assert outcome.graph is graph
    (found,) = reasons(outcome).values()
    return found


def test_what_is_not_certain_is_left_alone():
    whole = ([[2, 2], [2, 2]], [[0, 0], [0, 0]])
    assert reason(simple([[0, 0], [0, 0]], [[1, 0], [0, 0]])) == "more is cropped than was padded"
    assert "strides" in reason(simple(*whole, strides=[1, 2, 2, 1]))
    assert "not the one that was cut" in reason(simple(*whole, again=[4, 1]))
    assert "3 dimensions" in reason(simple([*whole[0], [0, 0]], [*whole[1], [0, 0]], [2, 2, 1]))
    assert "few CPU kernels" in reason(depthwise())


def depthwise():
    with building() as g:
        x = v1.placeholder(tf.float32, [2, 8, 8, 3], "x")
        zero = [[0, 0], [0, 0]]
        y = atrous(x, const(3, 3, 3, 2), [2, 2], [[2, 2], [2, 2]], zero, kind="DepthwiseConv2dNative")
    return view(g, [x], [y])


def test_nchw_is_left_alone():
    with building() as g:
        x = v1.placeholder(tf.float32, [2, 8, 8, 8], "x")
        weights = const(3, 3, 6, 4)
        y = atrous(x, weights, [2, 2], [[2, 2], [2, 2]], [[0, 0], [0, 0]], padding="SAME", data_format="NCHW")
    assert "has its channels where" in reason(view(g, [x], [y]))


def test_paddings_that_are_computed_or_fed_are_left_alone():
    with building() as g:
        x = v1.placeholder(tf.float32, [None, None, None, 3], "x")
        y = tf.nn.with_space_to_batch(
            x, [2, 2], "SAME", lambda x, *_: tf.nn.conv2d(x, const(3, 3, 3, 4), 1, "VALID"), filter_shape=[3, 3]
        )
        y = tf.identity(y, "y")
    assert "is not a constant" in reason(view(g, [x], [y]))
    graph = simple([[2, 2], [2, 2]], [[0, 0], [0, 0]])
    graph = Graph.of(graph.to_graph_def(), ["x:0", "spread/paddings:0"], ["y:0"])
    assert "is not a constant" in reason(graph)


@pytest.mark.parametrize("name", ["conv", "spread"])
def test_what_is_part_of_the_interface(name):
    graph = simple([[2, 2], [2, 2]], [[0, 0], [0, 0]])
    graph = Graph.of(graph.to_graph_def(), ["x:0"], ["y:0", f"{name}:0"])
    outcome = flattened(graph)
    assert outcome.changes == (name == "spread")


@st.composite
def cases(draw):
    """A dilated convolution whose image fits its block, of any padding, and perhaps dilated once more."""
    block = draw(st.lists(st.integers(1, 4), min_size=1, max_size=2))
    kernel = draw(st.tuples(st.integers(1, 3), st.integers(1, 3)))
    paddings = [draw(st.tuples(st.integers(0, 6), st.integers(0, 6))) for _ in block]
    crops = [tuple(draw(st.integers(0, min(pad, 3))) for pad in pads) for pads in paddings]
    multiples = draw(st.tuples(st.integers(2, 5), st.integers(2, 5)))
    padding = draw(st.sampled_from(["VALID", "VALID", "SAME", "EXPLICIT"]))
    inner = draw(st.sampled_from([1, 1, 2]))
    size = []
    for axis in range(2):
        size.append(multiples[axis] * (block[axis] if axis < len(block) else 1))
        if axis < len(block):
            size[axis] += -sum(paddings[axis]) % block[axis]
            assume(size[axis] >= 1)
    more = {"explicit_paddings": [0, 0, 1, 0, 2, 1, 0, 0]} if padding == "EXPLICIT" else {}
    dtype = draw(st.sampled_from([np.float32, np.float64]))
    with building() as g:
        x = v1.placeholder(dtype, [2, *size, 2], "x")
        weights = tf.constant(RANDOM.normal(size=(*kernel, 2, 3)).astype(dtype))
        try:
            y = atrous(x, weights, block, paddings, crops, padding, dilations=[1, inner, inner, 1], **more)
        except ValueError:  # nothing is left of so small an image
            assume(False)
        assume(all(y.shape.as_list()))
    return view(g, [x], [y])


@settings(max_examples=60, deadline=None, derandomize=True)
@given(cases())
def test_computes_the_same(graph):
    outcome = flatten_atrous_conv(graph)
    assert outcome.changes == 1
    feeds = random_feeds(graph)
    (wanted,), (found,) = run(graph, feeds), run(outcome.graph, feeds)
    assert wanted.shape == found.shape
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-4)


def test_the_old_tool_agrees_on_same_and_takes_valid_for_same():
    for padded, agrees in ((2, True), (0, False)):
        graph = simple([[padded] * 2] * 2, [[0, 0], [0, 0]])
        old = transformed(with_default_attributes(graph.to_graph_def()), ["x"], ["y"], "flatten_atrous_conv", 60)
        feeds = random_feeds(graph)
        (ours,) = run(flatten_atrous_conv(graph).graph, feeds)
        (theirs,) = run(Graph.of(old, graph.inputs, graph.outputs), feeds)
        assert (ours.shape == theirs.shape and np.allclose(ours, theirs, 1e-4, 1e-4)) == agrees


def test_the_old_tool_aborts_on_stripped_attributes():
    graph_def = simple([[2, 2], [2, 2]], [[0, 0], [0, 0]]).to_graph_def()
    for node in graph_def.node:
        node.attr.pop("data_format", None)
    with pytest.raises(OldToolError) as error:
        transformed(graph_def, ["x"], ["y"], "flatten_atrous_conv", 60)
    assert error.value.how == "abort"
