"""Remove an attribute from the nodes that have it.

    Before: y = Relu(x, _output_shapes=[[1, 8]])        After: y = Relu(x)

An attribute whose name starts with an underscore (`_output_shapes`, `_class`, `_XlaCompile`) is a note that an op does
not declare; it just goes. One that the op declares has its registered default from then on, which may change what is
computed: that is what was asked for. Nodes of library functions are edited too; notes at a function itself or at its
arguments stay.

| parameter | |
|---|---|
| attribute_name | the attribute |
| op_name | only nodes of this op, as in `op_name=Relu`; all nodes unless given |

Left alone, with a reason: an attribute without a default, which TensorFlow could not do without (`strides` of a Conv2D,
`dtype` of a Placeholder); one without which the node's types would be others. Exact for notes.

Source: tensorflow/tools/graph_transforms/remove_attribute.cc, same name and parameters; unlike it we remove none that
is required, and look into functions.
"""

from __future__ import annotations

from dataclasses import replace

from tfslim_core import ops
from tfslim_core.graph import Graph, NodeDef, renamed
from tfslim_core.node_edits import declared, edit_nodes, is_required
from tfslim_core.registry import Outcome, transform
from tfslim_core.rewriting import Skip


@transform("remove_attribute")
def remove_attribute(graph: Graph, *, attribute_name: str, op_name: str = "*") -> Outcome:
    """Remove an attribute from the nodes that have it."""

    def without(node: NodeDef) -> NodeDef:
        if attribute_name not in node.attr or op_name not in ("*", "", node.op):
            return node
        declaration = declared(node.op, attribute_name, graph.functions)
        if is_required(declaration):
            raise Skip(f"{node.op} needs the attribute, which has no default")
        copy = renamed(node, node.name)
        del copy.attr[attribute_name]
        if declaration is not None and ops.dtypes(copy, graph.functions) != ops.dtypes(node, graph.functions):
            raise Skip("its types hang on the attribute, whose default is another")
        return copy

    # One that the op declares has its default from then on.
    return replace(edit_nodes(graph, lambda nodes: without), exact=attribute_name.startswith("_"))
