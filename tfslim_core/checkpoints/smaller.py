"""A checkpoint without what its purpose has no use for: what goes, what stays and why, and the files."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Literal

import numpy as np
import tensorflow as tf
from google.protobuf.message import DecodeError
from tensorflow.core.protobuf import meta_graph_pb2

from tfslim_core import storage
from tfslim_core.checkpoints.name_rules import AVERAGES, STATE, WEIGHTS, Use, uses
from tfslim_core.checkpoints.object_graph import KEY, ObjectGraph, read_object_graph
from tfslim_core.checkpoints.tensor_bundle import Stored, TensorBundle, check_copy, open_bundle, write_copy
from tfslim_core.errors import ModelError, UsageError, nearest
from tfslim_core.one_line import one_line
from tfslim_core.saved_model.freed_memory import give_back_freed_memory
from tfslim_core.saved_model.write import write_checkpoint
from tfslim_core.weights import in_memory

Purpose = Literal["inference", "training"]
Averages = Literal["keep", "drop", "only"]


@dataclass(frozen=True)
class Wanted:
    """What a user asks for. include: patterns of names that stay whatever they are; exclude: of those that go."""

    purpose: Purpose = "inference"
    averages: Averages = "keep"
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()


@dataclass(frozen=True)
class Tensor:
    """A tensor of the original. reason: why it stays or goes, where its kind does not tell."""

    name: str
    kind: str
    dtype: str
    shape: tuple[int, ...]
    bytes: int
    kept: bool
    reason: str = ""


@dataclass(frozen=True)
class Slimmed:
    """What was done. shared: tensors whose bytes another one has; shared_bytes: what that saves."""

    tensors: Sequence[Tensor]
    bytes_before: int
    bytes_after: int
    shared: Sequence[str] = ()
    shared_bytes: int = 0
    notes: Sequence[str] = field(default_factory=list)


def slim_checkpoint(prefix: str, out: Path, wanted: Wanted) -> Slimmed:
    """Write the smaller checkpoint into the empty directory `out`, under the name that it had.

    Raises:
        ModelError: the checkpoint is damaged, or what was written does not read back as it was.
        UsageError: a pattern that fits nothing, or averages that cannot be told apart.
    """
    give_back_freed_memory()
    with storage.scratch_directory() as scratch:
        original = open_bundle(prefix, scratch)
        objects = _object_graph(original)
        told = _told(original, objects, wanted)
        kept = [original.tensors[tensor.name] for tensor in told if tensor.kept]
        if not any(tensor.kept and tensor.name != KEY for tensor in told):
            raise ModelError(f"{prefix}: nothing would be left of its {len(told)} tensors; see --include and --exclude")
        gone = {tensor.name for tensor in told if not tensor.kept}
        if objects is not None and gone:
            kept = [_with_graph(objects, gone, scratch) if stored.name == KEY else stored for stored in kept]
        target = out / Path(prefix).name
        copied = write_copy(kept, str(target), original.header)
        check_copy(kept, str(target))
        notes = [*_meta(prefix, target, {stored.name for stored in kept})]
    write_state(out, target.name)
    before = _bytes_of(prefix, original)
    after = sum(file.stat().st_size for file in out.glob(f"{target.name}.*") if file.suffix != ".meta")
    return Slimmed(told, before, after, copied.shared, copied.shared_bytes, notes)


def write_state(folder: Path, name: str) -> None:
    """The file that says which checkpoint of a directory is the latest."""
    text = json.dumps(name, ensure_ascii=False)
    (folder / "checkpoint").write_text(f"model_checkpoint_path: {text}\nall_model_checkpoint_paths: {text}\n")


def _bytes_of(prefix: str, original: TensorBundle) -> int:
    """Bytes of the checkpoint that was given, which may be of an older format than the one that was read."""
    if prefix == original.prefix:
        return original.nbytes
    base = Path(prefix)
    files = [base, *base.parent.glob(f"{base.name}.index"), *base.parent.glob(f"{base.name}.data-*")]
    files += base.parent.glob(f"{base.name}-?????-of-?????")
    return sum(file.stat().st_size for file in files if file.is_file())


def _object_graph(original: TensorBundle) -> ObjectGraph | None:
    stored = original.tensors.get(KEY)
    if stored is None:
        return None
    try:
        data = tf.train.load_checkpoint(original.prefix).get_tensor(KEY)
    except (tf.errors.OpError, ValueError, RuntimeError) as error:
        raise ModelError(f"{original.prefix} is damaged at {KEY!r}: {one_line(error)}") from None
    if not isinstance(data, bytes):
        raise ModelError(f"{original.prefix}: the checkpoint's object graph is damaged")
    integers = {n for n, s in original.tensors.items() if not s.shape and s.dtype.is_integer}
    return read_object_graph(data, integers, original.prefix)


def _told(original: TensorBundle, objects: ObjectGraph | None, wanted: Wanted) -> list[Tensor]:
    """Each tensor, and whether it stays."""
    if objects is not None and wanted.averages == "only":
        raise UsageError(
            "--averages only is for checkpoints of names: an object graph's averages have no names to restore by"
        )
    known = objects.key_kinds() if objects else {}
    names = objects.full_names() if objects else {}
    by_name = uses({name: stored for name, stored in original.tensors.items() if name not in names})
    found = {name: Use(known[name]) if name in known else by_name.get(name, Use(WEIGHTS)) for name in original.tensors}
    averaged = {use.of for use in found.values() if use.kind == AVERAGES}
    _refuse_unknown(wanted, [*original.tensors, *names.values()])
    made = []
    for name, stored in original.tensors.items():
        use = found[name]
        kept, reason = _decided(name, names.get(name, ""), use, wanted, name in averaged)
        kind = "object graph" if name == KEY else use.kind
        made.append(Tensor(name, kind, stored.dtype.name, stored.shape, stored.nbytes, kept, reason))
    return made


def _decided(name: str, full_name: str, use: Use, wanted: Wanted, averaged: bool) -> tuple[bool, str]:
    """Whether a tensor stays, and why where its kind does not tell."""
    if name == KEY:
        return True, ""
    for patterns, kept in ((wanted.include, True), (wanted.exclude, False)):
        for pattern in patterns:
            if fnmatchcase(name, pattern) or (full_name and fnmatchcase(full_name, pattern)):
                return kept, f"{'included' if kept else 'excluded'} by {pattern!r}"
    if use.kind == AVERAGES:
        return wanted.averages != "drop", ""
    if wanted.averages == "only" and averaged:
        return False, "its moving average stays in its place"
    if use.kind in STATE:
        return wanted.purpose == "training", ""
    return True, use.doubt


def _refuse_unknown(wanted: Wanted, names: Sequence[str]) -> None:
    for flag, patterns in (("--include", wanted.include), ("--exclude", wanted.exclude)):
        for pattern in patterns:
            if not any(fnmatchcase(name, pattern) for name in names):
                raise UsageError(
                    f"{flag} {pattern}: the checkpoint has no tensor of that name{nearest(pattern, names)}"
                )


def _with_graph(objects: ObjectGraph, gone: set[str], scratch: Path) -> Stored:
    """The object graph without what is gone, as a tensor to copy; TensorFlow writes it."""
    value = np.array(objects.without(gone), object)
    write_checkpoint(scratch / "object_graph", {KEY: in_memory(value)})
    stored = open_bundle(str(scratch / "object_graph"), scratch).tensors[KEY]
    return replace(stored, name=KEY)


def _meta(prefix: str, target: Path, kept: set[str]) -> list[str]:
    """Copy the .meta file beside the checkpoint, where all that it restores is still there; else say why not."""
    meta = Path(f"{prefix}.meta")
    if not meta.is_file():
        return []
    try:
        proto = meta_graph_pb2.MetaGraphDef.FromString(meta.read_bytes())
        restores = _restored(proto)
    except (DecodeError, ValueError, OSError) as error:
        return [f"{meta.name} was not copied: it cannot be read ({one_line(error)})"]
    lost = sorted(restores - kept)
    if lost:
        return [
            f"{meta.name} was not copied: it restores {len(lost)} tensors that are gone, the first is {lost[0]!r}; "
            "build the model from its code, or give --keep training"
        ]
    shutil.copyfile(meta, f"{target}.meta")
    return [f"{meta.name} was copied: all that it restores is still there"]


def _restored(meta_graph: Any) -> set[str]:
    """The names that the saver's restore ops read; those of all of them."""
    values = {node.name: node for node in meta_graph.graph_def.node if node.op == "Const"}
    found: set[str] = set()
    for node in meta_graph.graph_def.node:
        if node.op in ("RestoreV2", "Restore", "RestoreSlice") and len(node.input) > 1:
            names = values.get(node.input[1].split(":")[0])
            if names is not None and names.attr["value"].tensor.dtype == tf.string.as_datatype_enum:
                found |= {name.decode() for name in tf.make_ndarray(names.attr["value"].tensor).reshape(-1)}
    return found
