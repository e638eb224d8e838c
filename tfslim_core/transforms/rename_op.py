"""Let the nodes of one op be nodes of another.

    Before: y = Relu(x)        After: y = Relu6(x)        for old_op_name=Relu, new_op_name=Relu6

Name, inputs, attributes and device stay; only the op changes, and with it, as asked, what is computed. Where the two
ops compute the same (`BatchMatMul` and `BatchMatMulV2` of equal shapes) answers stay the same. Function bodies are
rewritten too.

| parameter | |
|---|---|
| old_op_name, new_op_name | the ops; the new one is an op of this TensorFlow or a function of the model's library |

Left alone, with a reason, is a node that the new op does not fit: one of its attributes is missing there, or is
required and missing here; the types of inputs or outputs would be others, or their number; the new op is not allowed
any more in graphs of this version. So is a large constant, whose value only a Const can have, and what is fed. Whether
the new op runs where the model is served is not looked at.

Source: tensorflow/tools/graph_transforms/rename_op.cc, same name and parameters; unlike it we make no graph that
TensorFlow refuses, and look into functions.
"""

from __future__ import annotations

import tensorflow as tf

from tfslim_core import ops
from tfslim_core.errors import GraphError, TransformError, nearest
from tfslim_core.graph import Graph, NodeDef, parse_input, renamed
from tfslim_core.node_edits import misfit
from tfslim_core.registry import Outcome, Skipped, transform
from tfslim_core.rewriting import Skip


@transform("rename_op", exact=False, enters_functions=True)
def rename_op(graph: Graph, *, old_op_name: str, new_op_name: str) -> Outcome:
    """Let the nodes of one op be nodes of another."""
    try:
        ops.op_def(new_op_name, graph.functions)
    except GraphError:
        hint = nearest(new_op_name, (*dir(tf.raw_ops), *graph.functions))
        raise TransformError(f"rename_op: this TensorFlow has no op {new_op_name!r}{hint}") from None
    fed = {parse_input(tensor).node for tensor in graph.inputs}
    new, skipped = [], []
    for name, node in graph.nodes.items():
        if node.op != old_op_name or old_op_name == new_op_name:
            continue
        try:
            if name in fed:
                raise Skip("it is an input")
            new.append(_with_op(graph, node, new_op_name))
        except Skip as reason:
            skipped.append(Skipped(name, str(reason)))
    return Outcome(graph.replace(new) if new else graph, len(new), tuple(skipped))


def _with_op(graph: Graph, node: NodeDef, op: str) -> NodeDef:
    """A copy that is a node of `op`.

    Raises:
        Skip: the op does not fit.
    """
    if node.name in graph.weights:
        raise Skip(f"its value is a weight, which {op} cannot have")
    definition = ops.op_def(op, graph.functions)
    producer = graph.rest.versions.producer
    if definition.HasField("deprecation") and producer >= definition.deprecation.version:
        raise Skip(f"{op} is not allowed any more in graphs of version {producer}")
    for attribute, value in node.attr.items():
        if reason := misfit(op, attribute, value, graph.functions):
            raise Skip(reason)
    for attribute in definition.attr:
        if not attribute.HasField("default_value") and attribute.name not in node.attr:
            raise Skip(f"{op} needs the attribute {attribute.name!r}, which {node.op} does not have")
    copy = renamed(node, node.name)
    copy.op = op
    was, now = (ops.dtypes(one, graph.functions) for one in (node, copy))
    for kind, before, after in (("inputs", was.takes, now.takes), ("outputs", was.gives, now.gives)):
        if before != after:
            raise Skip(f"{op} has {kind} of types {_names(after)}, {node.op} of {_names(before)}")
    return copy


def _names(dtypes: tuple[int, ...]) -> str:
    return "[" + ", ".join(tf.as_dtype(dtype).name for dtype in dtypes) + "]"
