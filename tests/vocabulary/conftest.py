"""A model over a vocabulary of 60 words, and a corpus."""

from __future__ import annotations

import pytest
import tensorflow as tf

from tests.saved_models import save_v1
from tests.vocabulary.text_models import jsonl, oov_buckets_model, vocabulary, zipf
from tfslim_core import api

tf1 = tf.compat.v1


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("corpus")


@pytest.fixture(scope="module")
def model(folder):
    build = oov_buckets_model(vocabulary(folder))
    return save_v1(folder / "model", lambda: {"serving_default": build()}, init=tf1.tables_initializer, assets=True)


@pytest.fixture(scope="module")
def bundle(model, folder):
    api.freeze(model, folder / "bundle")
    return folder / "bundle"


@pytest.fixture(scope="module")
def corpus(folder):
    return {"texts": jsonl(folder / "corpus.jsonl", zipf(300))}
