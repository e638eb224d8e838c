"""The SavedModel directory that another format becomes, in a scratch folder."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from tensorflow.core.protobuf import saved_model_pb2

from tfslim_core.errors import ModelError
from tfslim_core.storage import inside

_MOST_BYTES = 2**31 - 1  # of a protobuf


def write(folder: Path, meta_graph: Any, tags: Sequence[str]) -> None:
    """Write saved_model.pb with one MetaGraph under these tags.

    Raises:
        ModelError: it would have more than 2 GiB.
    """
    meta_graph.meta_info_def.tags[:] = sorted(set(tags))
    if meta_graph.ByteSize() > _MOST_BYTES - 1024:
        raise ModelError(f"the graph has {meta_graph.ByteSize():,} bytes, more than the 2 GiB that a GraphDef can hold")
    proto = saved_model_pb2.SavedModel(saved_model_schema_version=1, meta_graphs=[meta_graph])
    (folder / "saved_model.pb").write_bytes(proto.SerializeToString(deterministic=True))


def link(source: Path, target: Path) -> None:
    """Give a file a second name, or copy it where that is not possible; it is read and never written to."""
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        # A link to a symlink would be that symlink.
        os.link(source.resolve(), target)
    except OSError:
        shutil.copyfile(source, target)


def link_tree(source: Path, target: Path, root: Path) -> None:
    """`link` for each file of a model's folder.

    Raises:
        ModelError: one of them lies outside of the model.
    """
    for file in sorted(source.rglob("*")):
        if not file.is_dir():
            name = file.relative_to(source).as_posix()
            link(inside(source, name, root), target / name)


def link_checkpoint(files: Iterable[Path], prefix: Path, target: Path) -> None:
    """A checkpoint's files as the variables of the SavedModel `target`.

    Raises:
        ModelError: one of them is a symlink that leads out of the checkpoint's folder.
    """
    for file in files:
        found = inside(prefix.parent, file.name, prefix.parent)
        link(found, target / "variables" / f"variables{file.name.removeprefix(prefix.name)}")
