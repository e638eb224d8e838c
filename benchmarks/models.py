"""Models that the benchmarks make: as a TF1 training job exports them, Adam slots in the checkpoint."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from benchmarks.places import OUT
from tfslim_core.storage import whole_directory

tf1 = tf.compat.v1


def made(kind: str, **parameters: int) -> Path:
    """The model of that kind below build/benchmarks/, made if it is not there yet: "dense" or "text"."""
    makers: dict[str, Callable[..., None]] = {"dense": dense, "text": text_classifier}
    name = "-".join([kind, *(f"{key}{value}" for key, value in sorted(parameters.items()))])
    path = OUT / "models" / name
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        with whole_directory(path) as aside:
            aside.rmdir()  # the builder wants to make it
            makers[kind](aside, **parameters)
    return path


def dense(path: Path, *, layers: int = 4, width: int = 2048, seed: int = 0) -> None:
    """`layers` dense layers of width x width with relu; input x [batch, width], output y [batch, width]."""

    def build() -> tuple[Any, Any]:
        x = h = tf1.placeholder(tf.float32, [None, width], name="x")
        for i in range(layers):
            h = tf.nn.relu(_dense(h, width, width, f"layer_{i}"))
        return {"x": x}, {"y": h}

    _export(path, build, seed)


def text_classifier(
    path: Path, *, words: int = 50_000, size: int = 300, length: int = 64, classes: int = 20, seed: int = 0
) -> None:
    """A text CNN: ids [batch, length] of int64, an embedding, two convolutions, max pooling, class scores."""

    def build() -> tuple[Any, Any]:
        ids = tf1.placeholder(tf.int64, [None, length], name="ids")
        table = tf1.get_variable("embedding", [words, size], initializer=tf1.random_normal_initializer(stddev=0.1))
        h = tf.nn.embedding_lookup(table, ids)
        for i, filters in enumerate((128, 128)):
            kernel = tf1.get_variable(f"conv_{i}/kernel", [3, int(h.shape[-1]), filters])
            bias = tf1.get_variable(f"conv_{i}/bias", [filters], initializer=tf1.zeros_initializer())
            h = tf.nn.relu(tf.nn.bias_add(tf.nn.conv1d(h, kernel, 1, "SAME"), bias))
        scores = tf.nn.softmax(5 * _dense(tf.reduce_max(h, axis=1), 128, classes, "head"))
        return {"ids": ids}, {"scores": scores}

    _export(path, build, seed)


def big(path: Path, gigabytes: float, *, width: int = 4096, seed: int = 0) -> None:
    """A TensorFlow 2 model of so many GB (1e9 bytes) of float32: a table of 512 columns takes two thirds, square layers
    the rest; ids [batch, 64] of int64, class scores. The model is in memory while it is written.
    """
    words = max(1000, round(gigabytes * 2e9 / 3 / 512 / 4))
    layers = max(1, round(gigabytes * 1e9 / 3 / width / width / 4))

    class Scorer(tf.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table = _variable("table", (words, 512), 0.1, seed)
            sizes = [512, *[width] * (layers + 1), 20]
            self.kernels = [
                _variable(f"kernel_{i}", (a, b), (2 / a) ** 0.5, seed + 1 + i)
                for i, (a, b) in enumerate(itertools.pairwise(sizes))
            ]

        @tf.function(input_signature=[tf.TensorSpec([None, 64], tf.int64, name="ids")])
        def score(self, ids: Any) -> dict[str, Any]:
            h = tf.reduce_sum(tf.nn.embedding_lookup(self.table, ids), axis=1)
            for kernel in self.kernels[:-1]:
                h = tf.nn.relu(tf.matmul(h, kernel))
            return {"scores": tf.nn.softmax(tf.matmul(h, self.kernels[-1]))}

    model = Scorer()
    tf.saved_model.save(model, str(path), signatures=model.score)


def _variable(name: str, shape: tuple[int, int], scale: float, seed: int) -> Any:
    return tf.Variable(lambda: tf.random.stateless_normal(shape, [seed, 1], stddev=scale), name=name)


def dense_inputs(batch: int, *, width: int = 2048, seed: int = 1) -> dict[str, np.ndarray]:
    """Feeds for `dense`: noise."""
    return {"x": np.random.default_rng(seed).standard_normal((batch, width)).astype(np.float32)}


def text_inputs(batch: int, *, words: int = 50_000, length: int = 64, seed: int = 1) -> dict[str, np.ndarray]:
    """Feeds for `text_classifier`: words follow Zipf's law, as they do in texts."""
    ids = np.random.default_rng(seed).zipf(1.2, (batch, length))
    return {"ids": np.minimum(ids, words - 1).astype(np.int64)}


def _dense(x: Any, inputs: int, outputs: int, name: str) -> Any:
    kernel = tf1.get_variable(
        f"{name}/kernel", [inputs, outputs], initializer=tf1.random_normal_initializer(stddev=(2 / inputs) ** 0.5)
    )
    bias = tf1.get_variable(f"{name}/bias", [outputs], initializer=tf1.random_normal_initializer(stddev=0.1))
    return tf.nn.bias_add(tf.matmul(x, kernel), bias)


def _export(path: Path, build: Callable[[], tuple[dict[str, Any], dict[str, Any]]], seed: int) -> None:
    with tf1.Graph().as_default(), tf1.Session() as session, tf1.variable_scope("", use_resource=True):
        tf1.set_random_seed(seed)
        inputs, outputs = build()
        loss = tf.add_n([tf.reduce_mean(output) for output in outputs.values()])
        tf1.train.AdamOptimizer().minimize(loss)
        session.run(tf1.global_variables_initializer())
        builder = tf1.saved_model.Builder(str(path))
        builder.add_meta_graph_and_variables(
            session, ["serve"], {"serving_default": tf1.saved_model.predict_signature_def(inputs, outputs)}
        )
        builder.save()
