"""Rows and words that are dropped: every way to fill a table, and the row numbers' other readers."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from tensorflow.python.ops import lookup_ops

from tests.vocabulary.text_models import (
    LENGTH,
    WORDS,
    frozen,
    groups,
    ids_model,
    oov_buckets_model,
    pruned_right,
    scores,
    some_counts,
    text_model,
    text_table,
    variable,
    vocabulary,
    words_in,
    words_placeholder,
)
from tfslim_core.quantization.live_model import LiveModel
from tfslim_core.vocabulary import tables
from tfslim_core.vocabulary.pruning import kept_rows, prune

tf1 = tf.compat.v1
IDS = {"ids": np.random.default_rng(0).integers(0, 60, (16, LENGTH))}


def lines(result):
    (asset,) = result.bundle.manifest.assets
    return (result.bundle.files / "assets" / asset.filename).read_bytes()


def test_words_leave_the_file_and_rows_the_table(tmp_path):
    bundle = frozen(tmp_path / "m", text_model(vocabulary(tmp_path)))
    result, group, kept = pruned_right(bundle, tmp_path / "out", words_in())
    assert group.obstacle == ""
    (entry,) = result.entries
    assert (entry.rows_before, entry.rows_after) == (61, kept.sum())
    assert (entry.words_before, entry.words_after) == (60, kept[1:].sum())
    assert lines(result).split(b"\n")[:-1] == [word for word, stays in zip(WORDS, kept[1:], strict=True) if stays]
    assert entry.bytes_after < entry.bytes_before
    # The files of the bundle before are as they were.
    assert (bundle.files / "assets/vocab.txt").read_bytes().count(b"\n") == 60


def columns(*parts, end=b"\n", separator=b"\t"):
    return b"".join(separator.join(line) + end for line in zip(*parts, strict=True))


NUMBERS = [b"%d" % (index + 1) for index in range(60)]
SHUFFLED = [b"%d" % (1 + 7 * index % 60) for index in range(60)]  # 7 and 60 have no common divisor


@pytest.mark.parametrize(
    ("content", "attributes"),
    {
        "CRLF": (b"".join(word + b"\r\n" for word in WORDS), {}),
        "no newline at the end": (b"\n".join(WORDS), {}),
        # TensorFlow refuses an empty line that it reads.
        "a blank line": (b"\n".join([*WORDS, b"", b"more"]) + b"\n", {"vocab_size": 60}),
        "not UTF-8": (b"\n".join([b"\xff\xfe" + WORDS[0], *WORDS[1:]]) + b"\n", {}),
        "words with spaces and tabs": (b"\n".join([b"a b\tc ", *WORDS[1:]]) + b"\n", {}),
        "vocab_size": (b"\n".join([*WORDS, b"more", b"words"]) + b"\n", {"vocab_size": 60}),
        "columns": (columns(WORDS, NUMBERS), {"key_index": 0, "value_index": 1, "offset": 0}),
        "columns out of order": (columns(SHUFFLED, WORDS), {"key_index": 1, "value_index": 0, "offset": 0}),
        "a column and the line": (columns(NUMBERS, WORDS), {"key_index": 1}),
        "commas": (
            columns(WORDS, NUMBERS, separator=b","),
            {"key_index": 0, "value_index": 1, "delimiter": ",", "offset": 0},
        ),
        "CRLF columns": (columns(WORDS, NUMBERS, end=b"\r\n"), {"key_index": 0, "value_index": 1, "offset": 0}),
    }.values(),
    ids=lambda value: None,
)
def test_forms_of_vocabulary_files(tmp_path, content, attributes):
    bundle = frozen(tmp_path / "m", text_model(vocabulary(tmp_path, content), **attributes))
    feeds = words_in()
    feeds["words"][0] = [b"", b"\xff\xfew0", b"a b\tc ", b"w0\r", b"w1", b"w29"]
    result, group, _ = pruned_right(bundle, tmp_path / "out", feeds)
    assert group.obstacle == ""
    assert result.entries[0].words_after is not None


def test_a_word_twice_with_one_row(tmp_path):
    content = columns([*WORDS, b"w5", b"w6"], [*NUMBERS, b"6", b"7"])
    build = text_model(vocabulary(tmp_path, content), key_index=0, value_index=1, offset=0)
    result, _, _ = pruned_right(frozen(tmp_path / "m", build), tmp_path / "out", words_in())
    assert result.entries[0].words_after is not None


def test_two_words_with_one_row(tmp_path):
    content = columns([*WORDS, b"other5"], [*NUMBERS, b"6"])
    build = text_model(vocabulary(tmp_path, content), key_index=0, value_index=1, offset=0)
    feeds = words_in()
    feeds["words"][0, 0] = b"other5"
    result, _, _ = pruned_right(frozen(tmp_path / "m", build), tmp_path / "out", feeds)
    assert result.entries[0].words_after is not None


@pytest.mark.parametrize("kind", [tf.int32, tf.int64])
def test_constant_keys_and_values(tmp_path, kind):
    def build():
        words = words_placeholder()
        init = tf.lookup.KeyValueTensorInitializer(WORDS, np.arange(1, 61), tf.string, kind)
        table = tf.lookup.StaticHashTable(init, 0)
        return {"words": words}, {"scores": scores(tf.gather(variable("embedding", 61, 8), table.lookup(words)))}

    result, _, kept = pruned_right(frozen(tmp_path / "m", build), tmp_path / "out", words_in())
    assert result.entries[0].words_after == kept[1:].sum()


def test_the_oldest_way_to_fill_a_table(tmp_path):
    def build():
        words = words_placeholder()
        table = tf.raw_ops.HashTableV2(key_dtype=tf.string, value_dtype=tf.int64)
        values = tf.constant(np.arange(1, 61))
        fill = tf.raw_ops.InitializeTableV2(table_handle=table, keys=tf.constant(WORDS), values=values)
        tf1.add_to_collection(tf1.GraphKeys.TABLE_INITIALIZERS, fill)
        ids = tf.raw_ops.LookupTableFindV2(table_handle=table, keys=words, default_value=tf.constant(0, tf.int64))
        return {"words": words}, {"scores": scores(tf.gather(variable("embedding", 61, 8), ids))}

    result, _, kept = pruned_right(frozen(tmp_path / "m", build), tmp_path / "out", words_in())
    assert result.entries[0].words_after == kept[1:].sum()


def test_numbers_for_words(tmp_path):
    """A table of item numbers, as recommenders have."""

    def build():
        items = tf1.placeholder(tf.int64, [None, LENGTH], name="items")
        init = tf.lookup.KeyValueTensorInitializer(np.arange(1000, 1060), np.arange(1, 61), tf.int64, tf.int64)
        ids = tf.lookup.StaticHashTable(init, 0).lookup(items)
        return {"items": items}, {"scores": scores(tf.gather(variable("embedding", 61, 8), ids))}

    feeds = {"items": np.random.default_rng(0).integers(1000, 1065, (16, LENGTH))}
    result, _, kept = pruned_right(frozen(tmp_path / "m", build), tmp_path / "out", feeds)
    assert result.entries[0].words_after == kept[1:].sum()


def test_buckets_for_unknown_words(tmp_path):
    bundle = frozen(tmp_path / "m", oov_buckets_model(vocabulary(tmp_path)))
    result, group, kept = pruned_right(bundle, tmp_path / "out", words_in(batch=64, share_unknown=0.3))
    assert group.obstacle == ""
    assert kept[60:].all()
    assert result.entries[0].words_after is not None


def test_all_words_unknown_keeps_the_buckets(tmp_path):
    bundle = frozen(tmp_path / "m", oov_buckets_model(vocabulary(tmp_path)))
    counts = np.zeros(63, np.int64)
    counts[60:] = 5
    result, _, kept = pruned_right(bundle, tmp_path / "out", words_in(), counts=counts)
    assert kept.sum() == 4  # the buckets, and row 0
    assert result.entries[0].words_after == 1


@pytest.mark.parametrize("dtype", [tf.int32, tf.int64])
def test_fed_row_numbers_stay(tmp_path, dtype):
    bundle = frozen(tmp_path / "m", ids_model(dtype), init=False)
    feeds = {"ids": IDS["ids"].astype(dtype.as_numpy_dtype)}
    result, group, _ = pruned_right(bundle, tmp_path / "out", feeds)
    assert "they are fed" in group.obstacle
    assert result.entries[0].to == "centre"
    assert result.entries[0].words_after is None
    for beyond in (60, -1):
        with LiveModel(result.bundle, []) as live, pytest.raises(tf.errors.InvalidArgumentError, match="not in"):
            live.run("serving_default", {"ids": np.full((1, LENGTH), beyond, dtype.as_numpy_dtype)})


def lookup_sparse(table, ids):
    sparse = tf.sparse.from_dense(ids + 1)
    sparse = tf.SparseTensor(sparse.indices, sparse.values - 1, sparse.dense_shape)
    summed = tf.nn.safe_embedding_lookup_sparse(table, sparse, combiner="mean")
    return tf.tile(summed[:, None], [1, LENGTH, 1])


@pytest.mark.parametrize(
    "lookup",
    {
        "gather_nd": lambda table, ids: tf.gather_nd(table, ids[..., None]),
        "sparse": lookup_sparse,
        "segments": lambda table, ids: tf.raw_ops.SparseSegmentSum(
            data=table, indices=ids[:, 0], segment_ids=tf.cast(tf.range(tf.shape(ids)[0]), tf.int32)
        )[:, None],
        "twice": lambda table, ids: tf.gather(table, ids) + tf.gather(table, ids[:, ::-1]),
        "through an identity": lambda table, ids: tf.gather(tf.identity(table), ids),
        "negative axis": lambda table, ids: tf.raw_ops.GatherV2(params=table, indices=ids, axis=-2),
    }.values(),
    ids=lambda value: None,
)
def test_ways_to_look_up(tmp_path, lookup):
    bundle = frozen(tmp_path / "m", ids_model(lookup=lookup), init=False)
    pruned_right(bundle, tmp_path / "out", IDS)


@pytest.mark.parametrize("strategy", ["mod", "div"])
def test_a_partitioned_embedding(tmp_path, strategy):
    def build():
        ids = tf1.placeholder(tf.int64, [None, LENGTH], name="ids")
        parts = [variable(f"part_{n}", 30, 16, seed=n) for n in range(2)]
        rows = tf1.nn.embedding_lookup(parts, ids, partition_strategy=strategy)
        return {"ids": ids}, {"scores": scores(rows, 16)}

    bundle = frozen(tmp_path / "m", build, init=False)
    found, _ = groups(bundle)
    counts = [some_counts(group.rows) for group in found]
    kept = [kept_rows(group, count) for group, count in zip(found, counts, strict=True)]
    (tmp_path / "out").mkdir()
    result = prune(bundle, found, kept, counts, None, tmp_path / "out")
    assert len(result.entries) == 2
    with LiveModel(bundle, list(result.replaced)) as live:
        for name, weight in result.replaced.items():
            live.set(name, weight.read)
        wanted = live.run("serving_default", IDS)
    with LiveModel(result.bundle, []) as live:
        np.testing.assert_array_equal(live.run("serving_default", IDS)["scores"], wanted["scores"])


def test_two_embeddings_with_one_vocabulary_shrink_together(tmp_path):
    file = vocabulary(tmp_path)

    def build():
        words = words_placeholder()
        ids = text_table(file, offset=1)(words)
        deep, wide = variable("deep", 61, 8), variable("wide", 61, 32, seed=1)
        return {"words": words}, {"scores": scores(tf.gather(deep, ids)) + scores(tf.gather(wide, ids), 32, "head_2")}

    result, group, kept = pruned_right(frozen(tmp_path / "m", build), tmp_path / "out", words_in())
    assert {embedding.name for embedding in group.embeddings} == {"deep", "wide"}
    assert [entry.rows_after for entry in result.entries] == [kept.sum()] * 2
    assert {entry.words_after for entry in result.entries} == {kept[1:].sum()}


def masked(rows, ids, padding):
    mask = tf.cast(tf.not_equal(ids, padding), tf.float32)
    return tf.reduce_sum(rows * mask[..., None], 1) / (1 + tf.reduce_sum(mask, 1, keepdims=True))


def test_a_mask_of_the_padding_comes_out_the_same(tmp_path):
    file = vocabulary(tmp_path, b"\n".join([b"[UNK]", b"[PAD]", *WORDS[2:]]))

    def build():
        words = words_placeholder()
        ids = text_table(file, default=0)(words)
        return {"words": words}, {"pooled": masked(tf.gather(variable("embedding", 60, 8), ids), ids, 1)}

    feeds = words_in(words=WORDS[2:])
    feeds["words"][:, 4:] = b"[PAD]"
    result, group, kept = pruned_right(
        frozen(tmp_path / "m", build), tmp_path / "out", feeds, counts=some_counts(60, 3)
    )
    assert group.obstacle == ""
    assert kept[1]
    assert lines(result).startswith(b"[UNK]\n[PAD]\n")


def test_special_rows_in_the_middle_are_numbered_anew_wherever_they_stand(tmp_path):
    file = vocabulary(tmp_path, b"\n".join([*WORDS[:40], b"[CLS]", b"[PAD]", *WORDS[42:59], b"[UNK]"]))

    def build():
        words = words_placeholder()
        ids = text_table(file, default=59)(words)
        first = tf.fill([tf.shape(ids)[0], 1], tf.constant(40, tf.int64))
        ids = tf.concat([first, ids, tf.fill([tf.shape(ids)[0], 1], tf.constant(41, tf.int64))], 1)
        return {"words": words}, {"pooled": masked(tf.gather(variable("embedding", 60, 8), ids), ids, 41)}

    feeds = words_in()
    feeds["words"][:, 5:] = b"[PAD]"
    result, group, kept = pruned_right(frozen(tmp_path / "m", build), tmp_path / "out", feeds)
    assert group.obstacle == ""
    assert kept[[40, 41, 59]].all()
    assert b"[CLS]\n[PAD]\n" in lines(result)


OTHER_READERS = {
    "an output": (lambda ids: {"ids": ids}, "they are an output"),
    "arithmetic": (lambda ids: {"odd": tf.math.floormod(ids, 2)}, "FloorMod looks at them"),
    "a length": (lambda ids: {"longest": tf.reduce_max(ids, 1)}, "Max looks at them"),
    "unknown words": (lambda ids: {"known": tf.not_equal(ids, 0)}, "asks for words that the vocabulary does not hold"),
    "a comparison": (lambda ids: {"late": tf.greater(ids, 30)}, "Greater looks at them"),
    "floats": (lambda ids: {"floats": tf.cast(ids, tf.float32)}, "Cast looks at them"),
}


@pytest.mark.parametrize(("more", "why"), OTHER_READERS.values(), ids=OTHER_READERS)
def test_row_numbers_with_other_readers_stay(tmp_path, more, why):
    file = vocabulary(tmp_path)

    def build():
        words = words_placeholder()
        ids = text_table(file, offset=1)(words)
        rows = tf.gather(variable("embedding", 61, 32), ids)
        return {"words": words}, {"scores": scores(rows, 32), **more(ids)}

    result, group, _ = pruned_right(frozen(tmp_path / "m", build), tmp_path / "out", words_in())
    assert why in group.obstacle
    assert result.entries[0].to == "oov"
    assert result.entries[0].words_after is None
    assert lines(result).count(b"\n") == 60


def test_a_file_that_is_not_understood_stays_as_it_was(tmp_path, monkeypatch):
    """Were a file read otherwise than TensorFlow reads it, the filled table would tell: then row numbers stay."""
    plain = tables._fewer_lines
    monkeypatch.setattr(tables, "_fewer_lines", lambda *arguments: plain(*arguments)[::-1])
    bundle = frozen(tmp_path / "m", text_model(vocabulary(tmp_path), width=32))
    result, group, _ = pruned_right(bundle, tmp_path / "out", words_in())
    assert group.obstacle == ""
    assert "is read in a way that is not understood" in result.entries[0].reason
    assert lines(result).count(b"\n") == 60


def test_two_embeddings_share_the_vector_before_them(tmp_path):
    def build():
        ids = tf1.placeholder(tf.int64, [None, LENGTH], name="ids")
        deep, wide = variable("deep", 60, 32), variable("wide", 60, 16, seed=1)
        return {"ids": ids}, {"y": scores(tf.gather(deep, ids), 32) + scores(tf.gather(wide, ids), 16, "head_2")}

    result, _, _ = pruned_right(frozen(tmp_path / "m", build, init=False), tmp_path / "out", IDS)
    assert len(result.entries) == 2
    vectors = [name for name, node in result.bundle.graph.nodes.items() if node.op == "Const" and "/moved" in name]
    assert len([name for name in vectors if result.bundle.graph.constant_shape(name) == (60,)]) == 1


def test_a_sparse_column_with_buckets(tmp_path):
    """As feature columns look words up: numbers below 0 are left out, empty rows filled, each row read once."""
    file = vocabulary(tmp_path)

    def build():
        text = tf1.placeholder(tf.string, [None], name="text")
        split = tf1.string_split(text)
        ids = lookup_ops.index_table_from_file(file, num_oov_buckets=3).lookup(split)
        table = variable("embedding", 63, 8)
        pooled = tf1.nn.safe_embedding_lookup_sparse([table], ids, combiner="mean")
        return {"text": text}, {"scores": tf.nn.softmax(pooled)}

    feeds = {"text": np.array([b" ".join(row[: n % 7]) for n, row in enumerate(words_in(batch=40)["words"])], object)}
    result, group, kept = pruned_right(frozen(tmp_path / "m", build), tmp_path / "out", feeds)
    assert group.obstacle == ""
    assert result.entries[0].words_after == kept[:60].sum()


@settings(max_examples=20, deadline=None, derandomize=True)
@given(data=st.data())
def test_any_rows_may_go(tmp_path_factory, data):
    """Whatever rows are unused, wherever the row for unknown words and the padding are, whoever stands for them."""
    folder = tmp_path_factory.mktemp("any")
    offset = data.draw(st.integers(0, 3), "offset")
    rows = 60 + offset + data.draw(st.integers(0, 2), "rows after the words")
    oov = data.draw(st.integers(0, rows - 1), "oov")
    padding = data.draw(st.integers(0, rows - 1).filter(lambda row: row != oov), "padding")
    kind = data.draw(st.sampled_from([tf.int32, tf.int64]), "dtype") if oov else tf.int64
    to = data.draw(st.sampled_from([None, "oov", "centre"]), "to")
    used = data.draw(st.lists(st.booleans(), min_size=rows, max_size=rows), "used")

    def build():
        words = words_placeholder()
        keys = tf.constant(WORDS)
        init = tf.lookup.KeyValueTensorInitializer(keys, np.arange(offset, offset + 60), tf.string, kind)
        ids = tf.lookup.StaticHashTable(init, oov).lookup(words)
        padded = tf.where(tf.equal(words, "pad"), tf.constant(padding, kind), ids)
        return {"words": words}, {"pooled": masked(tf.gather(variable("embedding", rows, 32), padded), padded, padding)}

    feeds = words_in()
    feeds["words"][:, 5:] = b"pad"
    bundle = frozen(folder / "m", build)
    (group,), _ = groups(bundle)
    counts = np.array(used, np.int64)
    kept = kept_rows(group, counts)
    (folder / "out").mkdir()
    result = prune(bundle, [group], [kept], [counts], to, folder / "out")
    with LiveModel(bundle, list(result.replaced)) as live:
        for name, weight in result.replaced.items():
            live.set(name, weight.read)
        wanted = live.run("serving_default", feeds)
    with LiveModel(result.bundle, []) as live:
        np.testing.assert_array_equal(live.run("serving_default", feeds)["pooled"], wanted["pooled"])
    assert group.obstacle == ""
    if result.entries and to != "centre":
        assert result.entries[0].words_after == kept[offset : offset + 60].sum()
