"""Nodes as a graph of TensorFlow's C++ runtime, which infers shapes.

No Python object is made for a node: importing one takes some microseconds.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterable, Mapping
from ctypes import POINTER, c_int, c_int64, c_void_p
from functools import cache
from typing import Any

import tensorflow as tf

from tfslim_core import ops
from tfslim_core.errors import GraphError
from tfslim_core.graph import Input, NodeDef, make_node, needed_functions
from tfslim_core.saved_model import c_api
from tfslim_core.weights import Weight

Shape = tuple[int | None, ...] | None  # None: unknown, a size or all of it

_PROTOTYPES: dict[str, tuple[object, list[object]]] = {
    "TF_NewImportGraphDefOptions": (c_void_p, []),
    "TF_DeleteImportGraphDefOptions": (None, [c_void_p]),
    "TF_GraphImportGraphDef": (None, [c_void_p, c_void_p, c_void_p, c_void_p]),
    "TF_GraphGetTensorNumDims": (c_int, [c_void_p, c_api.Output, c_void_p]),
    "TF_GraphGetTensorShape": (None, [c_void_p, c_api.Output, POINTER(c_int64), c_int, c_void_p]),
}


@cache
def _library() -> ctypes.CDLL:
    found = c_api.library()
    for name, (result, arguments) in _PROTOTYPES.items():
        function = getattr(found, name)
        function.restype, function.argtypes = result, arguments
    return found


class CGraph:
    """Nodes that were imported; use it as a context manager, which frees them.

    Weights are placeholders of known shape; devices and colocations are left out.
    """

    def __init__(
        self, nodes: Iterable[NodeDef], weights: Mapping[str, Weight], functions: Mapping[str, Any], versions: Any
    ) -> None:
        """Import the nodes and the functions that calls run. A control input from a node that is not there is dropped.

        Raises:
            GraphError: TensorFlow refuses them.
        """
        serialized = _graph_def(list(nodes), weights, functions, versions).SerializeToString()
        tf_c = _library()
        self._operations: dict[str, int] = {}
        self._shapes: dict[Input, Shape] = {}
        self._graph: int = tf_c.TF_NewGraph()
        buffer = tf_c.TF_NewBufferFromString(serialized, len(serialized))
        options = tf_c.TF_NewImportGraphDefOptions()
        with c_api.Status() as status:
            tf_c.TF_GraphImportGraphDef(self._graph, buffer, options, status.pointer)
            problem = status.problem()
        tf_c.TF_DeleteImportGraphDefOptions(options)
        tf_c.TF_DeleteBuffer(buffer)
        if problem:
            self.close()
            raise GraphError(problem)

    def __enter__(self) -> CGraph:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Free the graph."""
        _library().TF_DeleteGraph(self._graph)

    def _output(self, tensor: Input) -> c_api.Output:
        operation = self._operations.get(tensor.node)
        if operation is None:
            operation = _library().TF_GraphOperationByName(self._graph, tensor.node.encode())
            if operation is None:
                raise GraphError(f"node {tensor.node!r} was not imported")
            self._operations[tensor.node] = operation
        return c_api.Output(operation, tensor.port)

    def shape(self, tensor: Input) -> Shape:
        """What TensorFlow infers of the tensor's shape."""
        if tensor not in self._shapes:
            self._shapes[tensor] = self._shape(tensor)
        return self._shapes[tensor]

    def _shape(self, tensor: Input) -> Shape:
        tf_c = _library()
        output = self._output(tensor)
        with c_api.Status() as status:
            rank = tf_c.TF_GraphGetTensorNumDims(self._graph, output, status.pointer)
            if rank < 0:
                return None
            sizes = (c_int64 * rank)()
            tf_c.TF_GraphGetTensorShape(self._graph, output, sizes, rank, status.pointer)
        return tuple(None if size < 0 else size for size in sizes)


def _graph_def(nodes: list[NodeDef], weights: Mapping[str, Weight], functions: Mapping[str, Any], versions: Any) -> Any:
    graph_def = tf.compat.v1.GraphDef(versions=versions)
    # Of a loop or a branch TensorFlow infers nothing from its functions.
    if calls := [node for node in nodes if node.op in ops.CALLS or node.op in functions]:
        called = needed_functions(calls, functions)
        graph_def.library.function.extend(function for name, function in functions.items() if name in called)
    present = {node.name for node in nodes}
    graph_def.node.extend(_without_weight(node, weights) for node in nodes)
    for node in graph_def.node:
        if node.device:
            node.device = ""
        if "_class" in node.attr:
            del node.attr["_class"]
        if any(text.startswith("^") and text[1:] not in present for text in node.input):
            node.input[:] = [text for text in node.input if not text.startswith("^") or text[1:] in present]
    return graph_def


def _without_weight(node: NodeDef, weights: Mapping[str, Weight]) -> NodeDef:
    """The node, or a placeholder for a large constant."""
    if node.op != "Const" or node.name not in weights:
        return node
    weight = weights[node.name]
    stand_in = make_node("Placeholder", node.name, [], dtype=tf.as_dtype(weight.dtype))
    stand_in.attr["shape"].shape.CopyFrom(tf.TensorShape(weight.shape).as_proto())
    return stand_in
