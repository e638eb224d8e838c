"""Forget the devices that nodes were to run on.

    Before: y = MatMul(x, W) on /device:GPU:0        After: y = MatMul(x, W)

A device is where a model was trained; without one a server places nodes itself. Nodes of library functions lose theirs
too. Wishes to be placed beside another node (`_class`) stay. Exact.

Source: tensorflow/tools/graph_transforms/remove_device.cc, same name; unlike it we look into functions.
"""

from __future__ import annotations

from tfslim_core.graph import Graph, NodeDef, renamed
from tfslim_core.node_edits import edit_nodes
from tfslim_core.registry import Outcome, transform


@transform("remove_device")
def remove_device(graph: Graph) -> Outcome:
    """Forget the devices that nodes were to run on."""
    return edit_nodes(graph, lambda nodes: _without_device)


def _without_device(node: NodeDef) -> NodeDef:
    if not node.device:
        return node
    copy = renamed(node, node.name)
    copy.ClearField("device")
    return copy
