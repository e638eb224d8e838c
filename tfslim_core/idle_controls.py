"""Control inputs that order nothing anybody could see, and keep alive what they come from.

A node is busy when it has an effect, sees that of another (reads a variable, say), or runs after such a node. To wait
for one that is not is to wait for nothing. In TensorFlow 1 control flow whether a node runs at all hangs on what it
waits for: there every node behind a Switch, Merge or Enter is busy.
"""

from __future__ import annotations

from collections.abc import Container, Iterator
from itertools import chain

from tfslim_core import ops
from tfslim_core.graph import CONTROL, Graph, NodeDef, renamed

_TABLE_CHANGES = frozenset({"LookupTableInsertV2", "LookupTableInsert", "LookupTableRemoveV2"})


def busy_nodes(graph: Graph, *, besides: Container[str] = ()) -> set[str]:
    """The nodes for which it matters when they run. besides: those whose own effect is not to count."""
    busy = {name for name in _busy_themselves(graph) if name not in besides}
    variables = {node.name for node in graph.of_ops(ops.REF_VARIABLES)}
    if busy or variables:
        for name in graph.order:
            if name not in busy and any(s.node in busy or s.node in variables for s in graph.sources(name)):
                busy.add(name)
    return busy


def _busy_themselves(graph: Graph) -> Iterator[str]:
    """The nodes that decide what runs, have an effect or see that of another."""
    for op, names in graph.by_op.items():
        # Of an op that calls no function all nodes are as busy as the first.
        for alike in [[name] for name in names] if op in graph.functions or ops.may_call(op) else [names]:
            node = graph.nodes[alike[0]]
            found = op in ops.V1_CONTROL_FLOW or ops.has_effect(node, graph.functions)
            if not found and ops.observes_state(node, graph.functions):
                found = not op.startswith("LookupTable") or any(n.op in _TABLE_CHANGES for n in _all_nodes(graph))
            if found:
                yield from alike


def without_idle_controls(graph: Graph) -> list[NodeDef]:
    """Copies of the nodes that wait for one that is not busy, without those control inputs."""
    # Control inputs come last.
    waiting = [name for name in graph.nodes if (sources := graph.sources(name)) and sources[-1].port == CONTROL]
    busy = busy_nodes(graph) if waiting else set()
    new = []
    for name in waiting:
        sources = graph.sources(name)
        kept = [source for source in sources if source.port != CONTROL or source.node in busy]
        if len(kept) < len(sources):
            new.append(renamed(graph.nodes[name], name, kept))
    return new


def _all_nodes(graph: Graph) -> Iterator[NodeDef]:
    """The nodes of the graph and of its functions."""
    return chain(graph.nodes.values(), *(function.node_def for function in graph.functions.values()))
