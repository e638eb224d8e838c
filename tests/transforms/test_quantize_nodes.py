import itertools

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from tests import old_tool
from tests.graphs import (
    assert_same_interface,
    building,
    normal,
    op_counts,
    op_delta,
    random_feeds,
    reasons,
    run,
    values,
    view,
    whole_graph_def,
)
from tfslim_core.encodings import Sharing, encoded
from tfslim_core.errors import TransformError
from tfslim_core.graph import Graph, control_inputs, parse_input
from tfslim_core.quantized_ops import MOST_TERMS, codes, with_zero
from tfslim_core.transforms import apply
from tfslim_core.transforms.quantize_nodes import quantize_nodes

v1 = tf.compat.v1
raw = tf.raw_ops


def step(value):
    """The least difference that eight bits can tell, of a tensor with values like these."""
    value = np.asarray(value)
    return (max(value.max(initial=0), 0) - min(value.min(initial=0), 0)) / 255


def worst(before, after, feeds):
    """The largest error of each output, in steps of that output."""
    assert_same_interface(before, after)
    found = []
    for name, wanted, got in zip(before.outputs, run(before, feeds), run(after, feeds), strict=True):
        assert (got.dtype, got.shape) == (wanted.dtype, wanted.shape), name
        assert np.isfinite(got).all(), name
        found.append(np.abs(got.astype(float) - wanted).max(initial=0) / (step(wanted) or 1))
    return found


def kernels(graph):
    return sorted(node.op for node in graph.nodes.values() if node.op.startswith("Quantized"))


def images(channels=3, size=9, name="x", batch=2):
    return v1.placeholder(tf.float32, [batch, size, size, channels], name)


def conv(x, shape, strides=1, padding="SAME", seed=1, name="y", **more):
    return raw.Conv2D(
        input=x,
        filter=tf.constant(normal(*shape, seed=seed), name=f"{name}/w"),
        strides=[1, strides, strides, 1],
        padding=padding,
        name=name,
        **more,
    )


# Each op: how to build it, its kernel, and how many steps of the output it may be wrong by on normal inputs. Each input
# is wrong by half a step of its own, the result by one more; a step is a 255th of the range.
OPS = {
    "Add": (lambda: raw.Add(x=images(), y=tf.constant(normal(3)), name="y"), "QuantizedAdd", 4),
    "AddV2": (lambda: raw.AddV2(x=images(), y=images(name="z"), name="y"), "QuantizedAdd", 4),
    "AvgPool": (
        lambda: raw.AvgPool(value=images(), ksize=[1, 3, 2, 1], strides=[1, 2, 2, 1], padding="SAME", name="y"),
        "QuantizedAvgPool",
        6,
    ),
    "BiasAdd": (lambda: raw.BiasAdd(value=images(), bias=tf.constant(normal(3)), name="y"), "QuantizedAdd", 4),
    "Concat": (lambda: raw.Concat(concat_dim=2, values=[images(), images(name="z")], name="y"), "QuantizedConcat", 3),
    "ConcatV2": (
        lambda: raw.ConcatV2(values=[images(), images(5, name="z")], axis=tf.constant(-1, tf.int64), name="y"),
        "QuantizedConcat",
        3,
    ),
    "Conv2D": (lambda: conv(images(), [3, 3, 3, 4], 2), "QuantizedConv2D", 6),
    "MatMul": (
        lambda: raw.MatMul(a=v1.placeholder(tf.float32, [4, 7], "x"), b=tf.constant(normal(7, 5)), name="y"),
        "QuantizedMatMul",
        5,
    ),
    "MaxPool": (
        lambda: raw.MaxPool(input=images(), ksize=[1, 2, 3, 1], strides=[1, 2, 1, 1], padding="VALID", name="y"),
        "QuantizedMaxPool",
        3,
    ),
    "Mul": (lambda: raw.Mul(x=images(), y=tf.constant(normal(1, 1, 1, 3)), name="y"), "QuantizedMul", 4),
    "Relu": (lambda: raw.Relu(features=images(), name="y"), "QuantizedRelu", 4),
    "Relu6": (lambda: raw.Relu6(features=images(), name="y"), "QuantizedRelu6", 4),
    "Reshape": (lambda: raw.Reshape(tensor=images(), shape=[-1, 3], name="y"), "QuantizedReshape", 2),
    "ResizeBilinear": (
        lambda: raw.ResizeBilinear(images=images(), size=[13, 5], half_pixel_centers=True, name="y"),
        "QuantizedResizeBilinear",
        5,
    ),
}


def graph_of(build):
    with building() as g:
        y = build()
    inputs = [f"{node.name}:0" for node in g.as_graph_def().node if node.op == "Placeholder"]
    return view(g, inputs, [y])


@pytest.mark.parametrize("op", OPS)
def test_each_op_is_computed_in_eight_bits(op):
    build, kernel, most = OPS[op]
    graph = graph_of(build)
    outcome = quantize_nodes(graph)
    assert (outcome.changes, outcome.skipped) == (1, ())
    assert kernels(outcome.graph) == [kernel]
    assert op not in op_counts(outcome.graph)
    assert worst(graph, outcome.graph, random_feeds(graph)) < [most]


@pytest.mark.parametrize("op", OPS)
def test_tensors_of_zeros_and_of_one_sign_are_no_range_to_divide_by(op):
    graph = graph_of(OPS[op][0])
    slim = quantize_nodes(graph).graph
    for low, high in ((0, 0), (-3, -2), (2, 3), (-1e-7, 1e-7), (1e-9, 1e-9)):
        feeds = {
            name: np.linspace(low, high, x.size).reshape(x.shape).astype("f") for name, x in random_feeds(graph).items()
        }
        assert worst(graph, slim, feeds) < [8], (low, high)


@pytest.mark.parametrize("transpose_a", [False, True])
@pytest.mark.parametrize("transpose_b", [False, True])
def test_matrices_are_multiplied_transposed(transpose_a, transpose_b):
    with building() as g:
        x = v1.placeholder(tf.float32, [7, 4] if transpose_a else [4, 7], "x")
        w = tf.constant(normal(*((5, 7) if transpose_b else (7, 5))))
        y = raw.MatMul(a=x, b=w, transpose_a=transpose_a, transpose_b=transpose_b, name="y")
    graph = view(g, [x], [y])
    outcome = quantize_nodes(graph)
    assert outcome.changes == 1
    assert worst(graph, outcome.graph, random_feeds(graph)) < [5]


@settings(max_examples=30, deadline=None, derandomize=True)
@given(
    size=st.tuples(st.integers(5, 14), st.integers(5, 14)),
    window=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    stride=st.integers(1, 5),
    padding=st.sampled_from(["SAME", "VALID"]),
    known=st.booleans(),
)
def test_convolutions_are_right_or_left(size, window, stride, padding, known):
    """The kernel places its windows wrong where some of the image is left over; that must be seen."""
    with building() as g:
        x = v1.placeholder(tf.float32, [2, *size, 3] if known else [None, None, None, 3], "x")
        y = conv(x, [*window, 3, 4], stride, padding)
    graph = view(g, [x], [y])
    outcome = quantize_nodes(graph)
    if outcome.changes:
        feeds = {"x:0": normal(2, *size, 3)}
        assert worst(graph, outcome.graph, feeds) < [8]
    else:
        assert "begin beside the image" in reasons(outcome)["y"]
        assert stride > 2


def test_most_convolutions_are_not_left():
    cases = itertools.product(range(8, 12), (1, 3, 5), (1, 2), ("SAME", "VALID"))
    for size, window, stride, padding in cases:
        with building() as g:
            x = v1.placeholder(tf.float32, [None, size, size, 3], "x")
            y = conv(x, [window, window, 3, 4], stride, padding)
        assert quantize_nodes(view(g, [x], [y])).changes == 1, (size, window, stride, padding)


def test_the_kernel_would_be_wrong_where_a_convolution_is_left():
    with building() as g:
        x = images(size=12)
        y = conv(x, [1, 1, 3, 4], 4, "VALID")
    graph = view(g, [x], [y])
    assert "begin beside the image (stride 4, window 1)" in reasons(quantize_nodes(graph))["y"]
    wrong = old_tool.transformed(old_tool.with_default_attributes(g.as_graph_def()), ["x"], ["y"], "quantize_nodes")
    assert worst(graph, Graph.of(wrong, ["x:0"], ["y:0"]), random_feeds(graph)) > [50]


def two(shape_a, shape_b, op=raw.AddV2):
    with building() as g:
        a, b = v1.placeholder(tf.float32, shape_a, "a"), v1.placeholder(tf.float32, shape_b, "b")
        y = op(x=a, y=b, name="y")
    return view(g, [a, b], [y])


SUFFIXES = [
    ([4, 6], [6], True),
    ([6], [4, 6], True),
    ([4, 6], [1, 6], True),
    ([4, 6], [], True),
    ([1, 1], [4, 6], True),
    ([2, 3, 4], [3, 4], True),
    ([None, 6], [None, 6], True),
    ([None, 6], [4, 6], True),
    ([None, 2, 6], [2, 6], True),
    ([None, None, 6], [6], True),
    ([4, 1], [4, 1], True),
    ([4, 6], [4, 1], False),
    ([4, 1], [1, 6], False),
    ([2, 3, 4], [2, 1, 4], False),
    ([2, 3, 4], [3, 1], False),
    ([None, None, 6], [None, None, 6], False),
    ([None, 6], [None, 1], False),
    ([4, None], [4, 6], False),
    (None, [6], False),
]


@pytest.mark.parametrize(("shape_a", "shape_b", "possible"), SUFFIXES)
@pytest.mark.parametrize("op", [raw.AddV2, raw.Mul])
def test_the_kernels_repeat_along_leading_axes_only(shape_a, shape_b, possible, op):
    graph = two(shape_a, shape_b, op)
    outcome = quantize_nodes(graph)
    assert outcome.changes == possible
    if not possible:
        reason = reasons(outcome)["y"]
        assert "leading axes" in reason or "not known" in reason
        return
    for batch in (4, 1):
        sizes = [[(batch if i == 0 else 2) if d is None else d for i, d in enumerate(s)] for s in (shape_a, shape_b)]
        feeds = {"a:0": normal(*sizes[0]), "b:0": normal(*sizes[1], seed=1)}
        assert worst(graph, outcome.graph, feeds) < [8]


def test_a_sum_that_may_leave_32_bits_is_left():
    def of(terms):
        with building() as g:
            x = v1.placeholder(tf.float32, [None, terms], "x")
            y = tf.matmul(x, tf.constant(np.ones([terms, 1], np.float32)), name="y")
        return view(g, [x], [y])

    graph = of(MOST_TERMS)
    outcome = quantize_nodes(graph)
    assert worst(graph, outcome.graph, {"x:0": np.ones([1, MOST_TERMS], np.float32)}) < [1]
    assert "may leave 32 bits" in reasons(quantize_nodes(of(MOST_TERMS + 1)))["y"]


def left(build, name="y"):
    graph = graph_of(build)
    outcome = quantize_nodes(graph)
    assert outcome.graph is graph
    assert outcome.changes == 0
    return reasons(outcome)[name]


def test_what_the_kernels_do_not_know_is_left():
    x = images
    assert "NHWC, not NCHW" in left(
        lambda: raw.BiasAdd(value=x(), bias=tf.constant(normal(9)), data_format="NCHW", name="y")
    )
    assert "NHWC, not NCHW" in left(
        lambda: raw.MaxPool(input=x(), ksize=[1] * 4, strides=[1] * 4, padding="SAME", data_format="NCHW", name="y")
    )
    nchw = {"strides": [1, 1, 2, 2], "padding": "SAME", "data_format": "NCHW"}
    assert "NHWC, not NCHW" in left(
        lambda: raw.Conv2D(input=x(), filter=tf.constant(normal(3, 3, 9, 4)), **nchw, name="y")
    )
    assert "no dilations" in left(lambda: conv(x(), [3, 3, 3, 4], dilations=[1, 2, 2, 1]))
    assert "no groups" in left(lambda: conv(x(4), [3, 3, 2, 4]))
    assert "one stride" in left(
        lambda: raw.Conv2D(
            input=x(), filter=tf.constant(normal(3, 3, 3, 4)), strides=[1, 1, 2, 1], padding="SAME", name="y"
        )
    )
    pads = {"padding": "EXPLICIT", "explicit_paddings": [0, 0, 1, 1, 1, 1, 0, 0]}
    assert "no EXPLICIT padding" in left(lambda: conv(x(), [3, 3, 3, 4], **pads))
    assert "no EXPLICIT padding" in left(
        lambda: raw.MaxPool(input=x(), ksize=[1, 3, 3, 1], strides=[1] * 4, **pads, name="y")
    )
    over_channels = {"ksize": [1, 1, 1, 3], "strides": [1, 1, 1, 3], "padding": "VALID"}
    assert "over examples or channels" in left(lambda: raw.MaxPool(input=x(), **over_channels, name="y"))
    assert "channels its input has is not known" in left(
        lambda: conv(v1.placeholder(tf.float32, None, "x"), [3, 3, 3, 4])
    )
    assert "filter's shape is not known" in left(
        lambda: raw.Conv2D(
            input=x(), filter=v1.placeholder(tf.float32, None, "f"), strides=[1] * 4, padding="SAME", name="y"
        )
    )
    assert "products it sums up is not known" in left(
        lambda: raw.MatMul(a=v1.placeholder(tf.float32, None, "a"), b=v1.placeholder(tf.float32, None, "b"), name="y")
    )
    assert "no elements" in left(lambda: raw.Relu(features=v1.placeholder(tf.float32, [0, 3], "x"), name="y"))
    assert "axis is not a constant" in left(
        lambda: raw.ConcatV2(values=[x(), x(name="z")], axis=v1.placeholder(tf.int32, [], "axis"), name="y")
    )
    assert "of how many -1 is one is not known" in left(
        lambda: raw.ConcatV2(values=[v1.placeholder(tf.float32, None, n) for n in "ab"], axis=-1, name="y")
    )


def test_the_transposed_convolution_has_no_kernel():
    def build():
        return raw.Conv2DBackpropInput(
            input_sizes=[2, 18, 18, 3],
            filter=tf.constant(normal(3, 3, 3, 4)),
            out_backprop=images(4),
            strides=[1, 2, 2, 1],
            padding="SAME",
            name="y",
        )

    assert left(build) == "TensorFlow has no eight-bit kernel for it"


@pytest.mark.parametrize("dtype", [tf.float16, tf.float64, tf.bfloat16, tf.int32])
def test_other_types_are_left(dtype):
    assert dtype.name in left(lambda: raw.AddV2(x=v1.placeholder(dtype, [3], "x"), y=tf.ones([3], dtype), name="y"))


@pytest.mark.parametrize(("value", "said"), [(np.nan, "NaN"), (np.inf, "infinity"), (1e30, "too much for products")])
def test_constants_that_are_no_range_are_left(value, said):
    weights = normal(3, 4)
    weights[1, 2] = value
    assert said in left(lambda: tf.matmul(v1.placeholder(tf.float32, [2, 3], "x"), tf.constant(weights), name="y"))


def test_what_is_placed_on_a_gpu_is_left():
    def build():
        x = images()
        with tf.device("/device:GPU:0"):
            return raw.Relu(features=x, name="y")

    assert "no eight-bit kernels" in left(build)


def net(outputs=("z",)):
    """A convolution block, a branch, and a classifier."""
    with building() as g:
        x = images(batch=None, size=8)
        h = conv(x, [3, 3, 3, 4], 2, name="c")
        h = raw.Relu6(features=raw.BiasAdd(value=h, bias=tf.constant(normal(4)), name="b"), name="r")
        side = conv(h, [1, 1, 4, 4], name="side")
        h = raw.AddV2(x=h, y=side, name="sum")
        h = raw.MaxPool(input=h, ksize=[1, 2, 2, 1], strides=[1, 2, 2, 1], padding="SAME", name="pool")
        h = raw.Reshape(tensor=h, shape=[-1, 16], name="flat")
        logits = tf.matmul(h, tf.constant(normal(16, 5)), name="logits")
        raw.Softmax(logits=logits * 0.1, name="z")
    return view(g, [x], [f"{name}:0" for name in outputs])


def test_a_chain_stays_in_eight_bits():
    graph = net()
    outcome = quantize_nodes(graph)
    ops = op_counts(outcome.graph)
    assert (ops["QuantizeV2"], ops["Dequantize"], ops["Min"], ops["Max"]) == (1, 1, 1, 1)
    assert kernels(outcome.graph) == sorted(
        "QuantizedConv2D QuantizedConv2D QuantizedAdd QuantizedAdd QuantizedMaxPool QuantizedReshape "
        "QuantizedMatMul QuantizedMul".split()
    )
    assert worst(graph, outcome.graph, random_feeds(graph, unknown=6)) < [12]


def test_a_second_run_changes_nothing():
    once = quantize_nodes(net()).graph
    again = quantize_nodes(once)
    assert (again.changes, again.skipped) == (0, ())
    assert again.graph is once


def test_stripped_default_attributes_are_looked_up():
    graph = net()
    graph_def = whole_graph_def(graph)
    for node in graph_def.node:
        for key in ("data_format", "dilations", "transpose_a", "transpose_b", "explicit_paddings", "use_cudnn_on_gpu"):
            node.attr.pop(key, None)
    graph = Graph.of(graph_def, graph.inputs, graph.outputs)
    outcome = quantize_nodes(graph)
    assert outcome.changes == 9
    assert worst(graph, outcome.graph, random_feeds(graph)) < [12]


def test_outputs_in_the_middle_keep_name_and_type():
    graph = net(("r", "c", "z", "flat"))
    outcome = quantize_nodes(graph)
    assert [outcome.graph.nodes[name].op for name in ("c", "r", "flat")] == ["Dequantize"] * 3
    assert max(worst(graph, outcome.graph, random_feeds(graph))) < 12
    apply(graph, "quantize_nodes")  # which checks the interface


def test_float_readers_still_get_a_float():
    with building() as g:
        x = images()
        h = raw.Relu(features=x, name="h")
        y, z = tf.exp(-h, name="y"), raw.MaxPool(input=h, ksize=[1] * 4, strides=[1] * 4, padding="SAME", name="z")
    graph = view(g, [x], [y, z])
    slim = quantize_nodes(graph).graph
    assert slim.nodes["h"].op == "Dequantize"
    assert max(worst(graph, slim, random_feeds(graph))) < 5


def test_a_tensor_is_quantized_once_for_all_its_readers():
    with building() as g:
        x = images()
        w = tf.constant(normal(1, 1, 3, 3))
        ys = [raw.Conv2D(input=x, filter=w, strides=[1] * 4, padding="SAME", name=f"y{i}") for i in range(3)]
    graph = view(g, [x], ys)
    ops = op_counts(quantize_nodes(graph).graph)
    assert (ops["QuantizeV2"], ops["Min"], ops["Bitcast"], ops["QuantizedConv2D"]) == (1, 1, 1, 3)


def test_a_node_that_is_fed_is_left():
    graph = net()
    graph = Graph.of(whole_graph_def(graph), ["x:0", "pool:0"], graph.outputs)
    outcome = quantize_nodes(graph)
    assert outcome.graph.nodes["pool"].op == "MaxPool"
    feeds = {"x:0": normal(3, 8, 8, 3), "pool:0": np.abs(normal(3, 2, 2, 4))}
    assert worst(graph, outcome.graph, feeds) < [12]


def test_control_inputs_are_kept():
    with building() as g:
        x = images()
        check = v1.debugging.Assert(tf.reduce_all(x < 100), [x], name="check")
        with tf.control_dependencies([check]):
            h = raw.Relu(features=x, name="h")
            w, axis = tf.constant(normal(3), name="w"), tf.constant(3, name="axis")
        h = raw.ConcatV2(values=[raw.Mul(x=h, y=w), x], axis=axis, name="joined")
        y = raw.MaxPool(input=h, ksize=[1] * 4, strides=[1] * 4, padding="SAME", name="y")
        with tf.control_dependencies([y]):
            z = tf.constant(1.0, name="z")
    graph = view(g, [x], [y, z])
    slim = quantize_nodes(graph).graph
    guard = control_inputs(graph.nodes["h"])
    assert guard
    for name in ("h/eightbit", "w/eightbit/codes", "joined/eightbit"):
        assert control_inputs(slim.nodes[name]) == guard, name
    assert control_inputs(slim.nodes["z"]) == ["y"]
    assert worst(graph, slim, random_feeds(graph))[0] < 6
    with pytest.raises(tf.errors.InvalidArgumentError):
        run(slim, {"x:0": np.full([2, 9, 9, 3], 200, "f")}, ["y:0"])


def test_an_input_range_is_fixed_and_the_input_stays_float():
    graph = net()
    slim, _ = apply(graph, "quantize_nodes(input_min=-4, input_max=4)")
    assert slim.nodes["x"].attr["dtype"].type == tf.float32.as_datatype_enum
    ops = op_counts(slim)
    assert (ops["Min"], ops["Max"], ops["RequantizationRange"]) == (0, 0, 6)
    assert worst(graph, slim, random_feeds(graph)) < [14]


def test_a_fallback_range_takes_the_place_of_measuring():
    graph = net()
    slim, _ = apply(graph, "quantize_nodes(fallback_min=-16, fallback_max=16)")
    ops = op_counts(slim)
    assert ops["RequantizationRange"] == 0
    assert ops["Min"] == 1  # of the input, which the fallback would cut off
    assert ops["QuantizedRelu6"] == 1
    both = quantize_nodes(graph, input_min=-4, input_max=4, fallback_min=-16, fallback_max=16).graph
    assert op_counts(both)["Min"] == 0
    feeds = {"x:0": normal(2, 8, 8, 3, scale=0.3)}
    assert worst(graph, both, feeds) < [60]


@pytest.mark.parametrize("which", ["input", "fallback"])
def test_half_a_range_is_an_error(which):
    for there, missing in (("min", "max"), ("max", "min")):
        with pytest.raises(TransformError, match=f"{which}_{there} is given without {which}_{missing}"):
            quantize_nodes(net(), **{f"{which}_{there}": 1.0})
    for low, high in ((1.0, 1.0), (2.0, 1.0), (float("nan"), 1.0), (0.0, float("inf"))):
        with pytest.raises(TransformError, match="no range"):
            quantize_nodes(net(), **{f"{which}_min": low, f"{which}_max": high})


def test_ops_can_be_ignored():
    graph = net()
    slim = quantize_nodes(graph, ignore_op=("Add", "MatMul")).graph
    ops = op_counts(slim)
    assert (ops["AddV2"], ops["MatMul"], ops["QuantizedConv2D"]) == (1, 1, 2)
    with pytest.raises(TransformError, match=r"ignore_op=Conv2d is no op.*did you mean 'Conv2D'"):
        quantize_nodes(graph, ignore_op=("Conv2d",))


def fake(x, low, high, name="fake", **more):
    return raw.FakeQuantWithMinMaxVars(inputs=x, min=tf.constant(low), max=tf.constant(high), name=name, **more)


def test_trained_ranges_are_used():
    """The range of a FakeQuant reaches the convolution past what keeps the order of values."""
    with building() as g:
        x = images()
        h = raw.Relu(features=raw.BiasAdd(value=conv(x, [3, 3, 3, 4]), bias=tf.constant(normal(4)), name="b"))
        h = raw.MaxPool(input=h, ksize=[1, 2, 2, 1], strides=[1, 2, 2, 1], padding="SAME")
        y = tf.exp(fake(h, 0.0, 3.0) * 0.1, name="y")
    graph = view(g, [x], [y])
    outcome = quantize_nodes(graph)
    ends = outcome.graph.nodes["b/eightbit/requantize"].input[3:]
    assert [values(outcome.graph)[name] for name in ends] == [0, 3]
    assert "FakeQuantWithMinMaxVars" not in op_counts(outcome.graph)
    assert op_counts(outcome.graph)["QuantizeV2"] == 1
    assert worst(graph, outcome.graph, random_feeds(graph)) < [8]


def test_a_trained_range_before_an_average_is_not_moved():
    with building() as g:
        x = images()
        h = raw.BiasAdd(value=x, bias=tf.constant(normal(3)), name="b")
        h = raw.AvgPool(value=h, ksize=[1, 3, 3, 1], strides=[1] * 4, padding="VALID")
        y = fake(h, -0.2, 0.2, name="y")
    graph = view(g, [x], [y])
    slim = quantize_nodes(graph).graph
    assert op_counts(slim)["QuantizeV2"] == 2  # of the input, and of the average in its range
    assert worst(graph, slim, random_feeds(graph)) < [20]
    assert np.abs(run(slim, random_feeds(graph))[0]).max() < 0.21


def test_trained_ranges_of_inputs_and_weights_are_exact():
    """With both ranges given, FakeQuant and the eight-bit graph round alike: only float rounding is left."""
    with building() as g:
        x = v1.placeholder(tf.float32, [8, 16], "x")
        y = tf.matmul(fake(x, -2.1, 1.9, "fx"), fake(tf.constant(normal(16, 4)), -1.5, 1.0, "fw"), name="y")
        z = tf.identity(raw.Identity(input=fake(x, -2.1, 1.9, "f2")), name="z")
    graph = view(g, [x], [y, z])
    slim = quantize_nodes(graph).graph
    assert op_counts(slim)["QuantizeV2"] == 1
    errors = worst(graph, slim, random_feeds(graph))
    assert errors[0] < 2
    assert errors[1] < 1.01  # a value halfway between two codes may go either way


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"num_bits": 4}, "4 bits"),
        ({"narrow_range": True}, "narrow range"),
        ({"low": 0.5}, "does not hold zero"),
        ({"low": float("nan")}, "does not hold zero"),
    ],
)
def test_other_trained_ranges_are_left(more, said):
    low = more.pop("low", -1.0)
    assert said in left(lambda: fake(images(), low, 1.0, "y", **more))


def test_a_trained_range_that_is_not_constant_is_left():
    def build():
        x = images()
        return raw.FakeQuantWithMinMaxVars(inputs=x, min=-1.0, max=tf.reduce_max(x), name="y")

    assert left(build) == "its range is not constant"


def test_weights_behind_an_identity_are_constants():
    with building() as g:
        x = v1.placeholder(tf.float32, [4, 7], "x")
        y = tf.matmul(x, tf.identity(tf.constant(normal(7, 5), name="w"), name="read"), name="y")
    graph = view(g, [x], [y])
    slim = quantize_nodes(graph).graph
    assert op_counts(slim)["Min"] == 1
    assert not {"w", "read"} & set(slim.nodes)


def test_large_weights_stay_weights_of_a_quarter_the_size():
    with building() as g:
        x = v1.placeholder(tf.float32, [None, 100], "x")
        y = tf.matmul(x, tf.constant(normal(100, 50), name="w"), name="y")
    graph = view(g, [x], [y])
    slim = quantize_nodes(graph).graph
    assert {name: weight.nbytes for name, weight in slim.weights.items()} == {"w/eightbit/codes": 5000}
    assert worst(graph, slim, random_feeds(graph)) < [5]


def test_a_constant_that_others_read_stays_for_them():
    with building() as g:
        x = v1.placeholder(tf.float32, [4, 7], "x")
        w = tf.constant(normal(7, 5), name="w")
        y, z = tf.matmul(x, w, name="y"), tf.reduce_sum(w, 0, name="z")
    graph = view(g, [x], [y, z])
    slim = quantize_nodes(graph).graph
    assert "w" in slim.nodes
    assert worst(graph, slim, random_feeds(graph))[1] == 0


def test_encoded_weights_are_read_decoded():
    with building() as g:
        x = v1.placeholder(tf.float32, [4, 100], "x")
        y = tf.matmul(x, tf.constant(normal(100, 50), name="w"), name="y")
    graph = view(g, [x], [y])
    graph = Graph.of(
        graph.to_graph_def(),
        graph.inputs,
        graph.outputs,
        weights={"w": encoded(graph.weights["w"], "int8", Sharing((0,)))},
    )
    slim = quantize_nodes(graph).graph
    assert slim.weights["w/eightbit/codes"].encoded is None
    assert worst(graph, slim, random_feeds(graph)) < [5]


def test_names_that_are_taken_are_not_given_again():
    with building() as g:
        x = images()
        y = conv(x, [1, 1, 3, 3], name="y")
        others = [tf.exp(x, name=f"y/{name}") for name in ("eightbit", "eightbit/requantize", "w/eightbit")]
        others.append(tf.exp(x, name="x/eightbit/quantize"))
    graph = view(g, [x], [y, *others])
    assert max(worst(graph, quantize_nodes(graph).graph, random_feeds(graph))) < 6


def test_tensors_of_unknown_rank_are_measured_too():
    with building() as g:
        x = v1.placeholder(tf.float32, None, "x")
        y = raw.Relu(features=x, name="y")
    graph = view(g, [x], [y])
    outcome = quantize_nodes(graph)
    assert outcome.changes == 1
    for shape in ((), (5,), (2, 3, 4)):
        assert worst(graph, outcome.graph, {"x:0": np.abs(normal(*shape)) + 1}) < [2]
    assert quantize_nodes(outcome.graph).changes == 0


def test_small_values_keep_their_precision():
    with building() as g:
        x = v1.placeholder(tf.float32, [4, 7], "x")
        y = tf.matmul(x, tf.constant(normal(7, 5, scale=1e-4)), name="y")
    graph = view(g, [x], [y])
    assert worst(graph, quantize_nodes(graph).graph, {"x:0": normal(4, 7, scale=1e-5)}) < [5]


def test_biases_shift_nothing_else():
    """QuantizedBiasAdd would move all values by the same three steps or so."""
    for seed in range(20):
        with building() as g:
            x = v1.placeholder(tf.float32, [2000, 4], "x")
            y = raw.BiasAdd(value=x, bias=tf.constant(normal(4, seed=seed)), name="y")
        graph = view(g, [x], [y])
        slim = quantize_nodes(graph).graph
        feeds = {"x:0": normal(2000, 4, seed=seed, scale=0.5 + seed)}
        wanted, found = run(graph, feeds)[0], run(slim, feeds)[0]
        assert abs((found.astype(float) - wanted).mean(0)).max() / step(wanted) < 0.6  # of the bias itself, half a step


def test_a_relu_is_the_end_of_the_range():
    """So all codes are for what it lets through, of values that go far beyond its ends."""
    with building() as g:
        x = images()
        y = raw.Relu6(features=raw.BiasAdd(value=x, bias=tf.constant(normal(3)), name="b"), name="y")
    graph = view(g, [x], [y])
    slim = quantize_nodes(graph, input_min=-6, input_max=9).graph
    assert kernels(slim) == ["QuantizedAdd"]
    assert worst(graph, slim, {"x:0": np.clip(normal(2, 9, 9, 3, scale=20), -6, 9)}) < [5]


def test_a_relu_of_nothing_but_negative_values_gives_zeros():
    """A measured range without zero would make its end of it; the old tool's graph does."""
    with building() as g:
        x = images()
        h = raw.BiasAdd(value=x, bias=tf.constant(np.full(3, -50, "f")), name="b")
        y, z = raw.Relu(features=h, name="y"), tf.exp(h, name="z")
    graph = view(g, [x], [y, z])
    slim = quantize_nodes(graph).graph
    assert kernels(slim) == ["QuantizedAdd", "QuantizedRelu"]
    assert not run(slim, random_feeds(graph), ["y:0"])[0].any()
    old = old_tool.transformed(old_tool.with_default_attributes(g.as_graph_def()), ["x"], ["y", "z"], "quantize_nodes")
    assert run(Graph.of(old, ["x:0"], ["y:0"]), random_feeds(graph))[0].any()


def test_dead_layers_go_on_as_zeros():
    with building() as g:
        x = v1.placeholder(tf.float32, [4, 7], "x")
        h = raw.Relu(features=raw.BiasAdd(value=x, bias=tf.constant(np.full(7, -50, "f"))))
        h = tf.matmul(h, tf.constant(normal(7, 5)))
        h = raw.Mul(x=h, y=h)
        y = raw.BiasAdd(value=h, bias=tf.constant(normal(5)), name="y")
    graph = view(g, [x], [y])
    assert worst(graph, quantize_nodes(graph).graph, random_feeds(graph)) < [3]


def test_a_request_of_nan_is_an_error_rather_than_a_number():
    graph = quantize_nodes(net()).graph
    images_of_nan = np.full([2, 8, 8, 3], np.nan, "f")
    with pytest.raises(tf.errors.InvalidArgumentError):
        run(graph, {"x:0": images_of_nan})


def test_loops_of_tensorflow_1_run():
    with building() as g:
        v1.disable_control_flow_v2()
        try:
            x = v1.placeholder(tf.float32, [4, 5], "x")

            def body(i, h):
                h = tf.matmul(h, tf.constant(normal(5, 5, scale=0.3)), name="inner")
                h = tf.nn.relu(tf.nn.bias_add(h, tf.constant(normal(5))))
                return i + 1, tf.concat([h[:, 1:], h[:, :1]], -1)

            _, h = v1.while_loop(lambda i, _: i < 3, body, [0, x])
            y = v1.cond(tf.reduce_sum(x) > 0, lambda: tf.nn.relu(h), lambda: raw.Mul(x=h, y=h), name="choice")
            y = tf.identity(y, name="y")
        finally:
            v1.enable_control_flow_v2()
    graph = view(g, [x], [y])
    assert graph.has_v1_control_flow
    outcome = quantize_nodes(graph)
    assert outcome.changes >= 5
    for sign in (1, -1):
        assert worst(graph, outcome.graph, {"x:0": sign * np.abs(normal(4, 5))}) < [20]


def test_noted_shapes_that_are_stale_do_not_count():
    graph = two([2, 3, 4], [2, 1, 4])
    graph_def = graph.to_graph_def()
    for node in graph_def.node:
        node.attr["_output_shapes"].list.shape.add().CopyFrom(tf.TensorShape([2, 3, 4]).as_proto())
    assert "leading axes" in reasons(quantize_nodes(Graph.of(graph_def, graph.inputs, graph.outputs)))["y"]


def test_function_bodies_are_not_entered():
    @tf.function(input_signature=[tf.TensorSpec([2, 3], tf.float32)])
    def inner(x):
        return tf.nn.relu(x)

    with building() as g:
        x = v1.placeholder(tf.float32, [2, 3], "x")
        y = tf.nn.relu(inner(x), name="y")
    graph = view(g, [x], [y])
    slim = quantize_nodes(graph).graph
    assert slim.functions == graph.functions
    assert worst(graph, slim, random_feeds(graph)) < [4]


def test_time_is_linear():
    with building() as g:
        h = x = v1.placeholder(tf.float32, [2, 3], "x")
        for i in range(700):
            h = raw.AddV2(x=raw.Relu(features=h), y=x, name=f"h{i}")
    outcome = quantize_nodes(view(g, [x], [h]))
    assert outcome.changes == 1400


@pytest.mark.parametrize("calls", ["quantize_nodes quantize_weights", "quantize_weights quantize_nodes"])
def test_it_runs_before_and_after_quantize_weights(calls):
    with building() as g:
        x = images(32, size=5)
        y = tf.exp(raw.Relu(features=conv(x, [3, 3, 32, 16])) * 0.01, name="y")
    graph = view(g, [x], [y])
    slim, steps = apply(graph, calls.split())
    assert [step.error for step in steps] == ["", ""]
    assert worst(graph, slim, random_feeds(graph)) < [8]


DOCUMENTED = """add_default_attributes strip_unused_nodes(type=float, shape="1,299,299,3")
    remove_nodes(op=Identity, op=CheckNumerics) fold_constants(ignore_errors=true) fold_batch_norms
    fold_old_batch_norms quantize_weights quantize_nodes strip_unused_nodes sort_by_execution_order"""


def test_it_runs_in_the_documented_list():
    with building() as g:
        x = v1.placeholder(tf.float32, [1, 299, 299, 3], "x")
        h = conv(x, [3, 3, 3, 8], 2, name="c")
        h = raw.FusedBatchNormV3(
            x=h,
            scale=tf.constant(np.abs(normal(8))),
            offset=tf.constant(normal(8)),
            mean=tf.constant(normal(8)),
            variance=tf.constant(np.abs(normal(8)) + 0.5),
            is_training=False,
        )[0]
        h = tf.identity(tf.nn.relu6(h))
        h = tf.reduce_mean(h, [1, 2])
        y = tf.nn.softmax(tf.matmul(h, tf.constant(normal(8, 4))), name="y")
    graph = view(g, [x], [y])
    slim, _ = apply(graph, DOCUMENTED)
    assert set(kernels(slim)) == {"QuantizedAdd", "QuantizedConv2D", "QuantizedMatMul"}
    assert worst(graph, slim, random_feeds(graph)) < [20]


def test_the_old_tool_computes_about_the_same():
    graph = net()
    graph_def = old_tool.with_default_attributes(whole_graph_def(graph))
    old = Graph.of(old_tool.transformed(graph_def, ["x"], ["z"], "quantize_nodes"), graph.inputs, graph.outputs)
    slim = quantize_nodes(graph).graph
    # It does not know AddV2, and has a Relu6 of its own where we have the end of a range.
    theirs, ours = set(kernels(old)), set(kernels(slim))
    assert (theirs - ours, ours - theirs) == ({"QuantizedRelu6", "QuantizedBiasAdd"}, {"QuantizedAdd"})
    feeds = random_feeds(graph, unknown=6)
    assert worst(graph, slim, feeds) <= [worst(graph, old, feeds)[0] + 4]
    assert len(slim.nodes) < len(old.nodes)


@pytest.mark.parametrize(("low", "high"), [(-1, 1), (0, 6), (-3.3, 1.7), (-5, -1), (2, 7), (0, 0), (-1e-20, 0)])
def test_codes_stand_for_values(low, high):
    found = with_zero(low, high)
    assert found[0] <= 0 <= found[1]
    assert found[0] < found[1]
    value = np.linspace(low, high, 1001).astype("f")
    size = (found[1] - found[0]) / 255
    back = (codes(value, found) + np.rint(found[0] / size)) * size
    assert np.abs(back - value).max() <= size / 2 * 1.001 + 1e-19
    assert (codes(np.zeros(1, "f"), found) + np.rint(found[0] / size)) == 0
    runtime = raw.Dequantize(
        input=tf.bitcast(tf.constant(codes(value, found)), tf.quint8),
        min_range=found[0],
        max_range=found[1],
        mode="MIN_FIRST",
    )
    np.testing.assert_allclose(runtime, back, rtol=1e-4, atol=size * 1e-3)


@st.composite
def nets(draw):
    """Random nets: branches, fan-out, shared weights, control edges, outputs anywhere, zeros and one-sided values."""
    seed = draw(st.integers(0, 10**6))
    random = np.random.default_rng(seed)
    scale = draw(st.sampled_from([1e-3, 1.0, 30.0]))
    with building() as g:
        x = v1.placeholder(tf.float32, [2, 6, 6, 4], "x")
        tensors = [x]
        shared = tf.constant(random.normal(size=[3, 3, 4, 4]).astype("f") * 0.4)
        bias = tf.constant(random.normal(size=[4]).astype("f") * scale)
        window = {"ksize": [1, 2, 2, 1], "strides": [1, 1, 1, 1], "padding": "SAME"}
        kinds = [
            "conv",
            "bias",
            "relu",
            "relu6",
            "add",
            "mul",
            "max",
            "avg",
            "concat",
            "resize",
            "dead",
            "neg",
            "reshape",
        ]
        for _ in range(draw(st.integers(2, 7))):
            h, other = (tensors[draw(st.integers(0, len(tensors) - 1))] for _ in range(2))
            kind = draw(st.sampled_from(kinds))
            before = [tensors[-1]] if draw(st.booleans()) else []
            with tf.control_dependencies(before):
                match kind:
                    case "conv":
                        h = raw.Conv2D(input=h, filter=shared, strides=[1] * 4, padding="SAME")
                    case "bias":
                        h = raw.BiasAdd(value=h, bias=bias)
                    case "relu" | "relu6":
                        h = raw.Relu(features=h) if kind == "relu" else raw.Relu6(features=h)
                    case "add":
                        h = raw.AddV2(x=h, y=other)
                    case "mul":
                        h = raw.Mul(x=h, y=tf.constant(random.normal(size=[4]).astype("f")))
                    case "max":
                        h = raw.MaxPool(input=h, **window)
                    case "avg":
                        h = raw.AvgPool(value=h, **window)
                    case "concat":
                        h = raw.ConcatV2(values=[h[..., :2], other[..., 2:]], axis=-1)
                    case "resize":
                        h = raw.ResizeBilinear(images=h, size=[6, 6])
                    case "dead":
                        h = raw.Relu(features=raw.BiasAdd(value=h, bias=tf.fill([4], -1e4)))
                    case "neg":
                        h = -tf.abs(h)
                    case "reshape":
                        h = raw.Reshape(tensor=h, shape=[-1, 6, 6, 4])
            tensors.append(h)
        outputs = list({t.name: t for t in (tensors[-1], draw(st.sampled_from(tensors[1:])))}.values())
    feeds = {"x:0": random.normal(size=[2, 6, 6, 4]).astype("f") * scale}
    return view(g, [x], outputs), feeds, scale


@settings(max_examples=30, deadline=None, derandomize=True)
@given(nets())
def test_random_nets_stay_close(case):
    """Each value on the way may be wrong by a step of its own: a 255th of what flows there, which few layers add up."""
    graph, feeds, scale = case
    slim = quantize_nodes(graph).graph
    everything = [
        f"{name}:0" for name, node in graph.nodes.items() if tf.as_dtype(graph.facts(name).gives[0]) == tf.float32
    ]
    largest = max(np.abs(value).max(initial=0) for value in run(graph, feeds, everything))
    for wanted, found in zip(run(graph, feeds), run(slim, feeds), strict=True):
        assert np.isfinite(found).all()
        assert np.abs(found - wanted).max() <= 0.04 * max(largest, scale)
    again = quantize_nodes(slim)
    assert again.changes == 0
    assert {parse_input(name).node for name in slim.outputs} <= set(slim.nodes)


def test_sizes():
    graph = net()
    assert op_delta(graph, quantize_nodes(graph).graph)["Conv2D"] == -2
