"""Make a GraphDef smaller without changing what it means: defaults, repeated values, dead nodes of functions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from tfslim_core import ops

_FIELDS = {
    tf.float32.as_datatype_enum: "float_val",
    tf.float64.as_datatype_enum: "double_val",
    tf.int32.as_datatype_enum: "int_val",
    tf.int64.as_datatype_enum: "int64_val",
    tf.bool.as_datatype_enum: "bool_val",
    tf.string.as_datatype_enum: "string_val",
}


def compact(graph_def: Any) -> None:
    """Shrink a GraphDef in place, functions too."""
    functions = {function.signature.name: function for function in graph_def.library.function}
    for function in functions.values():
        _drop_dead_nodes(function)
    for nodes in (graph_def.node, *(function.node_def for function in functions.values())):
        for node in nodes:
            _strip_default_attributes(node, functions)
            if node.op == "Const" and "value" in node.attr:
                _shorten_repeats(node.attr["value"].tensor)


def _strip_default_attributes(node: Any, functions: Mapping[str, Any]) -> None:
    """Remove attributes that equal the op's default, so that a runtime which lacks them still takes the graph."""
    for declared in ops.op_def(node.op, functions).attr:
        has_default = declared.HasField("default_value") and declared.name in node.attr
        if has_default and node.attr[declared.name] == declared.default_value:
            del node.attr[declared.name]


def _drop_dead_nodes(function: Any) -> None:
    """Remove what neither a result nor an effect of the function needs."""
    nodes = {node.name: node for node in function.node_def}
    todo = [*function.ret.values(), *function.control_ret.values()]
    needed: set[str] = set()
    while todo:
        name = todo.pop().lstrip("^").partition(":")[0]
        if name in nodes and name not in needed:
            needed.add(name)
            todo.extend(nodes[name].input)
    if len(needed) < len(nodes):
        kept = [node for node in function.node_def if node.name in needed]
        copies = [tf.compat.v1.NodeDef.FromString(node.SerializeToString()) for node in kept]
        del function.node_def[:]
        function.node_def.extend(copies)


def _shorten_repeats(tensor: Any) -> None:
    """Write a tensor whose end repeats one value up to there only: readers repeat the last value to fill the shape.

    Source: tensorflow/core/framework/tensor.proto and tensor_util.cc (CompressTensorProtoInPlace).
    """
    field = _FIELDS.get(tensor.dtype)
    if field is None:
        return
    if tensor.tensor_content:
        dtype = np.dtype(tf.as_dtype(tensor.dtype).as_numpy_dtype)
        values = np.frombuffer(tensor.tensor_content, dtype)
        bits = values.view(np.uint8).reshape(len(values), dtype.itemsize)
        differs = np.flatnonzero((bits[1:] != bits[:-1]).any(axis=1))
        kept = int(differs[-1]) + 2 if differs.size else 1
        if values.size and kept * dtype.itemsize * 2 <= len(tensor.tensor_content) and _survives(values[:kept]):
            tensor.ClearField("tensor_content")
            getattr(tensor, field).extend(values[:kept].tolist())
        return
    listed = getattr(tensor, field)
    kept = len(listed)
    while kept > 1 and listed[kept - 1] == listed[kept - 2] and _survives(np.asarray(listed[kept - 1])):
        kept -= 1
    del listed[kept:]


def _survives(values: Any) -> bool:
    """Whether every bit does: a list of floats in protobuf's text and JSON keeps NaN, but not which one."""
    return values.dtype.kind != "f" or not (np.isnan(values).any() or ((values == 0) & np.signbit(values)).any())
