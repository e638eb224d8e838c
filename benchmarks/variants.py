"""One model in the forms that are compared."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.graph_transform_tool import OldToolError, transform_in_child
from benchmarks.places import OUT
from benchmarks.subjects import Subject
from tfslim_core import api
from tfslim_core.bundle import read_bundle

ORIGINAL, FROZEN, OLD, INT8 = "original", "frozen", "Graph Transform Tool", "tfslim int8"


@dataclass(frozen=True)
class Variants:
    """paths: by name, the original first. missing: name -> why there is none. live_bytes: parameters served, x 4."""

    paths: Mapping[str, Path]
    live_bytes: int
    missing: Mapping[str, str] = field(default_factory=dict)


def make(subject: Subject, told: Callable[[str], None]) -> Variants:
    """All variants of a model, made anew."""
    folder = OUT / "variants" / subject.name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    bundle = folder / "bundle"
    paths, missing = {ORIGINAL: subject.path}, {}
    told(f"{subject.name}: freeze")
    api.freeze(subject.path, bundle)
    paths[FROZEN] = folder / "frozen"
    api.reexport(bundle, paths[FROZEN])
    told(f"{subject.name}: the Graph Transform Tool")
    try:
        transform_in_child(bundle, folder / "old")
        paths[OLD] = folder / "old"
    except OldToolError as reason:
        missing[OLD] = str(reason)
    told(f"{subject.name}: tfslim slim")
    paths[INT8] = int8(subject, folder / "int8", told)
    live = read_bundle(bundle).manifest.source.live_parameters
    return Variants(paths, 4 * live, missing)


def int8(subject: Subject, out: Path, told: Callable[[str], None]) -> Path:
    """What `tfslim slim` makes when it is told nothing but the data to look at, if there is any."""

    def progress(what: str, done: int, total: int) -> None:
        told(f"{subject.name}: {what}" + (f" {done}/{total}" if total else ""))

    api.slim(subject.path, out, data=subject.tuning, overwrite=True, progress=progress)
    return out
