"""What slimming itself takes: time and memory of each stage, in a fresh process, beyond TensorFlow's import."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.memory import FamilyPeak
from benchmarks.models import made
from benchmarks.places import OUT, ROOT
from benchmarks.sheets import Sheet
from benchmarks.staged_process import Phase, Stage
from tfslim_core.inspection import inspect

WORDS = 100_000  # x 300 float32: 120 MB
_MOST_SECONDS, _MOST_MEMORY = 15.0, 3.0


@dataclass(frozen=True)
class Slimming:
    """One way to slim the model. family_bytes: the peak of it and the processes that it starts, libraries aside."""

    way: str
    live_bytes: int
    stages: Sequence[Stage]
    family_bytes: int

    @property
    def seconds(self) -> float:
        """Of all stages."""
        return sum(stage.seconds for stage in self.stages)

    @property
    def peak_bytes(self) -> int:
        """Of the hungriest stage."""
        return max(stage.peak_bytes for stage in self.stages)


def run(told: Callable[[str], None]) -> list[Slimming]:
    """Slim the model by stages and in one call."""
    told("make the model")
    model = made("text", words=WORDS)
    live_bytes = 4 * inspect(model, ("serve",)).live_parameters
    found = []
    for way in ("staged", "slim"):
        told(way)
        found.append(_run(way, model, live_bytes))
    return found


def sheet(all_found: Sequence[Slimming]) -> Sheet:
    """A row a stage and a total a way."""
    live = all_found[0].live_bytes
    rows = []
    for found in all_found:
        many = len(found.stages) > 1
        for stage in found.stages:
            rows.append(
                [stage.name, *_cells(stage.seconds, stage.peak_bytes, live), "", _slowest(stage), _hungriest(stage)]
            )
        if many:
            rows.append(["all four", *_cells(found.seconds, found.peak_bytes, live), "", "", ""])
        rows[-1][4] = f"{found.family_bytes / live:.2f} x"
    header = ["stage", "seconds", "peak memory", "to live float32", "with children", "longest", "hungriest"]
    notes = [
        f"A text CNN of {live / 1e6:.0f} MB live float32 weights, in one fresh process for the four stages and in "
        "another for `slim` without data, which also measures what int8 does to each weight and what both models cost "
        'to serve. Time and memory are beyond TensorFlow\'s import; "with children" adds the processes that load the '
        "results, without libraries. The last columns name the part of a stage that takes longest and the part that "
        "takes most memory.",
        f"Goal for the four stages: {_MOST_SECONDS:g} s and {_MOST_MEMORY:g} x: {_judged(all_found[0])}.",
    ]
    return Sheet("Slimming a 120 MB model", header, rows, notes)


def _run(way: str, model: Path, live_bytes: int) -> Slimming:
    folder = OUT / "stages" / way
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    stages, family_bytes = run_process(way, model, folder)
    return Slimming(way, live_bytes, stages, family_bytes)


def run_process(way: str, source: Path, folder: Path, *more: str) -> tuple[list[Stage], int]:
    """What a fresh `staged_process` took: its stages, and the peak bytes of it and of the processes that it starts."""
    command = [sys.executable, "-m", "benchmarks.staged_process", way, str(source), str(folder), *more]
    environment = {"TF_CPP_MIN_LOG_LEVEL": "2", **os.environ, "CUDA_VISIBLE_DEVICES": "-1"}
    pipe = subprocess.PIPE
    with (
        subprocess.Popen(command, cwd=ROOT, env=environment, stdout=pipe, stderr=pipe, text=True) as process,
        FamilyPeak(process.pid) as family,
    ):
        output, errors = process.communicate()
    if process.returncode:
        what = " ".join((way, *more))
        raise SystemExit(f"benchmarks: slimming ({what}) ended with exit code {process.returncode}:\n{errors[-2000:]}")
    told = json.loads(output.splitlines()[-1])
    return [_stage(**stage) for stage in told["stages"]], family.bytes - told["anonymous_before"]


def _stage(name: str, phases: dict[str, dict[str, Any]]) -> Stage:
    return Stage(name, {what: Phase(**phase) for what, phase in phases.items()})


def _cells(seconds: float, peak_bytes: int, live: int) -> list[str]:
    return [f"{seconds:.1f}", f"{peak_bytes / 1e6:.0f} MB", f"{peak_bytes / live:.2f} x"]


def _slowest(stage: Stage) -> str:
    name, phase = max(stage.phases.items(), key=lambda item: item[1].seconds)
    return f"{name}, {phase.seconds:.1f} s"


def _hungriest(stage: Stage) -> str:
    return max(stage.phases, key=lambda name: stage.phases[name].peak_bytes)


def _judged(found: Slimming) -> str:
    met = found.seconds <= _MOST_SECONDS and found.peak_bytes < _MOST_MEMORY * found.live_bytes
    return "met" if met else "missed"
