"""Where a bundle came from, when its SavedModel was made of another format and is gone by now."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from tfslim_core.bundle import Bundle
from tfslim_core.importing import Opened
from tfslim_core.staging import shown


def told(bundle: Bundle, found: Opened) -> Bundle:
    """The bundle with a manifest that names the model as it was given; as it is where a SavedModel was read in place.

    Its bytes and digest are those of the model's own files: a training checkpoint's slots count, the graph does not.
    """
    if not found.converted:
        return bundle
    manifest = bundle.manifest
    source = manifest.source.model_copy(
        update={
            "path": shown(found.source),
            "digest": digest(found.files),
            "bytes": sum(file.stat().st_size for file in found.files),
        }
    )
    source.where["other files"] = max(source.bytes - sum(source.where.values()) + source.where["other files"], 0)
    notes = [*found.notes, *manifest.notes]
    return replace(bundle, manifest=manifest.model_copy(update={"source": source, "notes": notes}))


def digest(files: Sequence[Path]) -> str:
    """As `storage.digest` of a directory of these files alone."""
    folder = Path(os.path.commonpath([file.parent for file in files]))
    total = hashlib.sha256()
    for name, file in sorted((file.relative_to(folder).as_posix(), file) for file in files):
        with file.open("rb") as opened:
            total.update(f"{name}\0{hashlib.file_digest(opened, 'sha256').hexdigest()}\n".encode())
    return total.hexdigest()
