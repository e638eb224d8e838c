"""Give an attribute another name, at the nodes that have it.

    Before: y = Relu(x, _trace=7)        After: y = Relu(x, _layer=7)

The value stays. The result is a graph that TensorFlow takes: the new name starts with an underscore, which makes it a
note that no op has to declare, or the op declares an attribute of that name for such a value. Nodes of library
functions are edited too.

| parameter | |
|---|---|
| old_attribute_name, new_attribute_name | the attribute |
| op_name | only nodes of this op, as in `op_name=Relu`; all nodes unless given |

Left alone, with a reason: a node that has an attribute of the new name already; an attribute without a default, which
TensorFlow could not do without; a new name that the op does not declare, or not for such a value; one by which the
node's types would be others. Exact for notes; an attribute that the op declares has its default from then on.

Source: tensorflow/tools/graph_transforms/rename_attribute.cc, same name and parameters; unlike it we make no graph that
TensorFlow refuses, overwrite no attribute, and look into functions.
"""

from __future__ import annotations

from dataclasses import replace

from tfslim_core import ops
from tfslim_core.errors import TransformError
from tfslim_core.graph import Graph, NodeDef, renamed
from tfslim_core.node_edits import declared, edit_nodes, is_required, misfit
from tfslim_core.registry import Outcome, transform
from tfslim_core.rewriting import Skip


@transform("rename_attribute")
def rename_attribute(graph: Graph, *, old_attribute_name: str, new_attribute_name: str, op_name: str = "*") -> Outcome:
    """Give an attribute another name, at the nodes that have it."""
    old, new = old_attribute_name, new_attribute_name
    if not new:
        raise TransformError("rename_attribute: new_attribute_name is empty")

    def renamed_attribute(node: NodeDef) -> NodeDef:
        if old == new or old not in node.attr or op_name not in ("*", "", node.op):
            return node
        if new in node.attr:
            raise Skip(f"it has an attribute {new!r} already")
        if is_required(declared(node.op, old, graph.functions)):
            raise Skip(f"{node.op} needs the attribute {old!r}, which has no default")
        if reason := misfit(node.op, new, node.attr[old], graph.functions):
            raise Skip(reason)
        copy = renamed(node, node.name)
        copy.attr[new].CopyFrom(node.attr[old])
        del copy.attr[old]
        if ops.dtypes(copy, graph.functions) != ops.dtypes(node, graph.functions):
            raise Skip("its types would be others")
        return copy

    # One that the op declares has its default from then on.
    return replace(
        edit_nodes(graph, lambda nodes: renamed_attribute), exact=old.startswith("_") and new.startswith("_")
    )
