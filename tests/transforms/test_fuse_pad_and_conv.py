import numpy as np
import pytest
import tensorflow as tf
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from tests.graphs import assert_same_model, building, op_counts, op_delta, random_feeds, reasons, run, view
from tests.old_tool import transformed, with_default_attributes
from tfslim_core.graph import Graph, control_inputs
from tfslim_core.transforms.fuse_pad_and_conv import fuse_pad_and_conv

v1 = tf.compat.v1
RANDOM = np.random.default_rng(4)
ROWS_AND_COLUMNS = [[0, 0], [1, 2], [2, 1], [0, 0]]


def const(*shape, dtype=np.float32):
    return tf.constant(RANDOM.normal(size=shape).astype(dtype))


def conv(x, weights, padding="VALID", kind="Conv2D", strides=(1, 1, 1, 1), name="y", **more):
    op = getattr(tf.raw_ops, kind)
    return op(input=x, filter=weights, strides=list(strides), padding=padding, name=name, **more)


def mirrored(batch=1, pads=ROWS_AND_COLUMNS, mode="REFLECT", dtype=tf.float32, filter_shape=(3, 3, 4, 5), **more):
    """A convolution over a MirrorPad."""
    with building() as g:
        x = v1.placeholder(dtype, [batch, 6, 7, 4], "x")
        padded = tf.raw_ops.MirrorPad(input=x, paddings=pads, mode=mode, name="pad")
        y = conv(padded, const(*filter_shape, dtype=dtype.as_numpy_dtype), **more)
    return view(g, [x], [y])


def padded(pads=ROWS_AND_COLUMNS, value=None, channels=4, **more):
    """A convolution over a Pad, or over a PadV2 with a value."""
    with building() as g:
        x = v1.placeholder(tf.float32, [None, 6, 7, 4], "x")
        if value is None:
            y = tf.raw_ops.Pad(input=x, paddings=pads, name="pad")
        else:
            y = tf.raw_ops.PadV2(input=x, paddings=pads, constant_values=value, name="pad")
        y = conv(y, const(3, 3, channels, 2), **more)
    return view(g, [x], [y])


def fused(graph):
    outcome = fuse_pad_and_conv(graph)
    assert_same_model(graph, outcome.graph, random_feeds(graph), rtol=1e-4, atol=1e-4)
    return outcome


@pytest.mark.parametrize("kind", ["Conv2D", "DepthwiseConv2dNative"])
@pytest.mark.parametrize("value", [None, 0.0])
def test_zeros_become_explicit_padding(kind, value):
    graph = padded(kind=kind, value=value, strides=(1, 2, 2, 1))
    outcome = fused(graph)
    gone = {"Pad": -1, "Const": -1} if value is None else {"PadV2": -1, "Const": -2}
    assert op_delta(graph, outcome.graph) == gone
    node = outcome.graph.nodes["y"]
    assert (node.attr["padding"].s, list(node.attr["explicit_paddings"].list.i)) == (
        b"EXPLICIT",
        [0, 0, 1, 2, 2, 1, 0, 0],
    )


def test_explicit_paddings_add_up():
    outcome = fused(padded(padding="EXPLICIT", explicit_paddings=[0, 0, 1, 0, 0, 2, 0, 0]))
    assert list(outcome.graph.nodes["y"].attr["explicit_paddings"].list.i) == [0, 0, 2, 2, 2, 3, 0, 0]


def test_pad_after_pad():
    with building() as g:
        x = v1.placeholder(tf.float32, [2, 6, 7, 4], "x")
        y = conv(tf.pad(tf.pad(x, ROWS_AND_COLUMNS), ROWS_AND_COLUMNS), const(3, 3, 4, 2))
    outcome = fused(view(g, [x], [y]))
    assert (outcome.changes, op_counts(outcome.graph)["Pad"]) == (2, 0)


def test_nchw():
    with building() as g:
        x = v1.placeholder(tf.float32, [2, 4, 6, 7], "x")
        y = tf.pad(x, [[0, 0], [0, 0], [1, 2], [2, 1]])
        y = conv(y, const(3, 3, 4, 2), data_format="NCHW")
    slim = fuse_pad_and_conv(view(g, [x], [y])).graph  # computed on GPUs alone
    assert list(slim.nodes["y"].attr["explicit_paddings"].list.i) == [0, 0, 0, 0, 1, 2, 2, 1]


def test_a_pad_that_others_read_stays_for_them():
    with building() as g:
        x = v1.placeholder(tf.float32, [2, 6, 7, 4], "x")
        both = tf.pad(x, ROWS_AND_COLUMNS, name="pad")
        y = conv(both, const(3, 3, 4, 2))
        z = tf.nn.max_pool2d(both, 2, 2, "VALID", name="z")
    graph = view(g, [x], [y, z])
    outcome = fused(graph)
    assert (outcome.changes, op_counts(outcome.graph)["Pad"]) == (1, 1)
    outcome = fused(view(g, [x], [y, "pad:0"]))
    assert (outcome.changes, op_counts(outcome.graph)["Pad"]) == (1, 1)


def test_control_inputs_and_stripped_attributes():
    with building() as g:
        x = v1.placeholder(tf.float32, [2, 6, 7, 4], "x")
        check = tf.raw_ops.Assert(condition=tf.reduce_all(x < 99), data=[x], name="assert")
        paddings, weights = tf.constant(ROWS_AND_COLUMNS), const(3, 3, 4, 2)
        with g.control_dependencies([check]):
            y = tf.raw_ops.Pad(input=x, paddings=paddings)
        y = conv(y, weights)
    graph_def = g.as_graph_def()
    for node in graph_def.node:
        for key in ("data_format", "dilations", "explicit_paddings", "Tpaddings"):
            node.attr.pop(key, None)
    slim = fused(Graph.of(graph_def, ["x:0"], ["y:0"])).graph
    assert control_inputs(slim.nodes["y"]) == ["assert"]


def test_function_bodies_are_entered():
    with building() as g:
        x = v1.placeholder(tf.float32, [2, 6, 7, 4], "x")
        weights = const(3, 3, 4, 2)
        body = tf.function(lambda x, weights: conv(tf.pad(x, ROWS_AND_COLUMNS), weights))
        y = tf.identity(body(x, weights), "out")
    outcome = fused(view(g, [x], [y]))
    assert outcome.changes >= 1
    assert not any(n.op == "Pad" for f in outcome.graph.functions.values() for n in f.node_def)


def reason(graph):
    outcome = fuse_pad_and_conv(graph)
    assert outcome.graph is graph
    return reasons(outcome)["y"]


def test_zeros_that_are_left_alone():
    assert reason(padded(value=1.0)) == "1.0 is padded, not zero"
    assert "SAME itself" in reason(padded(padding="SAME"))
    assert "more than rows and columns" in reason(padded([[0, 0], [0, 0], [0, 0], [0, 1]], channels=5))
    assert "more than rows and columns" in reason(padded([[1, 0], [0, 0], [0, 0], [0, 0]]))
    graph = padded()
    assert "is not a constant" in reason(Graph.of(graph.to_graph_def(), ["x:0", "pad/paddings:0"], ["y:0"]))


@pytest.mark.parametrize("dtype", [tf.float16, tf.float32, tf.float64])
@pytest.mark.parametrize("mode", ["REFLECT", "SYMMETRIC"])
def test_a_mirror_pad_of_one_image_is_fused(mode, dtype):
    graph = mirrored(mode=mode, dtype=dtype)
    outcome = fuse_pad_and_conv(graph)
    assert op_delta(graph, outcome.graph) == {"MirrorPad": -1, "Conv2D": -1, "FusedPadConv2D": 1}
    tolerance = 5e-2 if dtype == tf.float16 else 1e-4
    assert_same_model(graph, outcome.graph, random_feeds(graph), rtol=tolerance, atol=tolerance)


def test_64_bit_paddings_become_32():
    graph = mirrored(pads=np.array(ROWS_AND_COLUMNS, np.int64))
    assert fused(graph).changes == 1


@pytest.mark.parametrize("batch", [2, None])
def test_the_kernel_computes_larger_batches_wrong_so_they_are_left_alone(batch):
    graph = mirrored(batch)
    assert "only the first image" in reason(graph)
    theirs = transformed(with_default_attributes(graph.to_graph_def()), ["x"], ["y"], "fuse_pad_and_conv", 60)
    feeds = random_feeds(graph)
    (wanted,), (found,) = run(graph, feeds), run(Graph.of(theirs, ["x:0"], ["y:0"]), feeds)
    np.testing.assert_allclose(found[0], wanted[0], rtol=1e-4, atol=1e-4)
    assert np.abs(found[1] - wanted[1]).max() > 1


def test_the_old_tool_makes_the_same_of_one_image():
    graph = mirrored()
    theirs = transformed(with_default_attributes(graph.to_graph_def()), ["x"], ["y"], "fuse_pad_and_conv", 60)
    theirs = Graph.of(theirs, ["x:0"], ["y:0"])
    ours = fuse_pad_and_conv(graph).graph
    assert op_counts(ours) == op_counts(theirs)
    feeds = random_feeds(graph)
    np.testing.assert_allclose(run(ours, feeds)[0], run(theirs, feeds)[0], rtol=1e-4, atol=1e-4)


def test_mirror_pads_that_are_left_alone():
    assert "knows no dilations" in reason(mirrored(dilations=[1, 2, 2, 1]))
    explicit = [0, 0, 1, 1, 1, 1, 0, 0]
    assert "the convolution EXPLICIT" in reason(mirrored(padding="EXPLICIT", explicit_paddings=explicit))
    assert "knows no groups" in reason(mirrored(filter_shape=(3, 3, 2, 4)))
    assert "NHWC only" in reason(mirrored(data_format="NCHW", pads=[[0, 0]] + [[1, 1]] * 3, filter_shape=(3, 3, 8, 2)))
    graph = mirrored()
    graph = Graph.of(graph.to_graph_def(), ["x:0"], ["y:0", "pad:0"])
    assert reason(graph) == "'pad' below it is part of the interface"


def test_a_mirror_pad_of_channels_is_left_alone():
    assert "knows no groups" in reason(mirrored(pads=[[0, 0], [1, 1], [1, 1], [1, 0]], filter_shape=(3, 3, 5, 5)))
    assert "rows and columns only" in reason(mirrored(pads=[[1, 0], [1, 1], [1, 1], [0, 0]], mode="SYMMETRIC"))


@st.composite
def cases(draw):
    """A convolution over a Pad, of any padding, strides or dilations, with what may stop it."""
    kind = draw(st.sampled_from(["Conv2D", "DepthwiseConv2dNative"]))
    stride, dilation = draw(st.sampled_from([(1, 1), (2, 1), (3, 1), (1, 2)]))
    kernel = draw(st.tuples(st.integers(1, 3), st.integers(1, 3)))
    pads = [[0, 0], *(draw(st.lists(st.integers(0, 4), min_size=2, max_size=2)) for _ in "hw"), [0, 0]]
    op_name = draw(st.sampled_from(["Pad", "PadV2"]))
    padding = draw(st.sampled_from(["VALID", "VALID", "EXPLICIT", "SAME"]))
    dtype = draw(st.sampled_from([np.float32, np.float64]))
    integers = draw(st.sampled_from([np.int32, np.int64]))
    more = {"explicit_paddings": [0, 0, 1, 0, 0, 2, 0, 0]} if padding == "EXPLICIT" else {}
    if kind == "Conv2D":
        more["dilations"] = [1, dilation, dilation, 1]
    with building() as g:
        x = v1.placeholder(dtype, [2, draw(st.integers(3, 8)), draw(st.integers(3, 8)), 4], "x")
        paddings = tf.constant(pads, integers)
        if op_name == "Pad":
            y = tf.raw_ops.Pad(input=x, paddings=paddings)
        else:
            y = tf.raw_ops.PadV2(input=x, paddings=paddings, constant_values=tf.constant(0, dtype))
        other = [tf.abs(y, "other")] if draw(st.booleans()) else []
        y = conv(y, const(*kernel, 4, 2, dtype=dtype), padding, kind, [1, stride, stride, 1], **more)
        assume(all(y.shape.as_list()))
    return view(g, [x], [y, *other]), padding != "SAME"


@settings(max_examples=40, deadline=None, derandomize=True)
@given(cases())
def test_computes_the_same(case):
    graph, certain = case
    outcome = fuse_pad_and_conv(graph)
    assert outcome.changes == certain
    feeds = random_feeds(graph)
    for wanted, found in zip(run(graph, feeds), run(outcome.graph, feeds), strict=True):
        assert wanted.shape == found.shape
        np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-4)
    assert fuse_pad_and_conv(outcome.graph).graph is outcome.graph
