"""What pruning leaves alone, with the reason, and what stands beside it."""

from __future__ import annotations

import re

import numpy as np
import pytest
import tensorflow as tf

from tests.saved_models import normal, save_v1
from tests.vocabulary.text_models import (
    LENGTH,
    frozen,
    groups,
    ids_model,
    pruned_right,
    scores,
    some_counts,
    text_table,
    variable,
    vocabulary,
    words_in,
    words_placeholder,
)
from tfslim_core.quantization.encode_weights import Choice, encode_weights
from tfslim_core.quantization.live_model import LiveModel
from tfslim_core.saved_model.freeze import freeze_saved_model
from tfslim_core.saved_model.read import read_saved_model
from tfslim_core.vocabulary.lookups import find_embeddings
from tfslim_core.vocabulary.pruning import kept_rows, prune

tf1 = tf.compat.v1


def ids_placeholder():
    return tf1.placeholder(tf.int64, [None, LENGTH], name="ids")


def tied(ids, table):
    return {"scores": tf.matmul(tf.reduce_mean(tf.gather(table, ids), 1), table, transpose_b=True)}


def fed_axis(ids, table):
    axis = tf1.placeholder_with_default(0, [], name="axis")
    return {"y": tf.gather(table, ids, axis=axis)}


def fixed_row(ids, table):
    return {"y": tf.gather(table, ids) - table[7]}


def loop(ids, table):
    def step(i, total):
        return i + 1, total + tf.reduce_sum(tf.gather(table, ids[:, i]))

    tf1.disable_control_flow_v2()
    try:
        return {"y": tf1.while_loop(lambda i, _: i < 3, step, [0, 0.0])[1] + tf.zeros([tf.shape(ids)[0]])}
    finally:
        tf1.enable_control_flow_v2()


def branch(ids, table):
    return {"y": tf.cond(ids[0, 0] > 3, lambda: tf.gather(table, ids), lambda: 2 * tf.gather(table, ids))}


LEFT = {
    "tied to the output layer": (tied, "used otherwise too: .*MatMul"),
    "an axis that is fed": (fed_axis, ""),
    "one row by its number": (fixed_row, "one row of it is read by its number"),
    "in a loop": (loop, ""),
    "in a branch": (branch, ""),
    "numbers of it": (lambda ids, table: {"y": tf.gather_nd(table, tf.stack([ids, ids % 4], -1))}, "single numbers"),
}


@pytest.mark.parametrize(("use", "why"), LEFT.values(), ids=LEFT)
def test_left_alone(tmp_path, use, why):
    def build():
        ids = ids_placeholder()
        return {"ids": ids}, use(ids, variable("embedding", 60, 8))

    found, left = groups(frozen(tmp_path / "m", build, init=False))
    assert not found
    if why:
        (reason,) = left.values()
        assert re.search(why, reason)


def test_an_embedding_that_is_an_output(tmp_path):
    def build():
        ids = ids_placeholder()
        table = tf.identity(variable("embedding", 60, 8))
        return {"ids": ids}, {"rows": tf.gather(table, ids), "table": table}

    found, _ = groups(frozen(tmp_path / "m", build, init=False))
    assert not found


def test_an_encoded_embedding(tmp_path):
    bundle = frozen(tmp_path / "m", ids_model(), init=False)
    graph, _ = encode_weights(bundle.graph, Choice("int8", minimum_size=16, placement="load"))
    _, left = find_embeddings(graph, {"ids"})
    assert "prune before quantizing" in left[0].reason


def test_a_lookup_for_what_the_corpus_does_not_feed(tmp_path):
    def build():
        a, b = ids_placeholder(), tf1.placeholder(tf.int64, [None, LENGTH], name="others")
        table = variable("embedding", 60, 8)
        return {
            "one": ({"ids": a}, {"y": tf.gather(table, a)}),
            "two": ({"others": b}, {"y": tf.gather(table, b)}),
        }

    save_v1(tmp_path / "m", build)
    bundle = freeze_saved_model(read_saved_model(tmp_path / "m", ["serve"], None))
    found, left = find_embeddings(bundle.graph, {"ids"})
    assert not found
    assert "what the corpus does not feed (others)" in left[0].reason


def other_table(file, answer):
    def build():
        words = words_placeholder()
        ids = text_table(file, offset=1)(words)
        rows = tf.gather(variable("embedding", 61, 32), ids)
        return {"words": words}, {"scores": scores(rows, 32), **answer(words, file)}

    return build


def reverse(words, file):
    table = text_table(
        file, key_dtype=tf.int64, value_dtype=tf.string, default=b"?", key_index=-1, value_index=-2, offset=0
    )
    return {"word": table(tf.strings.to_hash_bucket_fast(words, 60))}


def second(words, file):
    return {"number": text_table(file, offset=0, default=-1)(words)}


@pytest.mark.parametrize("answer", [reverse, second])
def test_two_tables_on_one_file(tmp_path, answer):
    file = vocabulary(tmp_path)
    bundle = frozen(tmp_path / "m", other_table(file, answer))
    assert len({asset.filename for asset in bundle.manifest.assets}) == 1
    result, group, _ = pruned_right(bundle, tmp_path / "out", words_in())
    assert group.obstacle == ""
    files = {asset.filename for asset in result.bundle.manifest.assets}
    assert files == {"vocab.txt", "vocab_pruned.txt"}
    assert (result.bundle.files / "assets/vocab.txt").read_bytes().count(b"\n") == 60
    with LiveModel(bundle, []) as live:
        wanted = live.run("serving_default", words_in())
    with LiveModel(result.bundle, []) as live:
        found = live.run("serving_default", words_in())
    key = "word" if answer is reverse else "number"
    np.testing.assert_array_equal(found[key], wanted[key])


def test_two_tables_that_one_path_fills(tmp_path):
    file = vocabulary(tmp_path)

    def build():
        words = words_placeholder()
        path = tf.constant(file, name="asset_path")
        tf1.add_to_collection(tf1.GraphKeys.ASSET_FILEPATHS, path)
        found = []
        for _ in range(2):
            init = tf.lookup.TextFileInitializer(file, tf.string, -2, tf.int64, -1)
            table = tf.raw_ops.HashTableV2(key_dtype=tf.string, value_dtype=tf.int64)
            del init
            fill = tf.raw_ops.InitializeTableFromTextFileV2(
                table_handle=table, filename=path, key_index=-2, value_index=-1
            )
            tf1.add_to_collection(tf1.GraphKeys.TABLE_INITIALIZERS, fill)
            found.append(
                tf.raw_ops.LookupTableFindV2(table_handle=table, keys=words, default_value=tf.constant(0, tf.int64))
            )
        return {"words": words}, {"scores": scores(tf.gather(variable("e", 60, 32), found[0]), 32), "ids": found[1]}

    _, group, _ = pruned_right(frozen(tmp_path / "m", build), tmp_path / "out", words_in())
    assert "its vocabulary file is read by others too" in group.obstacle


def test_a_table_whose_size_or_content_is_an_output(tmp_path):
    file = vocabulary(tmp_path)

    def build(op, key):
        words = words_placeholder()
        found = text_table(file, offset=1)(words)
        table = found.op.inputs[0]
        rows = tf.gather(variable("embedding", 61, 32), found)
        if op == "size":
            return {"words": words}, {key: scores(rows, 32), "n": tf.raw_ops.LookupTableSizeV2(table_handle=table)}
        keys, _ = tf.raw_ops.LookupTableExportV2(table_handle=table, Tkeys=tf.string, Tvalues=tf.int64)
        return {"words": words}, {key: scores(rows, 32), "n": keys}

    for op, why in (("size", "LookupTableSizeV2"), ("export", "LookupTableExportV2 reads its table too")):
        bundle = frozen(tmp_path / op, lambda op=op: build(op, "scores"))
        (group,), _ = groups(bundle)
        assert why in group.obstacle


def test_two_nodes_for_one_table(tmp_path):
    file = vocabulary(tmp_path)

    def build():
        words = words_placeholder()
        found = text_table(file, offset=1)(words)
        found.op.inputs[0].op._set_attr("shared_name", tf1.AttrValue(s=b"vocabulary"))
        again = tf.raw_ops.HashTableV2(key_dtype=tf.string, value_dtype=tf.int64, shared_name="vocabulary")
        size = tf.raw_ops.LookupTableSizeV2(table_handle=again)
        return {"words": words}, {"scores": scores(tf.gather(variable("e", 61, 32), found), 32), "n": size}

    (group,), _ = groups(frozen(tmp_path / "m", build))
    assert "its table is also the node" in group.obstacle


def test_numbers_that_more_than_one_table_gives(tmp_path):
    first, other = vocabulary(tmp_path), vocabulary(tmp_path, name="other.txt")

    def build():
        words = words_placeholder()
        ids = tf.concat([text_table(first)(words), text_table(other)(words)], 1)
        return {"words": words}, {"scores": scores(tf.gather(variable("e", 60, 32), ids), 32)}

    result, group, _ = pruned_right(frozen(tmp_path / "m", build), tmp_path / "out", words_in())
    assert "2 tables" in group.obstacle
    assert result.entries[0].to == "centre"


def test_hashed_words_have_no_row_for_others(tmp_path):
    def build():
        words = words_placeholder()
        ids = tf.strings.to_hash_bucket_fast(words, 60)
        return {"words": words}, {"scores": scores(tf.gather(variable("embedding", 60, 32), ids), 32)}

    bundle = frozen(tmp_path / "m", build, init=False)
    result, _, _ = pruned_right(bundle, tmp_path / "out", words_in())
    assert result.entries[0].to == "centre"
    (group,), _ = groups(bundle)
    counts = some_counts(60)
    (tmp_path / "oov").mkdir()
    result = prune(bundle, [group], [kept_rows(group, counts)], [counts], "oov", tmp_path / "oov")
    assert not result.entries
    assert "--to centre needs none" in result.skipped[0].reason


def test_a_bucket_that_is_taken_for_known_words_too(tmp_path):
    """A dropped word would look up row -1 where the condition says that the table's answer counts."""
    file = vocabulary(tmp_path)

    def build():
        words = words_placeholder()
        ids = text_table(file, default=-1)(words)
        bucket = tf.strings.to_hash_bucket_fast(words, 2) + 60
        chosen = tf.where(tf.equal(words, "unknown"), bucket, ids)
        return {"words": words}, {"scores": scores(tf.gather(variable("e", 62, 32), chosen), 32)}

    bundle = frozen(tmp_path / "m", build)
    (group,), _ = groups(bundle)
    assert group.oov is None
    assert "no row is known" in group.obstacle


def test_ragged_and_sparse_words(tmp_path):
    """Text is split, looked up as a sparse tensor and padded: the padding is a constant that joins the row numbers."""
    file = vocabulary(tmp_path)

    def build():
        text = tf1.placeholder(tf.string, [None], name="text")
        split = tf1.string_split(text)
        ids = tf.SparseTensor(split.indices, text_table(file, offset=2, default=1)(split.values), split.dense_shape)
        dense = tf.sparse.to_dense(ids, default_value=0)
        rows = tf.gather(variable("embedding", 62, 8), dense)
        ragged = tf.RaggedTensor.from_sparse(ids).to_tensor(0)
        pooled = masked_mean(rows, dense) + masked_mean(tf.gather(variable("other", 62, 8, seed=2), ragged), ragged)
        return {"text": text}, {"scores": pooled}

    feeds = {"text": np.array([b" ".join(row[: 1 + n % 6]) for n, row in enumerate(words_in()["words"])], object)}
    result, group, _ = pruned_right(frozen(tmp_path / "m", build), tmp_path / "out", feeds)
    assert group.obstacle == ""
    assert len(result.entries) == 2


def masked_mean(rows, ids):
    mask = tf.cast(tf.not_equal(ids, 0), tf.float32)
    return tf.reduce_sum(rows * mask[..., None], 1) / (1 + tf.reduce_sum(mask, 1, keepdims=True))


def test_rows_that_are_not_finite_stay(tmp_path):
    def build():
        ids = ids_placeholder()
        table = normal(60, 8)
        table[[3, 9]] = np.nan
        rows = tf1.get_variable("embedding", initializer=table, use_resource=True)
        return {"ids": ids}, {"y": tf.gather(rows, ids)}

    feeds = {"ids": np.random.default_rng(0).integers(0, 60, (16, LENGTH))}
    result, _, _ = pruned_right(frozen(tmp_path / "m", build, init=False), tmp_path / "out", feeds)
    assert np.isnan(result.bundle.graph.weights["embedding"].read()).all(axis=1).sum() == 2


def test_half_precision(tmp_path):
    def build():
        ids = ids_placeholder()
        table = tf1.get_variable("embedding", initializer=normal(60, 16, dtype=np.float16), use_resource=True)
        return {"ids": ids}, {"y": tf.gather(table, ids)}

    feeds = {"ids": np.random.default_rng(0).integers(0, 60, (16, LENGTH))}
    result, _, _ = pruned_right(frozen(tmp_path / "m", build, init=False), tmp_path / "out", feeds)
    assert result.bundle.graph.weights["embedding"].dtype == np.float16


def test_unknown_words_that_somebody_reads_as_such(tmp_path):
    """Of a dropped word the table would say -1 to those who read it before the buckets are filled in."""
    file = vocabulary(tmp_path)

    def build():
        words = words_placeholder()
        ids = text_table(file, default=-1)(words)
        chosen = tf.where(tf.not_equal(ids, -1), ids, tf.strings.to_hash_bucket_fast(words, 2) + 60)
        deep, wide = variable("deep", 62, 32), variable("wide", 60, 32, seed=1)
        return {"words": words}, {"y": scores(tf.gather(deep, chosen), 32) + scores(tf.gather(wide, ids), 32, "head_2")}

    result, group, _ = pruned_right(frozen(tmp_path / "m", build), tmp_path / "out", words_in(share_unknown=0))
    assert "no row is known" in group.obstacle
    assert {entry.to for entry in result.entries} == {"centre"}
