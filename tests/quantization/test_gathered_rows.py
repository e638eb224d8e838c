"""Whatever reads a few rows of an encoded table gets the bits that decoding all of it would give."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import tensorflow as tf

from tests.graphs import building, op_counts, run, view, whole_graph_def
from tfslim_core import encodings
from tfslim_core.encodings.scheme import Form
from tfslim_core.quantization.encode_weights import Choice, encode_weights
from tfslim_core.quantization.gathered_rows import obstacle
from tfslim_core.quantization.placements import choose, place, use_of
from tfslim_core.weights import Encoded, in_memory

v1 = tf.compat.v1
raw = tf.raw_ops
ENCODINGS = ["int8", "int8/tensor", "uint4", "int3/block8", "bfloat16"]
FEW = ["int8/tensor", "uint4/block8"]
IDS = {"ids:0": np.array([[0, 5, 5], [29, 7, 0]])}


def normal(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def table(read, shape=(30, 16), ids=(None, 3), dtype=tf.int64):
    """A table of that shape, of which `read(w, ids)` reads; what it gives is handed on."""
    with building() as graph:
        w = tf.constant(normal(*shape), name="w")
        ids = v1.placeholder(dtype, ids, name="ids")
        found = read(w, ids)
        outputs = [
            tf.identity(y, f"y{number}") for number, y in enumerate(found if isinstance(found, list) else [found])
        ]
    return view(graph, [ids], outputs)


def as_rows(graph, encoding="int8", axes=None):
    """The graph with rows of its table decoded, and the graph with all of it decoded before."""
    use = use_of(graph, "w")
    stored = encodings.encoded(graph.weights["w"], encoding, encodings.Sharing(use.axes if axes is None else axes))
    placement, reason = choose(use, stored, "rows")
    assert placement == "rows", reason
    edit = place(graph, graph.fresh_names(), "w", stored, use, placement)
    changed = graph.replace(edit.nodes, drop=edit.drop, weights=edit.weights)
    assert "w" not in changed.nodes
    assert any(weight.shape == stored.shape and weight.dtype != np.float32 for weight in changed.weights.values())
    return changed, graph.replace(weights={"w": replace(stored, encoded=None)})


def assert_same_bits(changed, whole, *feeds):
    for answers in zip(*(asked(graph, feeds or [IDS]) for graph in (changed, whole)), strict=True):
        for name, found, wanted in zip(changed.outputs, *answers, strict=True):
            assert found.shape == wanted.shape, name
            assert found.tobytes() == wanted.tobytes(), name


def asked(graph, feeds):
    """The outputs for each of the feeds, in one session without TensorFlow's own optimizer."""
    config = v1.ConfigProto()
    config.graph_options.rewrite_options.disable_meta_optimizer = True
    with tf.Graph().as_default():
        tf.import_graph_def(whole_graph_def(graph), name="")
        with v1.Session(config=config) as session:
            return [session.run(list(graph.outputs), one) for one in feeds]


GATHERS = {
    "matrix of ids": lambda w, ids: tf.gather(w, ids),
    "one id": lambda w, ids: tf.gather(w, ids[0, 0]),
    "v1": lambda w, ids: raw.Gather(params=w, indices=ids),
    "axis from the end": lambda w, ids: tf.gather(w, ids, axis=-len(w.shape)),
    "nd of rows": lambda w, ids: tf.gather_nd(w, ids[..., None]),
    "nd of one row": lambda w, ids: tf.gather_nd(w, ids[0, :1]),
    "row": lambda w, ids: w[7],
    "last row": lambda w, ids: w[-1],
    "by several": lambda w, ids: [tf.gather(tf.identity(w), ids), tf.gather_nd(w, ids[:, :1]), w[3]],
}


def all_of(reads):
    """What each of the reads gives, one list."""

    def read(w, ids):
        found = [one(w, ids) for one in reads]
        return [y for some in found for y in (some if isinstance(some, list) else [some])]

    return read


@pytest.mark.parametrize("read", GATHERS.values(), ids=GATHERS)
def test_every_read_of_rows_is_known(read):
    assert_same_bits(*as_rows(table(read)))


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_rows_of_a_matrix(encoding):
    assert_same_bits(*as_rows(table(all_of(GATHERS.values())), encoding))


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("shape", [(320,), (32, 6, 16), (1, 320), (320, 1, 1)], ids=str)
def test_tables_of_any_rank(shape, encoding):
    gathers = [read for name, read in GATHERS.items() if "row" not in name and name != "by several"]
    graph = table(lambda w, ids: [*all_of(gathers)(w, ids % shape[0]), w[0], w[-1]], shape)
    assert_same_bits(*as_rows(graph, encoding))


@pytest.mark.parametrize("encoding", FEW)
@pytest.mark.parametrize("dtype", [tf.int32, tf.int64], ids=lambda dtype: dtype.name)
@pytest.mark.parametrize(
    ("shape", "depth"), [((30, 16), 2), ((30, 6, 16), 2), ((30, 6, 16), 3), ((1, 5, 64), 2)], ids=str
)
def test_deeper_indices(shape, depth, dtype, encoding):
    graph = table(lambda w, ids: tf.gather_nd(w, ids), shape, (None, depth), dtype)
    ids = np.random.default_rng(1).integers(0, shape[:depth], (11, depth)).astype(dtype.as_numpy_dtype)
    assert_same_bits(*as_rows(graph, encoding), {"ids:0": ids}, {"ids:0": ids[:0]})


@pytest.mark.parametrize("axes", [(0,), (1,), (2,), (0, 1), (0, 2), (1, 2), (0, 1, 2), ()], ids=str)
@pytest.mark.parametrize("encoding", ["uint8", "int4/block4"])
def test_scales_that_are_shared_along_any_axes(encoding, axes):
    graph = table(lambda w, ids: [tf.gather_nd(w, ids[:, :depth]) for depth in (1, 2, 3)], (30, 8, 16), (None, 3))
    ids = np.random.default_rng(1).integers(0, (30, 8, 16), (11, 3))
    assert_same_bits(*as_rows(graph, encoding, axes), {"ids:0": ids})


@pytest.mark.parametrize("encoding", FEW)
@pytest.mark.parametrize("shape", [(30, 16), (30, 4, 8)], ids=str)
def test_segments_of_rows(shape, encoding):
    def read(w, ids):
        flat = tf.reshape(ids, [-1])
        taken = {"data": w, "indices": flat, "segment_ids": tf.range(tf.size(flat)) // 2}
        found = []
        for how in ("Sum", "Mean", "SqrtN"):
            found.append(getattr(raw, f"SparseSegment{how}")(**taken))
            found.append(getattr(raw, f"SparseSegment{how}WithNumSegments")(**taken, num_segments=5))
        return found

    changed, whole = as_rows(table(read, shape), encoding)
    assert op_counts(changed)["Unique"] == 6
    assert_same_bits(changed, whole, IDS, {"ids:0": np.zeros((0, 3), np.int64)})


@pytest.mark.parametrize("combiner", ["sum", "mean", "sqrtn"])
@pytest.mark.parametrize("safe", [False, True])
def test_sparse_embeddings(combiner, safe):
    def read(w, ids):
        lookup = tf.nn.safe_embedding_lookup_sparse if safe else v1.nn.embedding_lookup_sparse
        return lookup(w, tf.sparse.from_dense(ids), None, combiner=combiner)

    graph = table(read)
    assert use_of(graph, "w").gathered
    assert_same_bits(*as_rows(graph))


def test_an_id_that_is_no_row_is_an_error_as_before():
    for read in (GATHERS["matrix of ids"], GATHERS["nd of rows"]):
        changed, whole = as_rows(table(read), "int8")
        for graph in (changed, whole):
            with pytest.raises(tf.errors.InvalidArgumentError, match="30"):
                run(graph, {"ids:0": np.array([[0, 30, 1]])})


def test_what_a_gather_waits_for_it_still_waits_for():
    def read(w, ids):
        first = tf.identity(ids, "first")
        with tf.control_dependencies([first]):
            return [
                tf.gather(w, ids),
                tf.gather_nd(w, ids[:, :1]),
                raw.SparseSegmentSum(data=w, indices=ids[0], segment_ids=[0, 0, 1]),
            ]

    graph = table(read)
    changed, whole = as_rows(graph)
    for name, node in graph.nodes.items():
        if any(text == "^first" for text in node.input) and node.op.startswith(("Gather", "SparseSegment")):
            waiting = [
                other for other in changed.nodes.values() if other.name.startswith(name) and "^first" in other.input
            ]
            assert waiting
    assert_same_bits(changed, whole)


NO_ROWS = {
    "columns": (lambda w, ids: tf.gather(w, ids[0], axis=1), "read by GatherV2"),
    "batches": (lambda w, ids: tf.gather(w, tf.tile(ids[:1], [30, 1]), batch_dims=1), "read by GatherV2"),
    "several rows": (lambda w, ids: w[2:9], "read by StridedSlice"),
    "a row that is not known": (lambda w, ids: w[ids[0, 0]], "read by StridedSlice"),
    "a column": (lambda w, ids: w[:, 3], "read by StridedSlice"),
    "a new axis": (lambda w, ids: w[None], "read by StridedSlice"),
    "as indices": (lambda w, ids: tf.gather(tf.zeros([9, 9]), 0 * tf.cast(w, tf.int32)), "read by Cast"),
    "tied": (
        lambda w, ids: tf.matmul(tf.gather(w, ids[:, 0]), w, transpose_b=True),
        "read by MatMul; gathered from; decoded once for all of them",
    ),
    "ids of unknown depth": (lambda w, ids: tf.gather_nd(w, v1.placeholder_with_default(ids[:, :1], None)), "GatherNd"),
    "ids out of range": (
        lambda w, ids: raw.GatherNd(params=w, indices=ids[..., None], bad_indices_policy="IGNORE"),
        "GatherNd",
    ),
    "in a loop": (
        lambda w, ids: tf.while_loop(
            lambda i, y: i < 2, lambda i, y: (i + 1, y + tf.reduce_sum(tf.gather(w, ids))), [0, 0.0]
        )[1],
        "handed into a loop (Enter)",
    ),
    "in a branch": (
        lambda w, ids: v1.cond(ids[0, 0] > 9, lambda: tf.gather(w, ids), lambda: tf.gather(w, ids) * 2),
        "handed into a branch (Switch)",
    ),
}


@pytest.mark.parametrize(("read", "words"), NO_ROWS.values(), ids=NO_ROWS)
def test_what_is_read_otherwise_is_decoded_whole(read, words):
    v1.disable_control_flow_v2()
    try:
        graph = table(read)
    finally:
        v1.enable_control_flow_v2()
    use = use_of(graph, "w")
    assert not use.gathered
    assert words in use.reason
    whole = graph.replace(weights={"w": in_memory(decoded(graph, use))})
    for wanted in (None, "rows", "load", "graph"):
        changed, entries = encode_weights(graph, Choice(placement=wanted, minimum_size=400))
        (entry,) = (entry for entry in entries if entry.name == "w")
        assert entry.placement == {"load": "load"}.get(wanted, "graph")  # it is small
        assert ("no rows: it is not only gathered from" in entry.reason) == (wanted == "rows")
        if wanted in ("rows", "load"):  # the others place it as these do
            assert_same_bits(changed, whole)


def decoded(graph, use):
    return encodings.encoded(graph.weights["w"], "int8", encodings.Sharing(use.axes)).read()


def test_in_loops_and_branches_of_tensorflow_2():
    @tf.function
    def loop(w, ids):
        y = tf.zeros([2, 3, 16])
        for _ in tf.range(2):
            y += tf.gather(w, ids)
        return y if ids[0, 0] > 3 else tf.gather(w, ids) * 2

    graph = table(lambda w, ids: loop.get_concrete_function(w, tf.TensorSpec([2, 3], tf.int64))(w, ids), ids=(2, 3))
    if "w" in graph.weights:
        use = use_of(graph, "w")
        assert not use.gathered
        changed, _ = encode_weights(graph, Choice(minimum_size=400))
        assert_same_bits(changed, graph.replace(weights={"w": in_memory(decoded(graph, use))}))


def test_a_table_that_several_share_has_a_scale_per_row():
    graph = table(lambda w, ids: [tf.gather(w, ids), tf.reduce_sum(w)])
    assert use_of(graph, "w").axes == (1,)


def test_parts_of_which_no_rows_can_be_read():
    codes, scale = in_memory(np.zeros((30, 16), np.int8)), in_memory(np.ones((30, 1), np.float32))
    assert not obstacle(Encoded("int8", {"codes": codes, "scale": scale}), (30, 16), 2)
    assert "as a whole" in obstacle(Encoded("zlib", {"chunks": codes}), (30, 16), 1)
    flat = in_memory(np.zeros(480, np.int8))
    assert "its codes has the shape (480,)" in obstacle(Encoded("int8", {"codes": flat, "scale": scale}), (30, 16), 1)
    for groups, words in ((1, ""), (4, "its levels may belong to places in a row")):
        levels = in_memory(np.zeros((groups, 16), np.float32))
        more = Encoded("int8", {"codes": codes, "scale": scale, "levels": levels})
        assert not obstacle(more, (30, 16), 1)
        assert obstacle(more, (30, 16), 2) == words


def test_where_no_rows_can_be_read_the_table_is_decoded_at_load(monkeypatch):
    graph = table(lambda w, ids: tf.gather(w, ids), (1200, 16))
    use = use_of(graph, "w")
    form = Form(np.dtype(np.float32), (1200, 16))
    stored = encodings.encoded(graph.weights["w"], "int8", encodings.Sharing(use.axes))
    odd = replace(stored, encoded=Encoded("int8", {**stored.encoded.parts, "scale": in_memory(normal(7))}))
    assert choose(use, stored, None)[0] == "load"
    assert "below 16 MiB" in choose(use, stored, None)[1]
    assert choose(use, stored, "rows") == ("rows", f"{use.reason}; rows was asked for")
    assert choose(use, odd, "rows") == ("load", f"{use.reason}; no rows: its scale has the shape (7,)")
    assert form.shape == odd.shape
