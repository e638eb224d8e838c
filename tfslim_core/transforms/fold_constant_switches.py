"""Keep of each branch on a constant predicate the side that always runs.

    Before: y = Merge(Relu(Switch(x, true):1), Tanh(Switch(x, true):0))        After: y = Identity(Relu(Identity(x)))
    Before: y = If(true, x, then_branch=f, else_branch=g)                      After: y = StatefulPartitionedCall(x, f)

Handled are Switch and Merge of TensorFlow 1, If, StatelessIf, Case and StatelessCase, and Select with a scalar
condition. What the other side would have computed goes with it; it never ran. An If becomes a call of its branch, under
its own name, which `inline_partitionedcall` puts in the graph; the Identity nodes are left to `remove_nodes`. A number
is true when it is not zero, a text when it is not empty; an index out of range takes the last branch, as in TensorFlow.
Function bodies are rewritten too. Exact.

Left alone, with a reason: a predicate that is fed; a Switch in a TensorFlow 1 loop; all Switches where an output or the
init op is on a side that never runs, or where a Merge that reads both says which of them came; SelectV2, whose result
may have the shape of the side that is not taken.

Source: none in the Graph Transform Tool; TensorFlow's Grappler does this for Switch and Merge when a session starts.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import tensorflow as tf

from tfslim_core.graph import (
    CONTROL,
    Graph,
    Input,
    NodeDef,
    constant,
    control_inputs,
    data_inputs,
    execution_order,
    make_node,
    parse_input,
    renamed,
    rewired,
)
from tfslim_core.registry import Outcome, Skipped, transform
from tfslim_core.weights import Array

_BRANCHING = {"If": False, "StatelessIf": True, "Case": False, "StatelessCase": True}  # whether it is stateless


@transform("fold_constant_switches", enters_functions=True)
def fold_constant_switches(graph: Graph) -> Outcome:
    """Keep of each branch on a constant predicate the side that always runs."""
    fed = {parse_input(tensor).node for tensor in graph.inputs}
    new: list[NodeDef] = []
    switches: dict[str, int] = {}  # a Switch -> its live port
    skipped: list[Skipped] = []
    in_loops = _in_loops(graph)
    for name, node in graph.nodes.items():
        if node.op not in (*_BRANCHING, "Switch", "Select", "SelectV2"):
            continue
        predicate = _behind_identities(graph, data_inputs(node)[1 if node.op == "Switch" else 0], fed)
        if graph.nodes[predicate.node].op != "Const" or name in fed:
            continue
        if predicate.node in fed:
            skipped.append(Skipped(name, "its predicate is fed"))
        elif node.op == "SelectV2":
            skipped.append(Skipped(name, "its result may have the shape of the side that is not taken"))
        elif node.op == "Switch":
            if name in in_loops:
                skipped.append(Skipped(name, "it is in a loop"))
            else:
                switches[name] = int(_is_true(graph.value(predicate.node)))
        elif node.op != "Select":
            new.append(_call(node, graph.value(predicate.node)))
        elif not graph.constant_shape(predicate.node):
            taken = data_inputs(node)[1 if _is_true(graph.value(predicate.node)) else 2]
            new.append(_identity(node, taken, graph.facts(name).gives[0]))
    changed = graph.replace(new) if new else graph
    folded = _without_switches(changed, switches) if switches else Outcome(changed)
    return Outcome(folded.graph, len(new) + folded.changes, (*skipped, *folded.skipped))


def _behind_identities(graph: Graph, source: Input, fed: set[str]) -> Input:
    while graph.nodes[source.node].op == "Identity" and source.node not in fed:
        source = data_inputs(graph.nodes[source.node])[0]
    return source


def _is_true(value: Array) -> bool:
    if value.ndim:
        return value.size > 0
    return bool(value.item())


def _call(node: NodeDef, predicate: Array) -> NodeDef:
    """The branch that is taken, as a call."""
    attributes = node.attr
    if "branches" in attributes:
        branches = list(attributes["branches"].list.func)
        index = int(predicate.item())
        function = branches[index if 0 <= index < len(branches) else -1]
    else:
        function = attributes["then_branch" if _is_true(predicate) else "else_branch"].func
    op = "PartitionedCall" if _BRANCHING[node.op] else "StatefulPartitionedCall"
    inputs: list[Input | str] = [*data_inputs(node)[1:], *(f"^{name}" for name in control_inputs(node))]
    call = make_node(op, node.name, inputs, device=node.device)
    for name in ("Tin", "Tout"):
        call.attr[name].CopyFrom(attributes[name])
    call.attr["f"].func.CopyFrom(function)
    return call


def _identity(node: NodeDef, source: Input, dtype: int) -> NodeDef:
    controls = (f"^{name}" for name in control_inputs(node))
    return make_node("Identity", node.name, [source, *controls], device=node.device, T=tf.as_dtype(dtype))


def _in_loops(graph: Graph) -> set[str]:
    """Nodes behind an Enter of TensorFlow 1."""
    found: set[str] = set()
    if graph.has_v1_control_flow:
        for name in execution_order(graph):
            if graph.nodes[name].op in ("Enter", "RefEnter") or any(s.node in found for s in graph.sources(name)):
                found.add(name)
    return found


def _without_switches(graph: Graph, switches: dict[str, int]) -> Outcome:
    """The graph without the sides that these Switches never feed."""
    dead = _dead(graph, switches)

    def refused(reason: str) -> Outcome:
        return Outcome(graph, skipped=tuple(Skipped(name, reason) for name in switches))

    if lost := next((name for name in graph.interface if name in dead or name in switches), None):
        return refused(f"{lost!r} of the interface is on the side that never runs, or a Switch")
    moved = {Input(name, 1): Input(name, 0) for name, live in switches.items() if live}
    fresh = graph.fresh_names()
    new: dict[str, NodeDef] = {}
    for name, node in graph.nodes.items():
        if name in dead:
            continue
        if name in switches:
            new[name] = _identity(node, data_inputs(node)[0], graph.facts(name).gives[0])
        elif node.op == "Merge":
            sources = data_inputs(node)
            live = [source for source in sources if not _is_dead(source, dead, switches)]
            if len(live) == len(sources):
                continue
            asked = any(reader.port == 1 for reader in graph.readers_of(name)) or f"{name}:1" in graph.outputs
            if len(live) > 1 and asked:
                return refused(f"{name!r} says which of several sides came")
            if len(live) > 1:
                new[name] = renamed(node, name, [*live, *(f"^{control}" for control in control_inputs(node))])
                new[name].attr["N"].i = len(live)
                continue
            if f"{name}:1" in graph.outputs:
                return refused(f"{name!r} says which of several sides came")
            new[name] = _identity(node, live[0], graph.facts(name).gives[0])
            if asked:
                index, _ = constant(fresh(f"{name}/value_index"), np.array(sources.index(live[0]), np.int32))
                index.input.append(f"^{name}")
                new[index.name] = index
                moved[Input(name, 1)] = Input(index.name, 0)
    for name, node in graph.nodes.items():
        if name not in dead and any(source in moved for source in graph.sources(name)):
            new[name] = rewired(new.get(name, node), moved)
    return Outcome(graph.replace(new.values(), dead), len(switches))


def _is_dead(source: Input, dead: set[str], switches: dict[str, int]) -> bool:
    if source.node in switches:
        return source.port not in (CONTROL, switches[source.node])
    return source.node in dead


def _dead(graph: Graph, switches: dict[str, int]) -> set[str]:
    """The nodes that never run."""
    dead: set[str] = set()
    order: Sequence[str] = execution_order(graph)
    for name in order:
        sources = graph.sources(name)
        gone = [_is_dead(source, dead, switches) for source in sources]
        data = [is_gone for is_gone, source in zip(gone, sources, strict=True) if source.port != CONTROL]
        if graph.nodes[name].op in ("Merge", "RefMerge"):
            never = all(data) or any(is_gone for is_gone, s in zip(gone, sources, strict=True) if s.port == CONTROL)
        else:
            never = any(gone)
        if never:
            dead.add(name)
    return dead
