"""Eight-bit compute beside float32: two small nets in one session each, in turns."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

import numpy as np

from benchmarks.sheets import Sheet

_BATCHES = (1, 32)
_ROUNDS = 9
_RUNS = 5


@dataclass(frozen=True)
class Computing:
    """One net and batch size. milliseconds are medians; slower: the median over rounds of the ratio within a round.

    error: the largest difference of an output, as a share of the outputs' range.
    """

    net: str
    batch: int
    float_ms: float
    eight_bit_ms: float
    slower: float
    float_bytes: int
    eight_bit_bytes: int
    float_nodes: int
    eight_bit_nodes: int
    error: float


def run(told: Callable[[str], None]) -> list[Computing]:
    """Time both forms of both nets, with two threads."""
    found = []
    for name, build in (("convolutions", _convolutions), ("matrices", _matrices)):
        for batch in _BATCHES:
            told(f"{name}, batch {batch}")
            found.append(_compared(name, build(), batch))
    return found


def sheet(all_found: Sequence[Computing]) -> Sheet:
    """A row a net and batch size."""
    header = ("Net", "batch", "float32 ms", "8 bits ms", "times slower", "MB", "nodes", "largest error")
    rows = [
        (
            one.net,
            str(one.batch),
            f"{one.float_ms:.2f}",
            f"{one.eight_bit_ms:.2f}",
            f"{one.slower:.1f}",
            f"{one.float_bytes / 1e6:.2f} → {one.eight_bit_bytes / 1e6:.2f}",
            f"{one.float_nodes} → {one.eight_bit_nodes}",
            f"{one.error:.1%}",
        )
        for one in all_found
    ]
    return Sheet("quantize_nodes: float32 and eight-bit compute", header, rows, ("Sessions with two threads.",))


def _compared(name: str, graph: Any, batch: int) -> Computing:
    from tfslim_core.transforms import stored_bytes
    from tfslim_core.transforms.quantize_nodes import quantize_nodes

    slim = quantize_nodes(graph).graph
    node = graph.nodes["x"]
    sizes = [batch, *(dimension.size for dimension in node.attr["shape"].shape.dim[1:])]
    feeds = {"x:0": np.random.default_rng(1).normal(size=sizes).astype(np.float32)}
    sessions = [_session(graph), _session(slim)]
    wanted, got = (session.run(graph.outputs[0], feeds) for session in sessions)
    times: list[list[float]] = [[], []]
    for number in range(_ROUNDS):
        for which in (0, 1) if number % 2 else (1, 0):
            start = time.perf_counter()
            for _ in range(_RUNS):
                sessions[which].run(graph.outputs[0], feeds)
            times[which].append(1000 * (time.perf_counter() - start) / _RUNS)
    for session in sessions:
        session.close()
    return Computing(
        name,
        batch,
        median(times[0]),
        median(times[1]),
        median(eight / whole for whole, eight in zip(*times, strict=True)),
        stored_bytes(graph),
        stored_bytes(slim),
        len(graph.nodes),
        len(slim.nodes),
        float(np.abs(got - wanted).max() / np.ptp(wanted)),
    )


def _session(graph: Any) -> Any:
    import tensorflow as tf

    from tfslim_core.saved_model.write import with_values

    with tf.Graph().as_default() as imported:
        tf.import_graph_def(with_values(graph), name="")
    config = tf.compat.v1.ConfigProto(
        intra_op_parallelism_threads=2, inter_op_parallelism_threads=2, device_count={"GPU": 0}
    )
    return tf.compat.v1.Session(graph=imported, config=config)


def _convolutions() -> Any:
    """Five convolutions with biases and Relu6 on 64 x 64 images, pooling, and a classifier."""
    import tensorflow as tf

    def build(x: Any, weights: Callable[..., Any]) -> Any:
        h, depth = x, 3
        for width, stride in ((16, 2), (32, 1), (32, 2), (64, 1), (64, 2)):
            h = tf.nn.conv2d(h, weights(3, 3, depth, width), stride, "SAME")
            h = tf.nn.relu6(tf.nn.bias_add(h, weights(width)))
            depth = width
        h = tf.nn.avg_pool2d(h, 8, 8, "VALID")
        return tf.matmul(tf.reshape(h, [-1, depth]), weights(depth, 100))

    return _graph([None, 64, 64, 3], build)


def _matrices() -> Any:
    """Four layers of 1,024 units."""
    import tensorflow as tf

    def build(x: Any, weights: Callable[..., Any]) -> Any:
        h = x
        for _ in range(4):
            h = tf.nn.relu(tf.nn.bias_add(tf.matmul(h, weights(1024, 1024)), weights(1024)))
        return tf.matmul(h, weights(1024, 100))

    return _graph([None, 1024], build)


def _graph(shape: Sequence[int | None], build: Callable[[Any, Callable[..., Any]], Any]) -> Any:
    import tensorflow as tf

    from tfslim_core.graph import Graph

    random = np.random.default_rng(0)

    def weights(*sizes: int) -> Any:
        spread = np.sqrt(2 / max(1, np.prod(sizes[:-1])))
        return tf.constant((random.normal(size=sizes) * spread).astype(np.float32))

    with tf.Graph().as_default() as graph:
        y = build(tf.compat.v1.placeholder(tf.float32, shape, "x"), weights)
    return Graph.of(graph.as_graph_def(), ["x:0"], [y.name])
