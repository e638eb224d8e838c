"""Which nodes of a graph give the same on every request, and can be computed beforehand."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import tensorflow as tf

from tfslim_core import ops
from tfslim_core.graph import CONTROL, Graph, Input, NodeDef, control_inputs, data_inputs, parse_input, with_later

# Stateless to the registry, yet their result comes from outside of the graph.
_OUTSIDE = frozenset(
    """Placeholder PlaceholderV2 PlaceholderWithDefault ReadFile MatchingFiles ImmutableConst PyFuncStateless HostConst
    _Arg _Retval _HostRecv _Recv""".split()
)
_HOLDABLE = frozenset(
    tf.as_dtype(name).as_datatype_enum
    for name in """bool string half bfloat16 float double int8 int16 int32 int64 uint8 uint16 uint32 uint64
    complex64 complex128""".split()
)


@dataclass(frozen=True)
class Excluded:
    """What is left alone because the caller says so: all nodes of these ops, and these nodes."""

    op_names: frozenset[str]
    names: frozenset[str]

    def __contains__(self, node: NodeDef) -> bool:
        return node.op in self.op_names or node.name in self.names

    def __or__(self, name: str) -> Excluded:
        """The same and one more node."""
        return Excluded(self.op_names, self.names | {name})


def fed_nodes(graph: Graph) -> frozenset[str]:
    """Names of the nodes whose value comes with the request."""
    return frozenset(parse_input(tensor).node for tensor in graph.inputs)


def nodes_after_effects(graph: Graph) -> set[str]:
    """Nodes that have an effect or run after one."""
    return with_later(graph, (name for name, node in graph.nodes.items() if ops.has_effect(node, graph.functions)))


def nodes_in_control_flow(graph: Graph) -> set[str]:
    """Nodes behind a Switch, Merge or Enter of TensorFlow 1."""
    return with_later(graph, (name for name, node in graph.nodes.items() if node.op in ops.V1_CONTROL_FLOW))


def constant_nodes(graph: Graph, excluded: Excluded, reasons: dict[str, str]) -> dict[str, NodeDef]:
    """The nodes that read constants alone and could be computed, each after those that it reads.

    reasons: gets why a node that reads constants alone could not be.
    """
    search = _Search(graph, excluded, reasons)
    for name in graph.nodes:
        search.visit(name)
    return search.found


class _Search:
    def __init__(self, graph: Graph, excluded: Excluded, reasons: dict[str, str]) -> None:
        self.graph, self.excluded, self.reasons = graph, excluded, reasons
        self.fed = fed_nodes(graph)
        self.after_effects: set[str] | None = None
        self.constant: dict[str, bool] = {}
        self.found: dict[str, NodeDef] = {}

    def visit(self, name: str) -> None:
        """Decide about the node and, only as far as that takes, about those that it reads."""
        path: list[tuple[str, Iterator[Input]]] = []
        nodes, constant = self.graph.nodes, self.constant

        def enter(name: str) -> None:
            node = nodes[name]
            # On the way it counts as not constant: a cycle never is.
            constant[name] = node.op == "Const" and self._is_constant(node)
            if node.op != "Const" and node.input:
                path.append((name, iter(self.graph.sources(name))))

        if name not in constant:
            enter(name)
        while path:
            name, sources = path[-1]
            for source in sources:
                if source.port == CONTROL:
                    continue
                if source.node not in constant:
                    # Looked at again when it is decided.
                    path[-1] = (name, _again(source, sources))
                    enter(source.node)
                    break
                if not constant[source.node]:
                    path.pop()
                    break
            else:
                path.pop()
                constant[name] = self._is_constant(nodes[name])
                if constant[name]:
                    self.found[name] = nodes[name]

    def _is_constant(self, node: NodeDef) -> bool:
        """Whether the node, which reads constants alone, can be one."""
        graph, name = self.graph, node.name
        is_const = node.op == "Const"
        if name in self.fed:
            return False
        if not is_const:
            if node in self.excluded or node.op in _OUTSIDE or node.op in ops.V1_CONTROL_FLOW:
                return False
            if ops.is_stateful(node, graph.functions) or not data_inputs(node):
                return False
        if controls := control_inputs(node):
            if graph.has_v1_control_flow:
                return False
            if self.after_effects is None:
                self.after_effects = nodes_after_effects(graph)
            before = next((control for control in controls if control in self.after_effects), None)
            if before is not None:
                if not is_const:
                    self.reasons[name] = f"it runs after {before!r}, which has an effect"
                return False
        if is_const:
            return True
        reason = self._refusal(node)
        if reason:
            self.reasons[name] = reason
        return not reason and bool(graph.facts(name).gives)

    def _refusal(self, node: NodeDef) -> str:
        graph = self.graph
        for source in data_inputs(node):
            weight = graph.weights.get(source.node)
            if weight is not None and weight.encoded is not None:
                return f"{source.node!r} is stored encoded"
        if node.op in graph.functions or next(ops.called_functions(node), None) is not None:
            return "it calls a function"
        dtypes = graph.facts(node.name).gives
        if not _HOLDABLE.issuperset(dtypes):
            kind = next(tf.as_dtype(dtype).name for dtype in dtypes if dtype not in _HOLDABLE)
            return f"no constant can hold its result, a {kind}"
        return ""


def _again(first: Input, rest: Iterator[Input]) -> Iterator[Input]:
    yield first
    yield from rest
