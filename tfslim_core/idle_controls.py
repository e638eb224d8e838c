"""Control inputs that order nothing anybody could see, and keep alive what they come from.

A node is busy when it has an effect, sees that of another (reads a variable, say), or runs after such a node. To wait
for one that is not is to wait for nothing. In TensorFlow 1 control flow whether a node runs at all hangs on what it
waits for: there every node behind a Switch, Merge or Enter is busy.
"""

from __future__ import annotations

from collections.abc import Container, Iterator
from itertools import chain

from tfslim_core import ops
from tfslim_core.graph import CONTROL, Graph, NodeDef, control_inputs, execution_order, parse_input, renamed

_TABLE_CHANGES = frozenset({"LookupTableInsertV2", "LookupTableInsert", "LookupTableRemoveV2"})


def busy_nodes(graph: Graph, *, besides: Container[str] = ()) -> set[str]:
    """The nodes for which it matters when they run. besides: those whose own effect is not to count."""
    tables_change = any(node.op in _TABLE_CHANGES for node in _all_nodes(graph))
    is_busy: dict[str, bool] = {}  # by op, of those that call no function

    def itself(node: NodeDef) -> bool:
        if node.op in is_busy:
            return is_busy[node.op]
        reads = ops.observes_state(node, graph.functions) and (tables_change or not node.op.startswith("LookupTable"))
        found = node.op in ops.V1_CONTROL_FLOW or ops.has_effect(node, graph.functions) or reads
        if node.op not in graph.functions and next(ops.called_functions(node), None) is None:
            is_busy[node.op] = found
        return found

    busy: set[str] = set()
    for name in execution_order(graph):
        node = graph.nodes[name]
        if name not in besides and itself(node):
            busy.add(name)
            continue
        for text in node.input:
            source = parse_input(text).node
            if source in busy or graph.nodes[source].op in ops.REF_VARIABLES:
                busy.add(name)
                break
    return busy


def without_idle_controls(graph: Graph) -> list[NodeDef]:
    """Copies of the nodes that wait for one that is not busy, without those control inputs."""
    waiting = [node for node in graph.nodes.values() if control_inputs(node)]
    busy = busy_nodes(graph) if waiting else set()
    new = []
    for node in waiting:
        sources = [parse_input(text) for text in node.input]
        kept = [source for source in sources if source.port != CONTROL or source.node in busy]
        if len(kept) < len(sources):
            new.append(renamed(node, node.name, kept))
    return new


def _all_nodes(graph: Graph) -> Iterator[NodeDef]:
    """The nodes of the graph and of its functions."""
    return chain(graph.nodes.values(), *(function.node_def for function in graph.functions.values()))
