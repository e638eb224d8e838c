"""Read a SavedModel's MetaGraph as a server does: by its protobuf, never by running it.

`tf.saved_model.load` rebuilds Python objects and fails on many models that a server serves well (optimizer state of
Keras 2, for one); nothing here depends on the object graph.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tensorflow as tf
from google.protobuf.message import DecodeError
from google.protobuf.text_format import Parse, ParseError
from tensorflow.core.protobuf import meta_graph_pb2, saved_model_pb2

from tfslim_core.claims import check_claims
from tfslim_core.errors import GraphError, ModelError, nearest
from tfslim_core.one_line import one_line
from tfslim_core.saved_model.checkpoint_index import check_index
from tfslim_core.saved_model.unfolding import check_unfolding
from tfslim_core.storage import inside

INIT_SIGNATURE = "__saved_model_init_op"
_RESERVED = "__saved_model_"  # signatures under such names are the loader's own


@dataclass(frozen=True)
class Asset:
    """A file that the graph gets the path of: `tensor` is fed with it when the init op runs."""

    tensor: str
    filename: str


@dataclass(frozen=True)
class SavedModel:
    """One MetaGraph of a SavedModel on disk.

    signatures: the asked ones, by name, as SignatureDefs. init_op: the node that the loader runs once after restoring.
    checkpoint: the prefix of the variables files, or None when there are none.
    """

    path: Path
    tags: tuple[str, ...]
    meta_graph: Any
    signatures: dict[str, Any]
    init_op: str | None
    assets: tuple[Asset, ...]
    checkpoint: str | None


def read_saved_model(path: str | os.PathLike[str], tags: Sequence[str], signatures: Sequence[str] | None) -> SavedModel:
    """Open the MetaGraph with exactly these tags; `signatures` None means all.

    Raises:
        ModelError: no such directory, not a SavedModel, a damaged one, a tag set or signature that it does not have,
            or a file of the model that lies outside of it.
    """
    root = Path(path)
    meta_graph = _with_tags(parse_saved_model(root), tags, root)
    _check_claims(meta_graph, root)
    assets = tuple(Asset(asset.tensor_info.name, asset.filename) for asset in asset_defs(meta_graph))
    for asset in assets:
        inside(root / "assets", asset.filename, root)
    return SavedModel(
        path=root,
        tags=tuple(sorted(tags)),
        meta_graph=meta_graph,
        signatures=_chosen(meta_graph, signatures, root),
        init_op=_init_op(meta_graph),
        assets=assets,
        checkpoint=_checkpoint(root),
    )


def read_tag_sets(path: str | os.PathLike[str]) -> list[tuple[str, ...]]:
    """The tags of each MetaGraph of a SavedModel, sorted.

    Raises:
        ModelError: as `read_saved_model`.
    """
    return [tuple(sorted(meta_graph.meta_info_def.tags)) for meta_graph in parse_saved_model(Path(path)).meta_graphs]


def parse_saved_model(root: Path) -> Any:
    """The SavedModel message in a directory, with all its MetaGraphs.

    Raises:
        ModelError: no such directory, not a SavedModel, or a damaged one.
    """
    if not root.is_dir():
        raise ModelError(f"{root}: no such directory" if not root.exists() else f"{root} is a file, not a SavedModel")
    binary, text = root / "saved_model.pb", root / "saved_model.pbtxt"
    proto = saved_model_pb2.SavedModel()
    try:
        if binary.exists():
            proto.ParseFromString(inside(root, binary.name, root).read_bytes())
        elif text.exists():
            Parse(inside(root, text.name, root).read_text(), proto)
        else:
            raise ModelError(f"{root} is not a SavedModel: it holds no saved_model.pb")
    except (DecodeError, ParseError, RecursionError, ValueError) as error:
        raise ModelError(f"{root}: saved_model.pb cannot be parsed: {one_line(error)}") from None
    except OSError as error:
        raise ModelError(f"{root}: saved_model.pb cannot be read: {error.strerror}") from None
    if not proto.meta_graphs:
        raise ModelError(f"{root}: saved_model.pb holds no MetaGraph")
    return proto


def _with_tags(proto: Any, tags: Sequence[str], root: Path) -> Any:
    for meta_graph in proto.meta_graphs:
        if set(meta_graph.meta_info_def.tags) == set(tags):
            return meta_graph
    known = "; ".join(",".join(sorted(m.meta_info_def.tags)) or "(no tags)" for m in proto.meta_graphs)
    raise ModelError(
        f"{root} has no MetaGraph with the tags {','.join(sorted(tags))}, choose with --tags; it has: {known}"
    )


def _chosen(meta_graph: Any, names: Sequence[str] | None, root: Path) -> dict[str, Any]:
    servable = {key: value for key, value in sorted(meta_graph.signature_def.items()) if not key.startswith(_RESERVED)}
    for name in names or ():
        if name not in servable:
            known = ", ".join(servable) or "none"
            raise ModelError(f"{root} has no signature {name!r}{nearest(name, servable)} (it has: {known})")
    chosen = servable if names is None else {name: servable[name] for name in sorted(set(names))}
    if not chosen:
        raise ModelError(f"{root} has no signature to serve")
    return chosen


def _check_claims(meta_graph: Any, root: Path) -> None:
    """Before anything runs the graph: what a constant claims TensorFlow allocates, and it unfolds calls."""
    graph_def = meta_graph.graph_def
    bodies = (graph_def.node, *(function.node_def for function in graph_def.library.function))
    constants = (node for body in bodies for node in body if node.op == "Const" and "value" in node.attr)
    try:
        check_claims((node.name, node.attr["value"].tensor) for node in constants)
        check_unfolding(graph_def)
    except (GraphError, ModelError) as error:
        raise ModelError(f"{root}: {error}") from None


def _init_op(meta_graph: Any) -> str | None:
    """In the order that the C++ loader looks: the reserved signature, then the two collections."""
    if INIT_SIGNATURE in meta_graph.signature_def:
        outputs = list(meta_graph.signature_def[INIT_SIGNATURE].outputs.values())
        if not outputs:
            raise ModelError(f"the signature {INIT_SIGNATURE} names no node, where the loader expects the init op")
        return str(outputs[0].name.split(":")[0])
    for key in ("saved_model_main_op", "legacy_init_op"):
        values = list(meta_graph.collection_def[key].node_list.value) if key in meta_graph.collection_def else []
        if values:
            return str(values[0]).split(":")[0]
    return None


def asset_defs(meta_graph: Any) -> list[Any]:
    """TF2 lists assets in `asset_file_def`, TF1 in a collection; either may be empty."""
    if meta_graph.asset_file_def or "saved_model_assets" not in meta_graph.collection_def:
        return list(meta_graph.asset_file_def)
    found = []
    for packed in meta_graph.collection_def["saved_model_assets"].any_list.value:
        asset = meta_graph_pb2.AssetFileDef()
        try:
            packed.Unpack(asset)
        except DecodeError as error:
            raise ModelError(f"the list of assets is damaged: {one_line(error)}") from None
        found.append(asset)
    return found


def _checkpoint(root: Path) -> str | None:
    folder = root / "variables"
    if not (folder / "variables.index").exists():
        return None
    for file in folder.iterdir():
        inside(folder, file.name, root)
    return str(folder / "variables")


def open_checkpoint(prefix: str) -> Any:
    """A CheckpointReader.

    Raises:
        ModelError: the files are damaged or missing.
    """
    if os.path.exists(f"{prefix}.index"):
        check_index(prefix)
    try:
        return tf.train.load_checkpoint(prefix)
    except (tf.errors.OpError, ArithmeticError, LookupError, RuntimeError, TypeError, ValueError) as error:
        raise ModelError(f"{prefix}: the variables cannot be read: {one_line(error)}") from None
