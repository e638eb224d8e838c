"""TensorFlow 1 training graphs, trained a little and saved, and what their session answers."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tensorflow as tf

tf1 = tf.compat.v1
IMAGES = np.random.default_rng(3).random((5, 6, 6, 1)).astype(np.float32)


@dataclass(frozen=True)
class Trained:
    """A checkpoint's prefix, and what the session that wrote it answers to IMAGES."""

    prefix: Path
    answer: np.ndarray


def _network(images, resource: bool, rate=None, training=False):
    with tf1.variable_scope("net", use_resource=resource):
        kernel = tf1.get_variable("conv/kernel", [3, 3, 1, 4])
        hidden = tf.nn.relu(tf.nn.conv2d(images, kernel, 1, "SAME"))
        norm = {
            name: tf1.get_variable(f"bn/{name}", [4], initializer=tf1.random_uniform_initializer(0.5, 2))
            for name in "sbmv"
        }
        hidden = tf1.nn.fused_batch_norm(
            hidden, norm["s"], norm["b"], *(() if training else (norm["m"], norm["v"])), is_training=training
        )[0]
        hidden = tf.reshape(hidden, [-1, 144])
        if rate is not None:
            hidden = tf1.nn.dropout(hidden, rate=rate)
        weights = tf1.get_variable("dense/kernel", [144, 3], partitioner=None)
        return tf.matmul(hidden, weights, name="logits")


def adam(
    folder: Path,
    *,
    resource: bool = False,
    source: str = "placeholder",
    version=tf1.train.SaverDef.V2,
    signature=False,
    training=False,
) -> Trained:
    """A classifier after two steps of Adam, with accuracy, summaries and dropout that is off by default.

    source: "placeholder", "iterator" or "queue": what brings images and labels.
    """
    folder.mkdir(parents=True, exist_ok=True)
    tf1.set_random_seed(5)
    with tf1.Graph().as_default() as graph, tf1.Session() as session:
        tf1.set_random_seed(5)
        classes = np.array([0, 1, 2, 0, 1], np.int64)
        if source == "placeholder":
            images = tf1.placeholder(tf.float32, [None, 6, 6, 1], "images")
            labels = tf1.placeholder(tf.int64, [None], "labels")
        elif source == "iterator":
            dataset = tf.data.Dataset.from_tensor_slices((IMAGES, classes)).repeat().batch(5)
            images, labels = tf1.data.make_one_shot_iterator(dataset).get_next()
        else:
            images, labels = tf1.train.shuffle_batch([IMAGES, classes], 5, 50, 5, enqueue_many=True)
        rate = tf1.placeholder_with_default(0.0, [], "rate")
        logits = _network(images, resource, rate, training)
        answer = tf.nn.softmax(logits, name="probabilities")
        loss = tf.reduce_mean(tf1.nn.sparse_softmax_cross_entropy_with_logits(labels=labels, logits=logits))
        loss += 1e-3 * tf.add_n([tf.nn.l2_loss(v) for v in tf1.trainable_variables()])
        hits = tf.cast(tf.equal(tf.argmax(answer, 1), labels), tf.float32)
        tf1.summary.scalar("accuracy", tf.reduce_mean(hits, name="accuracy"))
        train = tf1.train.AdamOptimizer(0.1).minimize(loss, global_step=tf1.train.create_global_step())
        tf1.summary.merge_all()
        session.run(tf1.global_variables_initializer())
        coordinator = tf1.train.Coordinator()
        runners = tf1.train.start_queue_runners(session, coordinator)
        for _ in range(2):
            session.run(train, {images: IMAGES, labels: classes} if source == "placeholder" else {})
        if signature:
            made = tf1.saved_model.build_signature_def(
                {"pictures": tf1.saved_model.build_tensor_info(images)},
                {"scores": tf1.saved_model.build_tensor_info(answer)},
                "tensorflow/serving/predict",
            )
        saver = tf1.train.Saver(write_version=version)
        prefix = Path(saver.save(session, str(folder / "model.ckpt"), global_step=2))
        if signature:
            meta = tf1.train.export_meta_graph(saver_def=saver.as_saver_def())
            meta.signature_def["serving_default"].CopyFrom(made)
            Path(f"{prefix}.meta").write_bytes(meta.SerializeToString())
        tf1.train.write_graph(graph, str(folder), "graph.pbtxt")
        answered = session.run(answer, {images: IMAGES})
        coordinator.request_stop()
        coordinator.join(runners, stop_grace_period_secs=5, ignore_live_threads=True)
        return Trained(prefix, answered)
