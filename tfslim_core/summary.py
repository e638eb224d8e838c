"""From what the stages noted down to what a report tells."""

from __future__ import annotations

import platform
import shlex
import sys
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import tfslim_core
from tfslim_core import storage
from tfslim_core.bundle import GRAPH_LABEL, Bundle, Manifest, StepEntry
from tfslim_core.report import Answer, Change, ReportContext, Skipped, Stage, Weight
from tfslim_core.staging import shown

if TYPE_CHECKING:
    from tfslim_core.validation.job import ValidationResult


def context_of(
    bundle: Bundle, servable: Path, stages: Sequence[Stage], validation: ValidationResult | None
) -> ReportContext:
    """All that is known of a slimmed model. stages: the original first."""
    manifest = bundle.manifest
    return ReportContext(
        title=Path(manifest.source.path).resolve().name,
        original_path=manifest.source.path,
        optimized_path=shown(servable),
        command=command_line(),
        versions=versions(),
        created=_now(),
        stages=stages,
        bytes_before=sorted(manifest.source.where.items(), key=lambda item: -item[1]),
        bytes_after=_bytes_after(bundle, servable),
        live_parameters=manifest.source.live_parameters,
        weights=[
            Weight(
                name=entry.name,
                spec=f"{entry.dtype} {' × '.join(map(str, entry.shape)) or 'scalar'}",
                bytes_before=entry.bytes_before,
                bytes_after=entry.bytes_after,
                encoding=entry.encoding,
                placement="" if entry.placement == "none" else entry.placement,
                reason=entry.reason,
                harm=entry.harm,
            )
            for entry in manifest.weights
        ],
        changes=[Change(step.name, step.changes, step.nodes_before, step.nodes_after) for step in manifest.steps],
        skipped=[Skipped(step.name, skip.node, skip.reason) for step in manifest.steps for skip in step.skipped],
        dropped=manifest.dropped,
        **_validated(validation),
    )


def stages_of(manifest: Manifest, servable: Path) -> list[Stage]:
    """The stages as a bundle's manifest notes them, where they did not run in this process."""
    source, steps = manifest.source, manifest.steps
    stages = [Stage("original", source.bytes, source.nodes)]
    if steps:
        stages.append(Stage("freeze", steps[0].bytes_before, steps[0].nodes_before))
    for name, last in {_stage_of(step): step for step in steps}.items():
        stages.append(Stage(name, last.bytes_after, last.nodes_after))
    nodes = steps[-1].nodes_after if steps else None
    return [*stages, Stage("reexport", storage.size(servable), nodes)]


def _stage_of(step: StepEntry) -> str:
    return step.name.replace("_", "-") if step.name in ("quantize", "prune_vocabulary") else "transform"


def plain_context(original: Path, optimized: Path, validation: ValidationResult) -> ReportContext:
    """What is known when two models are only compared."""
    return replace(compared_context(original, optimized), **_validated(validation))


def compared_context(original: Path, optimized: Path) -> ReportContext:
    """The same, where the validation itself is no longer at hand."""
    return ReportContext(
        title=optimized.resolve().name,
        original_path=shown(original),
        optimized_path=shown(optimized),
        command=command_line(),
        versions=versions(),
        created=_now(),
    )


def _validated(validation: ValidationResult | None) -> dict[str, Any]:
    """What a validation tells beside its verdict."""
    if validation is None:
        return {}
    return {
        "error_histograms": validation.histograms,
        "answers": [
            Answer(dataset, case.index, output, case.original, case.optimized)
            for dataset, cases in validation.worst.items()
            for output, case in cases
        ],
        "bad_records": validation.bad_records,
        "main_output": validation.main_output,
    }


def versions() -> dict[str, str]:
    """Program -> version."""
    packages = {"TensorFlow": "tensorflow", "Apache Beam": "apache-beam"}
    found = {"tfslim": tfslim_core.__version__, "Python": platform.python_version()}
    return found | {name: version(package) for name, package in packages.items()}


def command_line() -> str:
    """How this process was called, when that was as tfslim."""
    name = Path(sys.argv[0]).name
    return shlex.join([name, *sys.argv[1:]]) if name == "tfslim" else ""


def _now() -> str:
    """The time as ISO 8601, in UTC."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def _bytes_after(bundle: Bundle, servable: Path) -> list[tuple[str, int]]:
    """Label -> bytes, with the original's labels for the same things; the rest of the directory is the graph's."""
    entries = {entry.name: entry.bytes_after for entry in bundle.manifest.weights}
    unlisted = {name: weight.stored_bytes for name, weight in bundle.graph.weights.items() if name not in entries}
    parts = {name: size for name, size in {**unlisted, **entries}.items() if not _is_part(name, entries)}
    parts[GRAPH_LABEL] = max(storage.size(servable) - sum(parts.values()), 0)
    return sorted(parts.items(), key=lambda item: -item[1])


def _is_part(name: str, entries: dict[str, int]) -> bool:
    """Whether a weight is the codes or scales of an encoded one, which are counted there."""
    whole, slash, role = name.rpartition("/")
    return bool(slash) and role in ("codes", "scale") and whole in entries
