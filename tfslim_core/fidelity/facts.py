"""A model in facts that can be held against another's: what callers and servers see of it, and what is inside.

A fact is a text under a part ("input") and a place ("serving_default/x"). Names of tensors and nodes are not facts: a
slim model may have others.
"""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import tensorflow as tf

from tfslim_core import origins, storage
from tfslim_core.bundle import Bundle, is_bundle, read_bundle
from tfslim_core.fidelity.tables import table_facts
from tfslim_core.importing import opened
from tfslim_core.importing.recognize import Kind, recognize
from tfslim_core.saved_model.freeze import freeze_saved_model
from tfslim_core.saved_model.read import SavedModel, read_saved_model, read_tag_sets

INTERFACE = ("tag set", "signature", "input", "output", "default", "table", "asset", "extra file")
"""Parts that others rely on; the rest may differ."""
INSIDE = ("bytes on disk", "producer", "TensorFlow", "nodes", "parameters", "state at load", "op")

Facts = dict[tuple[str, str], str]


def facts_of(path: Path, tags: Sequence[str] | None = None) -> Facts:
    """All that a model or bundle promises; tags: of one MetaGraph, all of them unless told.

    What is neither a SavedModel nor a bundle promises what the SavedModel does that it becomes. Nothing is run and no
    weight is read.

    Raises:
        ModelError: it is nothing that is known, it is damaged, or it lacks the tags.
    """
    if is_bundle(path):
        bundle = read_bundle(path)
        return {**_size_fact(path), **bundle_facts(bundle), **_tag_fact(bundle.manifest.tags)}
    kind = recognize(path)
    if kind.kind is Kind.SAVED_MODEL:
        return {**_size_fact(kind.path), **_saved_model_facts(kind.path, tags)}
    with opened(path, tags=tags or ("serve",)) as made:
        size = sum(file.stat().st_size for file in made.files)
        return {("bytes on disk", ""): f"{size:,}", **_saved_model_facts(made.path, tags)}


def _saved_model_facts(path: Path, tags: Sequence[str] | None) -> Facts:
    sets = [tuple(sorted(tags))] if tags is not None else read_tag_sets(path)
    found: Facts = {}
    for one in sets:
        model = read_saved_model(path, one, None)
        place = f"[{','.join(one)}] " if len(sets) > 1 else ""
        for (part, where), value in bundle_facts(freeze_saved_model(model, digest="")).items():
            found[part, where if part == "extra file" else place + where] = value
        found |= _tag_fact(one)
    return found


def _size_fact(path: Path) -> Facts:
    return {("bytes on disk", ""): f"{storage.size(path):,}"}


def bundle_facts(bundle: Bundle) -> Facts:
    """Of one frozen MetaGraph, its tags left out."""
    assets = [asset.filename for asset in bundle.manifest.assets]
    return {
        **signature_facts(bundle.manifest.signature_defs()),
        **file_facts(bundle.files, assets),
        **table_facts(bundle),
        **_inside(bundle),
    }


def without_file_names(facts: Facts) -> Facts:
    """Of a tag set that shares its files with others, which may have been renamed for that."""
    return {key: value for key, value in facts.items() if key[0] not in ("asset", "table")}


def promised_facts(model: SavedModel) -> Facts:
    """What a MetaGraph says of itself, before anything is done to it: its signatures and its files."""
    return {**signature_facts(model.signatures), **file_facts(model.path, [a.filename for a in model.assets])}


def signature_facts(signatures: Mapping[str, Any]) -> Facts:
    """Methods, keys, dtypes, shapes and default values of SignatureDefs."""
    found: Facts = {}
    for name, signature in sorted(signatures.items()):
        found["signature", name] = signature.method_name or "(no method)"
        for part, infos in (("input", signature.inputs), ("output", signature.outputs)):
            for key, info in sorted(infos.items()):
                found[part, f"{name}/{key}"] = tensor_words(info)
        for key, value in sorted(signature.defaults.items()):
            found["default", f"{name}/{key}"] = _value_words(value)
    return found


def tensor_words(info: Any) -> str:
    """A TensorInfo in words: "float32 [?, 3]", "sparse string [...]"."""
    dtype = tf.as_dtype(info.dtype).name if info.dtype else "?"
    shape = "..."
    if not info.tensor_shape.unknown_rank:
        shape = ", ".join("?" if d.size < 0 else str(d.size) for d in info.tensor_shape.dim)
    match info.WhichOneof("encoding"):
        case "coo_sparse":
            return f"sparse {dtype} [{shape}]"
        case "composite_tensor":
            kind = info.composite_tensor.type_spec.type_spec_class_name or "composite tensor"
            parts = "; ".join(tensor_words(component) for component in info.composite_tensor.components)
            return f"{kind} of {parts}"
    return f"{dtype} [{shape}]"


def file_facts(root: Path, assets: Sequence[str]) -> Facts:
    """Assets, and all that is in assets.extra/ but our own record, by size and digest.

    Raises:
        ModelError: a file is missing or lies outside of the model.
    """
    extra = root / "assets.extra"
    others = {p.relative_to(extra).as_posix() for p in extra.rglob("*") if not p.is_dir()} - {origins.FILE}
    found: Facts = {}
    for part, folder, names in (
        ("asset", root / "assets", sorted(set(assets))),
        ("extra file", extra, sorted(others)),
    ):
        for name in names:
            file = storage.inside(folder, name, root)
            with file.open("rb") as opened:
                digest = hashlib.file_digest(opened, "sha256").hexdigest()
            found[part, name] = f"{file.stat().st_size:,} bytes, sha256 {digest[:16]}"
    return found


def _tag_fact(tags: Sequence[str]) -> Facts:
    return {("tag set", ",".join(sorted(tags)) or "(no tags)"): "present"}


def _value_words(tensor: Any) -> str:
    shape = ", ".join(str(dim.size) for dim in tensor.tensor_shape.dim)
    try:
        value = tf.make_ndarray(tensor)
        text = str(value.tolist())
    except (TypeError, ValueError):
        text = ""
    if not text or len(text) > 40:
        text = f"sha256 {hashlib.sha256(tensor.SerializeToString(deterministic=True)).hexdigest()[:16]}"
    return f"{tf.as_dtype(tensor.dtype).name} [{shape}] {text}"


def _inside(bundle: Bundle) -> Facts:
    graph, source = bundle.graph, bundle.manifest.source
    weights = [*graph.weights.values(), *bundle.variables.values()]
    found: Facts = {
        ("producer", ""): str(graph.rest.versions.producer),
        ("TensorFlow", ""): source.tensorflow_version or "not said",
        ("nodes", ""): f"{len(graph.nodes):,}",
        ("parameters", ""): f"{sum(math.prod(weight.shape) for weight in weights):,}",
        ("state at load", ""): "an init op runs" if bundle.manifest.init_op else "nothing runs",
    }
    return found | {("op", op): f"{count:,}" for op, count in sorted(Counter(_ops(bundle)).items())}


def _ops(bundle: Bundle) -> Iterator[str]:
    for node in bundle.graph.nodes.values():
        yield node.op
    for function in bundle.graph.functions.values():
        for node in function.node_def:
            yield node.op
