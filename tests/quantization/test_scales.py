"""Which constants are scales that codes in the graph are multiplied with."""

import numpy as np
import pytest
import tensorflow as tf

from tests.graphs import building, view
from tfslim_core.graph import Graph
from tfslim_core.quantization.encode_weights import Choice, encode_weights
from tfslim_core.quantization.scales import scales_of
from tfslim_core.saved_model import write

v1 = tf.compat.v1


def test_scales_are_what_multiplies_constant_codes():
    with building() as g:
        image = v1.placeholder(tf.uint8, [None, 4], "image")
        ids = v1.placeholder(tf.int64, [None], "ids")
        codes = tf.constant(np.ones((9, 4), np.int8), name="codes")
        tf.cast(codes, tf.float32) * tf.cast(tf.constant(np.ones((1, 4), np.float16), name="whole"), tf.float32)
        rows = tf.gather(tf.constant(np.ones((9, 1), np.float32), name="by_row"), ids)
        rows * tf.cast(tf.gather(codes, ids), tf.float32)
        tf.cast(image, tf.float32) * tf.constant(np.ones(4, np.float32), name="of_pixels")
        tf.cast(codes, tf.float32) * tf.reduce_sum(tf.cast(image, tf.float32))
    assert scales_of(view(g, [image, ids])) == {"whole", "by_row"}


READERS = {
    "matmul": lambda w, x, ids: tf.matmul(x, w),
    "gather": lambda w, x, ids: tf.gather(w, ids),
    "nd": lambda w, x, ids: tf.gather_nd(w, ids[:, None]),
    "nd of elements": lambda w, x, ids: tf.gather_nd(w, tf.reshape(ids, [-1, 2])),
    "row": lambda w, x, ids: w[7],
    "segments": lambda w, x, ids: tf.raw_ops.SparseSegmentSum(data=w, indices=ids, segment_ids=ids),
}


@pytest.mark.parametrize("reader", sorted(READERS.keys() - {"matmul"}))
@pytest.mark.parametrize("encoding", ["int8", "uint4/block32", "palette8"])
def test_those_of_rows_are_not_rounded_again(encoding, reader):
    with building() as g:
        ids = v1.placeholder(tf.int32, [None], "ids")
        w = tf.constant(np.random.default_rng(0).standard_t(3, (320, 256)).astype(np.float32), name="w")
        outputs = [READERS[reader](w, None, ids)]
    once, _ = encode_weights(view(g, [ids], outputs), Choice(encoding, placement="rows"))
    assert scales_of(once)
    twice, entries = encode_weights(once, Choice("int4", minimum_size=1, lossless=False))
    assert {entry.placement for entry in entries} == {"none"}
    assert {name: weight.encoded for name, weight in twice.weights.items()} == {
        name: weight.encoded for name, weight in once.weights.items()
    }


@pytest.mark.parametrize(
    ("encoding", "role"),
    [
        ("int8", "scale"),
        ("int4/block32", "scale"),
        ("uint8", "scale"),
        ("uint5/block32", "scale"),
        ("int10/tensor", "scale"),
        ("palette8", "codebook"),
        ("palette6/group8", "codebook"),
    ],
)
@pytest.mark.parametrize("reader", ["matmul", "gather", "nd of elements", "row"])
def test_those_of_weights_that_a_plain_graph_decodes_are_found(encoding, role, reader, monkeypatch):
    monkeypatch.setattr(write, "FOLDED_BYTES", 1000 if reader != "matmul" else 10**9)
    value = np.random.default_rng(0).standard_t(3, (320, 256)).astype(np.float32)
    with building() as g:
        x = v1.placeholder(tf.float32, [None, 320], "x")
        ids = v1.placeholder(tf.int32, [None], "ids")
        w = tf.constant(value, name="w")
        outputs = [READERS[reader](w, x, ids)]
    stored, _ = encode_weights(view(g, [x, ids], outputs), Choice(encoding, placement="load"))
    plain = Graph.of(write.with_values(stored), stored.inputs, stored.outputs)
    found = {name for name in scales_of(plain) if plain.nodes[name].op == "Const"}
    assert {name.rpartition("/")[2] for name in found} - {"zero_point"} == {role}
    again, entries = encode_weights(plain, Choice("int8", minimum_size=1, lossless=False))
    assert {entry.name for entry in entries if entry.placement != "none"} <= set()
    assert again.weights.keys() == plain.weights.keys()
