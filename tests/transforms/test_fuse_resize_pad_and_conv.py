import numpy as np
import pytest
import tensorflow as tf
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from tests.graphs import assert_same_model, building, op_counts, op_delta, random_feeds, reasons, run, view
from tests.old_tool import transformed, with_default_attributes
from tfslim_core.graph import Graph
from tfslim_core.transforms.fuse_resize_pad_and_conv import fuse_resize_pad_and_conv

v1 = tf.compat.v1
RANDOM = np.random.default_rng(6)
PADS = [[0, 0], [1, 2], [2, 1], [0, 0]]


def resized(batch=1, size=(9, 11), pads=PADS, mode="REFLECT", kernel=(3, 3), resize=None, strides=1, **more):
    """A convolution over a MirrorPad over a ResizeBilinear."""
    with building() as g:
        x = v1.placeholder(tf.float32, [batch, 6, 7, 4], "x")
        y = tf.raw_ops.ResizeBilinear(images=x, size=list(size), name="resize", **(resize or {}))
        y = tf.raw_ops.MirrorPad(input=y, paddings=pads, mode=mode, name="pad")
        weights = tf.constant(RANDOM.normal(size=(*kernel, 4, 5)).astype(np.float32))
        arguments = {"strides": [1, strides, strides, 1], "padding": "VALID", **more}
        y = tf.raw_ops.Conv2D(input=y, filter=weights, name="y", **arguments)
    return view(g, [x], [y])


def old(graph):
    graph_def = with_default_attributes(graph.to_graph_def())
    return Graph.of(transformed(graph_def, ["x"], ["y"], "fuse_resize_pad_and_conv", 60), ["x:0"], ["y:0"])


def reason(graph):
    outcome = fuse_resize_pad_and_conv(graph)
    assert outcome.graph is graph
    return reasons(outcome)["y"]


@pytest.mark.parametrize("mode", ["REFLECT", "SYMMETRIC"])
def test_one_image_is_fused_as_the_old_tool_does(mode):
    graph = resized(mode=mode)
    outcome = fuse_resize_pad_and_conv(graph)
    assert op_delta(graph, outcome.graph) == {
        "ResizeBilinear": -1,
        "MirrorPad": -1,
        "Conv2D": -1,
        "FusedResizeAndPadConv2D": 1,
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
    assert "knows no dilations" in reason(resized(dilations=[1, 2, 2, 1]))
    assert "rows and columns only" in reason(resized(pads=[[1, 0], [1, 1], [1, 1], [0, 0]], mode="SYMMETRIC"))
    explicit = [0, 0, 1, 1, 1, 1, 0, 0]
    assert "the convolution EXPLICIT" in reason(resized(padding="EXPLICIT", explicit_paddings=explicit))
    for name in ("resize", "pad"):
        graph = Graph.of(resized().to_graph_def(), ["x:0"], ["y:0", f"{name}:0"])
        assert "part of the interface" in reason(graph)


@settings(max_examples=25, deadline=None, derandomize=True)
@given(st.data())
def test_computes_the_same(data):
    draw = data.draw
    batch = draw(st.sampled_from([1, 1, 1, 2]))
    half = draw(st.sampled_from([False, False, True]))
    resize = {"half_pixel_centers": half, "align_corners": not half and draw(st.booleans())}
    size = draw(st.tuples(st.integers(4, 12), st.integers(4, 12)))
    pads = [[0, 0], *(draw(st.lists(st.integers(0, 3), min_size=2, max_size=2)) for _ in "hw"), [0, 0]]
    kernel = draw(st.tuples(st.integers(1, 3), st.integers(1, 3)))
    mode, padding = draw(st.sampled_from(["REFLECT", "SYMMETRIC"])), draw(st.sampled_from(["SAME", "VALID"]))
    assume(size[0] >= kernel[0] and size[1] >= kernel[1])
    graph = resized(batch, size, pads, mode, kernel, resize, draw(st.integers(1, 3)), padding=padding)
    outcome = fuse_resize_pad_and_conv(graph)
    assert outcome.changes == (batch == 1 and not half)
    feeds = random_feeds(graph)
    np.testing.assert_allclose(run(outcome.graph, feeds)[0], run(graph, feeds)[0], rtol=1e-4, atol=1e-4)
