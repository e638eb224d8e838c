"""The warm-up requests of a servable that was just written: kept or made, and replayed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from tfslim_core import storage
from tfslim_core.warmup_requests.making import Wanted, made_requests
from tfslim_core.warmup_requests.replay import keep_fitting, replayed
from tfslim_core.warmup_requests.requests_file import requests_file, write_records

if TYPE_CHECKING:
    from tfslim_core.bundle import Manifest


def warmed(
    servable: Path, manifest: Manifest, wanted: Wanted | None, progress: Callable[[str, int, int], None]
) -> list[str]:
    """Make the wanted requests, or keep those that came along; replay them; notes for the user.

    Raises:
        ModelError: one fails on the result and not on the original.
        DataError: the data for the wanted ones cannot be read or does not fit.
    """
    file, notes = requests_file(servable), []
    if wanted is not None:
        progress("make warm-up requests", 0, 0)
        made = made_requests(servable, manifest.tags, wanted)
        notes += ["the warm-up requests that were there are replaced"] if file.exists() else []
        write_records(file, made.records)
        notes += made.notes
    elif not file.exists():
        return []
    notes += keep_fitting(servable, manifest.tags)
    progress("replay the warm-up requests", 0, 0)
    return [*notes, *replayed(servable, _original(manifest), manifest.tags)]


def _original(manifest: Manifest) -> Path | None:
    """The SavedModel that the bundle was frozen from, where it still lies there as it was."""
    path = Path(manifest.source.path)
    there = bool(manifest.source.digest) and path.is_dir() and storage.digest(path) == manifest.source.digest
    return path if there else None
