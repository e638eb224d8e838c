"""Compute in eight bits, with TensorFlow's own quantized kernels.

    Before: y = MaxPool(Relu(BiasAdd(Conv2D(x, W), b)))
    After:  y = Dequantize(QuantizedMaxPool(Requantize(QuantizedAdd(Requantize(QuantizedConv2D(q, W')), b'))))
            with q = QuantizeV2(x), and W', b' stored in 8 bits

For runtimes and hardware that are fast in eight bits. On an x86 CPU with TensorFlow 2.21 it is four to nine times
*slower* than float32 (a small convolutional net and a stack of 1,024 x 1,024 matrices, batches of 1 and 32, two
threads; docs/benchmarks.md): use `quantize_weights` to make a model smaller there. Files shrink
alike, to about a quarter of the weights' bytes; the graph has some five times as many nodes.

Add, AddV2, AvgPool, BiasAdd, Concat, ConcatV2, Conv2D, MatMul, MaxPool, Mul, Relu, Relu6, Reshape and ResizeBilinear of
float32 become the quantized op. What flows from one to the next stays in eight bits; whatever else reads a result gets
a float under the old name. A tensor in eight bits has one range for all its values, cut into 255 steps, zero among
them. Where the range comes from:

- of a constant, from its values: it is stored as codes, also where an Identity is between;
- of a graph input, `input_min` and `input_max`, or measured on each request;
- of a result in 32 bits (sums, products), from the FakeQuantWithMinMaxVars that follows it, also past Relu, MaxPool and
  Reshape; or `fallback_min` and `fallback_max`; or measured on each request by RequantizationRange, which
  `freeze_requantization_ranges` can fix later. A Relu or Relu6 that alone reads such a result becomes an end of its
  range, so that all steps are for what it lets through;
- of any other float tensor, the fallback or measured.

A measured range is moved by less than a step, to begin at a multiple of its step: kernels disagree about where zero is
otherwise. Biases are added by QuantizedAdd; QuantizedBiasAdd is off by up to three steps, all values alike.

| parameter | |
|---|---|
| input_min, input_max | the range of float inputs, which remain float inputs; both or none |
| fallback_min, fallback_max | the range of everything else that would be measured; both or none |
| ignore_op | ops that are left as they are; Add means AddV2 too, Concat ConcatV2; repeatable |

Answers change: each result is off by about a step, a 255th of its range, and so is what is computed from it. A tensor
of zeros stays one. NaN cannot be told in eight bits: a request that holds one is an error where ranges are measured, as
is pooling or convolving a batch of no examples.

Left alone, with a reason: what the kernels compute differently or not at all: NCHW, explicit paddings, dilations,
groups, unequal strides, strides that leave pixels over (their kernel then begins beside the image), sums of more than
33,025 products (32 bits overflow), broadcasts along other than leading axes, pooling over channels, sizes or ranks that
decide about these and are not known, and Conv2DBackpropInput, which has no kernel. Also other types than float32;
constants with NaN or infinity; what is placed on a GPU; FakeQuant of other than eight bits, or in a range that lacks
zero or is not constant. Weights that are encoded already are read decoded. Function bodies are not entered. Run twice,
it does nothing the second time.

Source: tensorflow/tools/graph_transforms/quantize_nodes.cc, same name and parameters; unlike it we do not turn float
inputs into quint8 ones, since signatures are kept, and quantize weights when we run rather than on each request.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from tfslim_core import ops
from tfslim_core.errors import GraphError, TransformError, nearest
from tfslim_core.graph import (
    EXTERNAL_BYTES,
    Graph,
    Input,
    NodeDef,
    constant,
    control_inputs,
    data_inputs,
    execution_order,
    external_constant,
    make_node,
    parse_input,
    renamed,
)
from tfslim_core.quantized_ops import KERNELS, LARGEST, TINY, WITHOUT_KERNEL, Range, codes, refusal, with_zero
from tfslim_core.registry import Outcome, Skipped, transform
from tfslim_core.rewriting import Skip
from tfslim_core.static_shapes import Shape, static_shapes
from tfslim_core.weights import Array, Weight

_FAKE = "FakeQuantWithMinMaxVars"
_OPS = {*KERNELS, *WITHOUT_KERNEL, _FAKE}
_NEWER = {"Add": "AddV2", "Concat": "ConcatV2"}
# To cut values off before these or after is the same.
_KEEP_ORDER = frozenset({"Relu", "Relu6", "MaxPool", "Reshape"})
_CLAMPS = frozenset({"Relu", "Relu6"})
_PLACEHOLDERS = frozenset({"Placeholder", "PlaceholderV2", "PlaceholderWithDefault"})


@transform("quantize_nodes", exact=False)
def quantize_nodes(
    graph: Graph,
    *,
    input_min: float | None = None,
    input_max: float | None = None,
    fallback_min: float | None = None,
    fallback_max: float | None = None,
    ignore_op: tuple[str, ...] = (),
) -> Outcome:
    """Compute in eight bits, with TensorFlow's own quantized kernels."""
    ranges = _given("input", input_min, input_max), _given("fallback", fallback_min, fallback_max)
    for op in ignore_op:
        if op not in _OPS:
            raise TransformError(f"ignore_op={op} is no op that it would quantize{nearest(op, _OPS)}")
    ignored = {*ignore_op, *(_NEWER[op] for op in ignore_op if op in _NEWER)}
    plan = _Plan(graph, ignored)
    if not plan.nodes:
        return Outcome(graph, skipped=tuple(plan.skipped))
    rewriter = _Rewriter(graph, plan, *ranges)
    for name in execution_order(graph):
        if name in plan.nodes:
            rewriter.quantize(graph.nodes[name])
    return Outcome(rewriter.finish(), len(plan.nodes), tuple(plan.skipped))


def _given(which: str, low: float | None, high: float | None) -> Range | None:
    """The range that two parameters give, if they do.

    Raises:
        TransformError: only one is given, or they are no range.
    """
    if low is None and high is None:
        return None
    if low is None or high is None:
        there, missing = ("max", "min") if low is None else ("min", "max")
        raise TransformError(f"{which}_{there} is given without {which}_{missing}; a range needs both")
    if not (-LARGEST <= low < high <= LARGEST):
        raise TransformError(f"{which}_min={low:g} and {which}_max={high:g} are no range; it goes from low to high")
    return with_zero(low, high)


class _Plan:
    """What is quantized, decided before anything is changed.

    constants: the range of each constant that is computed with. fixed: for each FakeQuant node, the range it was
    trained for. announced: for a node with a result of 32 bits, the range that a FakeQuant after it gives. clamps: such
    a node and the Relu or Relu6 that is its only reader.
    """

    def __init__(self, graph: Graph, ignored: set[str]) -> None:
        self.graph = graph
        self.fed = {parse_input(tensor).node for tensor in graph.inputs}
        self.constants: dict[str, Range] = {}
        self.fixed: dict[str, Range] = {}
        self.nodes: dict[str, None] = {}
        self.skipped: list[Skipped] = []
        asked = [n for n in graph.nodes.values() if n.op in _OPS - ignored and n.name not in self.fed]
        self.shapes = _shapes(graph, [source for node in asked for source in data_inputs(node)])
        for node in asked:
            try:
                self._accept(node)
            except Skip as reason:
                self.skipped.append(Skipped(node.name, str(reason)))
            else:
                self.nodes[node.name] = None
        self.announced = {name: self.fixed[fake] for fake in self.fixed if (name := self._source_of_range(fake))}
        self.clamps = {name: clamp for name in self.nodes if (clamp := self._clamped_by(name))}

    def _accept(self, node: NodeDef) -> None:
        """Note what is needed to quantize the node.

        Raises:
            Skip: it stays as it is.
        """
        graph = self.graph
        if node.op in WITHOUT_KERNEL:
            raise Skip("TensorFlow has no eight-bit kernel for it")
        if any(kind in node.device.upper() for kind in ("GPU", "TPU")):
            raise Skip(f"it is placed on {node.device}, where there are no eight-bit kernels")
        if node.op == _FAKE:
            self.fixed[node.name] = self._trained_range(node)
            self.operands(node)
            return
        gives = graph.facts(node.name).gives
        dtype = tf.as_dtype(gives[0] % ops.REF)
        if dtype != tf.float32:
            raise Skip(f"it gives {dtype.name}; the eight-bit kernels stand in for float32")
        sources = data_inputs(node)
        shapes = [self.shapes.get(source) for source in sources]
        if reason := refusal(node.op, shapes, lambda name: ops.attribute(node, name, graph.functions)):
            raise Skip(reason)
        if node.op in ("Concat", "ConcatV2"):
            self.axis(node)
        self.operands(node)

    def operands(self, node: NodeDef) -> None:
        """Look at the constants among the numbers that the node computes with.

        Raises:
            Skip: one cannot be given in eight bits.
        """
        for source in operands(node):
            name = self.constant_below(source)
            if name is None or name in self.constants:
                continue
            value = self.graph.value(name)
            low, high = float(value.min(initial=0)), float(value.max(initial=0))
            if not value.size:
                raise Skip(f"the constant {name!r} has no elements")
            if not (math.isfinite(low) and math.isfinite(high)):
                raise Skip(f"the constant {name!r} holds NaN or infinity")
            if max(-low, high) > LARGEST:
                raise Skip(f"the constant {name!r} holds {max(-low, high):.3g}, too much for products in float32")
            self.constants[name] = with_zero(low, high)

    def constant_below(self, source: Input) -> str | None:
        """The constant that the tensor is, itself or through Identity nodes."""
        node = self.graph.nodes[source.node]
        while node.op == "Identity" and node.name not in self.fed and not control_inputs(node):
            node = self.graph.nodes[data_inputs(node)[0].node]
        return node.name if node.op == "Const" and node.name not in self.fed else None

    def axis(self, node: NodeDef) -> int:
        """The axis of a concatenation, counted from the front.

        Raises:
            Skip: it is not known.
        """
        position = 0 if node.op == "Concat" else -1
        name = self.constant_below(data_inputs(node)[position])
        if name is None:
            raise Skip("the axis is not a constant")
        axis = int(self.graph.value(name))
        if axis >= 0:
            return axis
        ranks = [len(shape) for source in operands(node) if (shape := self.shapes.get(source)) is not None]
        if not ranks:
            raise Skip(f"the eight-bit kernel counts axes from the front; of how many {axis} is one is not known")
        return axis + ranks[0]

    def _trained_range(self, node: NodeDef) -> Range:
        """The range of a FakeQuant node.

        Raises:
            Skip: eight bits of a constant range are not what it asks for.
        """
        bits = ops.attribute(node, "num_bits", self.graph.functions).i
        if bits != 8 or ops.attribute(node, "narrow_range", self.graph.functions).b:
            raise Skip(f"it stands for {bits} bits in a narrow range" if bits == 8 else f"it stands for {bits} bits")
        ends = [self.constant_below(source) for source in data_inputs(node)[1:]]
        if None in ends:
            raise Skip("its range is not constant")
        low, high = (float(self.graph.value(name)) for name in ends if name is not None)
        if not (-LARGEST <= low <= 0 <= high <= LARGEST and low < high):
            raise Skip(f"its range, {low:g} to {high:g}, does not hold zero")
        return with_zero(low, high)

    def _only_reader(self, name: str) -> str | None:
        """Who alone reads the node, and nothing but its first output."""
        readers = self.graph.readers_of(name)
        alone = len(readers) == 1 and readers[0].port == 0 and name not in self.graph.interface
        return readers[0].node if alone else None

    def _source_of_range(self, fake: str) -> str | None:
        """The node with a result of 32 bits that can be given the range of a FakeQuant below it right away."""
        below = fake
        while True:
            source = data_inputs(self.graph.nodes[below])[0]
            node = self.graph.nodes[source.node]
            if node.name not in self.nodes or self._only_reader(node.name) != below or node.op == _FAKE:
                return None
            if KERNELS[node.op].wide:
                return str(node.name)
            if node.op not in _KEEP_ORDER:
                return None
            below = node.name

    def _clamped_by(self, name: str) -> str | None:
        """The Relu or Relu6 that can be done while the node's result goes from 32 bits to 8."""
        kernel = KERNELS.get(self.graph.nodes[name].op)
        if kernel is None or not kernel.wide or name in self.announced:
            return None
        reader = self._only_reader(name)
        if reader is None or reader not in self.nodes:
            return None
        node = self.graph.nodes[reader]
        return reader if node.op in _CLAMPS and not control_inputs(node) else None


def operands(node: NodeDef) -> list[Input]:
    """The inputs of a node that are numbers to compute with."""
    sources = data_inputs(node)
    if node.op == _FAKE:
        return sources[:1]
    others = {position % len(sources) for position in KERNELS[node.op].others}
    return [source for position, source in enumerate(sources) if position not in others]


def _shapes(graph: Graph, tensors: Iterable[Input]) -> dict[Input, Shape]:
    """What is known of the tensors' shapes; what nodes have noted of their outputs' may be stale and does not count."""
    noted = [renamed(node, node.name) for node in graph.nodes.values() if "_output_shapes" in node.attr]
    for node in noted:
        del node.attr["_output_shapes"]
    try:
        return static_shapes(graph.replace(noted) if noted else graph, tensors)
    except (GraphError, ValueError):
        return {}


class _Eight(NamedTuple):
    """A tensor in eight bits: codes, and the scalars that are its range. fixed: the range, when it is constant."""

    codes: Input
    low: Input
    high: Input
    fixed: Range | None = None


class _Rewriter:
    """The new nodes, as they come about in execution order."""

    def __init__(self, graph: Graph, plan: _Plan, input_range: Range | None, fallback: Range | None) -> None:
        self.graph, self.plan = graph, plan
        self.input_range, self.fallback = input_range, fallback
        self.fresh = graph.fresh_names()
        self.new: dict[str, NodeDef] = {}
        self.weights: dict[str, Weight] = {}
        self.results: dict[Input, _Eight] = {}  # of quantized nodes
        self.quantized: dict[tuple[Input | str, Range | None], _Eight] = {}  # float tensors and constants
        self.scalars: dict[tuple[str, bytes, tuple[str, ...]], Input] = {}

    def quantize(self, node: NodeDef) -> None:
        """Compute the node in eight bits; its name goes to a float tensor of the same values."""
        controls = self._controls(node)
        if node.op == _FAKE:
            result = self._eight(data_inputs(node)[0], self.plan.fixed[node.name])
        elif node.name in self.plan.clamps.values() and self.fallback is None:
            result = self.results[data_inputs(node)[0]]
        else:
            result, controls = self._computed(node), []
        if not controls:  # otherwise what reads it has to wait for them, and does so at the float tensor
            self.results[Input(node.name, 0)] = result
        back: list[Input | str] = [result.codes, result.low, result.high, *(f"^{name}" for name in controls)]
        self.new[node.name] = make_node(
            "Dequantize", node.name, back, device=node.device, T=tf.quint8, mode="MIN_FIRST"
        )

    def _computed(self, node: NodeDef) -> _Eight:
        kernel = KERNELS[node.op]
        given = [self._eight(source) for source in operands(node)]
        numbers = [one.codes for one in given]
        lows, highs = [one.low for one in given], [one.high for one in given]
        name = f"{node.name}/eightbit"
        if kernel.op == "QuantizedConcat":
            axis = self._scalar(f"{name}/axis", np.int32(self.plan.axis(node)), operands(node)[0])
            inputs = [axis, *numbers, *lows, *highs]
        else:
            others = [data_inputs(node)[position] for position in kernel.others]
            inputs = [*numbers, *others, *(end for ends in zip(lows, highs, strict=True) for end in ends)]
        result = self._eight_of(self._add(kernel.op, name, inputs, node, **kernel.types))
        made = self.new[result.codes.node]
        made.input.extend(f"^{control}" for control in self._controls(node))
        for attribute in kernel.copied:
            made.attr[attribute].CopyFrom(ops.attribute(node, attribute, self.graph.functions))
        if kernel.wide:
            return self._requantized(node, result)
        ranges = {one.fixed for one in given}
        return result._replace(fixed=ranges.pop() if len(ranges) == 1 else None)

    def _requantized(self, node: NodeDef, wide: _Eight) -> _Eight:
        """A result of 32 bits in 8, in the range that is announced, that is given as fallback, or that is measured."""
        fixed = self.plan.announced.get(node.name, self.fallback)
        ends = self._measured(node, wide) if fixed is None else self._ends(fixed, wide.codes.node, wide.codes)
        made = self._add(
            "Requantize",
            f"{wide.codes.node}/requantize",
            [*wide[:3], *ends],
            node,
            Tinput=tf.qint32,
            out_type=tf.quint8,
        )
        return self._eight_of(made, fixed)

    def _measured(self, node: NodeDef, wide: _Eight) -> tuple[Input, Input]:
        prefix, near = wide.codes.node, wide.codes
        low = self._add("RequantizationRange", f"{prefix}/requant_range", wide[:3], node, Tinput=tf.qint32)
        # Where all values are negative that range lacks zero, which Relu and padding would then take for its end.
        high = self._bound("Maximum", low._replace(port=1), TINY, f"{prefix}/requant_max", near)
        if node.name not in self.plan.clamps:
            return self._aligned(low, high, f"{prefix}/requant", near)
        if self.graph.nodes[self.plan.clamps[node.name]].op == "Relu6":
            high = self._bound("Minimum", high, 6, f"{prefix}/relu6_max", near)
        # Always zero; but a log of the measured range has both its ends only where both are read.
        return self._bound("Maximum", low, 0, f"{prefix}/relu_min", near), high

    def _aligned(self, low: Input, high: Input, prefix: str, near: Input) -> tuple[Input, Input]:
        """A measured range, a step longer, that begins at a multiple of its step: zero is a code, for every kernel.

        Where it is not, kernels round it up or down as each sees fit, and all values move by up to a step. What
        quantize_nodes itself would quantize, Mul and Add, is not used for this.
        """

        def op(name: str, a: Input, b: Input, wish: str) -> Input:
            return self._add(name, f"{prefix}/{wish}", [a, b], self._node(near), T=tf.float32)

        length = op("Sub", high, low, "length")
        step = op("RealDiv", length, self._scalar(f"{prefix}/steps", np.float32(254), near), "step")
        low = op("Sub", low, op("FloorMod", low, step, "beyond"), "aligned_min")
        back = op("RealDiv", step, self._scalar(f"{prefix}/minus_255th", np.float32(-1 / 255), near), "minus_length")
        return low, op("Sub", low, back, "aligned_max")

    def _bound(self, op: str, source: Input, limit: float, wish: str, near: Input) -> Input:
        end = self._scalar(f"{wish}/limit", np.float32(limit), near)
        return self._add(op, wish, [source, end], self._node(near), T=tf.float32)

    def _eight(self, source: Input, wanted: Range | None = None) -> _Eight:
        """The tensor in eight bits, in the range `wanted` where one is.

        A result of a quantized node is there already. A constant's codes are computed here; other tensors are quantized
        at run time, once for all that read them.
        """
        done = self.results.get(source)
        if done is not None and wanted in (None, done.fixed):
            return done
        name = self.plan.constant_below(source)
        if wanted is None and name is None:
            wanted = self._known_range(source)
        key = (name or source, wanted)
        if key not in self.quantized:
            self.quantized[key] = self._run_time(source, wanted) if name is None else self._constant(name, wanted)
        return self.quantized[key]

    def _controls(self, node: NodeDef) -> list[str]:
        """What has to run before the node, and before the constants that it reads and its eight-bit op does not."""
        found = control_inputs(node)
        if node.op in (_FAKE, "Concat", "ConcatV2"):
            below = [self.plan.constant_below(source) for source in data_inputs(node) if source not in operands(node)]
            found += [control for name in below if name for control in control_inputs(self.graph.nodes[name])]
        return list(dict.fromkeys(found))

    def _known_range(self, source: Input) -> Range | None:
        is_input = source.node in self.plan.fed or self.graph.nodes[source.node].op in _PLACEHOLDERS
        return self.input_range if is_input else self.fallback

    def _run_time(self, source: Input, fixed: Range | None) -> _Eight:
        node = self.graph.nodes[source.node]
        prefix = f"{source.node}/eightbit"
        if fixed is not None:
            low, high = self._ends(fixed, prefix, source)
        else:
            axes = self._axes(source, node)
            least = self._add("Min", f"{prefix}/least", [source, axes], node, T=tf.float32)
            greatest = self._add("Max", f"{prefix}/greatest", [source, axes], node, T=tf.float32)
            low = self._bound("Minimum", least, 0, f"{prefix}/min", source)
            high = self._bound("Maximum", greatest, TINY, f"{prefix}/max", source)
            low, high = self._aligned(low, high, prefix, source)
        made = self._add("QuantizeV2", f"{prefix}/quantize", [source, low, high], node, T=tf.quint8, mode="MIN_FIRST")
        # The default, 0.01, would leave nothing of a tensor of small values.
        self.new[made.node].attr["ensure_minimum_range"].f = TINY
        return self._eight_of(made, fixed)

    def _axes(self, source: Input, node: NodeDef) -> Input:
        """All axes of the tensor."""
        prefix = f"{source.node}/eightbit"
        shape = self.plan.shapes.get(source)
        if shape is not None:
            return self._scalar(f"{prefix}/axes", np.arange(len(shape), dtype=np.int32), source)
        rank = self._add("Rank", f"{prefix}/rank", [source], node, T=tf.float32)
        start, step = (self._scalar(f"{prefix}/{end}", np.int32(end == "step"), source) for end in ("start", "step"))
        return self._add("Range", f"{prefix}/axes", [start, rank, step], node, Tidx=tf.int32)

    def _constant(self, name: str, wanted: Range | None) -> _Eight:
        """A constant's codes, as bytes that are only taken for codes: no constant and no file need hold a quint8."""
        node = self.graph.nodes[name]
        found = wanted or self.plan.constants[name]
        shape = self.graph.constant_shape(name)

        def read() -> Array:
            return codes(self.graph.value(name), found)

        stored = self.fresh(f"{name}/eightbit/codes")
        if math.prod(shape) >= EXTERNAL_BYTES:
            made, large = external_constant(stored, Weight(np.dtype(np.uint8), shape, read), device=node.device)
        else:
            made, large = constant(stored, read(), device=node.device)
        made.input.extend(f"^{control}" for control in control_inputs(node))
        self.new[stored] = made
        self.weights |= large
        cast = self._add("Bitcast", f"{name}/eightbit", [Input(stored, 0)], node, T=tf.uint8, type=tf.quint8)
        return _Eight(cast, *self._ends(found, f"{name}/eightbit", Input(stored, 0)), found)

    def _ends(self, found: Range, prefix: str, near: Input) -> tuple[Input, Input]:
        low, high = (
            self._scalar(f"{prefix}/{end}", np.float32(value), near)
            for end, value in zip(("min", "max"), found, strict=True)
        )
        return low, high

    def _scalar(self, wish: str, value: Array | np.generic, near: Input) -> Input:
        """A small constant, one for all that want its value; in TensorFlow 1 control flow, in the frame of `near`."""
        value = np.asarray(value)
        device = self._node(near).device
        before = [f"^{near.node}"] if self.graph.has_v1_control_flow else []
        key = (value.dtype.str + str(value.shape), value.tobytes(), (*before, device))
        if key not in self.scalars:
            name = self.fresh(wish)
            self.new[name], _ = constant(name, value, device=device)
            self.new[name].input.extend(before)
            self.scalars[key] = Input(name, 0)
        return self.scalars[key]

    def _node(self, source: Input) -> NodeDef:
        return self.new.get(source.node) or self.graph.nodes[source.node]

    def _add(self, op: str, wish: str, inputs: Iterable[Input], near: NodeDef, **attributes: tf.DType | str) -> Input:
        name = self.fresh(wish)
        self.new[name] = make_node(op, name, inputs, device=near.device, **attributes)
        return Input(name, 0)

    def _eight_of(self, made: Input, fixed: Range | None = None) -> _Eight:
        return _Eight(made, made._replace(port=1), made._replace(port=2), fixed)

    def finish(self) -> Graph:
        """The graph with the new nodes, without the float tensors and constants that nobody reads any more."""
        graph = self.graph
        nodes = {**graph.nodes, **self.new}
        uses = Counter(parse_input(text).node for node in nodes.values() for text in node.input)
        todo = [name for name in self.plan.nodes if graph.readers_of(name)]
        todo += [source.node for name in self.plan.nodes for source in data_inputs(graph.nodes[name])]
        gone: set[str] = set()
        while todo:
            name = todo.pop()
            idle = name in self.plan.nodes or nodes[name].op in ("Const", "Identity")
            if uses[name] or name in gone or name in graph.interface or not idle:
                continue
            gone.add(name)
            for text in nodes[name].input:
                source = parse_input(text).node
                uses[source] -= 1
                todo.append(source)
        new = [node for name, node in self.new.items() if name not in gone]
        return graph.replace(new, gone, weights=self.weights)
