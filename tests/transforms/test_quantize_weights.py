"""Weights in 8 bits, and answers that are nearly the same."""

import functools

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.graphs import building, normal, op_delta, random_feeds, reasons, relative_error, run, view
from tests.saved_models import interface, save_v1, served, slimmed
from tfslim_core import api, stages, transforms
from tfslim_core.graph import Graph, make_node
from tfslim_core.transforms.quantize_weights import quantize_weights

v1 = tf.compat.v1


def dense(w, bias=None, name="w", dtype=tf.float32):
    """y = x @ w + bias"""
    with building() as g:
        x = v1.placeholder(dtype, [None, w.shape[0]], "x")
        y = tf.matmul(x, tf.constant(w, name=name))
        y = tf.identity(y if bias is None else tf.nn.bias_add(y, tf.constant(bias, name="bias")), "y")
    return view(g, [x], [y])


def computed(graph_def, feeds, fetches):
    with tf.Graph().as_default():
        tf.import_graph_def(graph_def, name="")
        with v1.Session() as session:
            return session.run(fetches, feeds)


def test_a_quarter_of_the_bytes_and_nearly_the_same_answers():
    graph = dense(normal(500, 300))
    outcome = quantize_weights(graph)
    assert (outcome.changes, outcome.skipped) == (1, ())
    assert transforms.stored_bytes(outcome.graph) < 0.27 * transforms.stored_bytes(graph)
    assert op_delta(graph, outcome.graph) == {}
    assert 0 < relative_error(graph, outcome.graph) < 0.01


def test_a_plain_graph_def_is_smaller_too_and_decodes_under_the_old_name():
    graph = dense(normal(500, 300))
    graph_def = graph_def_of(graph)
    slim = api.transform_graph(graph_def, ["x"], ["y"], "quantize_weights")
    assert slim == api.transform_graph(graph_def, ["x"], ["y"], "quantize_weights")
    assert slim.ByteSize() < 0.27 * graph_def.ByteSize()
    assert {n.op for n in slim.node if n.name == "w"} == {"Mul"}
    feeds = random_feeds(graph)
    (wanted,) = run(graph, feeds)
    (found,) = computed(slim, feeds, ["y:0"])
    assert 0 < np.linalg.norm(wanted - found) < 0.01 * np.linalg.norm(wanted)


def graph_def_of(graph):
    from tfslim_core.saved_model.write import with_values

    return with_values(graph)


def test_an_all_zero_tensor_is_not_nan():
    w = normal(100, 64)
    w[:, 3] = 0
    for value in (np.zeros((100, 64), np.float32), w):
        graph = dense(value)
        slim = quantize_weights(graph)
        assert slim.changes == 1
        feeds = random_feeds(graph)
        (found,) = run(slim.graph, feeds)
        np.testing.assert_array_equal(found[:, 3], 0)
        assert np.isfinite(found).all()
        made = api.transform_graph(graph_def_of(graph), ["x"], ["y"], "quantize_weights")
        np.testing.assert_array_equal(computed(made, feeds, "y:0")[:, 3], 0)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_nan_and_infinity_are_left_alone(bad):
    w = normal(100, 64)
    w[5, 5] = bad
    graph = dense(w)
    outcome = quantize_weights(graph)
    assert outcome.graph is graph
    assert reasons(outcome) == {"w": "it holds NaN or infinity"}


def test_channels_of_small_values_keep_their_precision():
    """One range for the whole tensor turns them to zeros."""
    w = normal(100, 64) * np.logspace(-6, 2, 64, dtype=np.float32)
    graph = dense(w)
    (new,) = run(quantize_weights(graph).graph, {}, ["w:0"])
    assert (np.abs(new - w).max(0) <= np.abs(w).max(0) / 250).all()
    feeds = random_feeds(graph)
    (wanted,), (found,) = run(graph, feeds), run(quantize_weights(graph).graph, feeds)
    assert (np.linalg.norm(wanted - found, axis=0) < 0.05 * np.linalg.norm(wanted, axis=0)).all()


def test_the_output_channel_is_found():
    """Of a transposed matrix and of a depthwise filter too."""
    with building() as g:
        x = v1.placeholder(tf.float32, [2, 8, 8, 40], "x")
        scale = np.logspace(-4, 1, 40, dtype=np.float32)
        filters = normal(3, 3, 40, 4) * scale[:, None]
        y = tf.nn.depthwise_conv2d(x, tf.constant(filters, name="depthwise"), [1, 1, 1, 1], "SAME")
        z = v1.placeholder(tf.float32, [2, 50], "z")
        rows = normal(40, 50) * scale[:, None]
        t = tf.matmul(z, tf.constant(rows, name="transposed"), transpose_b=True)
    graph = view(g, [x, z], [y, t])
    found = run(quantize_weights(graph).graph, {}, ["depthwise:0", "transposed:0"])
    for new, old, axis in zip(found, (filters, rows), ((0, 1), (1,)), strict=True):
        assert (np.abs(new - old) <= np.abs(old).max(axis, keepdims=True) / 250).all()


def test_outputs_and_fed_constants_are_left_alone():
    with building() as g:
        x = v1.placeholder(tf.float32, [None, 50], "x")
        w = tf.constant(normal(50, 50), name="w")
        fed = tf.constant(normal(50, 50, seed=1), name="fed")
        y = tf.matmul(tf.matmul(x, w), fed)
    outcome = quantize_weights(view(g, [x, fed], [y, w]))
    assert outcome.changes == 0
    assert reasons(outcome) == {"w": "it is an output", "fed": "it is an output"}


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float64"])
def test_other_floating_point_types_are_left_with_a_reason(dtype):
    """The old tool ignores them without a word."""
    kind = tf.as_dtype(dtype)
    outcome = quantize_weights(dense(normal(100, 64).astype(kind.as_numpy_dtype), dtype=kind))
    assert outcome.changes == 0
    assert reasons(outcome) == {"w": f"it is {dtype}, not float32"}


def test_what_is_no_weight_is_left_alone():
    """Batch norm statistics, biases, anchors, masks, integers."""
    with building() as g:
        x = v1.placeholder(tf.float32, [2, 5, 5, 2048], "x")
        statistics = [tf.constant(normal(2048, seed=i) ** 2, name=f"s{i}") for i in range(4)]
        scale, offset, mean, variance = statistics
        y = tf.raw_ops.FusedBatchNormV3(
            x=x, scale=scale, offset=offset, mean=mean, variance=variance, is_training=False
        )[0]
        y = y * tf.constant(normal(1, 1, 1, 2048), name="per_channel")
        ids = v1.placeholder(tf.int64, [None], "ids")
        z = tf.gather(tf.constant(np.arange(4000)), ids)
        boxes = v1.placeholder(tf.float32, [1917, 4], "boxes") + tf.constant(normal(1917, 4), name="anchors")
    graph = view(g, [x, ids, "boxes:0"], [y, z, boxes])
    outcome = quantize_weights(graph)
    assert outcome.graph is graph
    found = reasons(outcome)
    assert all("vector" in found.pop(f"s{i}") for i in range(4))
    assert found == {
        "per_channel": "it is read by Mul, not by a layer or a gather",
        "anchors": "it is read by AddV2, not by a layer or a gather",
    }


def test_the_minimum_size():
    graph = dense(normal(40, 30))
    assert quantize_weights(graph).changes == 1
    assert quantize_weights(graph, minimum_size=1200).changes == 1
    outcome = quantize_weights(graph, minimum_size=1201)
    assert (outcome.graph, outcome.changes, outcome.skipped) == (graph, 0, ())
    slim, steps = transforms.apply(graph, "quantize_weights(minimum_size=1201)")
    assert slim is graph
    assert steps[0].parameters == {"minimum_size": 1201}


@functools.cache
def sizes():
    """A weight of each placement: decoded by the runtime, at load, by the row, and a table below 16 MiB."""
    with building() as g:
        x = v1.placeholder(tf.float32, [None, 300], "x")
        ids = v1.placeholder(tf.int64, [None], "ids")
        y = tf.matmul(x, tf.constant(normal(300, 20), name="small"))
        z = tf.matmul(x, tf.constant(normal(300, 4000), name="large"))
        t = tf.gather(tf.constant(normal(20_000, 220), name="table"), ids)
        u = tf.gather(tf.constant(normal(13_000, 220), name="middle"), ids)
        v = tf.gather(tf.constant(normal(2_000, 20), name="little"), ids)
    return view(g, [x, ids], [y, z, t, u, v])


FEEDS = {"x:0": normal(3, 300, seed=9), "ids:0": np.array([0, 5, 1999])}


def test_run_twice_it_does_nothing_the_second_time():
    graph = sizes()
    once = quantize_weights(graph)
    assert once.changes == 5
    assert relative_error(graph, once.graph, FEEDS) < 0.01
    twice = quantize_weights(once.graph)
    assert twice.graph is once.graph
    assert set(reasons(twice).values()) == {
        "it is stored as int8 already",
        "it is the scale of an encoded weight",
    }


def test_run_twice_on_a_plain_graph_def():
    graph_def = graph_def_of(sizes())
    arguments = (["x", "ids"], ["MatMul", "MatMul_1", "GatherV2", "GatherV2_1", "GatherV2_2"])
    once = api.transform_graph(graph_def, *arguments, "quantize_weights")
    assert once.ByteSize() < 0.28 * graph_def.ByteSize()
    twice = api.transform_graph(once, *arguments, "quantize_weights")
    assert twice == once
    fetches = [f"{name}:0" for name in arguments[1]]
    for wanted, found in zip(computed(graph_def, FEEDS, fetches), computed(once, FEEDS, fetches), strict=True):
        assert np.linalg.norm(wanted - found) < 0.01 * np.linalg.norm(wanted)


def test_rows_of_a_table_that_no_session_folds_are_decoded_alone():
    slim = api.transform_graph(graph_def_of(sizes()), ["x", "ids"], ["GatherV2_1", "GatherV2_2"], "quantize_weights")
    nodes = {node.name: node for node in slim.node}
    assert (nodes["GatherV2_1"].op, nodes["GatherV2_2"].op) == ("Mul", "GatherV2")
    assert "middle" not in nodes
    assert nodes["little"].op == "Mul"


@pytest.mark.parametrize("again", [False, True])
def test_fold_constants_does_not_undo_it(again):
    """In one list, and in a second call on the GraphDef that the first one made."""
    graph_def = graph_def_of(sizes())
    arguments = (["x", "ids"], ["MatMul", "MatMul_1", "GatherV2", "GatherV2_1", "GatherV2_2"])
    calls = ["quantize_weights", "fold_constants"]
    if again:
        slim = api.transform_graph(api.transform_graph(graph_def, *arguments, calls[0]), *arguments, calls[1])
    else:
        slim = api.transform_graph(graph_def, *arguments, calls)
    assert slim.ByteSize() < 0.28 * graph_def.ByteSize()
    fetches = [f"{name}:0" for name in arguments[1]]
    for wanted, found in zip(computed(graph_def, FEEDS, fetches), computed(slim, FEEDS, fetches), strict=True):
        assert np.linalg.norm(wanted - found) < 0.01 * np.linalg.norm(wanted)


def test_fold_constants_in_one_list_on_a_graph():
    with building() as g:
        x = v1.placeholder(tf.float32, [None, 300], "x")
        y = tf.matmul(x, tf.transpose(tf.constant(normal(400, 300), name="w")), name="y")
    graph = view(g, [x], [y])
    slim, steps = transforms.apply(graph, "quantize_weights fold_constants")
    assert steps[0].bytes_after < 0.27 * steps[0].bytes_before
    assert steps[1].bytes_after <= steps[0].bytes_after
    assert relative_error(graph, slim) < 0.01


def test_a_shared_weight_is_decoded_for_both():
    with building() as g:
        x = v1.placeholder(tf.float32, [None, 50], "x")
        w = tf.constant(normal(50, 50), name="w")
        y = tf.matmul(tf.nn.relu(tf.matmul(x, w)), tf.identity(w))
    graph = view(g, [x], [y])
    slim = quantize_weights(graph)
    assert slim.changes == 1
    assert relative_error(graph, slim.graph) < 0.02


def test_a_weight_inside_a_v1_loop():
    with building() as g:
        v1.disable_control_flow_v2()
        try:
            x = v1.placeholder(tf.float32, [2, 200], "x")
            big = tf.constant(normal(200, 200) * np.float32(0.1), name="big")

            def body(i, value):
                inner = tf.constant(normal(200, 200, seed=1) * np.float32(0.1), name="inner")
                return i + 1, tf.tanh(tf.matmul(tf.matmul(value, big), inner))

            y = v1.while_loop(lambda i, value: i < 3, body, [0, x])[1]
        finally:
            v1.enable_control_flow_v2()
    graph = view(g, [x], [y])
    outcome = quantize_weights(graph)
    assert outcome.changes == 2
    assert relative_error(graph, outcome.graph) < 0.03
    feeds = random_feeds(graph)
    made = api.transform_graph(graph_def_of(graph), ["x"], [y.name], "quantize_weights")
    assert made.ByteSize() < 0.3 * graph_def_of(graph).ByteSize()
    np.testing.assert_allclose(computed(made, feeds, y.name), run(outcome.graph, feeds)[0], rtol=1e-5, atol=1e-6)


def test_names_that_are_taken():
    graph = dense(normal(50, 50))
    taken = [make_node("Placeholder", name, [], dtype=tf.float32) for name in ("w/codes", "w/scale", "w/cast")]
    graph = graph.replace(taken)
    slim = quantize_weights(graph).graph
    assert relative_error(graph, slim) < 0.01
    made = graph_def_of(slim)
    assert {node.op for node in made.node if node.name in ("w/codes", "w/scale", "w/cast")} == {"Placeholder"}


def test_function_bodies_are_not_entered():
    @tf.function
    def inner(x):
        return tf.matmul(x, tf.constant(normal(50, 50)))

    with building() as g:
        x = v1.placeholder(tf.float32, [None, 50], "x")
        y = tf.identity(inner(x), "y")
    graph = view(g, [x], [y])
    assert quantize_weights(graph).graph is graph


def test_a_servable_decodes_at_load(tmp_path):
    """Requests read a float variable, or rows of a large table."""

    def build():
        x = v1.placeholder(tf.float32, [None, 300], name="x")
        w = v1.get_variable("dense", initializer=normal(300, 200))
        return {"serving_default": ({"x": x}, {"y": tf.matmul(x, w)})}

    original = save_v1(tmp_path / "m", build)
    slim = slimmed(original, tmp_path, lambda bundle: stages.transformed(bundle, "quantize_weights", lambda *_: None))
    assert interface(slim.path) == interface(original)
    request = [("serving_default", {"x": normal(4, 300)})]
    (wanted,), (found,) = served(original, request), served(slim.path, request)
    assert 0 < np.linalg.norm(wanted["y"] - found["y"]) < 0.01 * np.linalg.norm(wanted["y"])
    size = sum(file.stat().st_size for file in slim.path.rglob("*") if file.is_file())
    assert size < 0.3 * 300 * 200 * 4


@settings(max_examples=25, deadline=None, derandomize=True)
@given(
    shape=st.sampled_from([(40, 30), (1, 1100), (300, 4), (1200, 1)]),
    magnitude=st.floats(-30, 30),
    zeros=st.floats(0, 1),
    transposed=st.booleans(),
    gathered=st.booleans(),
    control=st.booleans(),
    seed=st.integers(0, 5),
)
def test_any_weight(shape, magnitude, zeros, transposed, gathered, control, seed):
    value = normal(*shape, seed=seed) * np.float32(10.0**magnitude)
    value[np.random.default_rng(seed).uniform(size=shape) < zeros] = 0
    with building() as g:
        x = v1.placeholder(tf.float32, [3, shape[1] if transposed else shape[0]], "x")
        first = tf.no_op("first")
        with tf.control_dependencies([first] if control else []):
            w = tf.constant(value, name="w")
        outputs = [tf.matmul(x, w, transpose_b=transposed)]
        if gathered:
            outputs.append(tf.gather(w, tf.constant([0, shape[0] - 1])))
    graph = view(g, [x], outputs)
    slim = quantize_weights(graph)
    assert slim.changes == 1
    feeds = random_feeds(graph)
    bound = np.abs(value).max() / 240
    made = Graph.of(graph_def_of(slim.graph), graph.inputs, graph.outputs)
    for one in (slim.graph, made):
        for wanted, found in zip(run(graph, feeds), run(one, feeds), strict=True):
            assert np.abs(wanted - found).max() <= bound * (np.abs(feeds["x:0"]).sum(1).max() + 1)
