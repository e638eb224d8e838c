"""How a run of a slimming pipeline ended, in the words and the exit code of the command line."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipelines.local_run import LocalRun
from tfslim_core.report import ReportContext, Stage
from tfslim_core.verdict import FILE_NAME, Verdict

PASSED, ERROR, FAILED_GATE, INCONCLUSIVE = 0, 1, 3, 4


@dataclass(frozen=True)
class Outcome:
    """What became of a run. message: one line. published: where it is served from now; empty where it is not."""

    exit_code: int
    message: str
    published: str = ""
    report: Path | None = None
    verdict: Verdict | None = None


def judge(run: LocalRun) -> Outcome:
    """Read a run's result: published, not published and why, or the step that failed."""
    verdict = _verdict(run)
    report = Path(run.outputs["validation"].path) / "report.html" if verdict else None
    if verdict is None:
        return Outcome(ERROR, _what_failed(run))
    if verdict.verdict == "pass":
        published = run.returned("publish")
        if not published:  # the gate was passed, and yet: a wiring mistake must not look like a success
            return Outcome(ERROR, "the verdict is a pass and yet publish did not run", "", report, verdict)
        return Outcome(PASSED, f"published: {published}", published, report, verdict)
    reasons = "; ".join(verdict.reasons) or "see the report"
    if verdict.verdict == "fail":
        return Outcome(FAILED_GATE, f"not published: the gate failed: {reasons}", "", report, verdict)
    return Outcome(INCONCLUSIVE, f"not published: nothing was proven: {reasons}", "", report, verdict)


def context(run: LocalRun) -> ReportContext:
    """What the stages of a run noted, for the table of before and after."""
    found = [_stage(run, name) for name in ("freeze", "transform", "quantize", "reexport")]
    source = _source(run)
    original = Stage("original", source.get("bytes"), source.get("nodes"))
    return ReportContext(
        stages=[original, *(stage for stage in found if stage)] if source else (),
        live_parameters=source.get("live_parameters"),
    )


def _stage(run: LocalRun, name: str) -> Stage | None:
    numbers = run.metadata(name, "metrics")
    return Stage(name, int(numbers["bytes"]), int(numbers["nodes"]), numbers["seconds"]) if numbers else None


def _source(run: LocalRun) -> dict[str, Any]:
    """What the bundle says of the model that it was frozen from."""
    for path in run.work.glob("*/**/freeze/bundle/manifest.json"):
        found: dict[str, Any] = json.loads(path.read_bytes())["source"]
        return found
    return {}


def _verdict(run: LocalRun) -> Verdict | None:
    return Verdict.read(Path(run.outputs["validation"].path) / FILE_NAME) if "validation" in run.outputs else None


def _what_failed(run: LocalRun) -> str:
    step = run.failed
    if step is None:
        return run.error or "the run ended without a result"
    prefix = "tfslim: "
    told = next((line.removeprefix(prefix) for line in reversed(step.lines) if line.startswith(prefix)), "")
    return f"{step.name} failed{f': {told}' if told else ''}"
