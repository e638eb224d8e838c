"""What constant expressions of a graph come to: TensorFlow computes them, node by node."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from tfslim_core import c_eager
from tfslim_core.errors import GraphError
from tfslim_core.graph import Graph, Input, NodeDef, data_inputs
from tfslim_core.weights import Array, Weight

_AT_ONCE = 64 << 20  # bytes of values held while computing, beyond what the current one needs
_LAZY_BYTES = 1 << 20  # a larger result is computed anew whenever it is read, rather than held


class Result(NamedTuple):
    """What a node's output is: a value at hand, or the weight that computes it whenever it is read."""

    value: Array | None
    weight: Weight | None = None

    @property
    def nbytes(self) -> int:
        """Bytes that the value takes as a constant."""
        if self.weight is not None:
            return self.weight.nbytes
        assert self.value is not None
        return sum(map(len, self.value.ravel().tolist())) if self.value.dtype.hasobject else self.value.nbytes


def compute(graph: Graph, wanted: Mapping[str, Iterable[int]]) -> tuple[dict[str, dict[int, Result]], dict[str, str]]:
    """The outputs of nodes that read constants alone, and the reasons of those that cannot be computed.

    wanted: nodes, each after those that it reads, and the ports that are asked for.
    """
    found: dict[str, dict[int, Result]] = {}
    failed: dict[str, str] = {}
    evaluator = _Evaluator(graph.nodes, graph.weights)
    for name, ports in wanted.items():
        try:
            outputs = evaluator.outputs(name)
            arrays = {port: outputs[port].array() for port in ports}
        except GraphError as error:
            failed[name] = f"TensorFlow cannot compute it: {error}"
            continue
        found[name] = {port: _result(graph, Input(name, port), array) for port, array in arrays.items()}
    c_eager.forget()
    return found, failed


def _result(graph: Graph, tensor: Input, value: Array) -> Result:
    if value.nbytes < _LAZY_BYTES or value.dtype.hasobject:
        return Result(value)
    cone = _cone(graph.nodes, tensor.node)
    nodes = {name: graph.nodes[name] for name in cone}
    weights = {name: graph.weights[name] for name in cone if name in graph.weights}

    def read() -> Array:
        return _Evaluator(nodes, weights).outputs(tensor.node)[tensor.port].array()

    return Result(None, Weight(value.dtype, value.shape, read))


def _cone(nodes: Mapping[str, NodeDef], name: str, known: Mapping[str, object] | None = None) -> list[str]:
    """The node and those that it needs, each after what it reads; what is `known` is not looked into."""
    order: dict[str, None] = {}
    path = [name]
    entered: set[str] = set()
    while path:
        one = path.pop()
        if one in order or (known is not None and one in known):
            continue
        if one in entered:
            order[one] = None
            continue
        entered.add(one)
        path.append(one)
        path += [source.node for source in data_inputs(nodes[one])]
    return list(order)


class _Evaluator:
    """Values of nodes, kept for those that are asked for next, as long as they are not too large together."""

    def __init__(self, nodes: Mapping[str, NodeDef], weights: Mapping[str, Weight]) -> None:
        self._nodes, self._weights = nodes, weights
        self._held: dict[str, list[c_eager.Value]] = {}
        self._failed: dict[str, GraphError] = {}
        self._bytes = 0

    def outputs(self, name: str) -> list[c_eager.Value]:
        """The node's outputs.

        Raises:
            GraphError: TensorFlow cannot compute it or what it reads.
        """
        if name in self._held:
            return self._held[name]
        cone = _cone(self._nodes, name, self._held)
        left = Counter(source.node for one in cone for source in data_inputs(self._nodes[one]))
        for one in cone:
            inputs = [source.node for source in data_inputs(self._nodes[one])]
            self._hold(one)
            left.subtract(inputs)
            if self._bytes > _AT_ONCE:
                self._drop(left, name)
        return self._held[name]

    def _hold(self, name: str) -> None:
        if name in self._failed:
            raise self._failed[name]
        try:
            outputs = self._computed(name)
        except GraphError as error:
            self._failed[name] = error
            raise
        self._held[name] = outputs
        self._bytes += sum(value.nbytes for value in outputs)

    def _computed(self, name: str) -> list[c_eager.Value]:
        node = self._nodes[name]
        if name in self._weights:
            return [c_eager.Value.of(self._weights[name].read())]
        if node.op == "Const":
            return [c_eager.Value.of_proto(node.attr["value"].tensor)]
        return c_eager.execute(node, [self._held[source.node][source.port] for source in data_inputs(node)])

    def _drop(self, left: Counter[str], wanted: str) -> None:
        """Forget what is not needed for the current result."""
        self._held = {name: values for name, values in self._held.items() if left[name] > 0 or name == wanted}
        self._bytes = sum(value.nbytes for values in self._held.values() for value in values)
