"""Put the nodes in an order in which each comes after what it reads.

    Before: y = Relu(a), a = Neg(x), x        After: x, a = Neg(x), y = Relu(a)

Nodes do not change, only their order in the GraphDef, for readers that go through it once from top to bottom. Control
inputs count; the edge by which a TensorFlow 1 loop goes back to its Merge does not. A graph that is in such an order
already stays as it is. The bodies of library functions are sorted too. Exact.

It is an error when nodes wait for each other in a circle: such a graph cannot be run.

Source: tensorflow/tools/graph_transforms/sort_by_execution_order.cc, same name; unlike it we put a Merge after all
that it joins, and look into functions.
"""

from __future__ import annotations

from dataclasses import replace

from tfslim_core.graph import Graph, execution_order
from tfslim_core.registry import Outcome, transform


@transform("sort_by_execution_order", enters_functions=True)
def sort_by_execution_order(graph: Graph) -> Outcome:
    """Put the nodes in an order in which each comes after what it reads."""
    order = execution_order(graph)
    if _is_sorted(graph):
        return Outcome(graph)
    moved = sum(was != now for was, now in zip(graph.nodes, order, strict=True))
    # The same nodes: nothing that would have to be checked again.
    return Outcome(replace(graph, nodes={name: graph.nodes[name] for name in order}), moved)


def _is_sorted(graph: Graph) -> bool:
    seen: set[str] = set()
    for name, node in graph.nodes.items():
        for source in graph.sources(name):
            loops_back = node.op.endswith("Merge") and graph.nodes[source.node].op.endswith("NextIteration")
            if source.node not in seen and not loops_back:
                return False
        seen.add(name)
    return True
