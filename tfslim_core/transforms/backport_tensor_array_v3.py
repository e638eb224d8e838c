"""Write TensorArrays as their second version, for runtimes that do not know the third.

    Before: handle, flow = TensorArrayV3(size)        After: handle = TensorArrayV2(size), flow = 0

In the second version a handle is a string rather than a resource, so the types of the Enter, Switch, Merge, Exit,
NextIteration and Identity nodes that carry it through a TensorFlow 1 loop change too. The flow that began at the array
begins at a constant, which runs after the array. The second version has no `identical_element_shapes`. Exact.

TensorFlow took the second version out for graphs of version 26 and later, so the graph's producer version becomes 25:
a runtime of today then still runs it. No function body is entered; where one holds a TensorArrayV3, it keeps it.

Left alone, with a reason: a TensorArray whose handle or flow is part of the interface; one whose handle goes to other
ops than those of TensorArrays and the ones named above (into a function, say); one whose handle meets that of such a
TensorArray in a Merge.

Source: tensorflow/tools/graph_transforms/backports.cc, same name; unlike it we change the types of what carries a
handle, and keep the graph's version as near to what it was as can be.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import tensorflow as tf

from tfslim_core.graph import Graph, Input, NodeDef, constant, data_inputs, parse_input, renamed, rewired
from tfslim_core.registry import Outcome, Skipped, transform

_CREATE = frozenset({"TensorArrayV3", "TensorArrayGradV3"})
_USE = frozenset(f"TensorArray{what}V3" for what in "Write Read Gather Scatter Concat Split Size Close".split())
# Ports at which these give the handle on that they take at input 0 (a Merge at any input).
_CARRY = {
    "Identity": (0,),
    "Enter": (0,),
    "Exit": (0,),
    "NextIteration": (0,),
    "Merge": (0,),
    "Switch": (0, 1),
}
_LAST_VERSION = 25


@transform("backport_tensor_array_v3")
def backport_tensor_array_v3(graph: Graph) -> Outcome:
    """Write TensorArrays as their second version, for runtimes that do not know the third."""
    arrays = [name for name, node in graph.nodes.items() if node.op in _CREATE]
    groups = _Groups(graph, arrays)
    skipped = tuple(Skipped(name, reason) for name in arrays if (reason := groups.reason(name)))
    wanted = [name for name in groups.members if not groups.reason(name)]
    if not wanted:
        return Outcome(graph, skipped=skipped)
    names = graph.fresh_names()
    new: dict[str, NodeDef] = {}
    flows: dict[Input, Input] = {}
    for name in wanted:
        node = graph.nodes[name]
        new[name] = _second_version(node)
        if node.op in _CREATE and any(reader.port == 1 for reader in graph.readers_of(name)):
            flow, _ = constant(names(f"{name}/flow"), np.zeros((), np.float32), device=node.device)
            flow.input.append(f"^{name}")
            new[flow.name] = flow
            flows[Input(name, 1)] = Input(flow.name, 0)
    for flow in flows:
        for reader in graph.readers_of(flow.node):
            new[reader.node] = rewired(new.get(reader.node, graph.nodes[reader.node]), flows)
    versions = type(graph.rest)()
    versions.CopyFrom(graph.rest)
    versions.versions.producer = min(versions.versions.producer, _LAST_VERSION)
    changed = replace(graph.replace(new.values()), rest=versions)
    return Outcome(changed, sum(graph.nodes[name].op in _CREATE for name in wanted), skipped)


class _Groups:
    """Nodes that make, carry or use the same handles, which change together or not at all.

    members: all of them, in the order in which they were found.
    """

    def __init__(self, graph: Graph, arrays: list[str]) -> None:
        self._graph = graph
        self._above: dict[str, str] = {}
        self._reasons: dict[str, str] = {}
        self._followed: set[str] = set()
        self.members = dict.fromkeys(arrays)
        for name in list(self.members):
            self._follow(name)
        for name in self.members:
            # A Merge of a handle with one from elsewhere, a placeholder for one.
            handles = data_inputs(graph.nodes[name])
            handles = handles if graph.nodes[name].op == "Merge" else handles[:1]
            strange = [h.node for h in handles if h.node not in self.members]
            if graph.nodes[name].op != "TensorArrayV3" and strange:
                self._refuse(name, f"{name!r} takes its handle from {strange[0]!r}")

    def reason(self, name: str) -> str:
        """Why the node stays as it is, or nothing."""
        return self._reasons.get(self._root(name), "")

    def _follow(self, array: str) -> None:
        """Find the nodes that the handle of `array` reaches."""
        interface = set(map(parse_input, (*self._graph.inputs, *self._graph.outputs)))
        todo = [Input(array, 0)]
        if Input(array, 1) in interface:
            self._refuse(array, "its flow is part of the interface")
        for handle in todo:
            if handle in interface:
                self._refuse(array, f"the handle that {handle.node!r} gives is part of the interface")
            for reader in self._graph.readers_of(handle.node):
                if reader.port != handle.port:
                    continue
                node = self._graph.nodes[reader.node]
                known = node.op in _CARRY or (
                    (node.op in _USE or node.op == "TensorArrayGradV3") and not reader.position
                )
                if not known:
                    self._refuse(array, f"{reader.node!r} ({node.op}) takes its handle and cannot take another type")
                    continue
                self._join(array, reader.node)
                self.members[reader.node] = None
                if reader.node not in self._followed:
                    self._followed.add(reader.node)
                    todo += [Input(reader.node, port) for port in _CARRY.get(node.op, ())]

    def _refuse(self, name: str, reason: str) -> None:
        self._reasons.setdefault(self._root(name), reason)

    def _root(self, name: str) -> str:
        while name in self._above:
            name = self._above[name]
        return name

    def _join(self, one: str, other: str) -> None:
        root, below = self._root(one), self._root(other)
        if root == below:
            return
        self._above[below] = root
        if below in self._reasons:
            self._reasons.setdefault(root, self._reasons[below])


def _second_version(node: NodeDef) -> NodeDef:
    copy = renamed(node, node.name)
    copy.attr.pop("_output_shapes", None)  # a handle is a vector of two strings, where it was a scalar
    if node.op in _CARRY:
        copy.attr["T"].type = tf.string.as_datatype_enum
        return copy
    copy.op = node.op.removesuffix("V3") + "V2"
    copy.attr.pop("identical_element_shapes", None)
    return copy
