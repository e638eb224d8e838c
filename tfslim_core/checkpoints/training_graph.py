"""A MetaGraph to train on: the graph that answers, with variables where constants were, and a saver that fills them.

    Const w  ->  VarHandleOp w, ReadVariableOp w/read; with w/Assign and zeros for an initializer

It is what tf.compat.v1.train.import_meta_graph takes: the collections list the variables, the trainable ones, the op
that fills tables and the paths of assets. Variables start as zeros: restore after initializing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from tensorflow.core.framework import variable_pb2
from tensorflow.core.protobuf import meta_graph_pb2

from tfslim_core.bundle import Bundle
from tfslim_core.checkpoints.trainable import Variable
from tfslim_core.graph import Graph, NameMaker, NodeDef, constant, make_node, parse_input
from tfslim_core.renaming import why_name_stays, with_names
from tfslim_core.saved_model.write import inline_constant, reading

tf1 = tf.compat.v1
Definition = tuple[Any, str, bool]  # a VariableDef, its key in the checkpoint, whether it is a part


def training_meta_graph(bundle: Bundle, graph: Graph, variables: Sequence[Variable], assets: Path) -> Any:
    """The MetaGraphDef. graph: the bundle's, with plain constants. assets: the folder that its paths lead to."""
    named, places = _with_room(graph, variables)
    nodes, definitions = _nodes(bundle, named, places)
    fed = {parse_input(asset.tensor).node: assets / asset.filename for asset in bundle.manifest.assets}
    graph_def = tf1.GraphDef()
    graph_def.CopyFrom(named.rest)
    for node in nodes:
        path = fed.get(node.name)
        graph_def.node.append(node if path is None else constant(node.name, np.array(str(path).encode(), object))[0])
    bare = meta_graph_pb2.MetaGraphDef(graph_def=graph_def)
    # Without a saver of its own the import would make one, by node names and never asked for.
    for field in ("filename_tensor_name", "save_tensor_name", "restore_op_name"):
        setattr(bare.saver_def, field, "none")
    for definition, _, _ in definitions:
        for collection in ("variables", "trainable_variables")[: 1 + definition.trainable]:
            bare.collection_def[collection].bytes_list.value.append(definition.SerializeToString())
    if bundle.graph.targets:
        bare.collection_def[tf1.GraphKeys.TABLE_INITIALIZERS].node_list.value.extend(bundle.graph.targets)
    if bundle.manifest.assets:
        paths = [asset.tensor for asset in bundle.manifest.assets]
        bare.collection_def[tf1.GraphKeys.ASSET_FILEPATHS].node_list.value.extend(paths)
    with tf.Graph().as_default():
        tf1.train.import_meta_graph(bare)
        made = tf1.train.export_meta_graph(saver_def=_saver(definitions), strip_default_attrs=True)
    for name, signature in bundle.manifest.signature_defs().items():
        made.signature_def[name].CopyFrom(signature)
    made.meta_info_def.tags.extend(bundle.manifest.tags)
    result: Any = meta_graph_pb2.MetaGraphDef.FromString(made.SerializeToString(deterministic=True))
    return result


def _saver(definitions: Sequence[Definition]) -> Any:
    """The SaverDef of a new saver for the graph's variables, by their keys."""
    live = {variable.name: variable for variable in tf1.global_variables()}
    saved: dict[str, Any] = {}
    for definition, key, sliced in definitions:
        if sliced:
            saved.setdefault(key, []).append(live[definition.variable_name])
        else:
            saved[key] = live[definition.variable_name]
    return tf1.train.Saver(saved).as_saver_def()


def _with_room(graph: Graph, variables: Sequence[Variable]) -> tuple[Graph, dict[str, tuple[Variable, str]]]:
    """The graph with the variables' names free where they can be; by constant as it is called now, its variable and the
    name that this one gets.
    """
    names = graph.fresh_names()
    moved: dict[str, str] = {}
    owned: list[tuple[str, Variable, str]] = []
    for variable in variables:
        own = variable.name
        if own in graph.nodes:
            if why_name_stays(graph, own):
                own = names(f"{own}/variable")
            else:
                moved[own] = names(f"{own}/read")
        owned += [(const, variable, own) for const in variable.consts]
    return with_names(graph, moved), {moved.get(const, const): (variable, own) for const, variable, own in owned}


def _nodes(
    bundle: Bundle, graph: Graph, places: Mapping[str, tuple[Variable, str]]
) -> tuple[list[NodeDef], list[Definition]]:
    names = _Names(graph, [own for _, own in places.values()])
    made: list[NodeDef] = []
    definitions: dict[str, Definition] = {}
    for name, node in graph.nodes.items():
        if name in places:
            variable, own = places[name]
            dtype = tf.as_dtype(variable.weight.dtype)
            if own not in definitions:
                definitions[own] = _added(made, names, own, variable)
            made += reading(node, own, dtype, graph, names)
            continue
        made.append(inline_constant(node, graph.weights[name]) if name in graph.weights else node)
        if name in bundle.variables:
            weight = bundle.variables[name]
            ref = node.op != "VarHandleOp"
            kept = _defined(made, names, name, tf.as_dtype(weight.dtype), weight.shape, trainable=False, ref=ref)
            definitions[name] = (kept, name, False)
    return made, list(definitions.values())


def _added(made: list[NodeDef], names: NameMaker, own: str, variable: Variable) -> Definition:
    """The definition of a variable; its nodes are added."""
    dtype, shape = tf.as_dtype(variable.weight.dtype), variable.weight.shape
    handle = make_node("VarHandleOp", own, [], dtype=dtype, shared_name=own)
    handle.attr["shape"].shape.CopyFrom(tf.TensorShape(shape).as_proto())
    made.append(handle)
    definition = _defined(made, names, own, dtype, shape, variable.trainable)
    if variable.part:
        definition.save_slice_info_def.CopyFrom(_slice_info(variable))
    return definition, variable.key, bool(variable.part)


class _Names(NameMaker):
    """Names that neither a node has nor a variable that is yet to be made."""

    def __init__(self, graph: Graph, reserved: Sequence[str]) -> None:
        super().__init__(graph.nodes)
        self._given.update(reserved)


def _defined(
    made: list[NodeDef],
    names: NameMaker,
    own: str,
    dtype: tf.DType,
    shape: Sequence[int],
    trainable: bool,
    ref: bool = False,
) -> Any:
    """A variable's definition; the nodes that it needs are added."""
    sizes, _ = constant(names(f"{own}/Initializer/zeros/shape"), np.array(shape, np.int32))
    zero, _ = constant(
        names(f"{own}/Initializer/zeros/Const"), np.zeros((), object if dtype == tf.string else dtype.as_numpy_dtype)
    )
    if dtype == tf.string:
        zero, _ = constant(zero.name, np.array(b"", object))
    zeros = make_node("Fill", names(f"{own}/Initializer/zeros"), [sizes.name, zero.name], T=dtype, index_type=tf.int32)
    op, attribute = ("Assign", "T") if ref else ("AssignVariableOp", "dtype")
    assign = make_node(op, names(f"{own}/Assign"), [own, zeros.name], **{attribute: dtype})
    op, attribute = ("Identity", "T") if ref else ("ReadVariableOp", "dtype")
    read = make_node(op, names(f"{own}/Read/{op}"), [own], **{attribute: dtype})
    made += [sizes, zero, zeros, assign, read]
    return variable_pb2.VariableDef(
        variable_name=f"{own}:0",
        initial_value_name=f"{zeros.name}:0",
        initializer_name=assign.name,
        snapshot_name=f"{read.name}:0",
        is_resource=not ref,
        trainable=trainable,
    )


def _slice_info(variable: Variable) -> Any:
    *sizes, text = variable.part.split(" ")
    full = [int(size) for size in sizes]
    extents = [
        (0, size) if part == "-" else tuple(map(int, part.split(",")))
        for part, size in zip(text.split(":"), full, strict=True)
    ]
    return variable_pb2.SaveSliceInfoDef(
        full_name=variable.key,
        full_shape=full,
        var_offset=[start for start, _ in extents],
        var_shape=[length for _, length in extents],
    )
