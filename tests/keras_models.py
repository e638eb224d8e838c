"""Keras models as they are exported, with random weights that signals come through."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

SENTENCES = ["the night was short", "a long and windy road", "no road leads there", "short words", "there was a night"]


def exported(model: keras.Model, path: Path) -> Path:
    """The model as `model.export` writes it: the signatures `serve` and `serving_default`."""
    model.export(path, verbose=False)
    return path


def mobilenet(size: int = 96) -> keras.Model:
    """MobileNetV2 without its softmax: convolutions, depthwise ones, batch norms."""
    return _lively(keras.applications.MobileNetV2, size)


def resnet(size: int = 64) -> keras.Model:
    """ResNet50: padded convolutions with a bias, batch norms, additions."""
    return _lively(keras.applications.ResNet50, size)


def efficientnet(size: int = 64) -> keras.Model:
    """EfficientNetB0: normalization in the graph, squeeze and excitation, depthwise convolutions."""
    return _lively(keras.applications.EfficientNetB0, size, brightest=255)


def text_lstm(words: int = 200, size: int = 24) -> keras.Model:
    """Strings to three numbers: TextVectorization (a table), an embedding, an LSTM (a loop), a dense layer."""
    keras.utils.clear_session()  # the names of layers are numbered
    keras.utils.set_random_seed(7)
    vectorize = keras.layers.TextVectorization(max_tokens=words, output_sequence_length=8)
    vectorize.adapt(SENTENCES)
    texts = keras.Input((), dtype="string", name="texts")
    hidden = keras.layers.Embedding(words, size, mask_zero=False)(vectorize(texts))
    hidden = keras.layers.LSTM(size)(hidden)
    return keras.Model(texts, keras.layers.Dense(3)(hidden))


MODELS: dict[str, Callable[[], keras.Model]] = {
    "mobilenet": mobilenet,
    "resnet50": resnet,
    "efficientnet": efficientnet,
    "text_lstm": text_lstm,
}


def _lively(application: Callable[..., keras.Model], size: int, brightest: float = 1) -> keras.Model:
    """Batch norm statistics near those of noise: with those of a new model a signal dies on its way."""
    keras.utils.clear_session()  # the names of layers are numbered
    keras.utils.set_random_seed(7)
    model = application(weights=None, input_shape=(size, size, 3), classifier_activation=None)
    norms = [layer for layer in model.layers if isinstance(layer, keras.layers.BatchNormalization)]
    rng = np.random.default_rng(7)
    for layer in norms:
        gamma, beta, mean, variance = layer.get_weights()
        layer.set_weights([rng.uniform(0.8, 1.2, gamma.shape), rng.normal(0, 0.1, beta.shape), mean, variance])
        layer.momentum = 0.0
    model(tf.constant(brightest * rng.random((8, size, size, 3), np.float32)), training=True)
    for layer in norms:
        gamma, beta, mean, variance = layer.get_weights()
        layer.set_weights([gamma, beta, mean, variance * rng.uniform(0.8, 1.2, variance.shape)])
    return model
