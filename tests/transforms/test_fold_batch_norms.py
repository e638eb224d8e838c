import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.graphs import (
    assert_same_model,
    building,
    op_counts,
    op_delta,
    random_feeds,
    reasons,
    run,
    values,
    view,
)
from tfslim_core.graph import control_inputs
from tfslim_core.transforms.fold_batch_norms import fold_batch_norms
from tfslim_core.weights import Encoded, Weight

v1 = tf.compat.v1
NORMS = {
    "FusedBatchNorm": tf.raw_ops.FusedBatchNorm,
    "FusedBatchNormV2": tf.raw_ops.FusedBatchNormV2,
    "FusedBatchNormV3": tf.raw_ops.FusedBatchNormV3,
}


class Maker:
    """Layers of random weights in the graph being built."""

    def __init__(self, seed=0, dtype=np.float32, layout="NHWC"):
        self.random, self.dtype, self.layout = np.random.default_rng(seed), dtype, layout

    def const(self, shape, name=None, low=None):
        value = self.random.normal(size=shape) if low is None else self.random.uniform(low, low + 2, size=shape)
        return tf.constant(value.astype(self.dtype), name=name)

    def input(self, kind, c_in, name="x"):
        shape = [2, c_in] if kind.startswith("MatMul") else [2, 5, 6, c_in]
        if kind.startswith("Conv") and self.layout == "NCHW":
            shape = [2, c_in, 5, 6]
        return v1.placeholder(self.dtype, shape, name)

    def layer(self, kind, x, c_in, c_out, groups=1, weights=None, name="layer"):
        if kind == "Conv2D":
            w = self.const([3, 2, c_in // groups, c_out], "weights") if weights is None else weights
            strides = [1, 1, 2, 1] if self.layout == "NHWC" else [1, 1, 1, 2]
            return tf.raw_ops.Conv2D(
                input=x, filter=w, strides=strides, padding="SAME", data_format=self.layout, name=name
            )
        if kind == "DepthwiseConv2dNative":
            w = self.const([3, 3, c_in, c_out // c_in], "weights") if weights is None else weights
            return tf.raw_ops.DepthwiseConv2dNative(
                input=x, filter=w, strides=[1, 1, 1, 1], padding="VALID", data_format=self.layout, name=name
            )
        transposed = kind == "MatMul_transpose_b"
        w = self.const([c_out, c_in] if transposed else [c_in, c_out], "weights") if weights is None else weights
        return tf.raw_ops.MatMul(a=x, b=w, transpose_b=transposed, name=name)

    def norm(self, y, channels, kind="FusedBatchNormV3", name="norm", **more):
        arguments = {"is_training": False, "epsilon": 1e-3, "data_format": self.layout, **more}
        return NORMS[kind](
            x=y,
            scale=self.const([channels], "gamma"),
            offset=self.const([channels], "beta"),
            mean=self.const([channels], "mean"),
            variance=self.const([channels], "variance", low=0.1),
            name=name,
            **arguments,
        )[0]


def conv_and_norm(**more):
    """A convolution, its batch norm and a graph around them."""
    with building() as g:
        make = Maker()
        x = make.input("Conv2D", 3)
        y = make.norm(make.layer("Conv2D", x, 3, 4), 4, **more)
        z = tf.nn.relu(y, name="z")
    return g, x, y, z


@pytest.mark.parametrize("kind", NORMS)
def test_a_batch_norm_becomes_a_bias(kind):
    g, x, _, z = conv_and_norm(kind=kind)
    graph = view(g, [x], [z])
    outcome = fold_batch_norms(graph)
    assert (outcome.changes, outcome.skipped) == (1, ())
    assert op_delta(graph, outcome.graph) == {kind: -1, "BiasAdd": 1, "Const": -3}
    assert_same_model(graph, outcome.graph, random_feeds(graph))


def test_weights_and_root_keep_their_names():
    g, x, y, _ = conv_and_norm()
    slim = fold_batch_norms(view(g, [x], [y])).graph
    assert [slim.nodes[name].op for name in ("x", "weights", "layer", "norm")] == [
        "Placeholder",
        "Const",
        "Conv2D",
        "BiasAdd",
    ]


def test_stripped_default_attributes_are_looked_up():
    g, x, _, z = conv_and_norm(epsilon=1e-4)
    graph_def = g.as_graph_def()
    for node in graph_def.node:
        for key in ("epsilon", "data_format", "exponential_avg_factor", "transpose_b"):
            if key in node.attr:
                del node.attr[key]
    from tfslim_core.graph import Graph

    graph = Graph.of(graph_def, [x.name], [z.name])
    outcome = fold_batch_norms(graph)
    assert outcome.changes == 1
    assert_same_model(graph, outcome.graph, random_feeds(graph))


# A scale or an offset of `channels` values as graphs spell it, for a result of shape NHWC, NCHW or [n, c].
FORMS = {
    "NHWC": {"scalar": (), "one": (1,), "vector": ("c",), "rank 4": (1, 1, 1, "c"), "rank 2": (1, "c")},
    "NCHW": {"scalar": (), "rank 3": ("c", 1, 1), "rank 4": (1, "c", 1, 1)},
    "NC": {"scalar": (), "one": (1, 1), "vector": ("c",), "rank 2": (1, "c")},
}


@st.composite
def layer_and_tail(draw):
    """A layer, perhaps a bias, and one to three batch norms, products, sums and differences after it."""
    layout = draw(st.sampled_from(["NHWC", "NCHW"]))
    kinds = ["Conv2D", "MatMul", "MatMul_transpose_b"] + (["DepthwiseConv2dNative"] if layout == "NHWC" else [])
    kind = draw(st.sampled_from(kinds))
    dtype = draw(st.sampled_from([np.float32, np.float64]))
    square = draw(st.booleans())  # sizes that coincide hide wrong axes
    c_in = 4
    c_out = 4 if square else 8
    groups = draw(st.sampled_from([1, 2])) if kind == "Conv2D" and layout == "NHWC" else 1
    tails = draw(st.lists(st.sampled_from(["norm", "mul", "add", "sub", "rsub", "bias"]), min_size=1, max_size=3))
    extra = draw(st.sampled_from(["", "", "control", "layer read", "layer output", "weights shared"]))
    seed = draw(st.integers(0, 9))
    with building() as g:
        make = Maker(seed, dtype, layout)
        x = make.input(kind, c_in)
        form = FORMS["NC" if kind.startswith("MatMul") else layout]
        outputs = []
        check = tf.raw_ops.Assert(condition=tf.reduce_all(x < 99), data=[x], name="assert")
        y = make.layer(kind, x, c_in, c_out, groups)
        if extra == "layer read":
            outputs.append(tf.abs(y, name="other"))
        if extra == "layer output":
            outputs.append(y)
        if extra == "weights shared":
            weights = g.get_tensor_by_name("weights:0")
            outputs.append(make.layer(kind, tf.abs(x), c_in, c_out, groups, weights, name="layer_2"))
        for number, tail in enumerate(tails):
            with g.control_dependencies([check] if extra == "control" else []):
                name = f"tail_{number}"
                if tail == "norm" and not kind.startswith("MatMul") and dtype == np.float32:
                    y = make.norm(y, c_out, name=name)
                elif tail in ("norm", "bias"):
                    nc = "NHWC" if kind.startswith("MatMul") else layout
                    y = tf.raw_ops.BiasAdd(value=y, bias=make.const([c_out]), data_format=nc, name=name)
                else:
                    shape = [c_out if s == "c" else s for s in draw(st.sampled_from(sorted(form.values(), key=str)))]
                    c = make.const(shape)
                    if tail == "mul":
                        pair = (c, y) if draw(st.booleans()) else (y, c)
                        y = tf.raw_ops.Mul(x=pair[0], y=pair[1], name=name)
                    elif tail == "add":
                        add = draw(st.sampled_from([tf.raw_ops.Add, tf.raw_ops.AddV2]))
                        y = add(x=c, y=y, name=name) if draw(st.booleans()) else add(x=y, y=c, name=name)
                    else:
                        y = (
                            tf.raw_ops.Sub(x=c, y=y, name=name)
                            if tail == "rsub"
                            else tf.raw_ops.Sub(x=y, y=c, name=name)
                        )
        outputs.append(y if draw(st.booleans()) else tf.abs(y, name="last"))
    return view(g, [x], outputs), extra


@settings(max_examples=45, deadline=None, derandomize=True)
@given(layer_and_tail())
def test_computes_the_same(case):
    graph, extra = case
    outcome = fold_batch_norms(graph)
    slim = outcome.graph
    assert_same_model(graph, slim, random_feeds(graph), rtol=1e-4, atol=1e-4)
    if extra in ("", "control"):
        left = op_counts(slim)
        assert not any(left[op] for op in ("Mul", "FusedBatchNormV3", "Sub"))
        assert left["BiasAdd"] + left["Add"] + left["AddV2"] <= 1
        assert outcome.skipped == ()
    if extra == "control" and outcome.changes:
        root = next(name for name in ("tail_2", "tail_1", "tail_0") if name in slim.nodes)
        assert control_inputs(slim.nodes[root]) == ["assert"]
    again = fold_batch_norms(slim)
    assert again.changes == 0
    assert again.graph is slim


def skipped_reason(g, inputs, outputs, root="norm"):
    graph = view(g, inputs, outputs)
    outcome = fold_batch_norms(graph)
    assert outcome.changes == 0
    assert outcome.graph is graph
    return reasons(outcome)[root]


def test_a_training_batch_norm_is_left_alone():
    with building() as g:
        make = Maker()
        x = make.input("Conv2D", 3)
        y = make.layer("Conv2D", x, 3, 4)
        empty = tf.constant([], tf.float32)
        y = tf.raw_ops.FusedBatchNormV3(
            x=y, scale=make.const([4]), offset=make.const([4]), mean=empty, variance=empty, name="norm"
        )[0]
    assert skipped_reason(g, [x], [y]) == "it normalizes by each batch's own statistics (is_training)"


def test_another_output_of_the_batch_norm_in_use_is_left_alone():
    g, x, _, z = conv_and_norm()
    with g.as_default():
        other = tf.abs(g.get_tensor_by_name("norm:1"), name="other")
    assert "another output" in skipped_reason(g, [x], [z, other])
    assert "another output" in skipped_reason(g, [x], [z, "norm:2"])


def test_a_layer_that_is_read_elsewhere_is_left_alone():
    g, x, _, z = conv_and_norm()
    with g.as_default():
        other = tf.abs(g.get_tensor_by_name("layer:0"), name="other")
    assert skipped_reason(g, [x], [z, other]) == "'layer' below it is read by 'other' too"


def test_a_layer_that_is_an_output_is_left_alone():
    g, x, _, z = conv_and_norm()
    assert skipped_reason(g, [x], [z, "layer:0"]) == "'layer' below it is part of the interface"


def test_a_layer_that_is_fed_is_left_alone():
    g, x, _, z = conv_and_norm()
    assert "no layer" in skipped_reason(g, [x, "layer:0"], [z])


def test_shared_weights_are_left_alone():
    with building() as g:
        make = Maker()
        x = make.input("Conv2D", 3)
        w = make.const([3, 2, 3, 4], "weights")
        y = make.norm(make.layer("Conv2D", x, 3, 4, weights=w), 4)
        z = make.layer("Conv2D", y[..., :3], 3, 4, weights=w, name="layer_2")
    assert skipped_reason(g, [x], [z]) == "the weights are shared; folding would store 288 bytes twice"


def test_weights_that_are_an_output_are_left_alone():
    g, x, _, z = conv_and_norm()
    assert "the weights are shared" in skipped_reason(g, [x], [z, "weights:0"])


@pytest.mark.parametrize("name", ["weights", "gamma"])
def test_constants_that_are_fed_are_left_alone(name):
    g, x, _, z = conv_and_norm()
    assert "constants" in skipped_reason(g, [x, f"{name}:0"], [z])


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_16_bit_weights_are_left_alone(dtype):
    with building() as g:
        x = v1.placeholder(dtype, [2, 3], "x")
        w = tf.constant(np.ones([3, 3]).astype(tf.as_dtype(dtype).as_numpy_dtype))
        y = tf.raw_ops.Mul(x=tf.raw_ops.MatMul(a=x, b=w), y=tf.constant(2, dtype), name="norm")
    assert skipped_reason(g, [x], [y]) == f"weights of type {dtype} would be rounded once more"


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_factors_that_are_not_finite_are_left_alone(value):
    with building() as g:
        make = Maker()
        x = make.input("MatMul", 3)
        y = tf.raw_ops.Mul(x=make.layer("MatMul", x, 3, 3), y=tf.constant([1, value, 1], tf.float32), name="norm")
    assert skipped_reason(g, [x], [y]) == "a factor or an offset is not finite"


def test_a_zero_variance_without_epsilon_is_left_alone():
    with building() as g:
        make = Maker()
        x = make.input("Conv2D", 3)
        zero = tf.constant(np.zeros(4, np.float32))
        y = tf.raw_ops.FusedBatchNormV3(
            x=make.layer("Conv2D", x, 3, 4),
            scale=make.const([4]),
            offset=zero,
            mean=zero,
            variance=zero,
            epsilon=0.0,
            is_training=False,
            name="norm",
        )[0]
    assert skipped_reason(g, [x], [y]) == "a factor or an offset is not finite"


def test_a_factor_that_leaves_the_range_is_left_alone():
    with building() as g:
        make = Maker()
        x = make.input("MatMul", 3)
        y = tf.raw_ops.Mul(x=make.layer("MatMul", x, 3, 3), y=tf.constant(1e30), name="norm")
    assert "might leave the range" in skipped_reason(g, [x], [y])


@pytest.mark.parametrize(
    ("kind", "layout", "shape"),
    [
        ("Conv2D", "NCHW", [6]),  # along W, and as many as channels
        ("Conv2D", "NHWC", [6, 1, 1]),  # along H
        ("Conv2D", "NHWC", [2, 1, 1, 1]),  # along the batch
        ("Conv2D", "NHWC", [1, 1, 1, 1, 6]),  # adds an axis
        ("MatMul", "NHWC", [2, 1]),
        ("MatMul", "NHWC", [1, 1, 6]),
        ("MatMul", "NHWC", [2, 6]),
    ],
)
def test_a_constant_that_is_not_one_value_per_channel_is_left_alone(kind, layout, shape):
    with building() as g:
        make = Maker(layout=layout)
        x = v1.placeholder(tf.float32, {"MatMul": [2, 6], "Conv2D": [2, 6, 6, 6]}[kind], "x")
        w = make.const([6, 6] if kind == "MatMul" else [1, 1, 6, 6], "weights")
        if kind == "MatMul":
            y = tf.raw_ops.MatMul(a=x, b=w)
        else:
            y = tf.raw_ops.Conv2D(input=x, filter=w, strides=[1, 1, 1, 1], padding="SAME", data_format=layout)
        y = tf.raw_ops.Mul(x=y, y=make.const(shape), name="norm")
    assert "is not one value per output channel" in skipped_reason(g, [x], [y])


def test_a_constant_that_widens_one_channel_is_left_alone():
    with building() as g:
        make = Maker()
        x = make.input("MatMul", 3)
        y = tf.raw_ops.Mul(x=make.layer("MatMul", x, 3, 1), y=make.const([5]), name="norm")
    assert skipped_reason(g, [x], [y]) == "the constant has shape (5,), the layer has 1 channels"


def test_a_bias_of_another_layout_is_left_alone():
    with building() as g:
        make = Maker(layout="NCHW")
        x = v1.placeholder(tf.float32, [2, 6, 6, 6], "x")
        y = tf.raw_ops.Conv2D(
            input=x, filter=make.const([1, 1, 6, 6]), strides=[1, 1, 1, 1], padding="SAME", data_format="NCHW"
        )
        y = tf.raw_ops.BiasAdd(value=y, bias=make.const([6]), data_format="NHWC", name="bias")
        y = tf.raw_ops.Mul(x=y, y=tf.constant(2.0), name="norm")
    assert skipped_reason(g, [x], [y]) == "the data format of 'bias' is NHWC, the layer's is NCHW"


def test_a_batch_norm_of_another_layout_is_left_alone():
    with building() as g:
        make = Maker()
        x = v1.placeholder(tf.float32, [2, 6, 6, 6], "x")
        y = tf.raw_ops.Conv2D(
            input=x, filter=make.const([1, 1, 6, 6]), strides=[1, 1, 1, 1], padding="SAME", data_format="NCHW"
        )
        y = make.norm(y, 6)
    assert skipped_reason(g, [x], [y]) == "its data format is NHWC, the layer's is NCHW"


def test_encoded_weights_are_left_alone():
    g, x, _, z = conv_and_norm()
    graph = view(g, [x], [z])
    value = values(graph)["weights"]
    weight = Weight(value.dtype, value.shape, lambda: value, encoded=Encoded("int8", {}))
    from tfslim_core.graph import external_constant

    node, weights = external_constant("weights", weight)
    graph = graph.replace([node], weights=weights)
    assert "stored encoded (int8)" in reasons(fold_batch_norms(graph))["norm"]


def test_a_batch_norm_without_a_layer_below_is_told():
    with building() as g:
        make = Maker()
        x = make.input("Conv2D", 3)
        y = make.norm(tf.nn.relu(x), 3)
    assert "no layer" in skipped_reason(g, [x], [y])


def test_constants_shared_between_layers_come_to_rest():
    with building() as g:
        make = Maker()
        x = y = make.input("Conv2D", 4)
        vectors = {name: make.const([4], name, low=0.2) for name in ("scale", "offset", "mean", "variance")}
        for number in range(3):
            y = make.layer("Conv2D", y, 4, 4, name=f"layer_{number}")
            y = tf.raw_ops.FusedBatchNormV3(x=y, is_training=False, name=f"norm_{number}", **vectors)[0]
    graph = view(g, [x], [y])
    outcome = fold_batch_norms(graph)
    assert outcome.changes == 3
    assert op_delta(graph, outcome.graph) == {"FusedBatchNormV3": -3, "BiasAdd": 3, "Const": -1}
    assert_same_model(graph, outcome.graph, random_feeds(graph), rtol=1e-4, atol=1e-4)


def test_a_bias_that_layers_share_stays_as_it_is_for_the_others():
    with building() as g:
        make = Maker()
        x = make.input("MatMul", 3)
        bias = make.const([3], "bias")
        y = (make.layer("MatMul", x, 3, 3) + bias) * make.const([3])
        z = make.layer("MatMul", y, 3, 3, name="layer_2") + bias
    graph = view(g, [x], [y, z])
    outcome = fold_batch_norms(graph)
    assert outcome.changes == 1
    assert_same_model(graph, outcome.graph, random_feeds(graph))


def test_large_weights_are_not_read():
    with building() as g:
        make = Maker()
        x = make.input("MatMul", 64)
        y = tf.raw_ops.Mul(x=make.layer("MatMul", x, 64, 32), y=make.const([32]), name="norm")
    graph = view(g, [x], [y])
    reads = []
    known = graph.weights["weights"]
    counting = Weight(known.dtype, known.shape, lambda: reads.append(1) or known.read())
    graph = graph.replace(weights={"weights": counting})
    slim = fold_batch_norms(graph).graph
    assert not reads
    assert "weights" in slim.weights
    assert_same_model(graph, slim, random_feeds(graph))


def test_a_layer_with_one_bias_is_the_form_that_stays():
    with building() as g:
        make = Maker()
        x = make.input("MatMul", 3)
        y = make.layer("MatMul", x, 3, 3) + make.const([3])
    graph = view(g, [x], [y])
    outcome = fold_batch_norms(graph)
    assert outcome.graph is graph
    assert outcome.skipped == ()


def test_a_v1_loop_computes_the_same():
    with building() as g:
        v1.disable_control_flow_v2()
        try:
            make = Maker()
            x = make.input("MatMul", 3)

            def body(i, value):
                return i + 1, tf.raw_ops.Mul(x=make.layer("MatMul", value, 3, 3), y=make.const([3]), name="norm") + 1.0

            y = v1.while_loop(lambda i, value: i < 3, body, [0, x])[1]
        finally:
            v1.enable_control_flow_v2()
    graph = view(g, [x], [y])
    outcome = fold_batch_norms(graph)
    assert outcome.changes == 1
    assert_same_model(graph, outcome.graph, random_feeds(graph))


def test_mobilenet_has_no_batch_norm_left():
    from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

    from tfslim_core.graph import Graph
    from tfslim_core.transforms import apply

    model = tf.keras.applications.MobileNetV2(weights=None, input_shape=(96, 96, 3))
    random = np.random.default_rng(0)
    for weight in model.weights:
        if "moving_variance" in weight.path or "gamma" in weight.path:
            weight.assign(random.uniform(0.5, 1.5, weight.shape))
        elif "moving_mean" in weight.path or "beta" in weight.path:
            weight.assign(random.normal(0, 0.2, weight.shape))
    function = tf.function(lambda x: model(x, training=False)).get_concrete_function(
        tf.TensorSpec([None, 96, 96, 3], tf.float32)
    )
    frozen = convert_variables_to_constants_v2(function)
    graph_def = frozen.graph.as_graph_def()
    graph = Graph.of(graph_def, [frozen.inputs[0].name], [frozen.outputs[0].name])
    # Keras writes batch norms out: rsqrt(variance + epsilon) and so on, then a Mul and an AddV2.
    assert op_counts(graph)["Rsqrt"] == 52
    slim, steps = apply(graph)
    left = op_counts(slim)
    assert not any(name.startswith("FusedBatchNorm") or name in ("Rsqrt", "Mul", "Sub") for name in left)
    assert (left["AddV2"], left["BiasAdd"]) == (10 + 52, 1)  # ten are residual connections
    assert [step.changes for step in steps if step.name == "fold_batch_norms"] == [52]
    assert not [step.skipped for step in steps if step.name == "fold_batch_norms" and step.skipped]
    assert_same_model(graph, slim, random_feeds(graph, unknown=2), rtol=1e-4, atol=1e-7)


def vector(size, seed=5, low=0.5):
    return tf.constant(np.random.default_rng(seed).uniform(low, low + 1, size).astype(np.float32))


def folded(g, x, outputs, tolerance=1e-4):
    """The graph after the transform, which computes the same."""
    outputs = outputs if isinstance(outputs, list) else [outputs]
    graph = view(g, [x], outputs)
    outcome = fold_batch_norms(graph)
    assert_same_model(graph, outcome.graph, random_feeds(graph, unknown=2), rtol=tolerance, atol=tolerance)
    assert fold_batch_norms(outcome.graph).graph is outcome.graph, "one run is enough"
    return outcome


def counts(outcome, *names):
    found = op_counts(outcome.graph)
    return {name: found[name] for name in names}


OTHER_LAYERS = {
    "transposed convolution": lambda: (
        x := v1.placeholder(tf.float32, [2, 4, 5, 3], "x"),
        tf.nn.conv2d_transpose(x, vector([3, 3, 6, 3]), tf.stack([tf.shape(x)[0], 8, 10, 6]), 2),
    ),
    "3-d convolution": lambda: (
        x := v1.placeholder(tf.float32, [2, 4, 5, 4, 3], "x"),
        tf.nn.conv3d(x, vector([2, 2, 2, 3, 6]), [1, 1, 1, 1, 1], "SAME"),
    ),
    "3-d transposed convolution": lambda: (
        x := v1.placeholder(tf.float32, [2, 4, 5, 4, 3], "x"),
        tf.nn.conv3d_transpose(x, vector([2, 2, 2, 6, 3]), [2, 8, 10, 8, 6], 2),
    ),
    "batched product": lambda: (
        x := v1.placeholder(tf.float32, [2, 4, 3], "x"),
        tf.raw_ops.BatchMatMulV2(x=x, y=vector([3, 6])),
    ),
    "batched product, transposed": lambda: (
        x := v1.placeholder(tf.float32, [2, 4, 3], "x"),
        tf.raw_ops.BatchMatMulV2(x=x, y=vector([6, 3]), adj_y=True),
    ),
    "Einsum": lambda: (x := v1.placeholder(tf.float32, [2, 4, 3], "x"), tf.einsum("abc,cd->abd", x, vector([3, 6]))),
    "Einsum, weights first": lambda: (
        x := v1.placeholder(tf.float32, [2, 4, 3], "x"),
        tf.einsum("dec,abc->abed", vector([6, 2, 3]), x),
    ),
    "Conv1D": lambda: (
        x := v1.placeholder(tf.float32, [2, 9, 3], "x"),
        tf.squeeze(tf.nn.conv2d(tf.expand_dims(x, 1), vector([1, 3, 3, 6]), 2, "SAME"), [-3]),
    ),
    "Dense on three dimensions": lambda: (
        x := v1.placeholder(tf.float32, [None, None, 3], "x"),
        tf.tensordot(x, vector([3, 6]), 1),
    ),
    "dilated convolution": lambda: (
        x := v1.placeholder(tf.float32, [2, 8, 8, 3], "x"),
        tf.batch_to_space(
            tf.nn.conv2d(tf.space_to_batch(x, [2, 2], [[2, 2], [2, 2]]), vector([3, 3, 3, 6]), 1, "VALID"),
            [2, 2],
            [[0, 0], [0, 0]],
        ),
    ),
    "Transpose": lambda: (
        x := v1.placeholder(tf.float32, [2, 5, 6, 3], "x"),
        tf.transpose(tf.nn.conv2d(x, vector([3, 3, 3, 6]), 1, "SAME"), [3, 0, 2, 1]),
    ),
}


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("kind", OTHER_LAYERS)
def test_other_layers_and_what_moves_their_output(kind, bias):
    with building() as g:
        x, y = OTHER_LAYERS[kind]()
        size = [6, 1, 1, 1] if kind == "Transpose" else [6]
        if bias:
            y = y + vector(size, 1)
        y = tf.identity(y * vector(size, 2) - vector(size, 3), "y")
    outcome = folded(g, x, y, 1e-3)
    assert counts(outcome, "Mul", "AddV2", "Sub", "BiasAdd") == {"Mul": 0, "AddV2": 0, "Sub": 0, "BiasAdd": 1}
    assert outcome.skipped == ()


@pytest.mark.parametrize("kind", ["Conv1D", "dilated convolution", "transposed convolution", "3-d convolution"])
def test_a_batch_norm_op_over_other_layers(kind):
    with building() as g:
        x, y = OTHER_LAYERS[kind]()
        if kind == "Conv1D":
            y = tf.expand_dims(y, 1)
        layout = "NDHWC" if "3-d" in kind else "NHWC"
        y = Maker().norm(y, 6, data_format=layout)
    if kind == "Conv1D":
        assert "no layer" in skipped_reason(g, [x], [y])  # an ExpandDims is not looked through
    else:
        assert counts(folded(g, x, y, 1e-3), "FusedBatchNormV3", "BiasAdd") == {"FusedBatchNormV3": 0, "BiasAdd": 1}


def test_a_division_is_a_factor_and_one_by_zero_is_left_alone():
    for value, left in (([2.0, 4, 8], 0), ([2.0, 0, 8], 1)):
        with building() as g:
            make = Maker()
            x = make.input("MatMul", 3)
            y = tf.realdiv(make.layer("MatMul", x, 3, 3), tf.constant(value), name="norm")
        graph = view(g, [x], [y])
        outcome = fold_batch_norms(graph)
        assert op_counts(outcome.graph)["RealDiv"] == left
    assert reasons(outcome) == {"norm": "a factor or an offset is not finite"}


def with_tail(layer, shape=(6,)):
    """A layer made by `layer(x)` with a Mul named `norm` after it."""
    with building() as g:
        x = v1.placeholder(tf.float32, [2, 6, 6, 6], "x")
        y = tf.multiply(layer(x), vector(shape), name="norm")
    return g, [x], [y]


def test_moves_that_are_not_certain_are_left_alone():
    def conv(x):
        return tf.nn.conv2d(x, vector([1, 1, 6, 6]), 1, "SAME")

    cases = {
        "may take the channels apart": (lambda x: tf.reshape(conv(x), [2, 6, 36, 1]), [1]),
        "may take the channels' axis away": (lambda x: tf.raw_ops.Squeeze(input=conv(x)), [6]),
        "cuts along the channels": (
            lambda x: tf.batch_to_space(conv(x), [1, 1, 2], [[0, 0]] * 3),
            [12],
        ),
        "the order of": (lambda x: tf.transpose(conv(x), v1.placeholder_with_default([0, 1, 2, 3], [4])), [6]),
        "the last axis of the output is not one of the weights alone": (
            lambda x: tf.einsum("abcd,de->abec", x, vector([6, 6])),
            [6],
        ),
        "each matrix of the batch": (lambda x: tf.raw_ops.BatchMatMulV2(x=x, y=vector([2, 6, 6, 6])), [6]),
    }
    for reason, (make, shape) in cases.items():
        g, x, y = with_tail(make, shape)
        assert reason in skipped_reason(g, x, y), reason


def test_a_reshape_that_takes_rows_for_channels_is_left_alone():
    with building() as g:
        x = v1.placeholder(tf.float32, [6, 3], "x")
        y = tf.reshape(x @ vector([3, 4]), [4, 6]) * vector([6])
        y = tf.identity(y, "y")
    graph = view(g, [x], [y])
    outcome = fold_batch_norms(graph)
    assert outcome.graph is graph


def concatenated_layers(axis, biases, tail, layers=2):
    with building() as g:
        make = Maker()
        x = v1.placeholder(tf.float32, [2, 5, 6, 3], "x")
        sizes = [4 + 2 * number * (axis in (3, -1)) for number in range(layers)]
        branches = []
        for number, size in enumerate(sizes):
            y = tf.nn.conv2d(x, make.const([2, 2, 3, size]), 1, "SAME", name=f"layer_{number}")
            branches.append(tf.nn.bias_add(y, make.const([size])) if biases[number % 2] else y)
        total = sum(sizes) if axis in (3, -1) else 4
        y = tf.concat(branches, axis)
        y = make.norm(y, total) if tail == "norm" else tf.nn.bias_add(y * make.const([total]), make.const([total]))
        y = tf.identity(y, "y")
    return g, x, y


@pytest.mark.parametrize("biases", [(False, False), (True, True), (True, False)])
@pytest.mark.parametrize("axis", [3, -1, 1, 0])
@pytest.mark.parametrize("tail", ["norm", "mul"])
def test_concatenated_layers_get_their_share(axis, biases, tail):
    g, x, y = concatenated_layers(axis, biases, tail, layers=3)
    outcome = folded(g, x, y)
    assert counts(outcome, "FusedBatchNormV3", "Mul", "ConcatV2") == {"FusedBatchNormV3": 0, "Mul": 0, "ConcatV2": 1}
    assert outcome.skipped == ()
    assert op_counts(outcome.graph)["BiasAdd"] == (3 if any(biases) else 1)


def test_concatenated_layers_with_shared_weights_or_twice_the_same_are_left_alone():
    def both(weights, name):
        return tf.nn.conv2d(g.get_tensor_by_name("x:0"), weights, 1, "SAME", name=name)

    for same, reason in ((False, "the weights are shared"), (True, "the same layer is concatenated twice")):
        with building() as g:
            make = Maker()
            x = make.input("Conv2D", 3)
            weights = make.const([2, 2, 3, 4])
            first = both(weights, "first")
            y = make.norm(tf.concat([first, first if same else both(weights, "second")], 3), 8)
        assert reason in skipped_reason(g, [x], [y])


BEFORE = {
    "Conv2D, VALID": ([2, 5, 6, 3], lambda x: tf.nn.conv2d(x, vector([2, 3, 3, 4]), 1, "VALID")),
    "Conv2D, 1x1": ([2, 5, 6, 3], lambda x: tf.nn.conv2d(x, vector([1, 1, 3, 4]), 2, "SAME")),
    "Depthwise": ([2, 5, 6, 3], lambda x: tf.nn.depthwise_conv2d(x, vector([2, 3, 3, 2]), [1, 1, 1, 1], "VALID")),
    "MatMul": ([2, 3], lambda x: tf.matmul(x, vector([3, 4]))),
    "MatMul, transposed": ([2, 3], lambda x: tf.matmul(x, vector([4, 3]), transpose_b=True)),
    "Conv3D": ([2, 4, 5, 6, 3], lambda x: tf.nn.conv3d(x, vector([2, 2, 2, 3, 4]), [1] * 5, "VALID")),
}


@pytest.mark.parametrize("kind", BEFORE)
@pytest.mark.parametrize("size", [(), (3,)])
def test_what_stands_before_a_layer_goes_into_it(kind, size):
    shape, layer = BEFORE[kind]
    with building() as g:
        x = v1.placeholder(tf.float32, shape, "x")
        y = tf.identity(layer((x * vector(size, 1) - vector(size, 2)) / vector(size, 3) + 1.0), "y")
    outcome = folded(g, x, y)
    left = counts(outcome, "Mul", "RealDiv", "Sub", "AddV2", "BiasAdd")
    assert left == {"Mul": 0, "RealDiv": 0, "Sub": 0, "AddV2": 0, "BiasAdd": 1}


@pytest.mark.parametrize("pad", [False, True])
def test_before_a_layer_that_pads_a_product_and_a_sum_become_one_sum(pad):
    with building() as g:
        x = v1.placeholder(tf.float32, [None, 5, 6, 3], "x")
        y = (x * (1 / 255.0) + 0.0 - vector([1, 1, 1, 3], 2)) / vector([1, 1, 1, 3], 3)
        if pad:
            y = tf.pad(y, [[0, 0], [1, 1], [0, 1], [0, 0]])
        y = tf.nn.conv2d(y, vector([2, 3, 3, 4]), 1, "VALID" if pad else "SAME", name="y")
    outcome = folded(g, x, y)
    assert counts(outcome, "Mul", "RealDiv", "Sub", "AddV2", "BiasAdd") == {
        "Mul": 0,
        "RealDiv": 0,
        "Sub": 0,
        "AddV2": 1,
        "BiasAdd": 0,
    }


@pytest.mark.parametrize(("padding", "left"), [("VALID", "BiasAdd"), ("SAME", "AddV2")])
def test_a_batch_norm_before_a_convolution(padding, left):
    with building() as g:
        make = Maker()
        x = make.input("Conv2D", 3)
        y = tf.nn.conv2d(make.norm(tf.tanh(x), 3), vector([2, 3, 3, 4]), 1, padding, name="y")
    outcome = folded(g, x, y)
    assert counts(outcome, "FusedBatchNormV3", left) == {"FusedBatchNormV3": 0, left: 1}


def test_an_offset_at_the_border_is_not_folded():
    with building() as g:
        x = v1.placeholder(tf.float32, [2, 5, 6, 3], "x")
        y = tf.nn.conv2d(x + 3.0, vector([2, 3, 3, 4]), 1, "SAME", name="y")
    graph = view(g, [x], [y])
    assert fold_batch_norms(graph).graph is graph


@pytest.mark.parametrize("shape", [[2, 5, 6, 1], [2, 5, 6, None], None, [5, 6, 3]])
def test_a_constant_that_might_widen_what_it_is_applied_to_is_left_alone(shape):
    with building() as g:
        x = v1.placeholder(tf.float32, shape, "x")
        factor = vector([2, 1, 1, 3] if shape == [5, 6, 3] else [1, 1, 1, 3])
        y = tf.nn.conv2d(x * factor, vector([2, 3, 3, 4]), 1, "VALID", name="norm")
    reason = skipped_reason(g, [x], [y])
    assert "might widen" in reason or "not one value" in reason


def test_grouped_convolutions_take_factors_only_where_all_are_one():
    for size, left in (((), 0), ((4,), 1)):
        with building() as g:
            x = v1.placeholder(tf.float32, [2, 5, 6, 4], "x")
            y = tf.nn.conv2d(x * vector(size), vector([2, 3, 2, 6]), 1, "VALID", name="y")
        graph = view(g, [x], [y])
        outcome = fold_batch_norms(graph)
        assert op_counts(outcome.graph)["Mul"] == left
        assert_same_model(graph, outcome.graph, random_feeds(graph), rtol=1e-4, atol=1e-4)


def test_what_others_read_before_a_layer_stays():
    with building() as g:
        x = v1.placeholder(tf.float32, [2, 3], "x")
        scaled = x * 2.0
        y = tf.matmul(scaled, vector([3, 4]), name="y")
        z = tf.tanh(scaled, "z")
    graph = view(g, [x], [y, z])
    outcome = fold_batch_norms(graph)
    assert (outcome.graph, outcome.skipped) == (graph, ())


def test_a_linear_layer_keeps_its_bias_before_the_next():
    with building() as g:
        x = v1.placeholder(tf.float32, [2, 3], "x")
        y = tf.nn.bias_add(tf.matmul(x, vector([3, 4])), vector([4]))
        y = tf.matmul(y, vector([4, 5], 2), name="y")
    graph = view(g, [x], [y])
    assert fold_batch_norms(graph).graph is graph


def test_a_product_with_one_is_taken_out():
    with building() as g:
        make = Maker()
        x = make.input("MatMul", 3)
        y = make.layer("MatMul", x, 3, 3)
        swish = y * tf.sigmoid(1.0 * (tf.constant(1.0) * y))
        kept = tf.multiply(swish, 1.0, name="kept")
        with g.control_dependencies([x]):
            ordered = tf.multiply(swish, 1.0)
        z = tf.tanh(ordered, "z")
    graph = view(g, [x], [kept, z])
    outcome = fold_batch_norms(graph)
    assert op_delta(graph, outcome.graph)["Mul"] == -2
    assert_same_model(graph, outcome.graph, random_feeds(graph))


def test_a_spelled_out_batch_norm_that_stays_has_a_reason():
    with building() as g:
        make = Maker()
        x = make.input("Conv2D", 3)
        y = tf.nn.relu(x) * make.const([3]) + make.const([3])
        y = tf.identity(y, "y")
    graph = view(g, [x], [y])
    assert [one.reason for one in fold_batch_norms(graph).skipped] == [
        "below it is no layer whose weights, like its own parameters, are constants"
    ]


@st.composite
def surrounded_layers(draw):
    """One to three layers, concatenated or not, with ops per channel, paddings and moves before and after them."""
    layout = draw(st.sampled_from(["NHWC", "NHWC", "NCHW"]))
    dtype = draw(st.sampled_from([np.float32, np.float64]))
    known = draw(st.booleans())

    def per_channel(size, number):
        vector = draw(st.sampled_from(["scalar", "vector", "whole"]))
        shape = {
            "scalar": [],
            "vector": [size] if layout == "NHWC" else [size, 1, 1],
            "whole": [1, 1, 1, size] if layout == "NHWC" else [1, size, 1, 1],
        }[vector]
        return tf.constant(np.random.default_rng(number).uniform(0.5, 1.5, shape).astype(dtype))

    def some(y, size, most, start):
        for number in range(draw(st.integers(0, most))):
            c = per_channel(size, start + number)
            apply = draw(st.sampled_from([tf.add, tf.multiply, tf.subtract, tf.realdiv]))
            y = apply(c, y) if apply is not tf.realdiv and draw(st.booleans()) else apply(y, c)
        return y

    with building() as g:
        shape = [2, 5, 6, 3] if layout == "NHWC" else [2, 3, 5, 6]
        x = v1.placeholder(dtype, shape if known else [None] * 4, "x")
        branches, others = [], []
        for number in range(draw(st.integers(1, 3))):
            y = some(x, 3, 3, 10 * number)
            if draw(st.sampled_from([False, False, True])):
                others.append(tf.abs(y))
            padding = draw(st.sampled_from(["VALID", "SAME"]))
            if draw(st.booleans()):
                rows = [[1, 1], [0, 2]]
                y = tf.pad(y, [[0, 0], *rows, [0, 0]] if layout == "NHWC" else [[0, 0], [0, 0], *rows])
                padding = "VALID"
            kernel = [1, 1] if draw(st.booleans()) else [2, 3]
            weights = np.random.default_rng(50 + number).normal(size=(*kernel, 3, 4)).astype(dtype)
            arguments = {"strides": [1] * 4, "padding": padding, "data_format": layout}
            y = tf.raw_ops.Conv2D(input=y, filter=tf.constant(weights), **arguments)
            branches.append(tf.nn.bias_add(y, np.ones(4, dtype), layout) if draw(st.booleans()) else y)
        tails = []
        joined = draw(st.booleans()) and all(b.shape[1:].as_list() == branches[0].shape[1:].as_list() for b in branches)
        if joined and known and len(branches) > 1:
            axis = draw(st.sampled_from([0, 1, 2, 3, -1]))
            branches = [tf.concat(branches, axis)]
        for number, y in enumerate(branches):
            move = draw(st.sampled_from(["", "", "transpose", "squeeze"]))
            channel = layout.index("C")
            size = int(y.shape[channel] or 4)
            y = some(y, size, 3, 100 + 10 * number)
            if move == "transpose":
                y = tf.transpose(y, [0, 2, 3, 1] if layout == "NCHW" else [0, 3, 1, 2]) * 2.0
            if move == "squeeze" and layout == "NHWC":
                y = tf.reshape(y, [-1, size]) * np.arange(1, size + 1).astype(dtype)
            tails.append(tf.abs(y, f"out_{number}"))
    return view(g, [x], [*tails, *others])


@settings(max_examples=60, deadline=None, derandomize=True)
@given(surrounded_layers())
def test_surrounded_layers_compute_the_same(graph):
    outcome = fold_batch_norms(graph)
    feeds = {"x:0": np.random.default_rng(2).normal(size=(2, 5, 6, 3)).astype(graph_dtype(graph))}
    if graph.nodes["x"].attr["shape"].shape.dim[3].size != 3:
        nchw = any(n.op == "Conv2D" and n.attr["data_format"].s == b"NCHW" for n in graph.nodes.values())
        feeds["x:0"] = np.moveaxis(feeds["x:0"], 3, 1) if nchw else feeds["x:0"]
    for wanted, found in zip(run(graph, feeds), run(outcome.graph, feeds), strict=True):
        assert (wanted.shape, wanted.dtype) == (found.shape, found.dtype)
        assert np.ptp(wanted) > 0
        np.testing.assert_allclose(found, wanted, rtol=1e-3, atol=1e-4 * np.abs(wanted).max())
    assert fold_batch_norms(outcome.graph).graph is outcome.graph
    assert len(outcome.graph.nodes) <= len(graph.nodes)


def graph_dtype(graph):
    return tf.as_dtype(graph.nodes["x"].attr["dtype"].type).as_numpy_dtype
