import numpy as np
import pytest
import tensorflow as tf
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from tests.graphs import assert_same_model, building, op_counts, op_delta, random_feeds, reasons, run, view
from tests.old_tool import transformed, with_default_attributes
from tfslim_core.graph import Graph
from tfslim_core.transforms.fuse_resize_and_conv import fuse_resize_and_conv

v1 = tf.compat.v1
RANDOM = np.random.default_rng(5)


def resized(batch=1, size=(9, 11), dtype=tf.float32, filter_shape=(3, 3, 4, 5), resize=None, strides=1, **more):
    """A convolution over a ResizeBilinear."""
    with building() as g:
        x = v1.placeholder(dtype, [batch, 6, 7, 4], "x")
        y = tf.raw_ops.ResizeBilinear(images=x, size=list(size), name="resize", **(resize or {}))
        weights = tf.constant(RANDOM.normal(size=filter_shape).astype(np.float32))
        arguments = {"strides": [1, strides, strides, 1], "padding": "SAME", **more}
        y = tf.raw_ops.Conv2D(input=y, filter=weights, name="y", **arguments)
    return view(g, [x], [y])


def old(graph):
    graph_def = with_default_attributes(graph.to_graph_def())
    return Graph.of(transformed(graph_def, ["x"], ["y"], "fuse_resize_and_conv", 60), ["x:0"], ["y:0"])


def reason(graph):
    outcome = fuse_resize_and_conv(graph)
    assert outcome.graph is graph
    return reasons(outcome)["y"]


@pytest.mark.parametrize("align_corners", [True, False])
def test_one_image_is_fused_as_the_old_tool_does(align_corners):
    graph = resized(resize={"align_corners": align_corners})
    outcome = fuse_resize_and_conv(graph)
    assert op_delta(graph, outcome.graph) == {
        "ResizeBilinear": -1,
        "Conv2D": -1,
        "FusedResizeAndPadConv2D": 1,
        "Const": 1,
    }
    feeds = random_feeds(graph)
    assert_same_model(graph, outcome.graph, feeds, rtol=1e-4, atol=1e-4)
    assert op_counts(old(graph)) == op_counts(outcome.graph)
    np.testing.assert_allclose(run(old(graph), feeds)[0], run(outcome.graph, feeds)[0], rtol=1e-4, atol=1e-4)


def test_half_pixel_centers_are_left_alone():
    graph = resized(resize={"half_pixel_centers": True})
    assert "half_pixel_centers" in reason(graph)
    feeds = random_feeds(graph)
    assert np.abs(run(old(graph), feeds)[0] - run(graph, feeds)[0]).max() > 0.1, "the old tool ignores them"


@pytest.mark.parametrize("batch", [2, None])
def test_the_kernel_computes_larger_batches_wrong_so_they_are_left_alone(batch):
    graph = resized(batch)
    assert "only the first image" in reason(graph)
    feeds = random_feeds(graph)
    assert np.abs(run(old(graph), feeds)[0][1] - run(graph, feeds)[0][1]).max() > 0.1


def test_what_the_fused_op_does_not_know_is_left_alone():
    assert "resizes float32 only" in reason(resized(dtype=tf.uint8))
    assert "knows no dilations" in reason(resized(dilations=[1, 2, 2, 1]))
    assert "knows no groups" in reason(resized(filter_shape=(3, 3, 2, 4)))
    explicit = [0, 0, 1, 1, 1, 1, 0, 0]
    assert "the convolution EXPLICIT" in reason(resized(padding="EXPLICIT", explicit_paddings=explicit))
    assert "NHWC only" in reason(resized(data_format="NCHW", filter_shape=(3, 3, 9, 2)))
    graph = resized()
    assert "part of the interface" in reason(Graph.of(graph.to_graph_def(), ["x:0"], ["y:0", "resize:0"]))


def test_a_size_that_is_not_a_constant():
    with building() as g:
        x = v1.placeholder(tf.float32, [1, 6, 7, 4], "x")
        size = v1.placeholder(tf.int32, [2], "size")
        y = tf.raw_ops.ResizeBilinear(images=x, size=size)
        weights = tf.constant(RANDOM.normal(size=(3, 3, 4, 5)).astype(np.float32))
        y = tf.nn.conv2d(y, weights, 1, "SAME", name="y")
    graph = view(g, [x, size], [y])
    outcome = fuse_resize_and_conv(graph)
    assert outcome.changes == 1
    feeds = {"x:0": random_feeds(view(g, [x], [y]))["x:0"], "size:0": np.array([5, 13], np.int32)}
    assert_same_model(graph, outcome.graph, feeds, rtol=1e-4, atol=1e-4)


@settings(max_examples=25, deadline=None, derandomize=True)
@given(st.data())
def test_computes_the_same(data):
    draw = data.draw
    batch = draw(st.sampled_from([1, 1, 1, 2]))
    half = draw(st.sampled_from([False, False, True]))
    resize = {"half_pixel_centers": half, "align_corners": not half and draw(st.booleans())}
    size = draw(st.tuples(st.integers(1, 12), st.integers(1, 12)))
    kernel = draw(st.tuples(st.integers(1, 3), st.integers(1, 3)))
    padding = draw(st.sampled_from(["SAME", "VALID"]))
    assume(padding == "SAME" or (size[0] >= kernel[0] and size[1] >= kernel[1]))
    graph = resized(batch, size, tf.float32, (*kernel, 4, 3), resize, draw(st.integers(1, 3)), padding=padding)
    outcome = fuse_resize_and_conv(graph)
    assert outcome.changes == (batch == 1 and not half)
    feeds = random_feeds(graph)
    np.testing.assert_allclose(run(outcome.graph, feeds)[0], run(graph, feeds)[0], rtol=1e-4, atol=1e-4)
