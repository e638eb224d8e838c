"""Models that the benchmarks make: as a TF1 training job exports them, Adam slots in the checkpoint."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from benchmarks.digits import digits
from benchmarks.places import OUT
from tfslim_core.storage import whole_directory

tf1 = tf.compat.v1


def made(kind: str, **parameters: int) -> Path:
    """The model of that kind below build/benchmarks/, made if it is not there yet; the kinds are in `_MAKERS`."""
    name = "-".join([kind, *(f"{key}{value}" for key, value in sorted(parameters.items()))])
    path = OUT / "models" / name
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        with whole_directory(path) as aside:
            aside.rmdir()  # the builder wants to make it
            _MAKERS[kind](aside, **parameters)
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
    path: Path,
    *,
    words: int = 50_000,
    size: int = 300,
    length: int = 64,
    classes: int = 20,
    layers: int = 2,
    filters: int = 128,
    pretrained: int = 0,
    steps: int = 0,
    seed: int = 0,
) -> None:
    """A text CNN: ids [batch, length] of int64, an embedding, convolutions, max pooling, class scores.

    pretrained: whether the table's first values are a constant of the graph, as those of trained word vectors are.
    steps: of training, on `text_examples`; without any the weights are random.
    """

    def build() -> tuple[Any, Any]:
        ids = tf1.placeholder(tf.int64, [None, length], name="ids")
        initial: Any = tf1.random_normal_initializer(stddev=0.1)
        if pretrained:
            vectors = 0.1 * np.random.default_rng(seed).standard_normal((words, size), np.float32)
            table = tf1.get_variable("embedding", initializer=tf.constant(vectors))
        else:
            table = tf1.get_variable("embedding", [words, size], initializer=initial)
        h = tf.nn.embedding_lookup(table, ids)
        for i in range(layers):
            kernel = tf1.get_variable(f"conv_{i}/kernel", [3, int(h.shape[-1]), filters])
            bias = tf1.get_variable(f"conv_{i}/bias", [filters], initializer=tf1.zeros_initializer())
            h = tf.nn.relu(tf.nn.bias_add(tf.nn.conv1d(h, kernel, 1, "SAME"), bias))
        scores = tf.nn.softmax(5 * _dense(tf.reduce_max(h, axis=1), filters, classes, "head"))
        return {"ids": ids}, {"scores": scores}

    def feeds() -> Iterator[dict[str, Any]]:
        for step in range(steps):
            fed, wanted = text_examples(64, words=words, length=length, classes=classes, seed=1000 + step)
            yield {"ids:0": fed["ids"], "labels:0": wanted}

    _export(path, build, seed, _label_loss if steps else _any_loss, feeds())


def digit_classifier(path: Path, *, hidden: int = 1024, epochs: int = 30, batch: int = 50, seed: int = 0) -> None:
    """Handwritten digits, trained here: x [batch, 784] in 0..1, two hidden layers with dropout, class scores."""
    images, labels = digits().training
    order = np.random.default_rng(seed)

    def build() -> tuple[Any, Any]:
        x = h = tf1.placeholder(tf.float32, [None, images.shape[1]], name="x")
        keep = tf1.placeholder_with_default(1.0, [], name="keep")
        for i, (inputs, outputs) in enumerate([(images.shape[1], hidden), (hidden, hidden // 4)]):
            h = tf.nn.relu(_dense(h, inputs, outputs, f"layer_{i}"))
            h = tf1.nn.dropout(h, rate=1 - keep, seed=seed + i)
        return {"x": x}, {"scores": tf.nn.softmax(_dense(h, hidden // 4, 10, "head"))}

    def feeds() -> Iterator[dict[str, Any]]:
        for _ in range(epochs):
            for rows in np.array_split(order.permutation(len(images)), len(images) // batch):
                yield {"x:0": images[rows], "keep:0": 0.7, "labels:0": labels[rows]}

    _export(path, build, seed, _label_loss, feeds())


def digit_convolutions(path: Path, *, epochs: int = 2, batch: int = 50, seed: int = 0) -> None:
    """Handwritten digits, trained here: x [batch, 784] in 0..1, three convolutions of 3 x 3, class scores.

    About 29 million multiplications an example.
    """
    images, labels = digits().training
    order = np.random.default_rng(seed)

    def build() -> tuple[Any, Any]:
        x = tf1.placeholder(tf.float32, [None, images.shape[1]], name="x")
        h = tf.reshape(x, [-1, 28, 28, 1])
        for i, (inputs, outputs) in enumerate(itertools.pairwise((1, 32, 64, 128))):
            kernel = tf1.get_variable(
                f"convolution_{i}/kernel",
                [3, 3, inputs, outputs],
                initializer=tf1.random_normal_initializer(stddev=(2 / (9 * inputs)) ** 0.5),
            )
            h = tf.nn.relu(tf.nn.conv2d(h, kernel, 1, "SAME"))
            h = tf.nn.max_pool2d(h, 2, 2, "SAME") if i else h
        h = tf.reshape(h, [-1, 7 * 7 * 128])
        return {"x": x}, {"scores": tf.nn.softmax(_dense(h, 7 * 7 * 128, 10, "head"))}

    def feeds() -> Iterator[dict[str, Any]]:
        for _ in range(epochs):
            for rows in np.array_split(order.permutation(len(images)), len(images) // batch):
                yield {"x:0": images[rows], "labels:0": labels[rows]}

    _export(path, build, seed, _label_loss, feeds())


def transformer(path: Path, *, blocks: int = 4, width: int = 256, heads: int = 4, seed: int = 0) -> None:
    """Blocks of attention and two dense layers, x [batch, 32, width] to y of that shape; weights are random."""

    def normalized(h: Any, name: str) -> Any:
        scale = tf1.get_variable(f"{name}/scale", [width], initializer=tf1.ones_initializer())
        mean, variance = tf.nn.moments(h, [-1], keepdims=True)
        return (h - mean) * tf.math.rsqrt(variance + 1e-6) * scale

    def layer(h: Any, outputs: int, name: str) -> Any:
        flat = _dense(tf.reshape(h, [-1, int(h.shape[-1])]), int(h.shape[-1]), outputs, name)
        return tf.reshape(flat, [-1, 32, outputs])

    def attention(h: Any, name: str) -> Any:
        def split(role: str) -> Any:
            return tf.transpose(tf.reshape(layer(h, width, f"{name}/{role}"), [-1, 32, heads, width // heads]), _SWAP)

        q, k, v = (split(role) for role in ("query", "key", "value"))
        weights = tf.nn.softmax(tf.matmul(q, k, transpose_b=True) / (width / heads) ** 0.5)
        mixed = tf.reshape(tf.transpose(tf.matmul(weights, v), _SWAP), [-1, 32, width])
        return layer(mixed, width, f"{name}/out")

    def build() -> tuple[Any, Any]:
        x = h = tf1.placeholder(tf.float32, [None, 32, width], name="x")
        for i in range(blocks):
            h += attention(normalized(h, f"block_{i}/before"), f"block_{i}")
            wide = tf.nn.gelu(layer(normalized(h, f"block_{i}/between"), 4 * width, f"block_{i}/wide"))
            h += layer(wide, width, f"block_{i}/narrow")
        return {"x": x}, {"y": normalized(h, "end")}

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


_MAKERS: Mapping[str, Callable[..., None]] = {
    "dense": dense,
    "text": text_classifier,
    "digits": digit_classifier,
    "digit_convolutions": digit_convolutions,
    "transformer": transformer,
}
_SWAP = [0, 2, 1, 3]


def dense_inputs(batch: int, *, width: int = 2048, seed: int = 1) -> dict[str, np.ndarray]:
    """Feeds for `dense`: noise."""
    return {"x": np.random.default_rng(seed).standard_normal((batch, width)).astype(np.float32)}


def text_inputs(batch: int, *, words: int = 50_000, length: int = 64, seed: int = 1) -> dict[str, np.ndarray]:
    """Feeds for `text_classifier`: words follow Zipf's law, as they do in texts."""
    ids = np.random.default_rng(seed).zipf(1.2, (batch, length))
    return {"ids": np.minimum(ids, words - 1).astype(np.int64)}


def text_examples(
    batch: int, *, words: int, length: int = 64, classes: int = 20, seed: int = 1
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Texts of classes to learn, and the classes: some words of each, more or fewer, are ones of its class's own."""
    rng = np.random.default_rng(seed)
    ids = text_inputs(batch, words=words, length=length, seed=seed)["ids"]
    labels = rng.integers(0, classes, batch)
    own = rng.random(ids.shape) < rng.uniform(0, 0.3, (batch, 1))
    ids = np.where(own, ids // classes * classes + labels[:, None], ids)
    return {"ids": np.minimum(ids, words - 1)}, labels


def _dense(x: Any, inputs: int, outputs: int, name: str) -> Any:
    kernel = tf1.get_variable(
        f"{name}/kernel", [inputs, outputs], initializer=tf1.random_normal_initializer(stddev=(2 / inputs) ** 0.5)
    )
    bias = tf1.get_variable(f"{name}/bias", [outputs], initializer=tf1.random_normal_initializer(stddev=0.1))
    return tf.nn.bias_add(tf.matmul(x, kernel), bias)


def _label_loss(outputs: Mapping[str, Any]) -> Any:
    wanted = tf1.placeholder(tf.int64, [None], name="labels")
    chosen = tf.gather(outputs["scores"], wanted, batch_dims=1)
    return -tf.reduce_mean(tf.math.log(chosen + 1e-9))


def _any_loss(outputs: Mapping[str, Any]) -> Any:
    return tf.add_n([tf.reduce_mean(output) for output in outputs.values()])


def _export(
    path: Path,
    build: Callable[[], tuple[dict[str, Any], dict[str, Any]]],
    seed: int,
    loss: Callable[[Mapping[str, Any]], Any] = _any_loss,
    feeds: Iterable[Mapping[str, Any]] = (),
) -> None:
    """feeds: for one step of training each."""
    with tf1.Graph().as_default(), tf1.Session() as session, tf1.variable_scope("", use_resource=True):
        tf1.set_random_seed(seed)
        inputs, outputs = build()
        step = tf1.train.AdamOptimizer().minimize(loss(outputs))
        session.run(tf1.global_variables_initializer())
        for fed in feeds:
            session.run(step, fed)
        builder = tf1.saved_model.Builder(str(path))
        builder.add_meta_graph_and_variables(
            session, ["serve"], {"serving_default": tf1.saved_model.predict_signature_def(inputs, outputs)}
        )
        builder.save()
