"""Write a bundle as a SavedModel that an unmodified server loads.

A large weight is a variable that the saver's restore op fills, so that the graph stays small and the weight is in
memory once. An encoded weight is decoded right there:

    restore_all <- AssignVariableOp(w, Mul(Cast(RestoreV2 "w/codes"), RestoreV2 "w/scale"))

The restore op is part of the graph and every loader runs it once, before the init op. The codes are never a variable,
so nothing has to free them, and requests read a float variable as they always did.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from tensorflow.core.framework import tensor_pb2
from tensorflow.core.protobuf import meta_graph_pb2, saved_model_pb2, saver_pb2

from tfslim_core import encodings
from tfslim_core.bundle import Bundle, copy_files
from tfslim_core.encodings.scheme import Form, Nodes
from tfslim_core.errors import ModelError
from tfslim_core.graph import Graph, Input, NameMaker, NodeDef, constant, control_inputs, make_node
from tfslim_core.loop_frames import brought_in, loops_around
from tfslim_core.one_line import one_line
from tfslim_core.origins import write_origins
from tfslim_core.quantization.placements import choose, place, use_of
from tfslim_core.saved_model.compact import compact
from tfslim_core.saved_model.freed_memory import give_back_freed_memory
from tfslim_core.weights import ALIGNMENT, Array, Weight

INLINE_BYTES = 16 * 1024  # a smaller weight stays a constant: a variable's nodes and index entry would weigh as much
SHARD_BYTES = 256 * 1024 * 1024  # as much of a checkpoint is in memory at once
FOLDED_BYTES = 10 * 1024 * 1024  # a larger constant is not folded when a session starts
RESTORE_BYTES = 16 * 1024 * 1024  # as much is read by one RestoreV2, whose tensors stay until all are assigned
_PROTOBUF_LIMIT = 2**31 - 1


@dataclass
class Servable:
    """The nodes of the servable, and what its checkpoint holds."""

    names: NameMaker
    nodes: list[NodeDef] = field(default_factory=list)
    tensors: dict[str, Weight] = field(default_factory=dict)  # checkpoint key -> value
    pending: list[_Restore] = field(default_factory=list)

    def store_as(self, keys: Mapping[str, str]) -> None:
        """Give tensors of the checkpoint other keys; some may then share one."""
        self.tensors = {keys.get(key, key): weight for key, weight in self.tensors.items()}
        self.pending = [
            replace(restore, keys={roles: keys.get(key, key) for roles, key in restore.keys.items()})
            for restore in self.pending
        ]


@dataclass(frozen=True)
class _Restore:
    """One variable to fill. keys: checkpoint keys by the roles that lead to a part; () where it is stored as it is."""

    variable: str
    ref: bool
    weight: Weight
    keys: Mapping[tuple[str, ...], str]


def write_saved_model(bundle: Bundle, directory: Path) -> Any:
    """Write the SavedModel into an empty directory; its GraphDef is returned.

    Raises:
        ModelError: a weight cannot be read, or what has to stay in the graph is beyond protobuf's 2 GiB.
    """
    servable = servable_of(bundle)
    copy_files(bundle.files, directory, [asset.filename for asset in bundle.manifest.assets])
    write_origins(directory, bundle.manifest)
    meta_graph = meta_graph_of(bundle, servable)
    write_meta_graphs([meta_graph], servable.tensors, directory)
    return meta_graph.graph_def


def write_meta_graphs(meta_graphs: Sequence[Any], tensors: Mapping[str, Weight], directory: Path) -> None:
    """Write saved_model.pb and, where there are variables, their checkpoint.

    Raises:
        ModelError: a weight cannot be read, or the MetaGraphs are beyond protobuf's 2 GiB.
    """
    proto = saved_model_pb2.SavedModel(saved_model_schema_version=1, meta_graphs=meta_graphs)
    if proto.ByteSize() > _PROTOBUF_LIMIT:
        raise ModelError("the graph is larger than 2 GiB without its weights; its functions hold large constants")
    if tensors:
        (directory / "variables").mkdir()
        write_checkpoint(directory / "variables" / "variables", tensors)
    (directory / "saved_model.pb").write_bytes(proto.SerializeToString(deterministic=True))


def meta_graph_of(bundle: Bundle, servable: Servable) -> Any:
    """The MetaGraphDef of a bundle whose nodes were made by `servable_of`; that is done with after this.

    Raises:
        ModelError: it is beyond protobuf's 2 GiB.
    """
    saver = _restoring(servable)
    meta_graph = meta_graph_pb2.MetaGraphDef()
    meta_graph.graph_def.CopyFrom(bundle.graph.rest)
    meta_graph.graph_def.node.extend(servable.nodes)
    compact(meta_graph.graph_def)
    if meta_graph.ByteSize() > _PROTOBUF_LIMIT:
        raise ModelError("the graph is larger than 2 GiB without its weights; its functions hold large constants")
    if saver is not None:
        meta_graph.saver_def.CopyFrom(saver)
    _describe(meta_graph, bundle)
    return meta_graph


def write_checkpoint(
    prefix: Path,
    tensors: Mapping[str, Weight],
    *,
    keys: Mapping[str, str] | None = None,
    slices: Mapping[str, str] | None = None,
) -> None:
    """Write a checkpoint, SHARD_BYTES of it in memory at a time; a tensor is never split.

    keys: what tensors are called there, where that is something else. slices: which part of the tensor of that name one
    is, as SaveV2 takes it.

    Raises:
        ModelError: the disk is full or cannot be written to.
    """
    give_back_freed_memory()
    with tempfile.TemporaryDirectory(prefix="shards-", dir=prefix.parent) as aside:
        try:
            shards = []
            for number, group in enumerate(_groups(tensors.items(), SHARD_BYTES)):
                shards.append(f"{aside}/{number}")
                values = [_tensor(weight.read()) for _, weight in group]
                tf.raw_ops.SaveV2(
                    prefix=shards[-1],
                    tensor_names=[(keys or {}).get(key, key) for key, _ in group],
                    shape_and_slices=[(slices or {}).get(key, "") for key, _ in group],
                    tensors=values,
                )
                del values
            tf.raw_ops.MergeV2Checkpoints(checkpoint_prefixes=shards, destination_prefix=str(prefix))
        except tf.errors.OpError as error:
            raise ModelError(f"{prefix.parent}: the variables cannot be written: {one_line(error)}") from None


def _tensor(value: Array) -> Any:
    """The array as a tensor, without a copy where TensorFlow can take its memory."""
    shareable = value.dtype.kind in "fiu" and value.flags.c_contiguous
    if shareable and value.nbytes and value.ctypes.data % ALIGNMENT == 0:
        same = np.asarray(_Writable(value))
        return tf.experimental.dlpack.from_dlpack(same.__dlpack__())
    return tf.constant(value)


class _Writable:
    """An array's memory as one that may be written to, which dlpack insists on; nobody does."""

    def __init__(self, value: Array) -> None:
        self.value = value
        self.__array_interface__ = {**value.__array_interface__, "data": (value.ctypes.data, False)}


def _groups(items: Iterable[tuple[str, Weight]], limit: int) -> Iterator[list[tuple[str, Weight]]]:
    """In order, as many as fit into `limit` bytes, and at least one, at a time."""
    group: list[tuple[str, Weight]] = []
    size = 0
    for key, weight in items:
        if group and size + weight.nbytes > limit:
            yield group
            group, size = [], 0
        group.append((key, weight))
        size += weight.nbytes
    if group:
        yield group


def servable_of(bundle: Bundle) -> Servable:
    """What a bundle's weights become: variables and the tensors of a checkpoint that fill them, or constants."""
    graph = bundle.graph
    servable = Servable(graph.fresh_names())
    for name, node in graph.nodes.items():
        if name in graph.weights:
            _place(servable, graph, node, graph.weights[name])
        else:
            servable.nodes.append(node)
            if name in bundle.variables:
                weight = bundle.variables[name]
                servable.tensors[name] = weight
                ref = node.op != "VarHandleOp"
                servable.pending.append(_Restore(name, ref, weight, {(): name}))
    return servable


def _place(servable: Servable, graph: Graph, node: NodeDef, weight: Weight) -> None:
    """A small weight as a constant, any other as a variable, which is read outside of loops of TensorFlow 1."""
    if weight.encoded is None and weight.nbytes < INLINE_BYTES:
        servable.nodes.append(inline_constant(node, weight))
        return
    name, dtype = node.name, tf.as_dtype(weight.dtype)
    handle = servable.names(f"{name}/handle")
    variable = make_node("VarHandleOp", handle, [], device=node.device, dtype=dtype, shared_name=name)
    variable.attr["shape"].shape.CopyFrom(tf.TensorShape(weight.shape).as_proto())
    servable.nodes += [variable, *reading(node, handle, dtype, graph, servable.names)]
    stored = {(): weight} if weight.encoded is None else encodings.leaves(weight.encoded)
    keys = {roles: "/".join((name, *roles)) for roles in stored}
    servable.tensors |= {keys[roles]: part for roles, part in stored.items()}
    servable.pending.append(_Restore(handle, False, weight, keys))


def reading(node: NodeDef, handle: str, dtype: tf.DType, graph: Graph, names: NameMaker) -> list[NodeDef]:
    """Nodes that read a variable where the constant `node` was, the last of its name."""
    if loops := loops_around(graph, node.name):
        # No variable can be read in a loop's frame.
        read = make_node("ReadVariableOp", names(f"{node.name}/read"), [handle], device=node.device, dtype=dtype)
        return [read, *brought_in(read.name, node, loops, dtype, names)]
    waits = [f"^{other}" for other in control_inputs(node)]
    return [make_node("ReadVariableOp", node.name, [handle, *waits], device=node.device, dtype=dtype)]


def inline_constant(node: NodeDef, weight: Weight) -> NodeDef:
    """The Const node with the weight's value in it, bit for bit: TensorFlow's own function hands a few floats through
    Python's, which makes quiet NaN of signalling ones.
    """
    made = tf.compat.v1.NodeDef()
    made.CopyFrom(node)
    value = weight.read()
    if value.dtype == object:
        tensor = tf.make_tensor_proto(value)
    else:
        tensor = tensor_pb2.TensorProto(dtype=tf.as_dtype(value.dtype).as_datatype_enum, tensor_content=value.tobytes())
        tensor.tensor_shape.CopyFrom(tf.TensorShape(value.shape).as_proto())
    made.attr["value"].tensor.CopyFrom(tensor)
    return made


def _restoring(servable: Servable) -> Any | None:
    """Add the restore op; the SaverDef that names it, or None when there is nothing to restore."""
    if not servable.pending:
        return None
    names, nodes = servable.names, servable.nodes
    filename = make_node("Placeholder", names("save/filename"), [], dtype=tf.string)
    filename.attr["shape"].shape.CopyFrom(tf.TensorShape([]).as_proto())
    nodes.append(filename)
    sources = _read_ops(servable, filename.name)
    done = []
    for restore in servable.pending:
        value = _decoded(servable, restore, sources)
        done.append(_assign(names, restore, value))
    nodes += done
    everything = make_node("NoOp", names("save/restore_all"), [f"^{node.name}" for node in done])
    nodes.append(everything)
    return saver_pb2.SaverDef(
        filename_tensor_name=f"{filename.name}:0",
        # Loaders want a name here; a servable is restored and never saved.
        save_tensor_name=f"{filename.name}:0",
        restore_op_name=everything.name,
        version=saver_pb2.SaverDef.V2,
    )


def _decoded(servable: Servable, restore: _Restore, sources: Mapping[str, Input]) -> Input:
    weight = restore.weight
    if weight.encoded is None:
        return sources[restore.keys[()]]
    nodes = Nodes(f"save/{restore.variable}", servable.names)
    form = Form(weight.dtype, weight.shape)
    value = encodings.decoding(nodes, weight.encoded, form, lambda roles, _: sources[restore.keys[roles]])
    servable.nodes += nodes.made
    return value


def _assign(names: NameMaker, restore: _Restore, value: Input) -> NodeDef:
    name = names(f"save/{restore.variable}/assign")
    dtype = tf.as_dtype(restore.weight.dtype)
    if restore.ref:
        return make_node("Assign", name, [restore.variable, value], T=dtype)
    return make_node("AssignVariableOp", name, [restore.variable, value], dtype=dtype)


def _read_ops(servable: Servable, filename: str) -> dict[str, Input]:
    """RestoreV2 nodes for every tensor of the checkpoint; where each key comes out."""
    sources: dict[str, Input] = {}
    for group in _groups(servable.tensors.items(), RESTORE_BYTES):
        name = servable.names("save/RestoreV2")
        keys, _ = constant(f"{name}/tensor_names", np.array([key.encode() for key, _ in group], object))
        slices, _ = constant(f"{name}/shape_and_slices", np.array([b""] * len(group), object))
        read = make_node("RestoreV2", name, [filename, keys.name, slices.name])
        read.attr["dtypes"].list.type.extend(tf.as_dtype(weight.dtype).as_datatype_enum for _, weight in group)
        servable.nodes += [keys, slices, read]
        sources |= {key: Input(name, port) for port, (key, _) in enumerate(group)}
    return sources


def _describe(meta_graph: Any, bundle: Bundle) -> None:
    """Tags, signatures, init op and assets, in each place where some loader looks for them."""
    manifest = bundle.manifest
    meta_graph.meta_info_def.tags.extend(manifest.tags)
    meta_graph.meta_info_def.tensorflow_version = manifest.source.tensorflow_version
    meta_graph.meta_info_def.stripped_default_attrs = True
    for name, signature in manifest.signature_defs().items():
        meta_graph.signature_def[name].CopyFrom(signature)
    if manifest.init_op:
        # Every loader looks here. A signature `tf.saved_model.load` would make a function of, which misses the assets.
        meta_graph.collection_def["saved_model_main_op"].node_list.value.append(manifest.init_op)
    for asset in manifest.assets:
        made = meta_graph.asset_file_def.add(filename=asset.filename)
        made.tensor_info.name = asset.tensor
        meta_graph.collection_def["saved_model_assets"].any_list.value.add().Pack(made)


def with_values(graph: Graph) -> Any:
    """The GraphDef with every weight's value in it; an encoded one as it is stored, decoded by nodes of the graph.

    Where TensorFlow would decode a table on each request that only gathers from it, the gathered rows are decoded.

    Raises:
        ModelError: that would be larger than protobuf's 2 GiB.
    """
    whole = _with_decoding(graph)
    size = sum(weight.nbytes for weight in whole.weights.values())
    if size > _PROTOBUF_LIMIT:
        raise ModelError(f"the weights take {size:,} bytes; a GraphDef holds at most 2 GiB: keep the bundle")
    graph_def = tf.compat.v1.GraphDef()
    graph_def.CopyFrom(whole.rest)
    for name, node in whole.nodes.items():
        graph_def.node.append(inline_constant(node, whole.weights[name]) if name in whole.weights else node)
    return graph_def


def _with_decoding(graph: Graph) -> Graph:
    """The graph with what weights are stored as for constants, and the nodes that decode them."""
    names = graph.fresh_names()
    edits = []
    weights = {}
    for name, weight in graph.weights.items():
        if weight.encoded is None:
            continue
        use = use_of(graph, name)
        large = use.gathered and weight.nbytes > FOLDED_BYTES and name not in graph.interface
        if large and not encodings.by_row(weight.encoded.encoding):
            weights[name] = _as_it_is(weight)  # codes: nothing unpacks a few rows of them
            continue
        rows = large and choose(use, weight, "rows")[0] == "rows"
        edit = place(graph, names, name, weight, use, "rows" if rows else "graph")
        edits.append(edit)
        weights |= {name: _as_it_is(weight) for name, weight in edit.weights.items()}
    if not weights:
        return graph
    return graph.replace(
        chain.from_iterable(edit.nodes for edit in edits),
        chain.from_iterable(edit.drop for edit in edits),
        weights=weights,
    )


def _as_it_is(weight: Weight) -> Weight:
    return replace(weight, encoded=None)


def write_graph_def(bundle: Bundle, file: Path) -> Any:
    """Write a plain frozen graph, for tools that want one; signatures, tables' initial values and assets go. It is
    returned too.

    Raises:
        ModelError: it would be larger than 2 GiB.
    """
    graph_def = with_values(bundle.graph)
    file.write_bytes(graph_def.SerializeToString(deterministic=True))
    return graph_def
