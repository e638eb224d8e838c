"""Take out transposes, reshapes and casts that undo each other or change nothing, and make one of two.

    Before: y = Transpose(Relu(Transpose(x, [0, 3, 1, 2])), [0, 2, 3, 1])        After: y = Relu(x)
    Before: y = Reshape(Reshape(x, [-1, 4]), [2, -1])                            After: y = Reshape(x, [2, -1])

- Transpose of a Transpose, both by constants: one by the product of the two, or none where that is the identity.
- Transpose by the identity; Cast to the type that it has already: none.
- Elementwise ops (and sums, products and so on with a scalar constant or of tensors that are transposed alike) between
  transposes that undo each other: the ops work in the layout before the first.
- Reshape of a Reshape, an ExpandDims or a Squeeze: the outer Reshape alone, whose result hangs on the order of the
  elements and on nothing else. -1 in its shape means what it did, also of a tensor without elements.
- Reshape to the shape that the tensor is known to have, with at most one dimension that is not known: none.
- ExpandDims and Squeeze of the same axis, either way round: none.

A node between the two that others read stays for them. An output keeps its name, as an Identity. In function bodies the
same. Control inputs are kept.

Exact, bit by bit. A request that an inner Reshape or Squeeze refused, for a number of elements that does not fit, may
be answered.

Left alone, with a reason: permutations that are no constants; transposes with an op between them that is read elsewhere
too or is part of the interface, which would need them again; in TensorFlow 1 control flow, nodes with control edges,
which say on which branch they run.

Source: none in the Graph Transform Tool.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np
import tensorflow as tf

from tfslim_core import ops
from tfslim_core.errors import GraphError
from tfslim_core.graph import (
    CONTROL,
    Graph,
    Input,
    NodeDef,
    constant,
    constant_value,
    control_inputs,
    data_inputs,
    execution_order,
    make_node,
    parse_input,
    renamed,
)
from tfslim_core.registry import Outcome, Skipped, transform
from tfslim_core.rewriting import Skip
from tfslim_core.static_shapes import Shape, static_shapes
from tfslim_core.unread import without_unread

_RESHAPING = frozenset({"Reshape", "ExpandDims", "Squeeze"})
_ROOTS = _RESHAPING | {"Transpose", "Cast"}
_UNARY = frozenset(
    """
    Abs Acos Acosh Asin Asinh Atan Atanh Cast Ceil Cos Cosh Elu Erf Erfc Exp Expm1 Floor Identity Inv IsFinite IsInf
    IsNan LeakyRelu Log Log1p LogicalNot Neg Reciprocal Relu Relu6 Rint Round Rsqrt Selu Sigmoid Sign Sin Sinh Softplus
    Softsign Sqrt Square StopGradient Tan Tanh
    """.split()
)
_BROADCASTING = frozenset(
    """
    Add AddV2 Atan2 Div DivNoNan Equal FloorDiv FloorMod Greater GreaterEqual Less LessEqual LogicalAnd LogicalOr
    Maximum Minimum Mul MulNoNan NotEqual Pow RealDiv SquaredDifference Sub
    """.split()
)
_LARGEST_REGION = 64  # nodes between transposes that are looked at, so that the work stays linear
_ROUNDS = 50  # each takes a node away; a graph that needs more stays as it is then

Axes = tuple[int, ...]


@transform("fuse_transposes_and_reshapes", enters_functions=True)
def fuse_transposes_and_reshapes(graph: Graph) -> Outcome:
    """Take out transposes, reshapes and casts that undo each other or change nothing, and make one of two."""
    changes = 0
    for _ in range(_ROUNDS):
        if not any(node.op in _ROOTS for node in graph.nodes.values()):
            return Outcome(graph, changes)
        rewiring = _Rewiring(graph)
        for name in execution_order(graph):
            rewiring.fuse(name)
        graph, fused = rewiring.finish(), rewiring.changes
        layouts = _Rewiring(graph)
        for name in execution_order(graph):
            layouts.cancel(name)
        graph = layouts.finish()
        changes += fused + layouts.changes
        if not fused and not layouts.changes:
            break
    return Outcome(graph, changes, (*rewiring.skipped, *layouts.skipped))


class _Rewiring:
    """One sweep in execution order. instead: for a node that goes, what to read and what to wait for in its place."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.fed = {parse_input(tensor).node for tensor in graph.inputs}
        self.new: dict[str, NodeDef] = {}
        self.instead: dict[str, tuple[Input, tuple[str, ...]]] = {}
        self.left: list[str] = []  # what lost a reader
        self.skipped: list[Skipped] = []
        self.changes = 0
        self.touched: set[str] = set()
        self._fresh = graph.fresh_names()
        self._shapes: dict[Input, Shape] | None = None

    # What the graph says

    def node(self, name: str) -> NodeDef:
        return self.new[name] if name in self.new else self.graph.nodes[name]

    def axes(self, source: Input) -> Axes | None:
        """The value of a constant permutation."""
        node = self.node(source.node)
        if node.op != "Const" or source.node in self.fed or source.node in self.graph.weights:
            return None
        value = tuple(int(axis) for axis in constant_value(node).reshape(-1))
        return value if sorted(value) == list(range(len(value))) else None

    def inner(self, source: Input, *op_names: str) -> NodeDef | None:
        """What gives the tensor, when it is one of these ops and may be looked through."""
        node = self.node(source.node)
        if node.op not in op_names or source.node in self.fed:
            return None
        if not self._free(node):
            raise Skip(f"{source.node!r} below it has control edges, which say on which branch it runs")
        return None if self._is_reference(data_inputs(node)[0]) else node

    def _is_reference(self, source: Input) -> bool:
        """Whether the tensor is a TensorFlow 1 variable itself, whose value depends on when it is read."""
        return source.node in self.graph.nodes and self.graph.facts(source.node).gives[source.port] >= ops.REF

    def shape(self, tensor: Input) -> Shape:
        """What is known of a tensor's shape; asked once for all reshapes."""
        if self._shapes is None:
            # What is read in the end is what one of the nodes to fuse read in the beginning.
            asked: dict[Input, None] = {}
            for name, node in self.graph.nodes.items():
                if node.op in _ROOTS:
                    asked[Input(name, 0)] = asked[data_inputs(node)[0]] = None
            try:
                self._shapes = static_shapes(self.graph, asked)
            except (ValueError, TypeError, GraphError, tf.errors.OpError):
                self._shapes = {}
        return self._shapes.get(tensor)

    def _free(self, node: NodeDef) -> bool:
        """Whether no control edge says on which branch the node runs."""
        if not self.graph.has_v1_control_flow:
            return True
        readers = self.graph.readers_of(node.name)
        return not control_inputs(node) and all(reader.port != CONTROL for reader in readers)

    def _waits(self, node: NodeDef) -> list[str]:
        """What the node and its constants wait for."""
        own = control_inputs(node)
        constants = [self.node(source.node) for source in data_inputs(node)]
        more = [name for one in constants if one.op == "Const" for name in control_inputs(one)]
        if self.graph.has_v1_control_flow:
            # There a constant waits for what says that its branch is live, as what else the node reads does too.
            more = [name for name in more if not self._says_branch(name)]
            if more:
                raise Skip("its permutation or shape has control inputs")
        return [*own, *more]

    def _says_branch(self, name: str) -> bool:
        """Whether a node does nothing but say which branch of TensorFlow 1 control flow is live."""
        node, sources = self.graph.nodes[name], self.graph.sources(name)
        pivot = node.op == "Identity" and len(sources) == 1 and self.graph.nodes[sources[0].node].op
        return node.op in ops.V1_CONTROL_FLOW or pivot in ops.V1_CONTROL_FLOW

    # Two of a kind

    def fuse(self, name: str) -> None:
        """Rewrite the node, whose inputs have been rewritten, if it is one to fuse."""
        self._rewire(name)
        node = self.node(name)
        if node.op not in _ROOTS or name in self.fed:
            return
        if not self._free(node):
            if self.node(data_inputs(node)[0].node).op in _ROOTS:
                self.skipped.append(Skipped(name, "its control edges say on which branch it runs"))
            return
        try:
            match node.op:
                case "Transpose":
                    self._transpose(node)
                case "Reshape":
                    self._reshape(node)
                case "ExpandDims" | "Squeeze":
                    self._one_axis(node)
                case "Cast" if node.attr["SrcT"].type == node.attr["DstT"].type:
                    self._bypass(node, data_inputs(node)[0])
        except Skip as reason:
            self.skipped.append(Skipped(name, str(reason)))

    def _transpose(self, node: NodeDef) -> None:
        source, order = data_inputs(node)[:2]
        outer = self.axes(order)
        if outer is not None and outer == tuple(range(len(outer))):
            self._bypass(node, source)
            return
        inner = self.inner(source, "Transpose")
        if inner is None:
            return
        x, inner_order = data_inputs(inner)[:2]
        first = self.axes(inner_order)
        if outer is None or first is None or len(outer) != len(first):
            raise Skip("of it and the Transpose below it, not both permutations are constants")
        both = tuple(first[axis] for axis in outer)
        if both == tuple(range(len(both))):
            self._bypass(node, x, inner)
            return
        old = self.node(order.node)
        dtype = tf.as_dtype(ops.attribute(node, "Tperm", self.graph.functions).type).as_numpy_dtype
        permutation, _ = constant(self._fresh(f"{node.name}/axes"), np.array(both, dtype), device=node.device)
        permutation.input.extend(f"^{name}" for name in control_inputs(old))
        self.new[permutation.name] = permutation
        self._read(node, [x, Input(permutation.name, 0)], inner)

    def _reshape(self, node: NodeDef) -> None:
        source, shape = data_inputs(node)[:2]
        while (inner := self.inner(source, *_RESHAPING)) is not None:
            only = all(reader.node == node.name for reader in self.graph.readers_of(inner.name))
            if not only and self.node(shape.node).op != "Const":
                break
            source = data_inputs(inner)[0]
            self._read(node, [source, shape], inner)
            node = self.node(node.name)
        if _are_equal(self.shape(source), self.shape(Input(node.name, 0))):
            self._bypass(node, source)

    def _one_axis(self, node: NodeDef) -> None:
        source = data_inputs(node)[0]
        inner = self.inner(source, "Squeeze" if node.op == "ExpandDims" else "ExpandDims")
        if inner is None:
            return
        axes = [self._axis(one) for one in (node, inner)]
        shape = self.shape(source if node.op == "Squeeze" else Input(node.name, 0))
        if shape is not None:
            axes = [axis + len(shape) if axis is not None and axis < 0 else axis for axis in axes]
        if axes[0] is not None and axes[0] == axes[1]:
            self._bypass(node, data_inputs(inner)[0], inner)

    def _axis(self, node: NodeDef) -> int | None:
        """The one axis that an ExpandDims adds or a Squeeze takes away."""
        if node.op == "Squeeze":
            found = list(ops.attribute(node, "squeeze_dims", self.graph.functions).list.i)
            return int(found[0]) if len(found) == 1 else None
        axis = data_inputs(node)[1].node
        if self.graph.nodes[axis].op != "Const" or axis in self.fed:
            return None
        return int(self.graph.value(axis).reshape(-1)[0])

    # Layouts

    def cancel(self, name: str) -> None:
        """Take out the transposes on both sides of elementwise ops, where the node is the last one of such."""
        node = self.graph.nodes[name]
        if node.op != "Transpose" or name in self.fed or name in self.touched or not self._free(node):
            return
        source, order = data_inputs(node)[:2]
        last = self.axes(order)
        if last is None or self.graph.nodes[source.node].op == "Transpose":
            return
        first = tuple(int(axis) for axis in np.argsort(last))
        region: dict[str, None] = {}
        transposes: dict[str, None] = {}
        todo = [source]
        while todo:
            tensor = todo.pop()
            below = self.graph.nodes[tensor.node]
            if tensor.node in region or tensor.node in transposes:
                continue
            if tensor.node in self.fed or tensor.node in self.touched or not self._free(below):
                return
            inputs = data_inputs(below)
            if below.op == "Transpose" and self.axes(inputs[1]) == first:
                transposes[tensor.node] = None
                continue
            scalars = [one for one in inputs if self._is_scalar(one)] if below.op in _BROADCASTING else []
            if not (below.op in _UNARY | {"AddN"} or below.op in _BROADCASTING) or len(scalars) == len(inputs):
                return
            region[tensor.node] = None
            if len(region) > _LARGEST_REGION:
                return
            todo += [one for one in inputs if one not in scalars]
        for inside in region:
            others = [r.node for r in self.graph.readers_of(inside) if r.port != CONTROL and r.node not in region]
            others = [reader for reader in others if reader != name]
            if others or inside in self.graph.interface:
                why = f"is read by {others[0]!r} too" if others else "is part of the interface"
                self.skipped.append(Skipped(name, f"{inside!r}, between it and a Transpose that it undoes, {why}"))
                return
        try:
            for one in (name, *transposes):
                self._waits(self.graph.nodes[one])
        except Skip as reason:
            self.skipped.append(Skipped(name, str(reason)))
            return
        for inside in region:
            self._past(inside, transposes)
        self.touched.update(region, transposes, [name])
        self._bypass(node, source)

    def _is_scalar(self, source: Input) -> bool:
        node = self.graph.nodes[source.node]
        return node.op == "Const" and source.node not in self.fed and self.graph.constant_shape(source.node) == ()

    def _past(self, name: str, transposes: Iterable[str]) -> None:
        """Let the node read what the transposes read."""
        node = self.graph.nodes[name]
        data, controls = [], control_inputs(node)
        for source in data_inputs(node):
            if source.node in transposes:
                self.left.append(source.node)
                controls += self._waits(self.graph.nodes[source.node])
                source = data_inputs(self.graph.nodes[source.node])[0]
            data.append(source)
        self._put(node, data, controls)

    # Edits

    def _rewire(self, name: str) -> None:
        """Let the node read past those that go."""
        sources = [parse_input(text) for text in self.node(name).input]
        if not any(source.node in self.instead for source in sources):
            return
        data: list[Input] = []
        controls: list[str] = []
        for source in sources:
            tensor, before = self.instead.get(source.node, (source, ()))
            if source.port != CONTROL:
                data.append(tensor)
            else:
                controls.append(tensor.node)
            controls += before
        self._put(self.node(name), data, controls)

    def _read(self, node: NodeDef, data: list[Input], inner: NodeDef) -> None:
        """Let the node read something else than what `inner` gives."""
        lost = [source.node for source in data_inputs(node)]
        self._put(node, data, [*self._waits(node), *self._waits(inner)])
        self.left += lost
        self.changes += 1

    def _bypass(self, node: NodeDef, source: Input, *inner: NodeDef) -> None:
        """Take the node out; what read it reads the tensor instead."""
        if self._is_reference(source):
            raise Skip("it pins the moment at which a variable is read")
        controls = list(dict.fromkeys(name for one in (node, *inner) for name in self._waits(one)))
        self.left += [one.node for one in data_inputs(node)]
        self.changes += 1
        if node.name in self.graph.interface:
            dtype = tf.as_dtype(self.graph.facts(node.name).gives[0])
            waits = [f"^{name}" for name in controls if name != source.node]
            self.new[node.name] = make_node("Identity", node.name, [str(source), *waits], device=node.device, T=dtype)
        else:
            self.new.pop(node.name, None)
            self.instead[node.name] = (source, tuple(controls))

    def _put(self, node: NodeDef, data: list[Input], controls: Iterable[str]) -> None:
        read = {source.node for source in data}
        waits = [f"^{name}" for name in dict.fromkeys(controls) if name not in read]
        self.new[node.name] = renamed(node, node.name, [*data, *waits])
        self.new[node.name].attr.pop("_output_shapes", None)

    def finish(self) -> Graph:
        """The graph with all edits."""
        readers = {reader.node: None for gone in self.instead for reader in self.graph.readers_of(gone)}
        for name in [*readers, *self.new]:
            if name not in self.instead:
                self._rewire(name)
        if not self.new and not self.instead:
            return self.graph
        return without_unread(self.graph.replace(self.new.values(), self.instead), self.left)


def _are_equal(one: Shape, other: Shape) -> bool:
    """Whether two shapes of as many elements are one: all known, or all but one and none of the others 0."""
    if one is None or one != other:
        return False
    known = [size for size in one if size is not None]
    return len(known) == len(one) or (len(known) == len(one) - 1 and math.prod(known) > 0)
