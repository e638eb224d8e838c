"""Let signatures that take the same inputs take them through the same placeholders.

    Before: serve(x) -> f(x),  serving_default(x_1) -> f(x_1)        After: both (x) -> f(x)

Keras exports one function under two names, each with placeholders of its own; once these are shared,
merge_duplicate_nodes finds that the graph holds everything twice. A request is for one signature, and feeds its
placeholders alone, so that no answer changes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tfslim_core.bundle import tensor_names
from tfslim_core.graph import CONTROL, Graph, Input, NodeDef, needed, parse_input, rewired
from tfslim_core.transforms.merge_duplicate_nodes import merge_duplicate_nodes


def share_inputs(graph: Graph, signatures: Mapping[str, Any]) -> Graph:
    """The graph with as few placeholders as it takes, and nothing twice that they made equal.

    signatures: SignatureDefs by name; those whose placeholders went are changed to name the others.
    """
    moved = _moved(graph, signatures)
    if not moved:
        return graph
    for signature in signatures.values():
        for info in (*signature.inputs.values(), *signature.outputs.values()):
            if info.WhichOneof("encoding") == "name":
                info.name = moved.get(info.name, info.name)
    gone = {parse_input(tensor).node: parse_input(kept).node for tensor, kept in moved.items()}
    sources = {Input(name, port): Input(kept, port) for name, kept in gone.items() for port in (0, CONTROL)}
    inputs = tuple(dict.fromkeys(moved.get(tensor, tensor) for tensor in graph.inputs))
    outputs = tuple(dict.fromkeys(moved.get(tensor, tensor) for tensor in graph.outputs))
    fewer = Graph(graph.nodes, inputs, outputs, graph.targets, graph.weights, graph.rest)
    kept = (rewired(node, sources) for name, node in graph.nodes.items() if name not in gone)
    return merge_duplicate_nodes(fewer.replace(kept, drop=gone)).graph


def _moved(graph: Graph, signatures: Mapping[str, Any]) -> dict[str, str]:
    """Tensor name -> the tensor that can be fed in its place; of single-tensor entries only.

    Two signatures share an input when both call it by the same key, with the same placeholder but for its name, and
    neither reads the other's placeholder.
    """
    moved: dict[str, str] = {}
    first: dict[tuple[str, bytes], tuple[str, str]] = {}  # key and kind of placeholder -> signature, tensor
    read = {name: _placeholders_read(graph, signature) for name, signature in signatures.items()}
    for name, signature in signatures.items():
        for key, info in sorted(signature.inputs.items()):
            if info.WhichOneof("encoding") != "name" or info.name in moved:
                continue
            node = graph.nodes[parse_input(info.name).node]
            if node.op != "Placeholder" or node.input:
                continue
            kept = first.setdefault((key, _kind(node)), (name, info.name))
            if kept[1] == info.name:
                continue
            users = [other for other in signatures if info.name in read[other]]
            if not any(kept[1] in read[other] for other in users):
                moved[info.name] = kept[1]
    return moved


def _kind(node: NodeDef) -> bytes:
    copy = type(node)()
    copy.CopyFrom(node)
    copy.name = ""
    kind: bytes = copy.SerializeToString(deterministic=True)
    return kind


def _placeholders_read(graph: Graph, signature: Any) -> set[str]:
    """Tensors of the placeholders that a signature's inputs name or its outputs need; of composite ones the parts."""
    fed = {name for info in signature.inputs.values() for name in tensor_names(info)}
    wanted = [name for info in signature.outputs.values() for name in tensor_names(info)]
    nodes = needed(graph, [parse_input(name).node for name in wanted])
    return fed | {f"{name}:0" for name in nodes if graph.nodes[name].op == "Placeholder"}
