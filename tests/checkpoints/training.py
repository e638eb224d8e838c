"""Classifiers of digits for tests: trained and exported as TensorFlow 1 does it, and trained on from a checkpoint."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import tensorflow as tf
from tensorflow.core.protobuf import meta_graph_pb2

from benchmarks.digits import digits

tf1 = tf.compat.v1
BATCH = 100


def batches(count, seed):
    """Images and labels of the training set."""
    images, labels = digits().training
    order = np.random.default_rng(seed).permutation(len(images))
    for number in range(count):
        rows = order[np.arange(number * BATCH, (number + 1) * BATCH) % len(order)]
        yield images[rows], labels[rows]


def loss_of(scores, labels):
    return tf1.losses.sparse_softmax_cross_entropy(labels, scores)


def network(x, training):
    """A convolution with batch norm, and two dense layers: the scores, and an op that moves the norm's averages."""
    with tf1.variable_scope("conv"):
        kernel = tf1.get_variable("kernel", [5, 5, 1, 8], initializer=tf1.glorot_uniform_initializer(seed=1))
        h = tf.nn.conv2d(tf.reshape(x, [-1, 28, 28, 1]), kernel, 2, "SAME")
    with tf1.variable_scope("norm"):
        gamma, beta, mean, variance = (
            tf1.get_variable(name, initializer=np.full(8, value, "f"), trainable="moving" not in name)
            for name, value in (("gamma", 1), ("beta", 0), ("moving_mean", 0), ("moving_variance", 1))
        )
        update = tf.no_op()
        if training:
            h, now_mean, now_variance = tf1.nn.fused_batch_norm(h, gamma, beta, None, None, 1e-3)
            moved = 0.8 * mean + 0.2 * now_mean, 0.8 * variance + 0.2 * now_variance
            update = tf.group(mean.assign(moved[0]), variance.assign(moved[1]))
        else:
            h, _, _ = tf1.nn.fused_batch_norm(h, gamma, beta, mean, variance, 1e-3, is_training=False)
    h = tf.reshape(tf.nn.relu(h), [-1, 14 * 14 * 8])
    for name, units in (("hidden", 64), ("logits", 10)):
        with tf1.variable_scope(name):
            w = tf1.get_variable("kernel", [h.shape[1], units], initializer=tf1.glorot_uniform_initializer(seed=2))
            h = tf.matmul(h, w) + tf1.get_variable("bias", [units], initializer=tf1.zeros_initializer())
            h = tf.nn.relu(h) if name == "hidden" else tf.identity(h, "scores")
    return h, update


def trained_v1(folder: Path, steps=60):
    """The network's SavedModel in `export`, and in `run` a checkpoint of its training with Adam."""
    with tf1.Graph().as_default(), tf1.Session() as session:
        tf1.set_random_seed(1)
        x, labels = tf1.placeholder(tf.float32, [None, 784]), tf1.placeholder(tf.int64, [None])
        scores, update = network(x, training=True)
        step = tf1.train.get_or_create_global_step()
        train = tf.group(tf1.train.AdamOptimizer(2e-3).minimize(loss_of(scores, labels), global_step=step), update)
        session.run(tf1.global_variables_initializer())
        for images, right in batches(steps, 0):
            session.run(train, {x: images, labels: right})
        (folder / "run").mkdir(parents=True)
        tf1.train.Saver().save(session, str(folder / "run/model.ckpt"), global_step=step)
    return exported(folder / "run", folder / "export")


def exported(checkpoint: Path, out: Path):
    """The network as it answers, restored by name."""
    with tf1.Graph().as_default(), tf1.Session() as session:
        x = tf1.placeholder(tf.float32, [None, 784], name="x")
        scores, _ = network(x, training=False)
        tf1.train.Saver().restore(session, tf.train.latest_checkpoint(str(checkpoint)))
        export(session, out, x, scores)
    return out


def export(session, path, x, scores):
    signature = tf1.saved_model.predict_signature_def({"x": x}, {"scores": scores})
    builder = tf1.saved_model.Builder(str(path))
    builder.add_meta_graph_and_variables(session, ["serve"], {"serving_default": signature})
    builder.save()


def trained_on(thawed: Path, out: Path | None = None, steps=10):
    """The losses of a few steps that go on from a checkpoint with its MetaGraph, by a fresh optimizer."""
    meta = meta_graph_pb2.MetaGraphDef.FromString((thawed / "model.ckpt.meta").read_bytes())
    signature = meta.signature_def["serving_default"]
    losses = []
    with tf1.Graph().as_default() as graph, tf1.Session() as session:
        saver = tf1.train.import_meta_graph(str(thawed / "model.ckpt.meta"))
        (x,) = (graph.get_tensor_by_name(info.name) for info in signature.inputs.values())
        (scores,) = (graph.get_tensor_by_name(info.name) for info in signature.outputs.values())
        labels = tf1.placeholder(tf.int64, [None])
        loss = loss_of(scores, labels)
        train = tf1.train.AdamOptimizer(1e-3).minimize(loss)
        session.run(tf1.global_variables_initializer())
        saver.restore(session, tf.train.latest_checkpoint(str(thawed)))
        for images, right in batches(steps, 7):
            losses.append(session.run([loss, train], {x: images, labels: right})[0])
        first = next(batches(1, 7))
        losses.append(session.run(loss, {x: first[0], labels: first[1]}))  # of the first batch again
        if out is not None:
            export(session, out, x, scores)
    return losses


def cross_entropy(scores, labels):
    scores = scores - scores.max(axis=1, keepdims=True)
    return float(np.mean(np.log(np.exp(scores).sum(axis=1)) - scores[np.arange(len(labels)), labels]))
