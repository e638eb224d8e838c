"""A weight is decoded where no request pays for it, with a scale for each thing that is used as one."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from tests.graphs import building, normal, run, view, whole_graph_def
from tfslim_core import encodings
from tfslim_core.quantization import placements
from tfslim_core.quantization.placements import ROWS_BYTES, place, use_of

v1 = tf.compat.v1


def constant(*shape, name="w"):
    return tf.constant(normal(*shape), name=name)


def placed(graph, placement, encoding="int8", name="w"):
    use = use_of(graph, name)
    stored = encodings.encoded(graph.weights[name], encoding, encodings.Sharing(use.axes))
    edit = place(graph, graph.fresh_names(), name, stored, use, placement)
    return graph.replace(edit.nodes, drop=edit.drop, weights=edit.weights), stored.read()


def axes_of(build, shape=(6, 7, 8, 9)):
    with building() as graph:
        outputs = build(constant(*shape))
        return use_of(view(graph, outputs=[outputs]), "w").axes


def test_a_scale_for_each_output_channel():
    raw = tf.raw_ops
    image = normal(1, 9, 9, 8)
    assert axes_of(lambda w: raw.Conv2D(input=image, filter=w, strides=[1] * 4, padding="SAME")) == (0, 1, 2)
    assert axes_of(lambda w: raw.DepthwiseConv2dNative(input=image, filter=w, strides=[1] * 4, padding="SAME")) == (
        0,
        1,
    )
    assert axes_of(lambda w: tf.matmul(normal(5, 40), w), (40, 30)) == (0,)
    assert axes_of(lambda w: tf.matmul(normal(5, 30), w, transpose_b=True), (40, 30)) == (1,)
    assert axes_of(lambda w: tf.matmul(w, normal(30, 5)), (40, 30)) == (1,)
    assert axes_of(lambda w: tf.matmul(w, normal(40, 5), transpose_a=True), (40, 30)) == (0,)
    assert axes_of(lambda w: raw.BatchMatMulV2(x=normal(3, 5, 40), y=w), (3, 40, 30)) == (0, 1)
    assert axes_of(lambda w: raw.BatchMatMulV2(x=normal(3, 5, 30), y=w, adj_y=True), (3, 40, 30)) == (0, 2)
    assert axes_of(
        lambda w: raw.Conv2DBackpropInput(
            input_sizes=[1, 9, 9, 8], filter=w, out_backprop=normal(1, 9, 9, 9), strides=[1] * 4, padding="SAME"
        )
    ) == (0, 1, 3)
    assert axes_of(lambda w: tf.reshape(w, [-1]), (40, 30)) == (0,)


def table(readers, rows=ROWS_BYTES // 128 // 4, width=128):
    """A table of `ROWS_BYTES`, read by what `readers(w, ids)` makes."""
    with building() as graph:
        w = constant(rows, width)
        ids = v1.placeholder(tf.int32, [None, 2], name="ids")
        outputs = [tf.identity(y, f"y{number}") for number, y in enumerate(readers(w, ids))]
    return view(graph, [ids], outputs)


IDS = {"ids:0": np.array([[0, 5], [5, 77]], np.int32)}


def test_a_large_table_that_is_only_gathered_from_stays_encoded():
    graph = table(lambda w, ids: [tf.gather(w, ids), tf.gather(tf.identity(w), ids[:, 0]) * 2])
    assert use_of(graph, "w").placement == "rows"
    assert use_of(graph, "w").axes == (1,)
    changed, value = placed(graph, "rows")
    assert "w" not in changed.nodes
    assert {weight.dtype.name for weight in changed.weights.values()} <= {"int8", "float32", "float16"}
    first, second = run(changed, IDS)
    assert first.tobytes() == value[IDS["ids:0"]].tobytes()
    np.testing.assert_array_equal(second, value[IDS["ids:0"][:, 0]] * 2)


@pytest.mark.parametrize("encoding", ["int8", "float16"])
@pytest.mark.parametrize("shape", [(300,), (300, 4), (30, 4, 5)], ids=str)
def test_rows_of_any_rank_are_decoded_alike(encoding, shape):
    with building() as graph:
        w = constant(*shape)
        ids = v1.placeholder(tf.int32, [None, 2], name="ids")
        outputs = [tf.gather(w, ids), tf.raw_ops.Gather(params=w, indices=ids)]
    graph = view(graph, [ids], outputs)
    changed, value = placed(graph, "rows", encoding)
    feeds = {"ids:0": np.array([[0, 5], [29, 7]], np.int32)}
    for found in run(changed, feeds):
        assert found.tobytes() == value[feeds["ids:0"]].tobytes()


@pytest.mark.parametrize(
    "other",
    [
        lambda w, ids: tf.reduce_sum(w, 0),
        lambda w, ids: tf.gather(w, ids[0], axis=1),
        lambda w, ids: tf.gather(tf.zeros([9, 9]), tf.cast(w[0, :1], tf.int32)),
        lambda w, ids: tf.gather(w, ids[:, :1] * 0 + tf.range(2)[:, None], batch_dims=0, axis=-1),
    ],
    ids=["reduced", "columns", "sliced", "last axis"],
)
def test_a_table_that_is_read_otherwise_too_is_decoded_once(other):
    graph = table(lambda w, ids: [tf.gather(w, ids), other(w, ids)])
    use = use_of(graph, "w")
    assert (use.placement, use.gathered) == ("load", False)
    changed, value = placed(graph, "load")
    assert set(changed.nodes) == set(graph.nodes)
    np.testing.assert_array_equal(run(changed, IDS)[0], value[IDS["ids:0"]])


def test_a_table_that_an_output_hands_out_is_no_rows():
    graph = table(lambda w, ids: [tf.gather(w, ids), w])
    assert use_of(graph, "w").placement == "load"


@pytest.mark.parametrize("encoding", ["int8", "float16"])
def test_decoded_in_the_graph_under_the_old_name(encoding):
    with building() as graph:
        x = v1.placeholder(tf.float32, [None, 40], name="x")
        y = tf.matmul(x, constant(40, 30)) + 1
    graph = view(graph, [x], [y])
    assert use_of(graph, "w").placement == "graph"
    changed, value = placed(graph, "graph", encoding)
    assert changed.nodes["w"].op == ("Mul" if encoding == "int8" else "Cast")
    x = normal(3, 40, seed=2)
    np.testing.assert_allclose(run(changed, {"x:0": x})[0], x @ value + 1, rtol=1e-5, atol=1e-5)


def test_a_constant_that_waits_for_others_still_waits():
    with building() as graph:
        x = v1.placeholder(tf.float32, [], name="x")
        with v1.control_dependencies([tf.identity(x, "first")]):
            w = constant(40, 30)
        y = tf.reduce_sum(w, 1)
    graph = view(graph, [x], [y])
    changed, value = placed(graph, "graph")
    waiting = [node.name for node in changed.nodes.values() if "^first" in node.input]
    assert sorted(waiting) == ["w/codes", "w/scale"]
    np.testing.assert_allclose(run(changed, {"x:0": 0})[0], value.sum(1), rtol=1e-4)


def test_small_ones_are_decoded_in_the_graph_and_large_ones_at_load():
    for rows, placement in (
        (placements.GRAPH_BYTES // 4 // 4, "graph"),
        (placements.GRAPH_BYTES // 4 // 4 + 1, "load"),
    ):
        with building() as graph:
            y = tf.matmul(normal(2, rows), constant(rows, 4))
        assert use_of(view(graph, [], [y]), "w").placement == placement


def decodes(graph, feeds):
    """Whether a request to a session of default options still runs a Cast."""
    with tf.Graph().as_default() as imported:
        tf.import_graph_def(whole_graph_def(graph), name="")
        with v1.Session(graph=imported) as session:
            told = v1.RunMetadata()
            trace = v1.RunOptions(trace_level=v1.RunOptions.FULL_TRACE, output_partition_graphs=True)
            session.run(graph.outputs, feeds, options=trace, run_metadata=told)
    return "Cast" in {node.op for part in told.partition_graphs for node in part.node}


@pytest.mark.parametrize(
    ("nbytes", "folded"), [(placements.GRAPH_BYTES, True), (10 * 2**20, True), (10 * 2**20 + 4096, False)]
)
def test_the_runtime_folds_a_decode_of_up_to_10_mib(nbytes, folded):
    with building() as graph:
        x = v1.placeholder(tf.float32, [None, 1024], name="x")
        y = tf.matmul(x, constant(1024, nbytes // 4096))
    changed, _ = placed(view(graph, [x], [y]), "graph")
    assert decodes(changed, {"x:0": normal(1, 1024)}) == (not folded)
