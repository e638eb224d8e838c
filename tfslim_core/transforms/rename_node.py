"""Give a node another name.

    Before: y = Relu(a), a = MatMul(x, W)        After: y = Relu(logits), logits = MatMul(x, W)

Whatever names the node follows: inputs and control inputs of others, wishes to be placed beside it (`_class`), and the
weight of a large constant. The order of the nodes stays. Nodes of library functions are not renamed. Exact.

| parameter | |
|---|---|
| old_node_name | the node |
| new_node_name | its new name: letters, digits and `_ . / -`, the first a letter, a digit or a dot |

It is an error when the new name is not a valid one, or when another node has it. A node that does not exist is no
error, so that a list of transforms can be run again.

Left alone, with a reason: a node that does not exist; one that a signature, an asset or the init op names; one that
holds a state (a variable, a table), which others know by its name.

Source: tensorflow/tools/graph_transforms/rename_node.cc, same name and parameters; unlike it we keep the names of
inputs and outputs, and nodes that wish to be placed beside the node can still be loaded.
"""

from __future__ import annotations

import re

from tfslim_core.errors import TransformError, nearest
from tfslim_core.graph import Graph
from tfslim_core.registry import Outcome, Skipped, transform
from tfslim_core.renaming import why_name_stays, with_names

# What TensorFlow's import of a graph takes; `>` separates a namespace.
_NAME = re.compile(r"[A-Za-z0-9.][\w./-]*(>[A-Za-z0-9.][\w./-]*)*", re.ASCII)


@transform("rename_node")
def rename_node(graph: Graph, *, old_node_name: str, new_node_name: str) -> Outcome:
    """Give a node another name."""
    old, new = old_node_name, new_node_name
    if not _NAME.fullmatch(new):
        raise TransformError(
            f"rename_node: {new!r} is not a name that a node can have: letters, digits and _ . / -, "
            "the first a letter, a digit or a dot"
        )
    if old not in graph.nodes:
        return Outcome(graph, skipped=(Skipped(old, f"there is no such node{nearest(old, graph.nodes)}"),))
    if old == new:
        return Outcome(graph)
    if new in graph.nodes:
        raise TransformError(
            f"rename_node: {old!r} cannot become {new!r}: a node ({graph.nodes[new].op}) has that name already"
        )
    if reason := why_name_stays(graph, old):
        return Outcome(graph, skipped=(Skipped(old, reason),))
    return Outcome(with_names(graph, {old: new}), 1)
