"""Compute once what is computed twice, and store once what is stored twice.

    Before: y = Add(Relu(x), Relu(x))        After: y = Add(r, r) with r = Relu(x)

Nodes are equal when op, inputs (control inputs too), device and attributes are, for constants when the bytes are. An
attribute that was left out for being equal to its default is equal to it; the inputs of an op that commutes may come
in either order. One sweep in execution order finds all, since equal inputs have been found before. In function bodies
the same. Exact.

Large constants are read only where dtype and shape are equal, one at a time; those of one SHA-256 are then compared.

Left alone: what TensorFlow calls stateful (variables, tables, random numbers), placeholders and whatever else is fed
at run time, nodes of TensorFlow 1 control flow, references to variables. A node of the interface keeps its name; others
may read it instead of their own copy.

Source: tensorflow/tools/graph_transforms/merge_duplicate_nodes.cc, same name; unlike it we never merge placeholders,
know an input by any of its spellings, and look up the library's functions.
"""

from __future__ import annotations

import hashlib
import math
from collections import defaultdict
from collections.abc import Hashable

import numpy as np
import tensorflow as tf

from tfslim_core import ops
from tfslim_core.graph import (
    CONTROL,
    Graph,
    Input,
    NodeDef,
    constant_value,
    execution_order,
    parse_input,
)
from tfslim_core.registry import Outcome, transform
from tfslim_core.rewriting import redirected
from tfslim_core.weights import Array, Weight

_FED = frozenset({"Placeholder", "PlaceholderV2", "PlaceholderWithDefault"})
# Where most small constants hold their numbers, which TensorFlow takes tens of microseconds to read.
_NUMBERS = {
    tf.float32.as_datatype_enum: ("float_val", np.float32),
    tf.int32.as_datatype_enum: ("int_val", np.int32),
    tf.int64.as_datatype_enum: ("int64_val", np.int64),
}
# Hints that do not change what is computed: shapes that were inferred, and which variable to be placed beside.
_HINTS = frozenset({"_output_shapes", "_class"})


@transform("merge_duplicate_nodes", enters_functions=True)
def merge_duplicate_nodes(graph: Graph) -> Outcome:
    """Compute once what is computed twice, and store once what is stored twice."""
    kinds = _Kinds(graph)
    for name in execution_order(graph):
        kinds.add(name)
    if not kinds.known_as:
        return Outcome(graph)
    groups: dict[str, list[str]] = defaultdict(list)
    for name, first in kinds.known_as.items():
        groups[first].append(name)
    merged: dict[str, str] = {}
    for first, others in groups.items():
        names = [first, *others]
        survivor = next((name for name in names if name in graph.interface), first)
        merged |= {name: survivor for name in names if name != survivor and name not in graph.interface}
    if not merged:
        return Outcome(graph)
    readers = {reader.node for name in merged for reader in graph.readers_of(name)}
    new = [redirected(graph.nodes[name], merged) for name in graph.nodes if name in readers and name not in merged]
    return Outcome(graph.replace(new, merged), len(merged))


class _Kinds:
    """The nodes seen so far, by what they compute. known_as: a duplicate -> the first of its kind."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.known_as: dict[str, str] = {}
        self._fed = {parse_input(tensor).node for tensor in graph.inputs}
        self._may_merge: dict[str, bool] = {}
        self._commutes: dict[str, bool] = {}
        self._defaults: dict[str, dict[str, bytes]] = {}
        # Most nodes are alone in what is seen at a glance; only where two are not, more is looked at.
        self._alone: dict[Hashable, str | None] = {}
        self._alike: dict[Hashable, list[str]] = {}

    def add(self, name: str) -> None:
        """Take in a node whose inputs have been taken in."""
        node = self.graph.nodes[name]
        if name in self._fed or not self._mergeable(node):
            return
        glance = self._glance(node)
        if glance not in self._alone:
            self._alone[glance] = name
            return
        other = self._alone[glance]
        if other is not None:
            self._alone[glance] = None
            self._alike[glance, self._content(self.graph.nodes[other])] = [other]
        alike = self._alike.setdefault((glance, self._content(node)), [])
        first = next((other for other in alike if self._same_value(other, name)), None)
        if first is None:
            alike.append(name)
        else:
            self.known_as[name] = first

    def _mergeable(self, node: NodeDef) -> bool:
        op = node.op
        if op not in self._may_merge:
            definition = ops.op_def(op, self.graph.functions)
            fixed = op in _FED or op in ops.V1_CONTROL_FLOW or ops.is_stateful(node, self.graph.functions)
            self._may_merge[op] = not fixed and not any(argument.is_ref for argument in definition.output_arg)
            self._commutes[op] = bool(definition.is_commutative)
        return self._may_merge[op]

    def _glance(self, node: NodeDef) -> Hashable:
        """What is seen without attributes and large values; inputs are named after the first of their kind."""
        data: tuple[Input, ...] = self.graph.sources(node.name)
        controls: Hashable = None
        if self.known_as:
            data = tuple(
                source._replace(node=self.known_as[source.node]) if source.node in self.known_as else source
                for source in data
            )
        if data and data[-1].port == CONTROL:
            controls = frozenset(source for source in data if source.port == CONTROL)
            data = tuple(source for source in data if source.port != CONTROL)
        # The sum of three depends on the order when it is rounded, that of two does not.
        if len(data) == 2 and self._commutes[node.op] and data[1] < data[0]:
            data = (data[1], data[0])
        value: Hashable = None
        if node.op == "Const":
            weight = self.graph.weights.get(node.name)
            value = _looks(weight) if weight else _bytes(node)
        return (node.op, node.device, data, controls, value)

    def _content(self, node: NodeDef) -> Hashable:
        if node.op != "Const":
            return self._attributes(node)
        weight = self.graph.weights.get(node.name)
        return _digest(weight.read()) if weight else None

    def _attributes(self, node: NodeDef) -> Hashable:
        """The attributes that differ from their defaults."""
        if node.op not in self._defaults:
            declared = ops.op_def(node.op, self.graph.functions).attr
            self._defaults[node.op] = {
                attribute.name: attribute.default_value.SerializeToString(deterministic=True)
                for attribute in declared
                if attribute.HasField("default_value")
            }
        defaults = self._defaults[node.op]
        found = ((key, value.SerializeToString(deterministic=True)) for key, value in node.attr.items())
        return frozenset(pair for pair in found if pair[0] not in _HINTS and defaults.get(pair[0]) != pair[1])

    def _same_value(self, one: str, other: str) -> bool:
        """Whether two nodes that are alike so far have the same value, where they are large constants."""
        if one not in self.graph.weights:
            return True
        first, second = (_flat(self.graph.weights[name].read()) for name in (one, other))
        return bool(np.array_equal(first, second))


def _looks(weight: Weight) -> Hashable:
    """What is known of a weight without reading it."""
    return (str(weight.dtype), weight.shape, weight.encoded.encoding if weight.encoded else "")


def _digest(value: Array) -> bytes:
    return hashlib.sha256(_flat(value).data).digest()


def _flat(value: Array) -> Array:
    """The bytes of a value."""
    return np.ascontiguousarray(value).reshape(-1).view(np.uint8)


def _bytes(node: NodeDef) -> Hashable:
    """What a constant that holds its value holds, however it is written."""
    tensor = node.attr["value"].tensor
    shape = tuple(d.size for d in tensor.tensor_shape.dim)
    content: Hashable = tensor.tensor_content
    if not content:
        numbers = getattr(tensor, _NUMBERS.get(tensor.dtype, ("",))[0], ())
        if numbers and len(numbers) == math.prod(shape):
            content = np.array(numbers, _NUMBERS[tensor.dtype][1]).tobytes()
        else:
            value = constant_value(node)
            content = tuple(value.ravel().tolist()) if value.dtype.hasobject else value.tobytes()
    return (tensor.dtype, shape, content)
