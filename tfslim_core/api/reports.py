"""What the functions of the API return."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tfslim_core import storage
from tfslim_core.verdict import Outcome, Verdict

if TYPE_CHECKING:
    from tfslim_core.bundle import Bundle, StepEntry, VocabularyEntry, WeightEntry
    from tfslim_core.report import ReportContext
    from tfslim_core.saved_model.sample_check import Sample


@dataclass(frozen=True)
class StageReport:
    """What a stage made.

    bytes: of the output directory. nodes: of the graph. errors: how far the answers are from those before, by
    "signature/output", relative L2 for floats. notes: for the reader, one sentence each.
    """

    path: Path | str
    stage: str
    bytes: int
    nodes: int
    seconds: float
    errors: Mapping[str, float] = field(default_factory=dict)
    steps: Sequence[StepEntry] = ()
    weights: Sequence[WeightEntry] = ()
    vocabularies: Sequence[VocabularyEntry] = ()
    notes: Sequence[str] = ()

    def metrics(self) -> dict[str, float]:
        """Finite numbers for a pipeline's Metrics artifact."""
        numbers = {"bytes": float(self.bytes), "nodes": float(self.nodes), "seconds": round(self.seconds, 3)}
        return numbers | {f"error/{key}": error for key, error in self.errors.items() if error < float("inf")}

    def to_json(self) -> dict[str, Any]:
        """The report as JSON data."""
        return {
            "stage": self.stage,
            "path": str(self.path),
            "bytes": self.bytes,
            "nodes": self.nodes,
            "seconds": round(self.seconds, 3),
            "errors": dict(self.errors),
            "steps": [step.model_dump() for step in self.steps],
            "weights": [weight.model_dump() | {"harm": finite(weight.harm)} for weight in self.weights],
            "vocabularies": [entry.model_dump() for entry in self.vocabularies],
            "notes": list(self.notes),
        }


@dataclass(frozen=True)
class ValidationReport:
    """What a validation found. path: the directory with verdict.json and report.html."""

    path: Path | str
    verdict: Verdict
    context: ReportContext

    @property
    def outcome(self) -> Outcome:
        """pass, fail or inconclusive."""
        return self.verdict.verdict

    def metrics(self) -> dict[str, float]:
        """Finite numbers for a pipeline's Metrics artifact."""
        models = self.verdict.models
        numbers = {
            "original_bytes": float(models.original.bytes),
            "optimized_bytes": float(models.optimized.bytes),
            "size_ratio": models.optimized.bytes / max(models.original.bytes, 1),
        }
        for dataset, result in self.verdict.datasets.items():
            numbers[f"{dataset}/examples"] = float(result.examples)
            for key, output in result.outputs.items():
                found = {f"{dataset}/{key}/{name}": value for name, value in output.model_dump().items()}
                numbers |= {name: float(value) for name, value in found.items() if value is not None}
        return numbers


@dataclass(frozen=True)
class SlimReport:
    """What `slim` made. path: the servable. report: the directory with verdict.json and report.html, or None."""

    path: Path | str
    report: Path | str | None
    verdict: Verdict
    context: ReportContext
    errors: Mapping[str, float]

    @property
    def outcome(self) -> Outcome:
        """pass, fail or inconclusive."""
        return self.verdict.verdict

    def to_json(self) -> dict[str, Any]:
        """The report as JSON data."""
        return {
            "path": str(self.path),
            "report": str(self.report) if self.report else None,
            "errors": dict(self.errors),
            "weights": [asdict(weight) | {"harm": finite(weight.harm)} for weight in self.context.weights],
            "verdict": self.verdict.model_dump(mode="json"),
        }


def finite(number: float | None) -> float | None:
    """The number where JSON can hold it."""
    return number if number is not None and math.isfinite(number) else None


def stage_report(
    bundle: Bundle, out: Path, stage: str, start: float, errors: Mapping[str, float], sample: Sample | None
) -> StageReport:
    """The report of a stage that made `bundle` and wrote `out`; start: by time.monotonic."""
    notes = [f"signature {name!r} was not checked: {why}" for name, why in (sample.unchecked if sample else {}).items()]
    notes += bundle.manifest.notes
    notes += [f"{name} stays a variable: {why}" for name, why in bundle.manifest.kept_variables.items()]
    return StageReport(
        path=out,
        stage=stage,
        bytes=storage.size(out) if out.is_dir() else out.stat().st_size,
        nodes=len(bundle.graph.nodes),
        seconds=time.monotonic() - start,
        errors=errors,
        steps=bundle.manifest.steps,
        weights=bundle.manifest.weights,
        vocabularies=bundle.manifest.vocabularies,
        notes=notes,
    )
