"""A SavedModel as it is: what it was made by, and a mended copy where no loader would take it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tfslim_core.errors import ModelError
from tfslim_core.importing.mending import mend
from tfslim_core.importing.scratch import link, link_tree
from tfslim_core.saved_model.read import parse_saved_model
from tfslim_core.storage import inside

_PARSERS = ("ParseExample", "ParseExampleV2")


def mended(path: Path, folder: Path) -> list[str]:
    """Write a copy that loads into an empty folder, or nothing where the model needs none; what was done to it.

    Raises:
        ModelError: one of its files lies outside of it.
    """
    proto = _parsed(path)
    if proto is None:
        return []
    notes: list[str] = []
    for meta_graph in proto.meta_graphs:
        notes += mend(meta_graph.graph_def, meta_graph.meta_info_def.stripped_op_list.op, served=True)
    if not notes:
        return []
    (folder / "saved_model.pb").write_bytes(proto.SerializeToString(deterministic=True))
    for name in ("variables", "assets", "assets.extra"):
        if (path / name).is_dir():
            link_tree(path / name, folder / name, path)
    for name in ("fingerprint.pb", "keras_metadata.pb"):
        if (path / name).is_file():
            link(inside(path, name, path), folder / name)
    return list(dict.fromkeys(notes))


def seen(path: Path, tags: Sequence[str]) -> str:
    """What the MetaGraph with these tags is, in words."""
    proto = _parsed(path)
    if proto is None:
        return "SavedModel"
    found = next((m for m in proto.meta_graphs if set(m.meta_info_def.tags) == set(tags)), None)
    if found is None:
        return "SavedModel"
    names = [name for name in sorted(found.signature_def) if not name.startswith("__saved_model_")]
    version = found.meta_info_def.tensorflow_version
    others = len(proto.meta_graphs) - 1
    more = f", beside {others} more MetaGraph{'s' * (others > 1)}" if others else ""
    return (
        f"SavedModel of {_maker(path, found)}{f' (TensorFlow {version})' if version else ''}, tags "
        f"{','.join(sorted(tags)) or 'none'}{more}; signatures {', '.join(names) or 'none'}"
    )


def _maker(path: Path, meta_graph: Any) -> str:
    classes = {node.user_object.identifier for node in meta_graph.object_graph_def.nodes}
    if (path / "keras_metadata.pb").is_file() or any(name.startswith("_tf_keras") for name in classes):
        return "Keras 2"
    if meta_graph.HasField("object_graph_def"):
        children = {child.local_name for node in meta_graph.object_graph_def.nodes for child in node.children}
        return "Keras 3" if {"_tracked", "_misc_assets"} <= children else "TensorFlow 2"
    parsing = any(node.op in _PARSERS for node in meta_graph.graph_def.node)
    methods = {signature.method_name.rpartition("/")[2] for signature in meta_graph.signature_def.values()}
    if methods & {"classify", "regress"} or parsing:
        return "an estimator" + (" (requests are serialized tf.Examples)" if parsing else "")
    return "TensorFlow 1"


def _parsed(path: Path) -> Any:
    """The proto; None where it cannot be parsed, which whoever opens the model tells."""
    try:
        return parse_saved_model(path)
    except ModelError:
        return None
