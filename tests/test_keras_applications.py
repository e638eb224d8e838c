"""A Keras image model as it is exported, through the stages."""

from collections import Counter

import keras
import numpy as np
import pytest

import tfslim_core
from tfslim_core.bundle import read_bundle
from tfslim_core.saved_model.fresh_process import Request, answers

TOLERANCE = 1e-4  # relative L2


@pytest.fixture(scope="module")
def mobilenet(tmp_path_factory):
    """MobileNetV2 with random weights, and batch norm statistics near those of noise, so that signals come through."""
    keras.utils.set_random_seed(7)
    model = keras.applications.MobileNetV2(weights=None, input_shape=(96, 96, 3), classifier_activation=None)
    norms = [layer for layer in model.layers if isinstance(layer, keras.layers.BatchNormalization)]
    rng = np.random.default_rng(7)
    for layer in norms:
        layer.momentum = 0.0
    model(rng.random((8, 96, 96, 3), np.float32), training=True)
    for layer in norms:
        gamma, beta, mean, variance = layer.get_weights()
        factors = rng.uniform(0.8, 1.2, (2, *gamma.shape))
        layer.set_weights([gamma * factors[0], rng.normal(0, 0.1, beta.shape), mean, variance * factors[1]])
    path = tmp_path_factory.mktemp("keras") / "mobilenet"
    model.export(path, verbose=False)
    return path


def test_mobilenet_has_no_batch_norm_left_and_equal_answers(mobilenet, tmp_path):
    frozen = tfslim_core.freeze(mobilenet, tmp_path / "frozen")
    tfslim_core.transform(tmp_path / "frozen", tmp_path / "folded")
    tfslim_core.reexport(tmp_path / "folded", tmp_path / "slim")
    before, after = (
        Counter(node.op for node in read_bundle(tmp_path / name).graph.nodes.values()) for name in ("frozen", "folded")
    )
    assert before["Rsqrt"] == 52  # Keras 3 spells a batch norm out
    left = ("Rsqrt", "Mul", "Sub", "FusedBatchNorm", "FusedBatchNormV2", "FusedBatchNormV3")
    assert {op: after[op] for op in left} == dict.fromkeys(left, 0)
    assert after["Conv2D"] == 35, "both signatures are held once"
    assert frozen.nodes > 3 * sum(after.values())
    x = np.random.default_rng(1).random((4, 96, 96, 3), np.float32)
    signatures = tfslim_core.inspect(tmp_path / "slim").signatures
    assert {signature.name for signature in signatures} == {"serve", "serving_default"}
    for signature in signatures:
        request = Request(signature.name, {next(iter(signature.inputs)): x})
        ((wanted,), (found,)) = (answers(path, [request])[0].values() for path in (mobilenet, tmp_path / "slim"))
        assert wanted.std(axis=0).max() > 1e-3
        assert np.linalg.norm(found - wanted) <= TOLERANCE * np.linalg.norm(wanted)
