"""Write out the attributes that were left away for being equal to their default.

    Before: y = Conv2D(x, W, strides)        After: y = Conv2D(x, W, strides, data_format="NHWC", …)

SavedModels are exported without such attributes, and some older tools cannot read a graph that lacks them. tfslim can:
to it, and to TensorFlow, both graphs are the same. The defaults are those of the op registry of the TensorFlow that
runs here. The graph gets a little larger; the nodes of library functions are completed as well; the graph's versions
stay as they are. Exact.

Left as they are: attributes without a default, and nodes that call a library function by its name.

Source: tensorflow/tools/graph_transforms/add_default_attributes.cc, same name; unlike it we look into functions too.
"""

from __future__ import annotations

from functools import cache
from typing import Any

from tfslim_core import ops
from tfslim_core.graph import Graph, NodeDef, renamed
from tfslim_core.node_edits import edit_nodes
from tfslim_core.registry import Outcome, transform


@transform("add_default_attributes")
def add_default_attributes(graph: Graph) -> Outcome:
    """Write out the attributes that were left away for being equal to their default."""

    @cache
    def defaults(op: str) -> dict[str, Any]:
        if op in graph.functions:
            return {}
        declared = ops.op_def(op, graph.functions).attr
        return {one.name: one.default_value for one in declared if one.HasField("default_value")}

    def completed(node: NodeDef) -> NodeDef:
        missing = {name: value for name, value in defaults(node.op).items() if name not in node.attr}
        if not missing:
            return node
        copy = renamed(node, node.name)
        for name, value in missing.items():
            copy.attr[name].CopyFrom(value)
        return copy

    return edit_nodes(graph, lambda nodes: completed)
