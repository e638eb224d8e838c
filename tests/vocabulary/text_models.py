"""Text models for tests: words or row numbers to scores, over tables that are filled in every way there is."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import tensorflow as tf
from tensorflow.python.ops import lookup_ops

from tests.saved_models import normal, save_v1
from tfslim_core.quantization.live_model import LiveModel
from tfslim_core.saved_model.freeze import freeze_saved_model
from tfslim_core.saved_model.read import read_saved_model
from tfslim_core.vocabulary.groups import groups_of
from tfslim_core.vocabulary.lookups import find_embeddings
from tfslim_core.vocabulary.pruning import kept_rows, prune

tf1 = tf.compat.v1
WORDS = [b"w%d" % i for i in range(60)]
LENGTH = 6


def words_in(batch=16, seed=0, share_unknown=0.1, words=WORDS):
    """[batch, LENGTH] of bytes: words, some of them unknown."""
    rng = np.random.default_rng(seed)
    picked = np.array(words, object)[rng.integers(0, len(words), (batch, LENGTH))]
    unknown = rng.random((batch, LENGTH)) < share_unknown
    picked[unknown] = [b"unknown%d" % n for n in rng.integers(0, 1000, unknown.sum())]
    return {"words": picked}


def frozen(path: Path, build, **options):
    """The frozen bundle of a model that `build` makes, signature serving_default."""
    init = tf1.tables_initializer if options.pop("init", True) else None
    save_v1(path, lambda: {"serving_default": build()}, init=init, assets=True)
    return freeze_saved_model(read_saved_model(path, ["serve"], None))


def vocabulary(folder: Path, content: bytes | None = None, name="vocab.txt") -> str:
    file = folder / name
    file.write_bytes(b"".join(word + b"\n" for word in WORDS) if content is None else content)
    return str(file)


def variable(name, *shape, seed=0):
    return tf1.get_variable(name, initializer=normal(*shape, seed=seed), use_resource=True)


def text_table(file, *, key_dtype=tf.string, value_dtype=tf.int64, default=0, **attributes):
    """A v1-style table that a text file fills; attributes of InitializeTableFromTextFileV2."""
    path = tf.constant(file, name="asset_path")
    tf1.add_to_collection(tf1.GraphKeys.ASSET_FILEPATHS, path)
    table = tf.raw_ops.HashTableV2(key_dtype=key_dtype, value_dtype=value_dtype)
    attributes = {"key_index": -2, "value_index": -1, "vocab_size": -1, "delimiter": "\t", **attributes}
    fill = tf.raw_ops.InitializeTableFromTextFileV2(table_handle=table, filename=path, **attributes)
    tf1.add_to_collection(tf1.GraphKeys.TABLE_INITIALIZERS, fill)
    return lambda words: tf.raw_ops.LookupTableFindV2(
        table_handle=table, keys=words, default_value=tf.constant(default, value_dtype)
    )


def words_placeholder():
    return tf1.placeholder(tf.string, [None, LENGTH], name="words")


def scores(rows, width=8, name="head"):
    """From [batch, LENGTH, width] to class scores."""
    return tf.nn.softmax(tf.matmul(tf.reduce_mean(rows, 1), variable(name, width, 5, seed=9)))


def text_model(file, rows=61, oov=0, offset=1, width=8, **attributes):
    """Words over a file's table; the table's numbers start at `offset`, and other words are of the row `oov`."""

    def build():
        words = words_placeholder()
        ids = text_table(file, default=oov, offset=offset, **attributes)(words)
        return {"words": words}, {"scores": scores(tf.gather(variable("embedding", rows, width), ids), width)}

    return build


def oov_buckets_model(file, buckets=3):
    def build():
        words = words_placeholder()
        ids = lookup_ops.index_table_from_file(file, num_oov_buckets=buckets).lookup(words)
        return {"words": words}, {"scores": scores(tf.nn.embedding_lookup(variable("embedding", 63, 8), ids))}

    return build


def ids_model(dtype=tf.int64, lookup=tf.gather, rows=60):
    def build():
        ids = tf1.placeholder(dtype, [None, LENGTH], name="ids")
        return {"ids": ids}, {"scores": scores(lookup(variable("embedding", rows, 8), ids))}

    return build


def groups(bundle):
    """The groups of a bundle all of whose inputs the corpus feeds, and what is left."""
    fed = {text.partition(":")[0] for text in bundle.graph.inputs}
    found, left = find_embeddings(bundle.graph, fed)
    return groups_of(bundle, found), {skip.node: skip.reason for skip in left}


def some_counts(rows, seed=0):
    """Every third row unused."""
    counts = np.random.default_rng(seed).integers(1, 50, rows)
    counts[::3] = 0
    return counts


def pruned_right(bundle, folder, feeds, *, to=None, counts=None, signature="serving_default"):
    """Prune, and hold the answers against the model's with each dropped row replaced; the result and one group."""
    (group,), _ = groups(bundle)
    counts = some_counts(group.rows) if counts is None else counts
    kept = kept_rows(group, counts)
    folder.mkdir()
    result = prune(bundle, [group], [kept], [counts], to, folder)
    assert result.replaced, result.skipped
    with LiveModel(bundle, list(result.replaced)) as live:
        plain = live.run(signature, feeds)
        for name, weight in result.replaced.items():
            live.set(name, weight.read)
        wanted = live.run(signature, feeds)
    with LiveModel(result.bundle, []) as live:
        found = live.run(signature, feeds)
    for key in wanted:
        np.testing.assert_array_equal(found[key], wanted[key])
    changed = any(not np.array_equal(plain[key], wanted[key]) for key in wanted)
    assert changed, "no dropped row was looked up: this proves nothing"
    return result, group, kept


def jsonl(file, rows, **more):
    """A corpus of texts: rows of words."""
    lines = []
    for index, row in enumerate(rows):
        extra = {key: value[index] for key, value in more.items()}
        lines.append(json.dumps({"words": [word.decode() for word in row], **extra}))
    file.write_text("".join(line + "\n" for line in lines))
    return str(file)


def zipf(batch, seed=0, unknown=0.05):
    """Texts whose words follow Zipf's law."""
    rng = np.random.default_rng(seed)
    words = np.array(WORDS, object)[np.minimum(rng.zipf(1.3, (batch, LENGTH)) - 1, 59)]
    other = rng.random(words.shape) < unknown
    words[other] = [b"unknown%d" % n for n in rng.integers(0, 99, other.sum())]
    return words
