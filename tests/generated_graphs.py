"""Whole graphs drawn by Hypothesis, with what to feed them: layers, branches, control flow, names and other traps.

`graphs()` draws a `Drawn`. Random numbers come from a drawn seed. No step makes a number jump where its input changes a
little (there is no rounding and no comparison of floats), so that outputs can be compared with a tolerance.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import numpy as np
import tensorflow as tf
from hypothesis import strategies as st

from tests import graphs as small_graphs
from tfslim_core.graph import Graph
from tfslim_core.ops import op_def

v1 = tf.compat.v1
raw = tf.raw_ops
BATCH = 2
FLOATS = (tf.float32, tf.float64, tf.float16)
# Few, so that they collide: TensorFlow makes "a_1" of the second "a", and "a/b" lies below it.
NAMES = ("a", "b", "a_1", "a/b", "b/a", "layer/weights")


@dataclass(frozen=True)
class Drawn:
    """A graph and what to feed it. steps: what it was made of, for the reader of a failed example."""

    graph: Graph
    feeds: dict[str, np.ndarray]
    steps: tuple[str, ...]

    def __repr__(self) -> str:
        graph = self.graph
        nodes = "\n".join(f"  {n.name} = {n.op}({', '.join(n.input)})" for n in graph.nodes.values())
        return f"{self.steps} {graph.inputs} -> {graph.outputs} {graph.targets}\n{nodes}"

    def _repr_pretty_(self, printer, cycle) -> None:
        """What Hypothesis shows of a failed example."""
        printer.text(repr(self))


def run(graph: Graph, feeds) -> list[np.ndarray]:
    """The outputs' values as the nodes compute them one by one, optimized by nobody; the targets run too."""
    # The convolutions that CPUs do not compute, between transposes.
    graph_def = small_graphs._with_nhwc_convolutions(small_graphs.whole_graph_def(graph))
    for node in graph_def.node:
        if node.name.endswith("/nhwc"):
            node.attr.pop("_output_shapes", None)
    options = v1.ConfigProto(inter_op_parallelism_threads=1)
    options.graph_options.optimizer_options.opt_level = v1.OptimizerOptions.L0
    options.graph_options.rewrite_options.disable_meta_optimizer = True
    with tf.Graph().as_default():
        tf.import_graph_def(graph_def, name="")
        with v1.Session(config=options) as session:
            session.run(list(graph.targets), feeds)  # these may fill tables
            return session.run(list(graph.outputs), feeds)


@st.composite
def graphs(draw, most_steps: int = 7) -> Drawn:
    """A graph of one to `most_steps` steps of any kind."""
    with tf.Graph().as_default() as graph:
        maker = _Maker(draw)
        maker.start()
        for step in draw(st.lists(st.sampled_from(STEPS), min_size=1, max_size=most_steps)):
            maker.do(step)
        return maker.finish(graph)


class _Maker:
    """Tensors made so far, newest last, and the draws that decide what comes next."""

    def __init__(self, draw) -> None:
        self.draw = draw
        self.random = np.random.default_rng(draw(st.integers(0, 999)))
        self.dtype = draw(st.sampled_from((tf.float32, tf.float32, tf.float32, *FLOATS)))
        self.batch = draw(st.sampled_from((BATCH, None)))
        self.pool: list[tf.Tensor] = []
        self.operations: list[tf.Operation] = []  # what may be waited for: live wherever it is read
        self.constants: list[np.ndarray] = []
        self.weights: list[tf.Tensor] = []
        self.feeds: dict[str, np.ndarray] = {}
        self.inputs: list[tf.Tensor] = []
        self.targets: list[tf.Operation] = []
        self.steps: list[str] = []

    # Draws

    def chance(self, one_in: int) -> bool:
        return self.draw(st.integers(0, one_in - 1)) == one_in - 1

    def choose(self, *choices):
        return self.draw(st.sampled_from(choices))

    def name(self) -> str:
        return self.choose(*NAMES)

    # Tensors

    def start(self) -> None:
        self.image() if self.chance(2) else self.matrix()

    def placeholder(self, dtype, shape, value) -> tf.Tensor:
        tensor = v1.placeholder(dtype, [self.batch, *shape[1:]], self.choose("x", "a", "a/x"))
        self.inputs.append(tensor)
        self.feeds[tensor.name] = np.asarray(value)
        return self.keep(tensor)

    def keep(self, tensor: tf.Tensor) -> tf.Tensor:
        self.pool.append(tensor)
        self.operations.append(tensor.op)
        return tensor

    def normal(self, *shape: int) -> np.ndarray:
        return (0.5 * self.random.normal(size=shape)).astype(self.dtype.as_numpy_dtype)

    def _pick(self, fits: Callable[[tf.Tensor], bool], otherwise: Callable[[], tf.Tensor]) -> tf.Tensor:
        found = [tensor for tensor in reversed(self.pool) if fits(tensor)]
        return self.draw(st.sampled_from(found[:4])) if found else otherwise()

    def image(self) -> tf.Tensor:
        """[batch, height, width, channels], floats."""
        return self._pick(
            lambda t: t.dtype == self.dtype and t.shape.rank == 4,
            lambda: self.placeholder(self.dtype, (BATCH, 6, 5, 3), self.normal(BATCH, 6, 5, 3)),
        )

    def matrix(self) -> tf.Tensor:
        """[batch, columns], floats."""
        return self._pick(
            lambda t: t.dtype == self.dtype and t.shape.rank == 2,
            lambda: self.placeholder(self.dtype, (BATCH, 4), self.normal(BATCH, 4)),
        )

    def floats(self) -> tf.Tensor:
        """Either."""
        return self._pick(lambda t: t.dtype == self.dtype and t.shape.rank in (2, 4), self.matrix)

    def ids(self) -> tf.Tensor:
        """[batch, columns] of 0 to 9."""
        dtype = self.choose(tf.int32, tf.int64)

        def make() -> tf.Tensor:
            return self.placeholder(dtype, (BATCH, 3), self.random.integers(0, 10, (BATCH, 3)).astype(dtype.name))

        return self._pick(lambda t: t.dtype in (tf.int32, tf.int64) and t.shape.rank == 2, make)

    def flag(self) -> tf.Tensor:
        """A scalar bool: fed, computed, constant, or with a default."""
        match self.choose("constant", "default", "computed", "fed"):
            case "constant":
                return tf.constant(self.chance(2), name=self.name())
            case "default":
                tensor = v1.placeholder_with_default(self.chance(2), [], self.name())
                self.inputs.append(tensor)
                return tensor
            case "computed":
                return tf.reduce_sum(self.ids()) > 12
            case _:
                tensor = v1.placeholder(tf.bool, [], self.name())
                self.inputs.append(tensor)
                self.feeds[tensor.name] = np.array(self.chance(2))
                return tensor

    def constant(self, *shape: int, positive: bool = False) -> tf.Tensor:
        """A constant: a new one, one of a value that another has, or one that another layer reads too."""
        value = self.random.uniform(0.5, 1.5, shape).astype(self.dtype.as_numpy_dtype) if positive else None
        if value is None:
            value = self.normal(*shape)
        alike = [c for c in self.constants if c.shape == value.shape and (not positive or c.min(initial=1) > 0)]
        if alike and self.chance(3):
            value = alike[-1]
        shared = [w for w in self.weights if w.shape == value.shape and w.dtype == self.dtype and not positive]
        if shared and self.chance(3):
            return shared[-1]
        self.constants.append(value)
        tensor = tf.constant(value, name=self.name())
        if self.chance(2):
            tensor = tf.identity(tensor, self.choose("a/read", "b"))
        if not positive:
            self.weights.append(tensor)
        return tensor

    # The graph

    def do(self, step: Callable[[_Maker], tf.Tensor | None]) -> None:
        with ExitStack() as stack:
            if self.operations and self.chance(6):
                stack.enter_context(tf.control_dependencies([self.choose(*self.operations[-4:])]))
            if self.chance(10):
                stack.enter_context(tf.device(self.choose("/device:CPU:0", "/job:localhost/replica:0/task:0")))
            made = step(self)
        if made is not None:
            self.keep(made)
        self.steps.append(step.__name__)

    def finish(self, graph: tf.Graph) -> Drawn:
        last = self.pool[-1]
        picked = self.draw(st.lists(st.sampled_from(self.pool), max_size=2)) if len(self.pool) > 1 else []
        outputs = list(dict.fromkeys(tensor.name for tensor in (last, *picked)))
        feeds, inputs = dict(self.feeds), [tensor.name for tensor in self.inputs]
        inner = [t for t in self.pool if t.dtype == self.dtype and t.name not in inputs and t.shape.rank in (2, 4)]
        if inner and self.chance(8):
            fed = self.choose(*inner)  # a computed tensor may be fed too
            inputs.append(fed.name)
            feeds[fed.name] = self.normal(*(BATCH if size is None else size for size in fed.shape))
        graph_def = graph.as_graph_def(add_shapes=self.chance(3))
        self._disguise(graph_def)
        targets = [op.name for op in self.targets if self.chance(3)]
        return Drawn(Graph.of(graph_def, inputs, outputs, targets), feeds, tuple(self.steps))

    def _disguise(self, graph_def) -> None:
        """Spell the same graph as other writers do."""
        if self.chance(2):
            for node in graph_def.node:
                _strip_defaults(node)
        names = [node.name for node in graph_def.node]
        plain = not any(node.op == "Enter" for node in graph_def.node)
        if plain and self.chance(4):
            for node in graph_def.node[: self.draw(st.integers(1, 5))]:
                beside = self.choose(*names)
                if beside != node.name:
                    node.attr["_class"].list.s.append(f"loc:@{beside}".encode())
            _same_devices(graph_def)
        if self.chance(4):
            for node in graph_def.node:
                node.input[:] = [f"{i}:0" if ":" not in i and not i.startswith("^") else i for i in node.input]
        if self.chance(4):
            nodes = list(graph_def.node)[::-1]
            del graph_def.node[:]
            graph_def.node.extend(nodes)


def _strip_defaults(node) -> None:
    """Without the attributes that equal their defaults, as SavedModels are exported."""
    for declared in op_def(node.op, {}).attr if node.op in _OPS else ():  # others are library functions
        if declared.HasField("default_value") and node.attr.get(declared.name) == declared.default_value:
            del node.attr[declared.name]


_OPS = frozenset(raw.__dict__)


def _same_devices(graph_def) -> None:
    """What sits together must not be told to sit apart."""
    for node in graph_def.node:
        node.device = ""


@contextmanager
def _v1_control_flow():
    v1.disable_control_flow_v2()
    try:
        yield
    finally:
        v1.enable_control_flow_v2()


# Layers over images


def conv(m: _Maker):
    """A Conv2D of either layout."""
    x = m.image()
    padding, dilation = m.choose("SAME", "VALID"), m.choose(1, 1, 2)
    filters = m.constant(m.choose(3, 1, 2), m.choose(3, 1), x.shape[-1], m.choose(4, 3, 2, 24))
    if min(x.shape[1:3]) < 5:
        padding = "SAME"
    if m.choose("NHWC", "NHWC", "NCHW") == "NHWC":
        strides = [1, m.choose(1, 1, 2), 1, 1]
        more = {"dilations": [1, dilation, dilation, 1]} if strides[1] == 1 else {}
        return raw.Conv2D(input=x, filter=filters, strides=strides, padding=padding, name=m.name(), **more)
    x = tf.transpose(x, [0, 3, 1, 2], name=m.name())
    y = raw.Conv2D(input=x, filter=filters, strides=[1, 1, 1, 1], padding=padding, data_format="NCHW", name=m.name())
    if m.chance(2):
        y = raw.BiasAdd(value=y, bias=m.constant(y.shape[1]), data_format="NCHW", name=m.name())
    return tf.transpose(y, [0, 2, 3, 1], name=m.name())


def depthwise(m: _Maker):
    x = m.image()
    filters = m.constant(3, 3, x.shape[-1], m.choose(1, 2))
    return raw.DepthwiseConv2dNative(input=x, filter=filters, strides=[1, 1, 1, 1], padding="SAME", name=m.name())


def fused_batch_norm(m: _Maker):
    x = m.image()
    c = x.shape[-1]
    vectors = {"scale": m.constant(c), "offset": m.constant(c), "mean": m.constant(c)}
    vectors["variance"] = m.constant(c, positive=True)
    if m.dtype == tf.float64:
        return None
    if m.dtype == tf.float16:
        vectors = {key: tf.cast(vector, tf.float32) for key, vector in vectors.items()}
        return raw.FusedBatchNormV3(x=x, **vectors, is_training=False, epsilon=m.choose(1e-4, 1e-3), name=m.name())[0]
    kind = m.choose(raw.FusedBatchNorm, raw.FusedBatchNormV2, raw.FusedBatchNormV3)
    return kind(x=x, **vectors, is_training=False, epsilon=m.choose(1e-4, 1e-3), name=m.name())[0]


def spelled_batch_norm(m: _Maker):
    """As Keras 3 and TensorFlow 1's layers spell it."""
    x = m.floats()
    c = x.shape[-1]
    mean, variance = m.constant(c), m.constant(c, positive=True)
    gamma, beta = (m.constant(c), m.constant(c)) if m.chance(2) else (None, None)
    return tf.nn.batch_normalization(x, mean, variance, beta, gamma, 1e-3, name=m.name())


def scale(m: _Maker):
    x = m.floats()
    factor = m.constant(x.shape[-1]) if m.chance(2) else m.constant()
    return tf.multiply(factor, x, m.name()) if m.chance(2) else tf.multiply(x, factor, m.name())


def bias(m: _Maker):
    x = m.floats()
    offset = m.constant(x.shape[-1])
    return tf.nn.bias_add(x, offset, name=m.name()) if m.chance(2) else tf.add(x, offset, m.name())


def activation(m: _Maker):
    return m.choose(tf.nn.relu, tf.nn.relu6, tf.nn.tanh, tf.nn.sigmoid, tf.nn.elu)(m.floats(), name=m.name())


def padded_conv(m: _Maker):
    """Pad, MirrorPad or a resize before a convolution that pads nothing."""
    x = m.image()
    if m.dtype == tf.float32 and m.chance(2):
        aligned, centers = m.choose((False, False), (False, True), (True, False))
        x = raw.ResizeBilinear(images=x, size=[7, 6], align_corners=aligned, half_pixel_centers=centers)
    pads = [[0, 0], [1, 0], [1, 1], [0, 0]]
    match m.choose("Pad", "PadV2", "MirrorPad", "none"):
        case "Pad":
            x = raw.Pad(input=x, paddings=pads, name=m.name())
        case "PadV2":
            x = raw.PadV2(input=x, paddings=pads, constant_values=m.constant(), name=m.name())
        case "MirrorPad":
            x = raw.MirrorPad(input=x, paddings=pads, mode=m.choose("REFLECT", "SYMMETRIC"), name=m.name())
    filters = m.constant(2, 2, x.shape[-1], 2)
    padding = m.choose("VALID", "SAME") if min(x.shape[1:3]) > 1 else "SAME"
    return raw.Conv2D(input=x, filter=filters, strides=[1, 1, 1, 1], padding=padding, name=m.name())


def atrous_conv(m: _Maker):
    """SpaceToBatchND, a convolution, BatchToSpaceND; then maybe a bias."""
    x = m.image()
    height, width = x.shape[1:3]
    valid = m.chance(2) and min(height, width) >= 5
    around = 0 if valid else 2
    pads = [[around, around + (height % 2)], [around, around + (width % 2)]]
    crops = [[0, height % 2], [0, width % 2]]
    y = raw.SpaceToBatchND(input=x, block_shape=[2, 2], paddings=pads, name=m.name())
    filters = m.constant(3, 3, x.shape[-1], 2)
    if m.chance(3):
        y = raw.DepthwiseConv2dNative(input=y, filter=filters, strides=[1, 1, 1, 1], padding="VALID", name=m.name())
    else:
        y = raw.Conv2D(input=y, filter=filters, strides=[1, 1, 1, 1], padding="VALID", name=m.name())
    return raw.BatchToSpaceND(input=y, block_shape=[2, 2], crops=crops, name=m.name())


def pool(m: _Maker):
    x = m.image()
    return m.choose(tf.nn.max_pool2d, tf.nn.avg_pool2d)(x, 2, 1, "SAME", name=m.name())


def branches(m: _Maker):
    """Two convolutions of one image, joined; the batch norm's constants are then split between them."""
    x = m.image()
    ways = [
        raw.Conv2D(
            input=x, filter=m.constant(1, 1, x.shape[-1], c), strides=[1, 1, 1, 1], padding="SAME", name=m.name()
        )
        for c in (2, 3)
    ]
    return tf.concat(ways, m.choose(3, -1), name=m.name())


def residual(m: _Maker):
    x = m.floats()
    others = [t for t in m.pool if t.dtype == x.dtype and t.shape == x.shape]
    return tf.add(x, others[0], m.name())


def flatten(m: _Maker):
    x = m.image()
    if m.chance(2):
        return tf.reduce_mean(x, [1, 2], name=m.name())
    width = int(np.prod(x.shape[1:]))
    if m.chance(2):
        return tf.reshape(x, [-1, width], m.name())
    return tf.reshape(x, tf.stack([tf.shape(x)[0], width]), m.name())


# Layers over matrices


def dense(m: _Maker):
    x = m.matrix()
    wide = m.choose(4, 4, 3, 32)
    transpose_b = m.chance(3)
    weights = m.constant(*((wide, x.shape[-1]) if transpose_b else (x.shape[-1], wide)))
    if m.chance(5):
        return raw.MatMul(
            a=tf.transpose(x, name=m.name()), b=weights, transpose_a=True, transpose_b=transpose_b, name=m.name()
        )
    kind = m.choose("MatMul", "MatMul", "BatchMatMulV2")
    if kind == "BatchMatMulV2":
        return raw.BatchMatMulV2(x=x, y=weights, adj_y=transpose_b, name=m.name())
    return raw.MatMul(a=x, b=weights, transpose_b=transpose_b, name=m.name())


def split(m: _Maker):
    """Output 1 is kept, 0 may be read."""
    x = m.floats()
    size = x.shape[-1]
    parts = tf.split(x, [1, size - 1], axis=-1, name=m.name()) if size > 1 else [x, x]
    if m.chance(2):
        m.keep(parts[0])
    return tf.identity(parts[1], m.name()) if m.chance(3) else parts[1]


def equal_split(m: _Maker):
    x = m.floats()
    parts = tf.split(x, x.shape[-1], axis=-1, name=m.name())
    return tf.concat(parts[::-1], -1, name=m.name())


def top(m: _Maker):
    """The values; with equal ones, the positions might be any."""
    x = m.matrix()
    return tf.math.top_k(x, min(2, x.shape[-1]), name=m.name())[0]


def stitch(m: _Maker):
    x = m.floats()
    return tf.concat([x, tf.identity(x, m.name())], -1, name=m.name())


def reshapes(m: _Maker):
    """There and elsewhere, by constants or by arithmetic with the shape."""
    x = m.matrix()
    size = x.shape[-1]
    y = tf.reshape(x, [-1, size, 1], m.name())
    if m.chance(3):
        y = tf.expand_dims(tf.squeeze(y, [2], name=m.name()), 2, name=m.name())
    if m.chance(2):
        return tf.ensure_shape(tf.reshape(y, tf.stack([tf.shape(x)[0], size], name=m.name()), m.name()), [None, size])
    return tf.reshape(y, [-1, size], m.name())


def transposes(m: _Maker):
    x = m.image()
    y = tf.transpose(x, [0, 2, 1, 3] if m.chance(2) else [0, 3, 1, 2], name=m.name())
    if m.chance(2):
        y = tf.nn.relu(y, m.name())
    back = [0, 2, 1, 3] if y.shape[-1] == x.shape[-1] and y.shape[1] == x.shape[2] else [0, 2, 3, 1]
    return tf.transpose(y, back, name=m.name())


def casts(m: _Maker):
    other = m.choose(*(dtype for dtype in FLOATS if dtype.size >= m.dtype.size))
    return tf.cast(tf.cast(m.floats(), other, name=m.name()), m.dtype, name=m.name())


def fake_quantized(m: _Maker):
    if m.dtype != tf.float32:
        return None
    x = m.matrix()
    rounded = tf.quantization.fake_quant_with_min_max_vars(m.constant(x.shape[-1]), -2, 2, name=m.name())
    return tf.add(x, rounded, m.name())


# Passing through


def identities(m: _Maker):
    """A chain of nodes that pass on what they read; any of them may become an output."""
    x = m.pool[-1]
    kinds = [tf.identity, tf.stop_gradient]
    if x.dtype in FLOATS:
        kinds.append(lambda t, name: raw.CheckNumerics(tensor=t, message="not finite", name=name))
    for kind in m.draw(st.lists(st.sampled_from(kinds), min_size=1, max_size=3)):
        x = m.keep(kind(x, name=m.name()))


def waits(m: _Maker):
    """An assert, a NoOp or a Print that something has to wait for."""
    x = m.floats()
    match m.choose("Assert", "NoOp", "Print"):
        case "Assert":
            holds = tf.reduce_all(m.ids() >= 0)
            waited = raw.Assert(condition=holds, data=[tf.constant("negative")], name=m.name())
            m.targets.append(waited)
        case "NoOp":
            waited = tf.no_op(m.name())
            m.targets.append(waited)
        case _:
            waited = v1.Print(x, [x], "seen", first_n=0, name=m.name())
            m.keep(waited)
    with tf.control_dependencies([waited]):
        return tf.identity(x, m.name()) if m.chance(2) else tf.nn.relu(x, m.name())


def default_input(m: _Maker):
    """An input that is not fed."""
    x = m.matrix()
    default = v1.placeholder_with_default(m.constant(x.shape[-1]), [None], m.name())
    m.inputs.append(default)
    return tf.add(x, default, m.name())


def constant_arithmetic(m: _Maker):
    """What does not depend on the input."""
    x = m.matrix()
    size = x.shape[-1]
    computed = tf.reduce_sum(tf.tile(tf.fill([1, size], tf.constant(0.5, m.dtype)), [3, 1]), 0) * m.constant(size)
    return tf.add(x, computed, m.name())


# Integers, strings


def gather(m: _Maker):
    """Rows of a table, or of a column with an Identity between, which is sparse."""
    ids = m.ids()
    if m.chance(2):
        column = m.normal(10, 1) * (m.random.random((10, 1)) < 0.3).astype(m.dtype.as_numpy_dtype)
        table = tf.identity(tf.constant(column, name=m.name()), m.name())
        found = tf.squeeze(tf.gather(table, ids, axis=0, name=m.name()), [2])
        return tf.ensure_shape(found, [None, ids.shape[-1]])
    rows = tf.gather(m.constant(10, 2), ids, axis=0, name=m.name())
    return tf.reshape(rows, [-1, 2 * ids.shape[-1]], m.name())


def integers(m: _Maker):
    ids = m.ids()
    more = tf.math.floormod(ids * tf.constant([3], ids.dtype) + 1, tf.constant([10], ids.dtype), m.name())
    return tf.where(more > ids, more, ids, m.name()) if m.chance(2) else more


def numbers(m: _Maker):
    """Integers as floats."""
    ids = m.ids()
    if m.chance(2):
        return tf.cast(ids, m.dtype, name=m.name()) * tf.constant(0.1, m.dtype)
    return tf.reshape(tf.one_hot(ids, 3, dtype=m.dtype), [-1, 3 * ids.shape[-1]], m.name())


def shape_arithmetic(m: _Maker):
    """The batch size, as a number in a computation."""
    x = m.matrix()
    rows = tf.cast(tf.shape(x)[0] * 2 + 1, m.dtype, name=m.name())
    return tf.multiply(x, rows / tf.constant(4, m.dtype), m.name())


def texts(m: _Maker):
    """Strings to bucket numbers."""
    words = np.array([[b"a", b"B c"], [b"", b"a"]], object)
    x = m._pick(lambda t: t.dtype == tf.string, lambda: m.placeholder(tf.string, (BATCH, 2), words))
    x = m.keep(tf.strings.join([tf.strings.lower(x), tf.constant("-")], name=m.name()))
    return tf.strings.to_hash_bucket_fast(x, 10, name=m.name())


# Control flow


def _two_ways(m: _Maker):
    x = m.matrix()
    size = x.shape[-1]
    square = m.constant(size, size)
    flag = m.flag()

    def one():
        return tf.nn.relu(tf.matmul(x, square) * tf.constant(np.arange(1, 1 + size), m.dtype))

    def other():
        return tf.identity(tf.identity(x) + tf.constant(0.5, m.dtype))

    return flag, one, other


def v1_branch(m: _Maker):
    """Switch and Merge."""
    with _v1_control_flow():
        return v1.cond(*_two_ways(m), name=m.name())


def branch(m: _Maker):
    """If, with its branches in the library."""
    return tf.cond(*_two_ways(m), name=m.name())


def _loop_body(m: _Maker, x):
    weights, factor = m.constant(x.shape[-1], x.shape[-1]), m.constant(x.shape[-1])

    def body(i, value):
        value = tf.matmul(tf.identity(value), weights) * tf.constant(0.5, m.dtype) * factor
        return i + 1, tf.nn.tanh(tf.identity(value) + tf.constant(0.25, m.dtype))

    return body


def v1_loop(m: _Maker):
    """Enter, Merge, Switch, NextIteration, Exit."""
    x = m.matrix()
    body = _loop_body(m, x)
    with _v1_control_flow():
        return v1.while_loop(lambda i, value: i < 3, body, [tf.constant(0), x], name=m.name())[1]


def v1_array_loop(m: _Maker):
    """A loop that writes into a TensorArray."""
    x = m.matrix()
    with _v1_control_flow():
        array = tf.TensorArray(m.dtype, size=3, element_shape=[BATCH, x.shape[-1]], name=m.name())

        def body(i, written):
            return i + 1, written.write(i, tf.nn.relu(x) * tf.cast(i, m.dtype))

        array = v1.while_loop(lambda i, _: i < 3, body, [tf.constant(0), array], name=m.name())[1]
        return tf.ensure_shape(tf.reduce_sum(array.stack(), 0), [None, x.shape[-1]])


def loop(m: _Maker):
    """While, with condition and body in the library."""
    x = m.matrix()
    return tf.while_loop(lambda i, value: i < 3, _loop_body(m, x), [tf.constant(0), x], name=m.name())[1]


def call(m: _Maker):
    """A function of the library that is called, maybe twice."""
    x = m.matrix()
    weights = m.normal(x.shape[-1], x.shape[-1])
    factor = m.normal(x.shape[-1])

    @tf.function(autograph=False)
    def body(value):
        parts = tf.split(tf.matmul(value, weights) * factor, [1, x.shape[-1] - 1] if x.shape[-1] > 1 else [1], -1)
        return tf.nn.relu(tf.identity(parts[-1])), tf.concat(parts, -1)

    y = body(x)[1]
    return tf.add(y, body(y)[1], m.name()) if m.chance(2) else y


STEPS = (
    activation,
    dense,
    conv,
    bias,
    scale,
    spelled_batch_norm,
    fused_batch_norm,
    identities,
    waits,
    depthwise,
    padded_conv,
    atrous_conv,
    pool,
    branches,
    residual,
    flatten,
    split,
    equal_split,
    top,
    stitch,
    reshapes,
    transposes,
    casts,
    fake_quantized,
    default_input,
    constant_arithmetic,
    gather,
    integers,
    numbers,
    shape_arithmetic,
    texts,
    v1_branch,
    branch,
    v1_loop,
    v1_array_loop,
    loop,
    call,
)
