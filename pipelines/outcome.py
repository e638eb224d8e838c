"""How a run of a slimming pipeline ended, in the words and the exit code of the command line."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from kfp import dsl

from pipelines.local_run import LocalRun, noted
from tfslim_core.report import ReportContext, Stage
from tfslim_core.verdict import FILE_NAME, Outcome, Verdict

PASSED, ERROR, FAILED_GATE, INCONCLUSIVE = 0, 1, 3, 4
SERVED = "compare-with-served"


@dataclass(frozen=True)
class Ending:
    """What became of a run. message: one line. published: where it is served from now; empty where it is not."""

    exit_code: int
    message: str
    published: str = ""
    report: Path | None = None
    verdict: Verdict | None = None


def judge(run: LocalRun) -> Ending:
    """Read a run's result: published, not published and why, or the step that failed."""
    if "validation" not in run.outputs:
        return Ending(ERROR, _what_failed(run))
    own = Path(run.outputs["validation"].path)
    folder = own
    verdict = Verdict.read(own / FILE_NAME)
    against = "" if verdict.verdict == "pass" else _candidates(run)
    served = next((step for step in run.all("join") if SERVED in step.inside), None)
    if served is not None and verdict.verdict == "pass":
        compared = Verdict.read(served.folder / "verdict" / FILE_NAME)
        if compared.verdict != "pass":
            folder, verdict, against = served.folder / "verdict", compared, "against the served version: "
    report = folder / "report.html"
    outcome: Outcome = run.outputs.get("verdict", verdict.verdict)
    published = run.returned("publish")
    if (outcome == "pass") != bool(published):  # a wiring mistake must not look like a success, nor like a refusal
        what = f"publish {'ran' if published else 'did not run'}"
        return Ending(ERROR, f"the verdict is {outcome}, and yet {what}", published or "", report, verdict)
    if published:
        return Ending(PASSED, f"published: {published}{_chosen(run)}", published, report, verdict)
    reasons = against + ("; ".join(verdict.reasons) or "see the report")
    if outcome == "fail":
        return Ending(FAILED_GATE, f"not published: the gate failed: {reasons}", "", report, verdict)
    return Ending(INCONCLUSIVE, f"not published: nothing was proven: {reasons}", "", report, verdict)


def judge_each(run: LocalRun) -> dict[str, Ending]:
    """The same for each model of a run that slims several, by the name of its base."""
    names = list(dict.fromkeys(step.items[0] for step in run.steps if step.items))
    return {name: judge(_part(run, name)) for name in names}


def worst(endings: Iterable[Ending]) -> int:
    """One exit code for several endings: an error before a gate that failed before what is inconclusive."""
    return min((ending.exit_code for ending in endings), key=[ERROR, FAILED_GATE, INCONCLUSIVE, PASSED].index)


def _part(run: LocalRun, name: str) -> LocalRun:
    """What a run did for one model, as if it had been a run of its own."""
    steps = [step for step in run.steps if step.items[:1] == (name,)]
    part = LocalRun({}, steps, run.work, run.error)
    chosen = part.step("choose")
    if chosen is None or part.failed is not None:
        return part
    verdict = dsl.Artifact(uri=str(chosen.folder / "verdict"))
    return replace(part, outputs={"validation": verdict, "verdict": part.returned("choose")})


def context(run: LocalRun) -> ReportContext:
    """What the stages of a run noted, for the table of before and after; of several candidates, of the chosen one."""
    found = [_stage(run, name) for name in ("freeze", "transform", "quantize", "reexport")]
    source = _source(run)
    original = Stage("original", source.get("bytes"), source.get("nodes"))
    return ReportContext(
        stages=[original, *(stage for stage in found if stage)] if source else (),
        live_parameters=source.get("live_parameters"),
    )


def _chosen(run: LocalRun) -> str:
    """Which of several candidates it is."""
    told = run.metadata("choose", "verdict")
    return f" ({told['candidate']}, the smallest that passed)" if told.get("others") else ""


def _candidates(run: LocalRun) -> str:
    """Which of several candidates came closest, and what became of the others."""
    told = run.metadata("choose", "verdict")
    others = told.get("others")
    return f"no candidate passed ({'; '.join(others)}); the closest is {told['candidate']}: " if others else ""


def _stage(run: LocalRun, name: str) -> Stage | None:
    steps = run.all(name)
    if len(steps) > 1:  # one for each candidate
        chosen = run.metadata("choose", "verdict").get("candidate")
        steps = [step for step in steps if chosen in step.items]
    numbers = noted(steps[0] if steps else None, "metrics")
    return Stage(name, int(numbers["bytes"]), int(numbers["nodes"]), numbers["seconds"]) if numbers else None


def _source(run: LocalRun) -> dict[str, Any]:
    """What the bundle says of the model that it was frozen from."""
    step = run.step("freeze")
    manifest = step.folder / "bundle/manifest.json" if step else Path()
    found: dict[str, Any] = json.loads(manifest.read_bytes())["source"] if manifest.is_file() else {}
    return found


def _what_failed(run: LocalRun) -> str:
    step = run.failed
    if step is None:
        return run.error or "the run ended without a result"
    published = run.returned("publish")
    after = f" (after it was published: {published})" if published else ""
    return f"{step.title} failed{f': {step.reason}' if step.reason else ''}{after}"
