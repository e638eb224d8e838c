"""Freeze a SavedModel: from a MetaGraph with variables and calls to a bundle with constants and neither."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

import tensorflow as tf
from tensorflow.core.protobuf import meta_graph_pb2

from tfslim_core import ops, storage
from tfslim_core.bundle import GRAPH_LABEL, AssetEntry, Bundle, Manifest, Source, roots, signature_json
from tfslim_core.errors import GraphError, ModelError
from tfslim_core.graph import (
    EXTERNAL_BYTES,
    Graph,
    NodeDef,
    execution_order,
    make_node,
    needed,
    needed_functions,
    only_needed,
    parse_input,
    renamed,
)
from tfslim_core.idle_controls import without_idle_controls
from tfslim_core.saved_model.freeze_variables import freeze_variables
from tfslim_core.saved_model.inline_functions import Inlined, inline_functions
from tfslim_core.saved_model.read import SavedModel, open_checkpoint
from tfslim_core.saved_model.restore import Restored, found_by_name, restored
from tfslim_core.saved_model.share_inputs import share_inputs
from tfslim_core.staging import shown
from tfslim_core.weights import Weight

# Attributes that are stale as soon as a node moves: whom it sits with, and shapes that imports then check.
_STALE = ("_class", "_output_shapes")


def freeze_saved_model(model: SavedModel, *, digest: str | None = None) -> Bundle:
    """Freeze every variable that the model's signatures read, inline calls, and drop what no signature needs.

    Weights are not read: the bundle's are read from the checkpoint when they are written.
    digest: of the model, for the manifest; without it all of the model's files are read for that.

    Raises:
        ModelError: the checkpoint is damaged or lacks a tensor.
        GraphError: the graph is not valid, or has an op that this TensorFlow does not know.
    """
    graph_def = model.meta_graph.graph_def
    saver = model.meta_graph.saver_def
    restore = [saver.restore_op_name.split(":")[0]] if model.checkpoint and saver.restore_op_name else []
    inputs, outputs = roots(model.signatures)
    inputs += [asset.tensor for asset in model.assets]
    init = [model.init_op] if model.init_op else []
    inlined = _inlined(graph_def, [*inputs, *outputs, *init, *restore])
    outputs = [inlined.tensor(tensor) for tensor in outputs]
    inputs = [_input(inlined, tensor, model) for tensor in inputs]
    graph = _graph(graph_def, inlined.nodes, inputs, outputs, [*init, *restore])
    state = restored(model, graph, restore[0], saver.filename_tensor_name) if restore else Restored({}, [], {}, [])
    graph, init_op = _without_restore(graph, init, state)
    mended = found_by_name(model, graph, state.variables)
    values = {**state.variables, **mended}
    frozen = freeze_variables(graph, values)
    execution_order(frozen.graph)  # a graph with a cycle is refused
    graph = frozen.graph.replace(without_idle_controls(frozen.graph))
    graph = only_needed(graph)
    signatures = {name: _moved(signature, inlined) for name, signature in sorted(model.signatures.items())}
    graph = share_inputs(graph, signatures)
    kept = {name: reason for name, reason in frozen.kept.items() if name in graph.nodes}
    _refuse_lost_variables(model, graph, [name for name in kept if name not in values])
    manifest = Manifest(
        tags=list(model.tags),
        signatures={name: signature_json(signature) for name, signature in signatures.items()},
        init_op=init_op,
        assets=[AssetEntry(tensor=asset.tensor, filename=asset.filename) for asset in model.assets],
        kept_variables=kept,
        origins={name: list(weight.origins) for name, weight in values.items()},
        dropped=_dropped(model, graph),
        notes=_notes(graph, mended),
        source=_source(model, graph, values, digest),
    )
    variables = {name: values[name] for name in kept if name in values}
    return Bundle(graph, manifest, model.path, variables)


def _refuse_lost_variables(model: SavedModel, graph: Graph, kept: Iterable[str]) -> None:
    """Refuse a model whose variables have no value and that nothing sets: it loads, and answers nothing.

    kept: the variables that stay variables and have no value.
    """
    initialized = needed(graph, graph.targets)
    for name in kept:
        readers = (graph.nodes[reader.node] for reader in graph.readers_of(name))
        if name in initialized or any(ops.has_effect(node, graph.functions) for node in readers):
            continue
        if model.checkpoint is None:
            raise ModelError(f"{model.path}: variables/variables.index is missing, and with it the value of {name!r}")
        raise ModelError(
            f"{model.path}: the variables files hold no value for {name!r}, which a signature reads; no server can run "
            "this model: export it again (a Keras 3 model with model.export)"
        )


def _inlined(graph_def: Any, tensors: Iterable[str]) -> Inlined:
    """The nodes that the tensors and nodes need, calls inlined, stale attributes gone."""
    functions = {function.signature.name: function for function in graph_def.library.function}
    everything = Graph({node.name: node for node in graph_def.node})
    if len(everything.nodes) < len(graph_def.node):
        twice = next(name for name, count in Counter(node.name for node in graph_def.node).items() if count > 1)
        raise GraphError(f"the node name {twice!r} is used twice")
    names = [parse_input(tensor).node for tensor in tensors]
    for name in names:
        if name not in everything.nodes:
            raise GraphError(f"node {name!r}, which a signature, the init op or the saver names, does not exist")
    wanted = needed(everything, names)
    for name in wanted:
        for text in everything.nodes[name].input:
            if parse_input(text).node not in everything.nodes:
                raise GraphError(f"node {name!r} reads {text!r}, which does not exist")
    inlined = inline_functions((node for node in graph_def.node if node.name in wanted), functions)
    for name in names:
        if name not in inlined.nodes and name in inlined.waits:
            # The init or restore op was a call; to run it is to run what the call did.
            inlined.nodes[name] = make_node("NoOp", name, [f"^{w}" for w in inlined.waits[name]])
    for name, node in inlined.nodes.items():
        if node.device or any(key in node.attr for key in _STALE):
            inlined.nodes[name] = renamed(node, name)
            _freshen(inlined.nodes[name])
    return inlined


def _freshen(node: NodeDef) -> None:
    """Remove what is stale. A device is where the model was trained; a server without it would refuse the model."""
    node.ClearField("device")
    for key in _STALE:
        node.attr.pop(key, None)


def _input(inlined: Inlined, tensor: str, model: SavedModel) -> str:
    moved = inlined.tensor(tensor)
    source = parse_input(tensor)
    if moved != f"{source.node}:{source.port}":
        raise ModelError(f"{model.path}: the input {tensor!r} of a signature is computed by a function call")
    return moved


def _graph(
    graph_def: Any, nodes: Mapping[str, NodeDef], inputs: list[str], outputs: list[str], targets: list[str]
) -> Graph:
    pruned = tf.compat.v1.GraphDef(versions=graph_def.versions)
    pruned.node.extend(nodes.values())
    functions = {function.signature.name: function for function in graph_def.library.function}
    wanted = needed_functions(pruned.node, functions)
    for name, function in functions.items():
        if name in wanted:
            added = pruned.library.function.add()
            added.CopyFrom(function)
            for node in added.node_def:
                _freshen(node)
    return Graph.of(pruned, inputs, outputs, targets)


def _without_restore(graph: Graph, init: list[str], state: Restored) -> tuple[Graph, str | None]:
    """The graph as the signatures and the init op need it, and the init op's name.

    State that the checkpoint keeps besides variables (the content of a mutable table) is put in by the init op.
    """
    extra = [node for node in state.others if node.name not in graph.nodes or node != graph.nodes[node.name]]
    if state.effects:
        name = graph.fresh_names()("restored_state")
        controls = [f"^{effect}" for effect in (*state.effects, *init)]
        extra.append(make_node("NoOp", name, controls))
        init = [name]
    graph = graph.replace(extra, weights=state.weights)
    graph = Graph(graph.nodes, graph.inputs, graph.outputs, tuple(init), graph.weights, graph.rest)
    return only_needed(graph), (init[0] if init else None)


def _moved(signature: Any, inlined: Inlined) -> Any:
    """The signature, naming tensors where they are now."""
    copy = meta_graph_pb2.SignatureDef()
    copy.CopyFrom(signature)

    def move(info: Any) -> None:
        match info.WhichOneof("encoding"):
            case "coo_sparse":
                for field in ("values_tensor_name", "indices_tensor_name", "dense_shape_tensor_name"):
                    setattr(info.coo_sparse, field, inlined.tensor(getattr(info.coo_sparse, field)))
            case "composite_tensor":
                for component in info.composite_tensor.components:
                    move(component)
            case _:
                info.name = inlined.tensor(info.name)

    for info in (*copy.inputs.values(), *copy.outputs.values()):
        move(info)
    return copy


def _notes(graph: Graph, mended: Iterable[str]) -> list[str]:
    """What was done to the model beyond what was asked for."""
    found = [name for name in mended if name in graph.nodes]
    if not found:
        return []
    return [
        f"mended: {len(found)} variables that the original's restore op does not fill were read by name, the first is "
        f"{found[0]!r}; a server cannot run the original"
    ]


def _dropped(model: SavedModel, graph: Graph) -> list[str]:
    """What a slim model does not keep, in words."""
    before = model.meta_graph.graph_def
    functions = len(before.library.function)
    found = []
    if functions:
        found.append(f"{functions - len(graph.functions)} of {functions} functions (inlined or not needed)")
    found.append(f"{len(before.node)} nodes became {len(graph.nodes)}, functions inlined")
    if model.meta_graph.HasField("object_graph_def"):
        found.append("the object graph of tf.saved_model.load (Python attributes, training functions)")
    if model.checkpoint:
        keys = open_checkpoint(model.checkpoint).get_variable_to_shape_map()
        live = sum(weight.nbytes for weight in graph.weights.values())
        total = storage.size(model.path / "variables")
        found.append(f"of {len(keys)} checkpoint tensors, {total:,} bytes, {live:,} bytes are served")
    return found


def _source(model: SavedModel, graph: Graph, variables: Mapping[str, Weight], digest: str | None) -> Source:
    info, before = model.meta_graph.meta_info_def, model.meta_graph.graph_def
    total = storage.size(model.path)
    live = {name: weight for name, weight in variables.items() if name in graph.nodes} | dict(graph.weights)
    large = {name: w.nbytes for name, w in variables.items() if w.nbytes >= EXTERNAL_BYTES and not w.dtype.hasobject}
    small = sum(weight.nbytes for name, weight in variables.items() if name not in large)
    graph_bytes = sum(path.stat().st_size for path in model.path.glob("saved_model.pb*"))
    where = {**large, GRAPH_LABEL: graph_bytes + small}
    where["other files"] = max(total - sum(where.values()), 0)
    return Source(
        path=shown(model.path),
        digest=storage.digest(model.path) if digest is None else digest,
        bytes=total,
        live_parameters=sum(math.prod(weight.shape) for weight in live.values()),
        tensorflow_version=info.tensorflow_version,
        producer=before.versions.producer,
        nodes=len(before.node) + sum(len(function.node_def) for function in before.library.function),
        where=where,
    )
