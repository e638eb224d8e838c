"""A Keras text model with recurrent layers, as it is exported, folded inside of its loops."""

import keras
import numpy as np
import pytest

import tfslim_core
from tests.saved_models import assert_serves_alike
from tfslim_core.bundle import read_bundle

LOOPS = ("While", "StatelessWhile")


@pytest.fixture(scope="module")
def text_model(tmp_path_factory):
    keras.utils.set_random_seed(3)
    layers = keras.layers
    words = keras.Input((20,), dtype="int32")
    x = layers.Embedding(50, 16)(words)
    x = layers.Bidirectional(layers.LSTM(24, return_sequences=True))(x)
    model = keras.Model(words, layers.Dense(4)(layers.GRU(12)(x)))
    path = tmp_path_factory.mktemp("keras") / "text"
    model.export(path, verbose=False)
    return path


def test_loops_take_fewer_arguments_and_answer_the_same(text_model, tmp_path):
    tfslim_core.freeze(text_model, tmp_path / "frozen")
    tfslim_core.transform(tmp_path / "frozen", tmp_path / "folded", transforms="fold_constants strip_unused_nodes")
    tfslim_core.reexport(tmp_path / "folded", tmp_path / "slim")
    before, after = (read_bundle(tmp_path / name).graph for name in ("frozen", "folded"))
    slots = [[len(node.input) for node in graph.nodes.values() if node.op in LOOPS] for graph in (before, after)]
    assert len(slots[0]) == len(slots[1]) == 6, "three loops in each of two signatures"
    assert all(now < was for was, now in zip(*slots, strict=True))
    assert len(after.functions) == len(before.functions) == 6, "both signatures run the same functions"
    assert after.rest.ByteSize() < before.rest.ByteSize()
    signatures = tfslim_core.inspect(tmp_path / "slim").signatures
    words = np.random.default_rng(0).integers(0, 50, (3, 20)).astype(np.int32)
    requests = [(signature.name, {next(iter(signature.inputs)): words}) for signature in signatures]
    assert_serves_alike(text_model, tmp_path / "slim", requests)
