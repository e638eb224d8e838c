"""The Graph Transform Tool's job on plain frozen graphs: names of tensors or nodes in, a checked graph out."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import tensorflow as tf

from tfslim_core import ops
from tfslim_core.bundle import Bundle, Manifest, Source, signature_json
from tfslim_core.errors import GraphError, nearest
from tfslim_core.graph import Graph, parse_input
from tfslim_core.staging import shown

SIGNATURE = "graph"


def plain_graph(graph_def: Any, inputs: Sequence[str], outputs: Sequence[str]) -> Graph:
    """The view of a GraphDef with the interface that was named.

    inputs, outputs: "x" or "x:0". An output may be a node without tensors, which becomes a target.

    Raises:
        GraphError: the graph is not valid, or a name is not in it.
    """
    functions = {function.signature.name: function for function in graph_def.library.function}
    nodes = {node.name: node for node in graph_def.node}
    found: dict[str, list[str]] = {"input": [], "output": [], "target": []}
    for kind, names in (("input", inputs), ("output", outputs)):
        for name in filter(None, (name.strip() for name in names)):
            source = parse_input(name.removeprefix("^"))
            if source.node not in nodes:
                raise GraphError(f"no node for the {kind} {name!r}{nearest(source.node, nodes)}")
            count = len(ops.output_dtypes(nodes[source.node], functions))
            if source.port >= max(count, 1):
                raise GraphError(f"the {kind} {name!r} does not exist: {source.node!r} has {count} outputs")
            found[kind if count else "target"].append(f"{source.node}:{source.port}" if count else source.node)
    tensors_in, tensors_out, targets = (dict.fromkeys(names) for names in found.values())
    return Graph.of(graph_def, tensors_in, tensors_out, targets)


def as_bundle(graph: Graph, source: Path) -> Bundle:
    """A bundle with one signature, of the graph's inputs and outputs: what stages can check.

    Keys are the tensors' names.
    """
    signature = tf.compat.v1.MetaGraphDef().signature_def[SIGNATURE]
    for infos, tensors in ((signature.inputs, graph.inputs), (signature.outputs, graph.outputs)):
        for tensor in tensors:
            name, port = parse_input(tensor)
            infos[tensor].name = f"{name}:{port}"
            infos[tensor].dtype = graph.facts(name).gives[port] % ops.REF
            infos[tensor].tensor_shape.CopyFrom(_shape(graph.nodes[name]))
    manifest = Manifest(
        tags=["serve"],
        signatures={SIGNATURE: signature_json(signature)},
        init_op=next(iter(graph.targets), None),
        source=Source(
            path=shown(source),
            digest="",
            bytes=0,
            live_parameters=0,
            tensorflow_version="",
            producer=graph.rest.versions.producer,
            nodes=len(graph.nodes),
        ),
    )
    return Bundle(graph, manifest, source)


def _shape(node: Any) -> Any:
    """What a placeholder says of its shape; TensorFlow before 0.12 wrote an unknown one as a scalar's."""
    if node.op in ("Placeholder", "PlaceholderWithDefault") and "shape" in node.attr:
        return node.attr["shape"].shape
    return tf.TensorShape(None).as_proto()
