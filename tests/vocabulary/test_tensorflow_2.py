"""Models of Keras and TensorFlow 2: masks, sequences, tables whose file is known by a variable."""

from __future__ import annotations

from dataclasses import replace

import keras
import pytest
import tensorflow as tf

from tests.saved_models import normal, save_v2
from tests.vocabulary.text_models import (
    LENGTH,
    WORDS,
    pruned_right,
    vocabulary,
    words_in,
)
from tfslim_core.saved_model.freeze import freeze_saved_model
from tfslim_core.saved_model.read import read_saved_model
from tfslim_core.transforms import apply

tf1 = tf.compat.v1


def keras_model(path, layers, **lookup):
    words = keras.Input((LENGTH,), dtype="string")
    ids = keras.layers.StringLookup(vocabulary=[word.decode() for word in WORDS], **lookup)(words)
    x = keras.layers.Embedding(64, 16, mask_zero=True)(ids)
    for layer in layers:
        x = layer(x)
    model = keras.Model(words, x)
    for weight in model.weights:
        weight.assign(normal(*weight.shape, seed=len(weight.shape)))
    model.export(str(path), verbose=False)
    return freeze_saved_model(read_saved_model(path, ["serve"], None))


@pytest.mark.parametrize(
    "lookup", [{"mask_token": "", "num_oov_indices": 1}, {"mask_token": "", "num_oov_indices": 3}], ids=["one", "three"]
)
@pytest.mark.parametrize("kind", ["pooling", "lstm"])
def test_keras_masks_the_padding(tmp_path, lookup, kind):
    layers = {
        "pooling": [keras.layers.GlobalAveragePooling1D(), keras.layers.Dense(3)],
        "lstm": [keras.layers.LSTM(4, unroll=True), keras.layers.Dense(3)],
    }[kind]
    bundle = keras_model(tmp_path / "m", layers, **lookup)
    graph, _ = apply(bundle.graph, None)
    signature = next(iter(bundle.manifest.signatures))
    feeds = {next(iter(bundle.manifest.signature_defs()[signature].inputs)): words_in()["words"]}
    next(iter(feeds.values()))[:, 4:] = b""
    for number, one in enumerate((bundle, replace(bundle, graph=graph))):
        result, group, kept = pruned_right(one, tmp_path / f"out{number}", feeds, signature=signature)
        assert group.obstacle == ""
        assert kept[: 1 + lookup["num_oov_indices"]].all()
        assert result.entries[0].words_after is not None


def test_tables_of_tensorflow_2(tmp_path):
    class Model(tf.Module):
        def __init__(self):
            init = tf.lookup.TextFileInitializer(
                vocabulary(tmp_path),
                tf.string,
                tf.lookup.TextFileIndex.WHOLE_LINE,
                tf.int64,
                tf.lookup.TextFileIndex.LINE_NUMBER,
            )
            self.table = tf.lookup.StaticVocabularyTable(init, 2)
            self.rows = tf.Variable(normal(62, 8))

        @tf.function(input_signature=[tf.TensorSpec([None, LENGTH], tf.string, name="words")])
        def serve(self, words):
            return {"y": tf.reduce_mean(tf.gather(self.rows, self.table.lookup(words)), 1)}

    model = Model()
    save_v2(tmp_path / "m", model, serving_default=model.serve)
    bundle = freeze_saved_model(read_saved_model(tmp_path / "m", ["serve"], None))
    result, group, kept = pruned_right(bundle, tmp_path / "out", words_in(batch=64, share_unknown=0.3))
    assert group.obstacle == ""
    assert (result.bundle.files / "assets/vocab.txt").read_bytes().count(b"\n") == kept[:60].sum()
