"""Compute once what is computed twice.

    Before: y = Add(Relu(x), Relu(x))        After: y = Add(r, r) with r = Relu(x)

Nodes are equal when op, inputs (control inputs too), device and attributes are, for constants when the bytes are. One
sweep in execution order finds all, since equal inputs have been found before. Exact.

Never merged: what TensorFlow calls stateful (variables, tables, random numbers), placeholders and whatever else is fed
at run time, nodes of TensorFlow 1 control flow, references to variables. A node of the interface keeps its name; others
may read it instead of their own copy. Large constants are read only where dtype and shape are equal, one at a time.

Source: tensorflow/tools/graph_transforms/merge_duplicate_nodes.cc, same name; unlike it we never merge placeholders,
and library functions are looked up.
"""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Hashable

import numpy as np

from tfslim_core import ops
from tfslim_core.graph import CONTROL, Graph, NodeDef, constant_value, execution_order, parse_input
from tfslim_core.registry import Outcome, transform
from tfslim_core.rewriting import redirected
from tfslim_core.weights import Array, Weight

_FED = frozenset({"Placeholder", "PlaceholderV2", "PlaceholderWithDefault"})
# Hints that do not change what is computed: shapes that were inferred, and which variable to be placed beside.
_HINTS = frozenset({"_output_shapes", "_class"})


@transform("merge_duplicate_nodes")
def merge_duplicate_nodes(graph: Graph) -> Outcome:
    """Compute once what is computed twice, and store once what is stored twice."""
    fed = {parse_input(tensor).node for tensor in graph.inputs}
    keys = _Keys(graph)
    first: dict[Hashable, str] = {}
    groups: dict[str, list[str]] = defaultdict(list)
    known_as: dict[str, str] = {}  # a duplicate -> the first of its kind
    for name in execution_order(graph):
        node = graph.nodes[name]
        if name in fed or node.op in _FED or node.op in ops.V1_CONTROL_FLOW or ops.is_stateful(node, graph.functions):
            continue
        if any(dtype >= ops.REF for dtype in ops.output_dtypes(node, graph.functions)):
            continue
        chosen = first.setdefault(keys.of(node, known_as), name)
        groups[chosen].append(name)
        if chosen != name:
            known_as[name] = chosen
    merged: dict[str, str] = {}
    for names in groups.values():
        survivor = next((name for name in names if name in graph.interface), names[0])
        merged |= {name: survivor for name in names if name != survivor and name not in graph.interface}
    if not merged:
        return Outcome(graph)
    rewired = (redirected(node, merged) for node in graph.nodes.values() if node.name not in merged)
    new = [node for node in rewired if node is not graph.nodes[node.name]]
    return Outcome(graph.replace(new, merged), len(merged))


class _Keys:
    """What two nodes have in common when they compute the same."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.defaults: dict[str, dict[str, bytes]] = {}
        self.alike = Counter(_looks(weight) for weight in graph.weights.values())

    def of(self, node: NodeDef, known_as: dict[str, str]) -> Hashable:
        """The node's key; inputs are named after the first of their kind."""
        sources = [parse_input(text) for text in node.input]
        inputs = [source._replace(node=known_as.get(source.node, source.node)) for source in sources]
        data = tuple(source for source in inputs if source.port != CONTROL)
        control = frozenset(source for source in inputs if source.port == CONTROL)
        does: Hashable
        if node.op == "Const":
            does = self._weight(node.name) if node.name in self.graph.weights else _bytes(constant_value(node))
        else:
            does = self._attributes(node)
        return (node.op, node.device, data, control, does)

    def _attributes(self, node: NodeDef) -> Hashable:
        """The attributes that differ from their defaults."""
        if node.op not in self.defaults:
            declared = ops.op_def(node.op, self.graph.functions).attr
            self.defaults[node.op] = {
                attribute.name: attribute.default_value.SerializeToString(deterministic=True)
                for attribute in declared
                if attribute.HasField("default_value")
            }
        defaults = self.defaults[node.op]
        found = ((key, value.SerializeToString(deterministic=True)) for key, value in node.attr.items())
        return frozenset(pair for pair in found if pair[0] not in _HINTS and defaults.get(pair[0]) != pair[1])

    def _weight(self, name: str) -> Hashable:
        weight = self.graph.weights[name]
        if self.alike[_looks(weight)] == 1:
            return name
        return (_looks(weight), _digest(weight.read()))


def _looks(weight: Weight) -> Hashable:
    """What is known of a weight without reading it."""
    return (str(weight.dtype), weight.shape, weight.encoded.encoding if weight.encoded else "")


def _digest(value: Array) -> bytes:
    """Stands for the bytes: two values with one SHA-256 are not to be found."""
    return hashlib.sha256(np.ascontiguousarray(value).reshape(-1).view(np.uint8).data).digest()


def _bytes(value: Array) -> Hashable:
    content = tuple(value.ravel().tolist()) if value.dtype.hasobject else value.tobytes()
    return (str(value.dtype), value.shape, content)
