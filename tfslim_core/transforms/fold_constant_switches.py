"""Keep of each branch on a constant predicate the side that always runs.

    Before: y = Merge(Relu(Switch(x, true):1), Tanh(Switch(x, true):0))        After: y = Identity(Relu(Identity(x)))
    Before: y = If(true, x, then_branch=f, else_branch=g)                      After: the nodes of f, named y/node

Handled are Switch and Merge of TensorFlow 1, If, StatelessIf, Case and StatelessCase, and Select with a scalar
condition. What the other side would have computed goes with it; it never ran. The Identity nodes are left to
`remove_nodes`, functions that nobody calls any more to `strip_unused_nodes`. The branch of an If is put in its place as
`inline_partitionedcall` does it, with the calls in it; an If or Case that is part of the interface leaves an Identity
of its name. A number is true when it is not zero, a text when it is not empty; an index out of range takes the last
branch, as in TensorFlow. What a predicate waits for is waited for still, and what is computed for the other side of a
Select or for an argument that the branch does not read happens still where it has an effect. Function bodies are
rewritten too. Exact.

Left alone, with a reason: a predicate that is fed; a Switch in a TensorFlow 1 loop; a Switch that is part of the
interface, or that decides whether an output or the init op ever runs; one that leaves a Merge several sides, where that
Merge is asked which of them came; a Select whose other side may not run, and SelectV2, whose result may have the shape
of the side that is not taken. An If becomes a call, which is not inlined, where there is TensorFlow 1 control flow
around it, or where its branch calls itself.

Source: none in the Graph Transform Tool; TensorFlow's Grappler does this for Switch and Merge when a session starts.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping

import numpy as np
import tensorflow as tf

from tfslim_core.function_bodies import rewrite_bodies
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
from tfslim_core.idle_controls import busy_nodes
from tfslim_core.registry import Outcome, Skipped, transform
from tfslim_core.transforms.inline_partitionedcall import endless, inlined
from tfslim_core.weights import Array

_BRANCHING = {"If": False, "StatelessIf": True, "Case": False, "StatelessCase": True}  # whether it is stateless
_NEXT = ("NextIteration", "RefNextIteration")


@transform("fold_constant_switches")
def fold_constant_switches(graph: Graph) -> Outcome:
    """Keep of each branch on a constant predicate the side that always runs."""
    changes = 0
    skipped: list[Skipped] = []
    calls: dict[str, list[str]] = {}

    def fold(function: str, body: Graph) -> Graph:
        nonlocal changes
        done, calls[function] = _folded(body)
        changes += done.changes
        skipped.extend(Skipped(f"{function}/{one.node}" if function else one.node, one.reason) for one in done.skipped)
        return done.graph

    def inline(function: str, body: Graph) -> Graph:
        return _with_branches_inlined(body, calls.get(function, ()))

    # Everywhere before anything is inlined: a branch may hold others.
    folded = rewrite_bodies(fold("", graph), fold)
    return Outcome(rewrite_bodies(inline("", folded), inline), changes, tuple(skipped))


def _folded(graph: Graph) -> tuple[Outcome, list[str]]:
    """The graph with calls in the place of branches, and the names of these."""
    fed = {parse_input(tensor).node for tensor in graph.inputs}
    new: list[NodeDef] = []
    calls: list[str] = []
    switches: dict[str, int] = {}  # a Switch -> its live port
    waits: dict[str, list[str]] = {}  # a Switch -> what its predicate waits for
    skipped: list[Skipped] = []
    in_loops = _in_loops(graph)
    busy: set[str] | None = None
    for name, node in graph.nodes.items():
        if node.op not in (*_BRANCHING, "Switch", "Select", "SelectV2"):
            continue
        predicate, before = _behind_identities(graph, data_inputs(node)[1 if node.op == "Switch" else 0], fed)
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
                waits[name] = before
        elif node.op == "Select" and graph.constant_shape(predicate.node):
            continue
        else:
            busy = busy_nodes(graph) if busy is None else busy
            sources = data_inputs(node)[1:]
            # In TensorFlow 1 control flow these are all nodes behind a Switch; of the Switch itself, either side runs.
            before = [*before, *(source.node for source in sources if source.node in busy)]
            if node.op in _BRANCHING:
                new.append(_call(node, graph.value(predicate.node), before))
                calls.append(name)
            elif any(graph.nodes[source.node].op in ("Switch", "RefSwitch") for source in sources):
                skipped.append(Skipped(name, "its other side may be one that does not run"))
            else:
                taken = sources[0 if _is_true(graph.value(predicate.node)) else 1]
                new.append(_identity(node, taken, graph.facts(name).gives[0], before))
    changed = graph.replace(new) if new else graph
    folded = _without_switches(changed, switches, waits) if switches else Outcome(changed)
    return Outcome(folded.graph, len(new) + folded.changes, (*skipped, *folded.skipped)), calls


def _behind_identities(graph: Graph, source: Input, fed: Collection[str]) -> tuple[Input, list[str]]:
    """Where the value comes from, and what was waited for on the way."""
    waits = control_inputs(graph.nodes[source.node])
    while graph.nodes[source.node].op == "Identity" and source.node not in fed:
        source = data_inputs(graph.nodes[source.node])[0]
        waits += control_inputs(graph.nodes[source.node])
    return source, waits


def _is_true(value: Array) -> bool:
    if value.ndim:
        return value.size > 0
    return bool(value.item())


def _call(node: NodeDef, predicate: Array, before: Iterable[str]) -> NodeDef:
    """The branch that is taken, as a call."""
    attributes = node.attr
    if "branches" in attributes:
        branches = list(attributes["branches"].list.func)
        index = int(predicate.item())
        function = branches[index if 0 <= index < len(branches) else -1]
    else:
        function = attributes["then_branch" if _is_true(predicate) else "else_branch"].func
    op = "PartitionedCall" if _BRANCHING[node.op] else "StatefulPartitionedCall"
    inputs: list[Input | str] = [*data_inputs(node)[1:], *_controls(node, before)]
    call = make_node(op, node.name, inputs, device=node.device)
    for name in ("Tin", "Tout"):
        call.attr[name].CopyFrom(attributes[name])
    call.attr["f"].func.CopyFrom(function)
    return call


def _identity(node: NodeDef, source: Input, dtype: int, before: Iterable[str] = ()) -> NodeDef:
    inputs: list[Input | str] = [source, *_controls(node, before)]
    return make_node("Identity", node.name, inputs, device=node.device, T=tf.as_dtype(dtype))


def _controls(node: NodeDef, before: Iterable[str]) -> list[str]:
    """The node's control inputs and others, each once."""
    return [f"^{name}" for name in dict.fromkeys([*control_inputs(node), *before])]


def _with_branches_inlined(graph: Graph, calls: Collection[str]) -> Graph:
    """The graph with the bodies of those of the calls that are still there and can be inlined."""
    left = endless(graph.functions) if calls else frozenset()
    there = {name for name in calls if name in graph.nodes and graph.nodes[name].attr["f"].func.name not in left}
    # Of an argument that the branch does not read, what runs behind it would not hang on that any more.
    return graph if graph.has_v1_control_flow or not there else inlined(graph, there)


def _in_loops(graph: Graph) -> set[str]:
    """Nodes between an Enter and an Exit of TensorFlow 1."""
    depths: dict[str, int] = {}
    if graph.has_v1_control_flow:
        for name in execution_order(graph):
            depth = max((depths.get(source.node, 0) for source in graph.sources(name)), default=0)
            op = graph.nodes[name].op.removeprefix("Ref")
            depths[name] = depth + (op == "Enter") - (op == "Exit")
    return {name for name, depth in depths.items() if depth > 0}


def _without_switches(graph: Graph, switches: Mapping[str, int], waits: Mapping[str, Iterable[str]]) -> Outcome:
    """The graph without the sides that these Switches never feed."""
    skipped: dict[str, str] = {}
    while switches:
        dead = _dead(graph, switches)
        refused = _refused(graph, switches, dead)
        if not refused:
            break
        skipped |= refused
        switches = {name: live for name, live in switches.items() if name not in refused}
    reasons = tuple(Skipped(name, reason) for name, reason in skipped.items())
    if not switches:
        return Outcome(graph, skipped=reasons)
    moved = {Input(name, 1): Input(name, 0) for name, live in switches.items() if live}
    fresh = graph.fresh_names()
    new: dict[str, NodeDef] = {}
    for name, node in graph.nodes.items():
        if name in dead:
            continue
        if name in switches:
            new[name] = _identity(node, data_inputs(node)[0], graph.facts(name).gives[0], waits[name])
        elif node.op == "Merge":
            sources = data_inputs(node)
            live = [source for source in graph.sources(name) if not _is_dead(source, dead, switches)]
            if len(live) == len(node.input):
                continue
            new[name] = renamed(node, name, live)
            live = [source for source in live if source.port != CONTROL]
            new[name].attr["N"].i = len(live)
            if len(live) > 1:
                continue
            new[name] = _identity(new[name], live[0], graph.facts(name).gives[0])
            if any(reader.port == 1 for reader in graph.readers_of(name)):
                index, _ = constant(fresh(f"{name}/value_index"), np.array(sources.index(live[0]), np.int32))
                index.input.append(f"^{name}")
                new[index.name] = index
                moved[Input(name, 1)] = Input(index.name, 0)
    for name, node in graph.nodes.items():
        if name not in dead and any(source in moved for source in graph.sources(name)):
            new[name] = rewired(new.get(name, node), moved)
    return Outcome(graph.replace(new.values(), dead), len(switches.keys() - dead), reasons)


def _refused(graph: Graph, switches: Mapping[str, int], dead: Collection[str]) -> dict[str, str]:
    """The Switches that have to stay, and why."""
    found = {name: "it is part of the interface" for name in switches if name in graph.interface}

    def keep(sources: Iterable[Input], reason: str) -> None:
        found.update((name, reason) for name in _causes(graph, sources, dead, switches) if name not in found)

    for name in graph.interface:
        if name in dead:
            keep(graph.sources(name), f"{name!r} of the interface is on the side that never runs")
    for name, node in graph.nodes.items():
        if node.op not in ("Merge", "RefMerge") or name in dead:
            continue
        sources = data_inputs(node)
        gone = [source for source in graph.sources(name) if _is_dead(source, dead, switches)]
        data = [source for source in gone if source.port != CONTROL]
        if gone and node.op == "RefMerge":
            keep(gone, f"{name!r} hands a variable on")
        elif data:
            is_output = f"{name}:1" in graph.outputs
            if is_output or (len(sources) - len(data) > 1 and any(r.port == 1 for r in graph.readers_of(name))):
                keep(data, f"{name!r} says which of its sides came")
    return found


def _causes(
    graph: Graph, sources: Iterable[Input], dead: Collection[str], switches: Mapping[str, int]
) -> Iterator[str]:
    """The Switches because of which these do not run."""
    todo, seen = list(sources), set[str]()
    while todo:
        source = todo.pop()
        if source.node in switches and source.port not in (CONTROL, switches[source.node]):
            yield source.node
        if source.node in dead and source.node not in seen:
            seen.add(source.node)
            todo.extend(graph.sources(source.node))


def _is_dead(source: Input, dead: Collection[str], switches: Mapping[str, int]) -> bool:
    if source.node in dead:
        return True
    return source.node in switches and source.port not in (CONTROL, switches[source.node])


def _dead(graph: Graph, switches: Mapping[str, int]) -> set[str]:
    """The nodes that never run."""
    dead: set[str] = set()
    for name in execution_order(graph):
        sources = graph.sources(name)
        if graph.nodes[name].op in ("Merge", "RefMerge"):
            # It does not care whether what it waits for ran; a loop goes round only when it has begun.
            sources = tuple(s for s in sources if s.port != CONTROL and graph.nodes[s.node].op not in _NEXT)
            never = all(_is_dead(source, dead, switches) for source in sources)
        else:
            never = any(_is_dead(source, dead, switches) for source in sources)
        if never:
            dead.add(name)
    return dead
