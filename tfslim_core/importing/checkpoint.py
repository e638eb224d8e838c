"""A checkpoint and its graph as a SavedModel: the graph's served part, and a restore op for what that part needs.

The checkpoint's files get a second name rather than being written again; what training alone needs, such as an
optimizer's slots, stays in them unread. What a variable is called in the checkpoint is read off the graph's own saver
where it has one (a saver may rename, and reads parts of partitioned variables); else it is the variable's name.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from google.protobuf.message import DecodeError
from tensorflow.core.protobuf import trackable_object_graph_pb2

from tfslim_core import ops
from tfslim_core.errors import GraphError, ModelError, nearest
from tfslim_core.graph import Input, NameMaker, NodeDef, constant, data_inputs, make_node, rewired
from tfslim_core.importing.from_graph import VARIABLES, Restoring, one_signature, write_saved_model
from tfslim_core.importing.interface import Nodes, find
from tfslim_core.importing.mending import mend
from tfslim_core.importing.meta_graph import declared_signatures
from tfslim_core.importing.protos import graphs_in, read_graph_proto, text_kind
from tfslim_core.importing.recognize import files_of, index_of
from tfslim_core.importing.scratch import link_checkpoint
from tfslim_core.one_line import one_line
from tfslim_core.saved_model.read import open_checkpoint

_OBJECT_GRAPH = "_CHECKPOINTABLE_OBJECT_GRAPH"
_ASSIGNS = frozenset({"Assign", "AssignVariableOp"})
_RESTORES = frozenset({"RestoreV2", "Restore", "RestoreSlice"})
_LISTED = 5


@dataclass(frozen=True)
class _Place:
    """Where a value is in the checkpoint: a key, and for a part of a partitioned variable which part."""

    key: str
    part: str = ""


def convert(
    prefix: Path,
    folder: Path,
    graph: Path | None,
    inputs: Sequence[str] | None,
    outputs: Sequence[str] | None,
    tags: Sequence[str],
) -> list[str]:
    """Write the SavedModel into an empty folder; what was seen and done.

    graph: a .meta, .pb or .pbtxt file; without it the .meta of the checkpoint, else the one graph beside it.

    Raises:
        ModelError, GraphError: the checkpoint or the graph is damaged, or they do not fit each other.
    """
    _variables(prefix, folder)
    keys = _Keys(prefix, open_checkpoint(str(folder / "variables" / "variables")))
    file = graph if graph is not None else _graph_beside(prefix, keys)
    proto = read_graph_proto(file)
    meta_graph = proto if isinstance(proto, tf.compat.v1.MetaGraphDef) else None
    if meta_graph is None and not isinstance(proto, tf.compat.v1.GraphDef):
        raise ModelError(f"{file} is a SavedModel, which has variables of its own: give it instead of {prefix}")
    graph_def = meta_graph.graph_def if meta_graph is not None else proto
    seen = [f"the graph of {file.name} ({len(graph_def.node):,} nodes), {len(keys.shapes)} tensors in {prefix.name}"]
    mended = mend(graph_def, meta_graph.meta_info_def.stripped_op_list.op if meta_graph is not None else ())
    signatures: dict[str, Any] = {}
    if meta_graph is not None and not inputs and not outputs:
        signatures = declared_signatures(meta_graph)
        mended += [f"signatures of the MetaGraph: {', '.join(sorted(signatures))}"] * bool(signatures)
    if not signatures:
        interface = find(graph_def, inputs, outputs)
        signatures, mended = one_signature(interface), [*interface.notes, *mended]
    saver = meta_graph.saver_def if meta_graph is not None else None
    restorer = partial(_restoring, Nodes(graph_def), saver, keys)
    said = write_saved_model(folder, prefix, graph_def, signatures, tags, restorer, prefix.parent)
    return [*seen, *mended, *said]


def _variables(prefix: Path, folder: Path) -> None:
    """The checkpoint below variables/: linked, or written anew where it is of the format before TensorFlow 0.12."""
    if index_of(prefix).is_file():
        files = files_of(prefix)
        if len(files) == 1:
            raise ModelError(f"{prefix}: {prefix.name}.data-00000-of-00001 is missing beside {index_of(prefix).name}")
        link_checkpoint(files, prefix, folder)
        return
    if not files_of(prefix):
        raise ModelError(f"{prefix}: there is no checkpoint of that name: {index_of(prefix).name} is missing")
    source = str(prefix) if prefix.is_file() else f"{prefix}-?????-of-?????"
    reader = open_checkpoint(source)
    parts = []
    (folder / "variables").mkdir()
    for number, (key, _) in enumerate(sorted(reader.get_variable_to_shape_map().items())):
        parts.append(str(folder / f"variables/part{number}"))
        try:
            tf.raw_ops.SaveV2(
                prefix=parts[-1],
                tensor_names=[key],
                shape_and_slices=[""],
                tensors=[tf.constant(reader.get_tensor(key))],
            )
        except (tf.errors.OpError, ValueError, RuntimeError) as error:
            raise ModelError(f"{prefix}: the checkpoint is damaged at {key!r}: {one_line(error)}") from None
    tf.raw_ops.MergeV2Checkpoints(
        checkpoint_prefixes=parts, destination_prefix=str(folder / "variables/variables"), delete_old_dirs=False
    )


class _Keys:
    """What is in a checkpoint."""

    def __init__(self, prefix: Path, reader: Any) -> None:
        self.prefix = prefix
        self.shapes: Mapping[str, Sequence[int]] = reader.get_variable_to_shape_map()
        self.object_based = _OBJECT_GRAPH in self.shapes
        self._reader = reader
        self._full_names: dict[str, set[str]] | None = None

    def of(self, name: str) -> str | None:
        """The key of a variable, by its name; an object-based checkpoint has that name beside the key."""
        if name in self.shapes:
            return name
        if not self.object_based:
            return None
        if self._full_names is None:
            self._full_names = {}
            try:
                packed = self._reader.get_tensor(_OBJECT_GRAPH)
                objects = trackable_object_graph_pb2.TrackableObjectGraph.FromString(packed)
            except (DecodeError, TypeError, tf.errors.OpError, RuntimeError, ValueError) as error:
                raise ModelError(
                    f"{self.prefix}: the checkpoint's object graph is damaged: {one_line(error)}"
                ) from None
            for value in (value for node in objects.nodes for value in node.attributes):
                self._full_names.setdefault(value.full_name, set()).add(value.checkpoint_key)
        keys = self._full_names.get(name, set())
        return next(iter(keys)) if len(keys) == 1 else None


def _graph_beside(prefix: Path, keys: _Keys) -> Path:
    """The .meta of the checkpoint, else the one graph in its folder."""
    meta = prefix.with_name(prefix.name + ".meta")
    if meta.is_file():
        return meta
    found = [file for file in sorted(prefix.parent.iterdir()) if file.is_file() and _is_graph(file)]
    if len(found) == 1:
        return found[0]
    if found:
        raise ModelError(f"{prefix}: there are several graphs beside it, choose with --graph: {_names(found)}")
    if keys.object_based:
        raise ModelError(
            f"{prefix} is a checkpoint of objects (tf.train.Checkpoint or save_weights), which holds weights and no "
            "graph: build the model, load this into it, and save it as .keras or with tf.saved_model.save"
        )
    raise ModelError(
        f"{prefix} holds weights and no graph, and there is no {meta.name} beside it: give one with --graph"
    )


def _names(files: Iterable[Path]) -> str:
    return ", ".join(file.name for file in files)


def _is_graph(file: Path) -> bool:
    if file.suffix not in (".pb", ".pbtxt", ".meta"):
        return False
    try:
        with file.open("rb") as opened:
            if file.suffix == ".pbtxt" and text_kind(opened.read(4096)) is None:
                return False
        return bool(graphs_in(read_graph_proto(file)))
    except (ModelError, OSError):
        return False


def _restoring(nodes: Nodes, saver: Any, keys: _Keys, wanted: Collection[str], names: NameMaker) -> Restoring:
    """The restore op for the variables and tables among the nodes that are wanted."""
    made: list[NodeDef] = []
    run: list[str] = []
    prefix = make_node("Const", names("restore/prefix"), [], dtype=tf.string)
    prefix.attr["value"].tensor.CopyFrom(tf.make_tensor_proto(b"model"))
    saved = _saved(nodes, saver)
    variables = [name for name in nodes.by_name if name in wanted and nodes.by_name[name].op in VARIABLES]
    places = {name: _place(nodes.by_name[name], saved.get(name), keys) for name in variables}
    for name, place in places.items():
        value, more = _read(prefix.name, place, _dtype(nodes.by_name[name]), names)
        made += more
        assign = names(f"restore/{name}")
        made.append(_assign(nodes.by_name[name], assign, value))
        run.append(assign)
    for node in _other_effects(nodes, saver, wanted):
        moved: dict[Input, Input] = {}
        for source in data_inputs(node):
            if restored := _restored_tensor(nodes, source):
                place, dtype = restored
                if place.key not in keys.shapes:
                    raise _lacks(keys, place.key, node.name)
                value, more = _read(prefix.name, place, dtype, names)
                made += more
                moved[source] = Input(value, 0)
        copy = rewired(node, moved)
        made.append(_copied(copy, names(f"restore/{node.name}")))
        run.append(made[-1].name)
    if not run:
        return Restoring()
    everything = make_node("NoOp", names("restore/all"), [f"^{name}" for name in run])
    return Restoring([prefix, *made, everything], everything.name, prefix.name)


def _copied(node: NodeDef, name: str) -> NodeDef:
    copy = tf.compat.v1.NodeDef()
    copy.CopyFrom(node)
    copy.name = name
    copy.input[:] = [text for text in copy.input if not text.startswith("^")]
    return copy


def _place(node: NodeDef, saved: _Place | None, keys: _Keys) -> _Place:
    """Where a variable's value is.

    Raises:
        ModelError: it is not there, or has another shape.
    """
    if saved is not None and saved.key in keys.shapes:
        if not saved.part:
            _check_shape(node, saved.key, keys)
        return saved
    shared = node.attr["shared_name"].s.decode(errors="replace") if node.op == "VarHandleOp" else ""
    for name in filter(None, (shared, node.name)):
        key = keys.of(name)
        if key is not None:
            _check_shape(node, key, keys)
            return _Place(key)
    raise _lacks(keys, saved.key if saved is not None else shared or node.name, node.name)


def _lacks(keys: _Keys, key: str, reader: str) -> ModelError:
    some = ", ".join(sorted(keys.shapes)[:_LISTED])
    return ModelError(
        f"{keys.prefix}: the checkpoint has no tensor {key!r} for {reader!r}, which the outputs need"
        f"{nearest(key, keys.shapes)} (it has {len(keys.shapes)}: {some}{', …' if len(keys.shapes) > _LISTED else ''})"
    )


def _check_shape(node: NodeDef, key: str, keys: _Keys) -> None:
    shape = node.attr["shape"].shape
    if "shape" not in node.attr or shape.unknown_rank or any(d.size < 0 for d in shape.dim):
        return
    expected, found = [d.size for d in shape.dim], list(keys.shapes[key])
    if expected != found and not (node.op != "VarHandleOp" and not expected):  # an old graph's () may mean unknown
        raise ModelError(
            f"{keys.prefix}: the graph's variable {node.name!r} has the shape {expected}, the checkpoint's {key!r} "
            f"{found}: they are of different models"
        )


def _dtype(node: NodeDef) -> int:
    try:
        return int(tf.as_dtype(node.attr["dtype"].type).as_datatype_enum)
    except TypeError:
        raise GraphError(f"the variable {node.name!r} has no dtype") from None


def _read(prefix: str, place: _Place, dtype: int, names: NameMaker) -> tuple[str, list[NodeDef]]:
    """Nodes that read a value, and the name of the one that gives it."""
    wish = f"restore/{place.key}".replace(" ", "_")
    key, _ = constant(names("restore/key"), np.array([place.key.encode()], object))
    part, _ = constant(names("restore/part"), np.array([place.part.encode()], object))
    node = make_node("RestoreV2", names(_as_name(wish) + "/read"), [prefix, key.name, part.name])
    node.attr["dtypes"].list.type.append(dtype)
    return node.name, [key, part, node]


def _as_name(text: str) -> str:
    return "".join(c if (c.isalnum() and c.isascii()) or c in "/._-" else "_" for c in text)


def _assign(variable: NodeDef, name: str, value: str) -> NodeDef:
    dtype = tf.as_dtype(_dtype(variable))
    if variable.op == "VarHandleOp":
        return make_node("AssignVariableOp", name, [variable.name, value], dtype=dtype)
    return make_node("Assign", name, [variable.name, value], T=dtype, validate_shape=True, use_locking=False)


def _saved(nodes: Nodes, saver: Any) -> dict[str, _Place]:
    """Where the graph's saver puts each variable."""
    found: dict[str, _Place] = {}
    for name in _restore_part(nodes, saver):
        node = nodes.by_name[name]
        if node.op in _ASSIGNS and len(data_inputs(node)) > 1:
            target, source = data_inputs(node)[:2]
            place = _restored_tensor(nodes, source)
            variable = _through(nodes, target).node
            if place is not None and variable in nodes.by_name and nodes.by_name[variable].op in VARIABLES:
                found[variable] = place[0]
    return found


def _other_effects(nodes: Nodes, saver: Any, wanted: Collection[str]) -> list[NodeDef]:
    """What the saver restores besides variables, such as the content of a mutable table, where that is wanted."""
    return [
        node
        for node in (nodes.by_name[name] for name in _restore_part(nodes, saver))
        if node.op not in _ASSIGNS
        and ops.has_effect(node, nodes.functions)
        and data_inputs(node)
        and data_inputs(node)[0].node in wanted
    ]


def _restore_part(nodes: Nodes, saver: Any) -> list[str]:
    name = saver.restore_op_name.split(":")[0] if saver is not None else ""
    wanted = nodes.before([name]) if name else set()
    return [name for name in nodes.by_name if name in wanted]


def _through(nodes: Nodes, source: Input) -> Input:
    seen: set[Input] = set()
    while source not in seen and source.node in nodes.by_name:
        seen.add(source)
        node = nodes.by_name[source.node]
        if node.op in ("Identity", "ReadVariableOp", "Reshape") and data_inputs(node):
            source = data_inputs(node)[0]
    return source


def _restored_tensor(nodes: Nodes, source: Input) -> tuple[_Place, int] | None:
    """What a tensor of the saver's is read from, and its dtype; None where it is computed in another way."""
    source = _through(nodes, source)
    node = nodes.by_name.get(source.node)
    if node is None or node.op not in _RESTORES:
        return None
    sources = data_inputs(node)
    if len(sources) < 2:
        return None
    keys = _strings(nodes, sources[1])
    parts = _strings(nodes, sources[2]) if len(sources) > 2 else [""] * len(keys)
    if source.port >= min(len(keys), len(parts)):
        return None
    dtypes = list(node.attr["dtypes"].list.type) if node.op == "RestoreV2" else [node.attr["dt"].type]
    if source.port >= len(dtypes):
        return None
    return _Place(keys[source.port], parts[source.port]), int(dtypes[source.port])


def _strings(nodes: Nodes, source: Input) -> list[str]:
    node = nodes.by_name.get(_through(nodes, source).node)
    if node is None or node.op != "Const":
        return []
    try:
        texts = tf.make_ndarray(node.attr["value"].tensor).ravel().tolist()
    except (ValueError, TypeError):
        return []
    return [text.decode(errors="replace") for text in texts if isinstance(text, bytes)]
