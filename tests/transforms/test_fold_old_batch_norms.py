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
    view,
    whole_graph_def,
)
from tests.old_tool import OldToolError, transformed, with_default_attributes
from tfslim_core.graph import Graph, data_inputs, make_node
from tfslim_core.transforms.fold_old_batch_norms import fold_old_batch_norms

v1 = tf.compat.v1
NORMS = {
    "FusedBatchNorm": tf.raw_ops.FusedBatchNorm,
    "FusedBatchNormV2": tf.raw_ops.FusedBatchNormV2,
    "FusedBatchNormV3": tf.raw_ops.FusedBatchNormV3,
}
RANDOM = np.random.default_rng(0)


def const(*shape, name=None):
    value = RANDOM.uniform(0.2, 1.5, shape) * RANDOM.choice([-1, 1], shape)
    return tf.constant(value.astype(np.float32), name=name)


def vectors(channels):
    """Scale, offset, mean and variance."""
    named = {name: const(channels, name=name) for name in ("scale", "offset", "mean")}
    variance = tf.constant(RANDOM.uniform(0.2, 1.5, channels).astype(np.float32), name="variance")
    return {**named, "variance": variance}


def norm(x, channels, kind="FusedBatchNormV3", name="norm", **more):
    arguments = {"is_training": False, "epsilon": 1e-3, **vectors(channels), **more}
    return NORMS[kind](x=x, name=name, **arguments)


def conv(x, c_in, c_out, name="conv", kind="Conv2D", weights=None, padding="SAME"):
    if kind == "Conv2D":
        weights = const(2, 3, c_in, c_out, name=f"{name}/filter") if weights is None else weights
        return tf.raw_ops.Conv2D(input=x, filter=weights, strides=[1, 1, 1, 1], padding=padding, name=name)
    weights = const(2, 3, c_in, c_out // c_in, name=f"{name}/filter")
    return tf.raw_ops.DepthwiseConv2dNative(input=x, filter=weights, strides=[1] * 4, padding=padding, name=name)


def dilated(x, c_in, c_out, name="conv", kind="Conv2D"):
    y = tf.raw_ops.SpaceToBatchND(input=x, block_shape=[2, 2], paddings=[[1, 2], [2, 2]], name=f"{name}/in")
    y = conv(y, c_in, c_out, name, kind, padding="VALID")
    return tf.raw_ops.BatchToSpaceND(input=y, block_shape=[2, 2], crops=[[0, 1], [0, 0]], name=f"{name}/out")


def concat(x, axis, count=2):
    # Of one input the old tool makes two nodes of the same name.
    inputs = [x, *(tf.abs(x, f"abs_{number}") for number in range(1, count))]
    return tf.concat([conv(y, 3, 6, f"conv_{number}") for number, y in enumerate(inputs)], axis, name="concat")


FORMS = {
    "Conv2D": (lambda x: conv(x, 3, 6), 6),
    "DepthwiseConv2dNative": (lambda x: conv(x, 3, 6, kind="DepthwiseConv2dNative"), 6),
    "dilated": (lambda x: dilated(x, 3, 6), 6),
    "concatenated": (lambda x: concat(x, 3), 12),
    "concatenated along rows": (lambda x: concat(x, 1), 6),
}


def graph_of(form, kind="FusedBatchNorm", **more):
    make, channels = FORMS[form]
    with building() as g:
        x = v1.placeholder(tf.float32, [2, 7, 8, 3], "x")
        y = tf.nn.relu(norm(make(x), channels, kind, **more)[0], "y")
    return view(g, [x], [y])


def folded(graph):
    outcome = fold_old_batch_norms(graph)
    assert_same_model(graph, outcome.graph, random_feeds(graph), rtol=1e-4, atol=1e-4)
    return outcome


@pytest.mark.parametrize("form", FORMS)
def test_the_old_tool_folds_the_same_of_version_1(form):
    graph = graph_of(form)
    ours = folded(graph).graph
    complete = with_default_attributes(whole_graph_def(graph))
    old = transformed(complete, ["x"], ["y"], "fold_old_batch_norms", 60)
    theirs = Graph.of(old, graph.inputs, graph.outputs)
    if "concatenated" not in form:  # there it adds a bias to each
        assert op_counts(theirs) == op_counts(ours)
    feeds = random_feeds(graph)
    np.testing.assert_allclose(run(ours, feeds)[0], run(theirs, feeds)[0], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("kind", ["FusedBatchNormV2", "FusedBatchNormV3"])
def test_later_versions_are_folded_too(form, kind):
    graph = graph_of(form, kind)
    outcome = folded(graph)
    assert (outcome.changes, outcome.skipped) == (1, ())
    assert op_delta(graph, outcome.graph) == {kind: -1, "BiasAdd": 1, "Const": -3}


def test_the_bias_takes_the_name_of_the_batch_norm():
    slim = fold_old_batch_norms(graph_of("Conv2D")).graph
    assert slim.nodes["norm"].op == "BiasAdd"
    assert slim.nodes["norm"].attr["data_format"].s == b"NHWC"
    assert data_inputs(slim.nodes["norm"])[0].node == "conv"


def test_nchw_keeps_its_layout():
    with building() as g:
        x = v1.placeholder(tf.float32, [2, 3, 7, 8], "x")
        y = tf.raw_ops.Conv2D(
            input=x, filter=const(2, 3, 3, 6), strides=[1] * 4, padding="SAME", data_format="NCHW", name="conv"
        )
        y = tf.nn.relu(norm(y, 6, data_format="NCHW")[0], "y")
    slim = folded(view(g, [x], [y])).graph
    assert slim.nodes["norm"].attr["data_format"].s == b"NCHW"


def test_a_bias_below_is_taken_in():
    with building() as g:
        x = v1.placeholder(tf.float32, [2, 7, 8, 3], "x")
        y = norm(tf.nn.bias_add(conv(x, 3, 6), const(6)), 6)[0]
        y = tf.nn.relu(y, "y")
    assert op_counts(folded(view(g, [x], [y])).graph)["BiasAdd"] == 1


@pytest.mark.parametrize("axis", [-1, -2])
@pytest.mark.parametrize("count", [2, 5])
def test_any_number_of_layers_and_axes_from_the_end_are_concatenated(axis, count):
    with building() as g:
        x = v1.placeholder(tf.float32, [2, 7, 8, 3], "x")
        y = tf.nn.relu(norm(concat(x, axis, count), 6 * count if axis == -1 else 6)[0], "y")
    outcome = folded(view(g, [x], [y]))
    assert (outcome.changes, op_counts(outcome.graph)["BiasAdd"]) == (1, 1)


def reason_at(g, inputs, outputs, root="norm"):
    graph = view(g, inputs, outputs)
    outcome = fold_old_batch_norms(graph)
    assert outcome.graph is graph
    return reasons(outcome)[root]


def test_a_training_batch_norm_is_left_alone():
    with building() as g:
        x = v1.placeholder(tf.float32, [2, 7, 8, 3], "x")
        y = norm(conv(x, 3, 6), 6, is_training=True, mean=tf.constant([], tf.float32), variance=[])[0]
    assert "is_training" in reason_at(g, [x], [y])


def test_other_outputs_of_the_batch_norm_in_use_are_left_alone():
    with building() as g:
        x = v1.placeholder(tf.float32, [2, 7, 8, 3], "x")
        y = norm(conv(x, 3, 6), 6)
    assert "another output" in reason_at(g, [x], [y[0], y[1]])


def test_a_convolution_that_is_read_elsewhere_is_left_alone():
    with building() as g:
        x = v1.placeholder(tf.float32, [2, 7, 8, 3], "x")
        y = conv(x, 3, 6)
        z = tf.tanh(y, "z")
        y = norm(y, 6)[0]
    assert reason_at(g, [x], [y, z]) == "'conv' below it is read by 'z' too"
    assert reason_at(g, [x], [y, "conv:0"]) == "'conv' below it is part of the interface"


def test_a_filter_that_is_used_elsewhere_is_left_alone():
    with building() as g:
        x = v1.placeholder(tf.float32, [2, 7, 8, 3], "x")
        weights = const(2, 3, 3, 6)
        y = norm(conv(x, 3, 6, weights=weights), 6)[0]
        z = tf.nn.relu(conv(x, 3, 6, "other", weights=weights), "z")
    assert "the weights are shared" in reason_at(g, [x], [y, z])


def test_statistics_that_layers_share_come_to_rest():
    with building() as g:
        x = y = v1.placeholder(tf.float32, [2, 7, 8, 6], "x")
        shared = vectors(6)
        for number in range(3):
            y = norm(conv(y, 6, 6, f"conv_{number}"), 6, name=f"norm_{number}", **shared)[0]
        y = tf.nn.relu(y * 1e-2, "y")
    outcome = folded(view(g, [x], [y]))
    assert outcome.changes == 3


def test_stripped_default_attributes_are_looked_up():
    graph = graph_of("Conv2D", epsilon=1e-4)
    nodes = graph.to_graph_def()
    for node in nodes.node:
        for key in ("epsilon", "data_format", "dilations", "explicit_paddings"):
            node.attr.pop(key, None)
    outcome = folded(Graph.of(nodes, graph.inputs, graph.outputs, weights=graph.weights))
    assert outcome.changes == 1


def test_float16_filters_are_left_alone():
    with building() as g:
        x = v1.placeholder(tf.float16, [2, 7, 8, 3], "x")
        y = conv(x, 3, 6, weights=np.ones((2, 3, 3, 6), np.float16))
        y = norm(y, 6)[0]
    assert reason_at(g, [x], [y]) == "weights of type float16 would be rounded once more"


def test_other_layers_are_left_to_fold_batch_norms():
    with building() as g:
        x = v1.placeholder(tf.float32, [2, 3], "x")
        y = tf.reshape(tf.matmul(x, const(3, 6)), [2, 1, 1, 6])
        y = norm(y, 6)[0]
    assert "no convolution" in reason_at(g, [x], [y])


@pytest.mark.parametrize("scale_after", [True, False])
@pytest.mark.parametrize("form", FORMS)
def test_the_deprecated_op(form, scale_after):
    """It runs in graphs of version 8 or older alone, so its formula is computed here."""
    make, channels = FORMS[form]
    with building() as g:
        x = v1.placeholder(tf.float32, [2, 7, 8, 3], "x")
        tf.identity(make(x), "below")
        parameters = vectors(channels)
        gamma, beta, mean, variance = (parameters[name] for name in ("scale", "offset", "mean", "variance"))
        with tf.name_scope("spelled"):
            spelled = (g.get_tensor_by_name("below:0") - mean) / tf.sqrt(variance + 1e-3)
            spelled = tf.identity(spelled * (gamma if scale_after else 1.0) + beta, "out")
    below = data_inputs(g.get_operation_by_name("below").node_def)[0]
    reference = view(g, [x], ["spelled/out:0"])
    old = make_node(
        "BatchNormWithGlobalNormalization",
        "norm",
        [below, *(one.op.name for one in (mean, variance, beta, gamma))],
        T=tf.float32,
        variance_epsilon=1e-3,
        scale_after_normalization=scale_after,
    )
    nodes = [node for node in g.as_graph_def().node if "spelled" not in node.name and node.name != "below"]
    used = {source.node for node in [*nodes, old] for source in data_inputs(node)} | {"norm"}
    rest = v1.GraphDef(versions=g.as_graph_def().versions)
    graph = Graph.of_nodes([*(n for n in nodes if n.name in used), old], rest, ["x:0"], ["norm:0"])
    outcome = fold_old_batch_norms(graph)
    assert outcome.changes == 1
    feeds = random_feeds(graph)
    np.testing.assert_allclose(run(outcome.graph, feeds)[0], run(reference, feeds)[0], rtol=1e-4, atol=1e-4)


@st.composite
def networks(draw):
    """Layers, each in one of the forms, with or without what stops a fold."""
    with building() as g:
        x = y = v1.placeholder(tf.float32, [2, 7, 8, 3], "x")
        outputs, expected = [], 0
        for number in range(draw(st.integers(1, 3))):
            kind = draw(st.sampled_from(sorted(NORMS)))
            form = draw(st.sampled_from(["Conv2D", "DepthwiseConv2dNative", "dilated"]))
            name = f"conv_{number}"
            make = dilated if form == "dilated" else conv
            y = make(y, 3, 3, name, "Conv2D" if form == "dilated" else form)
            if draw(st.booleans()):
                y = tf.nn.bias_add(y, const(3))
            stop = draw(st.sampled_from(["", "", "", "read", "output 1"]))
            if stop == "read":
                outputs.append(tf.abs(y))
            both = norm(y, 3, kind, f"norm_{number}")
            if stop == "output 1":
                outputs.append(tf.abs(both[2]))
            y = tf.nn.relu(both[0]) if draw(st.booleans()) else both[0]
            expected += not stop
        outputs.append(tf.abs(y, "last"))
    return view(g, [x], outputs), expected


@settings(max_examples=30, deadline=None, derandomize=True)
@given(networks())
def test_computes_the_same(case):
    graph, expected = case
    outcome = fold_old_batch_norms(graph)
    feeds = random_feeds(graph)
    for wanted, found in zip(run(graph, feeds), run(outcome.graph, feeds), strict=True):
        np.testing.assert_allclose(found, wanted, rtol=1e-3, atol=1e-3 * np.abs(wanted).max())
    assert outcome.changes == expected
    assert fold_old_batch_norms(outcome.graph).graph is outcome.graph


def test_the_old_tool_makes_wrong_numbers_of_a_convolution_that_is_read_elsewhere():
    """Kept to show what is meant: it gives the other reader the folded values."""
    with building() as g:
        x = v1.placeholder(tf.float32, [2, 7, 8, 3], "x")
        y = conv(x, 3, 6)
        z = tf.tanh(y * 0.1, "z")
        y = tf.identity(norm(y, 6, "FusedBatchNorm")[0], "y")
    graph = view(g, [x], [y, z])
    assert fold_old_batch_norms(graph).graph is graph
    old = transformed(with_default_attributes(g.as_graph_def()), ["x"], ["y", "z"], "fold_old_batch_norms", 60)
    feeds = random_feeds(graph)
    wanted, found = (run(one, feeds, ["z:0"])[0] for one in (graph, Graph.of(old, graph.inputs, graph.outputs)))
    assert np.abs(wanted - found).max() > 0.01


def test_the_old_tool_never_ends_on_shared_statistics():
    with building() as g:
        x = y = v1.placeholder(tf.float32, [2, 7, 8, 6], "x")
        shared = vectors(6)
        for number in range(2):
            y = norm(conv(y, 6, 6, f"conv_{number}"), 6, "FusedBatchNorm", f"norm_{number}", **shared)[0]
        y = tf.nn.relu(y, "y")
    with pytest.raises(OldToolError) as error:
        transformed(with_default_attributes(g.as_graph_def()), ["x"], ["y"], "fold_old_batch_norms", 3)
    assert error.value.how == "hang"
    assert folded(view(g, [x], [y])).changes == 2
