"""What the functions of the API return."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tfslim_core import storage
from tfslim_core.verdict import Outcome, Roc, Verdict

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
    """What a validation found. path: the directory with verdict.json and the report."""

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
        numbers: dict[str, float | None] = {
            "original_bytes": models.original.bytes,
            "optimized_bytes": models.optimized.bytes,
            "size_ratio": models.optimized.bytes / max(models.original.bytes, 1),
        }
        for name in ("load_seconds", "first_request_ms", "peak_rss_bytes"):
            for side in ("original", "optimized"):
                numbers[f"{side}_{name}"] = getattr(getattr(models, side), name)
        for ratio in models.ratios:
            numbers[f"{ratio.metric}{f'/batch_{ratio.batch}' if ratio.batch else ''}"] = ratio.value
        for dataset, result in self.verdict.datasets.items():
            numbers[f"{dataset}/examples"] = result.examples
            numbers[f"{dataset}/bad_records"] = result.bad_records
            for key, output in result.outputs.items():
                numbers |= {f"{dataset}/{key}/{name}": value for name, value in output.numbers().items()}
            for key, label in (result.labels or {}).items():
                for side in ("original", "optimized", "difference"):
                    numbers[f"{dataset}/label/{key}/{side}"] = getattr(label, side)
        return {name: float(number) for name, number in numbers.items() if number is not None and math.isfinite(number)}

    def confusion(self) -> tuple[list[str], list[list[int]]] | None:
        """(classes, counts): a row for each top class of the original, a column for each of the optimized model.

        All datasets with the same classes as the first are added up; None where no dataset has any.
        """
        found = [result.confusion for result in self.verdict.datasets.values() if result.confusion is not None]
        if not found:
            return None
        classes = found[0].classes
        alike = [one.counts for one in found if (one.output, one.classes) == (found[0].output, classes)]
        return classes, [[sum(one.get(old, {}).get(new, 0) for one in alike) for new in classes] for old in classes]

    def roc(self) -> Roc | None:
        """The ROC curves of both models against the labels, of the first dataset that has them; None where none does.

        Each is lists `fpr`, `tpr` and `threshold`, all finite, as `log_roc_curve` of Kubeflow's ClassificationMetrics
        takes them.
        """
        return next((result.roc for result in self.verdict.datasets.values() if result.roc is not None), None)


@dataclass(frozen=True)
class SlimReport:
    """What `slim` made. path: the servable. report: the directory with verdict.json and the report, or None."""

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
    bundle: Bundle,
    out: Path,
    stage: str,
    start: float,
    errors: Mapping[str, float],
    sample: Sample | None,
    found: Sequence[str] = (),
    seen: Sequence[str] = (),
) -> StageReport:
    """The report of a stage that made `bundle` and wrote `out`.

    start: by time.monotonic. found: notes of its own. seen: what was given, told first.
    """
    notes = [*seen]
    notes += [
        f"signature {name!r} was not checked: {why}" for name, why in (sample.unchecked if sample else {}).items()
    ]
    notes += bundle.manifest.notes
    notes += [f"{name} stays a variable: {why}" for name, why in bundle.manifest.kept_variables.items()]
    notes += found
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
