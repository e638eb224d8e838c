"""What is known of tensors' shapes from the graph alone."""

from __future__ import annotations

from collections.abc import Iterable

import tensorflow as tf

from tfslim_core import ops
from tfslim_core.c_graph import CGraph, Shape
from tfslim_core.errors import GraphError
from tfslim_core.graph import CONTROL, Graph, Input, make_node, parse_input

__all__ = ["Shape", "static_shapes"]


def static_shapes(graph: Graph, tensors: Iterable[Input]) -> dict[Input, Shape]:
    """What TensorFlow infers of the tensors' shapes: (2, None) of a matrix of two rows, None of any shape.

    Of a tensor that is fed, only what its placeholder says is known. Linear in the nodes that the tensors need: ask
    once for many.

    Raises:
        GraphError: the graph's own shapes contradict each other, or a tensor that is fed cannot be stood in for.
    """
    fed = {parse_input(tensor).node for tensor in graph.inputs}
    found: dict[Input, Shape] = {}
    ask = []
    for tensor in tensors:
        if graph.nodes[tensor.node].op == "Const" and tensor.node not in fed:
            found[tensor] = graph.constant_shape(tensor.node)
        else:
            ask.append(tensor)
    if not ask:
        return found
    names = _data_needed(graph, [tensor.node for tensor in ask])
    nodes = []
    for name, node in graph.nodes.items():
        if name not in names:
            continue
        if name in fed and node.op not in ("Placeholder", "PlaceholderWithDefault"):
            dtypes = ops.output_dtypes(node, graph.functions)
            if len(dtypes) != 1:
                raise GraphError(f"{name!r} is fed and has {len(dtypes)} outputs")
            node = make_node("Placeholder", name, [], dtype=tf.as_dtype(dtypes[0] % ops.REF))
        nodes.append(node)
    with CGraph(nodes, graph.weights, graph.functions, graph.rest.versions) as imported:
        found.update({tensor: imported.shape(tensor) for tensor in ask})
    return found


def _data_needed(graph: Graph, names: Iterable[str]) -> set[str]:
    """The nodes and those that they need over data inputs: to wait for a node gives no shape."""
    found: set[str] = set()
    todo = list(names)
    while todo:
        name = todo.pop()
        if name not in found:
            found.add(name)
            todo += [source.node for source in graph.sources(name) if source.port != CONTROL]
    return found
