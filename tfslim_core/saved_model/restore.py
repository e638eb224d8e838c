"""What a SavedModel's restore op does: which variable gets which value out of the checkpoint, and what else happens.

The restore op is an ordinary part of the graph, so it is read rather than run. A value that comes straight from the
checkpoint is read tensor by tensor when it is needed; one that is computed on the way (a slim model decodes its weights
there) is computed by TensorFlow when it is needed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import tensorflow as tf
from google.protobuf.message import DecodeError
from tensorflow.core.protobuf import trackable_object_graph_pb2

from tfslim_core import ops
from tfslim_core.errors import ModelError
from tfslim_core.graph import (
    CONTROL,
    Graph,
    Input,
    NodeDef,
    constant,
    data_inputs,
    make_node,
    needed,
    parse_input,
    renamed,
)
from tfslim_core.one_line import one_line
from tfslim_core.saved_model.freed_memory import give_back_freed_memory
from tfslim_core.saved_model.read import SavedModel, open_checkpoint
from tfslim_core.weights import Array, Weight

_OBJECT_GRAPH = "_CHECKPOINTABLE_OBJECT_GRAPH"
_ASSIGNS = frozenset({"Assign", "AssignVariableOp"})
_HANDLES = frozenset({"VarHandleOp", "VariableV2", "Variable"})


@dataclass(frozen=True)
class Restored:
    """variables: the value of each variable, by the name of its node. State other than variables is in `others`.

    others: nodes that the restore op runs besides assigning variables (it fills a table, say), with the checkpoint's
    tensors as constants; `weights` are the large ones of these; `effects` are the nodes that have to run. keys: for a
    variable that gets a tensor as it is, the tensor's key, and which part of it ("" for all).
    """

    variables: Mapping[str, Weight]
    others: list[NodeDef]
    weights: Mapping[str, Weight]
    effects: list[str]
    keys: Mapping[str, tuple[str, str]] = field(default_factory=dict)


def restored(model: SavedModel, graph: Graph, restore_op: str, filename: str) -> Restored:
    """Follow the restore op of a graph whose calls are inlined.

    graph: holds the restore op and all it needs; `filename` is the tensor that the loader feeds with the prefix.

    Raises:
        ModelError: the checkpoint is damaged, or lacks a tensor that is restored.
    """
    if model.checkpoint is None:
        return Restored({}, [], {}, [])
    give_back_freed_memory()
    reader = open_checkpoint(model.checkpoint)
    inside = needed(graph, [restore_op])
    texts = {
        Input(name, port): text
        for name in graph.nodes
        if name in inside and graph.nodes[name].op == "RestoreV2"
        for port, text in enumerate(_restored_tensors(graph, graph.nodes[name], model))
    }
    values = {source: _from_checkpoint(reader, *text, model) for source, text in texts.items()}
    variables: dict[str, Weight] = {}
    keys: dict[str, tuple[str, str]] = {}
    effects = []
    for name in graph.nodes:
        node = graph.nodes[name]
        if name not in inside:
            continue
        if node.op in _ASSIGNS:
            target, source = data_inputs(node)[:2]
            variable = _variable(graph, target)
            variables[variable] = _value(graph, source, values, filename, model.checkpoint)
            if (direct := _through_identity(graph, source)) in texts:
                keys[variable] = texts[direct]
        elif ops.has_effect(node, graph.functions):
            effects.append(name)
    others, weights = _with_constants(graph, effects, values)
    return Restored(variables, others, weights, effects, keys)


def found_by_name(model: SavedModel, graph: Graph, known: Iterable[str]) -> dict[str, Weight]:
    """Values for resource variables that the restore op does not fill, out of the checkpoint's own object graph.

    tf.saved_model.save of a Keras 3 model writes such a model: its signatures read one set of variables, its restore op
    fills another of the same names, and no server can run it. Only a name that the checkpoint has once, with the
    variable's shape and dtype, is taken.
    """
    if model.checkpoint is None:
        return {}
    reader = open_checkpoint(model.checkpoint)
    known = set(known)
    lost = [node for node in graph.nodes.values() if node.op == "VarHandleOp" and node.name not in known]
    if not lost:
        return {}
    objects = _objects(model)
    keys: dict[str, set[str]] = {}
    for value in (value for node in objects.nodes for value in node.attributes):
        keys.setdefault(value.full_name, set()).add(value.checkpoint_key)
    found: dict[str, Weight] = {}
    for node in lost:
        named = keys.get(node.attr["shared_name"].s.decode(errors="replace"), set())
        if len(named) != 1 or not reader.has_tensor(key := next(iter(named))):
            continue
        weight = _from_checkpoint(reader, key, "", model)
        shape = tuple(dimension.size for dimension in node.attr["shape"].shape.dim)
        if weight.shape == shape and tf.as_dtype(weight.dtype) == tf.as_dtype(node.attr["dtype"].type):
            found[node.name] = weight
    return found


def full_names(model: SavedModel) -> dict[str, str]:
    """The names of variables by their checkpoint keys, as the checkpoint's object graph tells them, where it can be
    read: a server does without it.
    """
    try:
        objects = _objects(model)
    except ModelError:
        return {}
    return {value.checkpoint_key: value.full_name for node in objects.nodes for value in node.attributes}


def _objects(model: SavedModel) -> Any:
    """The checkpoint's object graph; an empty one where there is none."""
    nothing = trackable_object_graph_pb2.TrackableObjectGraph()
    if model.checkpoint is None:
        return nothing
    reader = open_checkpoint(model.checkpoint)
    if not reader.has_tensor(_OBJECT_GRAPH):
        return nothing
    try:
        return trackable_object_graph_pb2.TrackableObjectGraph.FromString(reader.get_tensor(_OBJECT_GRAPH))
    except (DecodeError, TypeError, tf.errors.OpError) as error:
        raise ModelError(f"{model.path}: the checkpoint's object graph is damaged: {one_line(error)}") from None


def _restored_tensors(graph: Graph, node: NodeDef, model: SavedModel) -> list[tuple[str, str]]:
    """Keys of the checkpoint, and which part of the tensor is read."""
    sources = data_inputs(node)
    try:
        keys, slices = (graph.value(_through_identity(graph, s).node).ravel() for s in sources[1:3])
        return [(k.decode(), s.decode()) for k, s in zip(keys.tolist(), slices.tolist(), strict=True)]
    except (AttributeError, ValueError):
        raise ModelError(f"{model.path}: {node.name!r} does not restore tensors by names and slices") from None


def _from_checkpoint(reader: Any, key: str, slice_spec: str, model: SavedModel) -> Weight:
    shapes, dtypes = reader.get_variable_to_shape_map(), reader.get_variable_to_dtype_map()
    if key not in shapes:
        raise ModelError(f"{model.path}: the variables files lack {key!r}, which the model restores")
    dtype = np.dtype(dtypes[key].as_numpy_dtype)
    shape = _shape(slice_spec, tuple(shapes[key]))

    def read() -> Array:
        try:
            # Unlike the reader's get_tensor, it reads a part alone, and its memory becomes the array's.
            (tensor,) = tf.raw_ops.RestoreV2(
                prefix=model.checkpoint, tensor_names=[key], shape_and_slices=[slice_spec], dtypes=[dtypes[key]]
            )
        except (tf.errors.OpError, ValueError) as error:
            raise ModelError(f"{model.path}: the variables files are damaged at {key!r}: {one_line(error)}") from None
        return np.asarray(tensor)

    return Weight(dtype, shape, read, origins=(key,))


def _shape(spec: str, full: tuple[int, ...]) -> tuple[int, ...]:
    """The shape of a part of a partitioned variable, "5000 70 0,2500:-": the whole's, then start,length or - each."""
    if not spec:
        return full
    lengths = (text.rpartition(",")[2] for text in spec.split(" ")[-1].split(":"))
    return tuple(size if length == "-" else int(length) for length, size in zip(lengths, full, strict=True))


def _through_identity(graph: Graph, source: Input) -> Input:
    while graph.nodes[source.node].op in ("Identity", "ReadVariableOp"):
        source = data_inputs(graph.nodes[source.node])[0]
    return source


def _variable(graph: Graph, target: Input) -> str:
    name = _through_identity(graph, target).node
    if graph.nodes[name].op not in _HANDLES:
        raise ModelError(f"the restore op assigns to {name!r} ({graph.nodes[name].op}), which is no variable")
    return name


def _value(graph: Graph, source: Input, values: Mapping[Input, Weight], filename: str, prefix: str) -> Weight:
    direct = _through_identity(graph, source)
    if direct in values:
        return values[direct]
    dtype, shape = _announced(graph, source)
    inside = needed(graph, [source.node])
    read = (other for name in inside for other in data_inputs(graph.nodes[name]) if other in values)
    origins = sorted({key for tensor in read for key in values[tensor].origins})
    return Weight(dtype, shape, partial(_computed, graph, source, filename, prefix), origins=tuple(origins))


def _announced(graph: Graph, source: Input) -> tuple[np.dtype[np.generic], tuple[int, ...]]:
    """What is assigned, by the variable that gets it."""
    for reader in graph.readers_of(source.node):
        node = graph.nodes[reader.node]
        if node.op in _ASSIGNS and reader.position == 1:
            variable = graph.nodes[_variable(graph, data_inputs(node)[0])]
            shape = tuple(d.size for d in variable.attr["shape"].shape.dim)
            return np.dtype(tf.as_dtype(variable.attr["dtype"].type).as_numpy_dtype), shape
    raise ModelError(f"nothing takes the restored tensor {source}")


def _computed(graph: Graph, source: Input, filename: str, prefix: str) -> Array:
    kept = needed(graph, [source.node])
    part = tf.compat.v1.GraphDef(versions=graph.rest.versions, library=graph.rest.library)
    for name in kept:
        node = graph.nodes[name]
        part.node.append(constant(name, graph.value(name))[0] if name in graph.weights else node)
    with tf.Graph().as_default() as scratch:
        tensor, feed = tf.import_graph_def(part, return_elements=[f"{source.node}:{source.port}", filename], name="")
        with tf.compat.v1.Session(graph=scratch) as session:
            value: Array = session.run(tensor, {feed: prefix})
    return value


def _with_constants(
    graph: Graph, effects: list[str], values: Mapping[Input, Weight]
) -> tuple[list[NodeDef], dict[str, Weight]]:
    """The nodes that the effects need, with the checkpoint's tensors in the place of its reading."""
    names = graph.fresh_names()
    made: dict[Input, str] = {}
    nodes: dict[str, NodeDef] = {}
    weights: dict[str, Weight] = {}

    def instead(source: Input) -> Input:
        if source not in values:
            return source
        if source not in made:
            made[source] = names(f"{source.node}/tensor_{source.port}")
            node, more = constant(made[source], values[source].read())
            nodes[node.name] = node
            weights.update(more)
            if len(values[source].shape) > 1:
                # What is restored has no static shape, and the import of a dense table's matrix is refused with one.
                made[source] = names(f"{node.name}/unshaped")
                dtype = tf.as_dtype(values[source].dtype)
                unshaped = make_node("PlaceholderWithDefault", made[source], [node.name], dtype=dtype)
                unshaped.attr["shape"].shape.unknown_rank = True
                nodes[unshaped.name] = unshaped
        return Input(made[source], 0)

    restores = {source.node for source in values}
    todo = list(effects)
    while todo:
        name = todo.pop()
        if name in nodes:
            continue
        sources = [parse_input(text) for text in graph.nodes[name].input]
        sources = [instead(source) for source in sources if not (source.port == CONTROL and source.node in restores)]
        nodes[name] = renamed(graph.nodes[name], name, sources)
        todo.extend(source.node for source in sources if source.node in graph.nodes)
    return list(nodes.values()), weights
