"""How results are told on a terminal: tables, JSON, and the last line."""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer
from rich.table import Table

from tfslim_core import api
from tfslim_core.commands.app import err, out
from tfslim_core.terminal import file_size

if TYPE_CHECKING:
    from tfslim_core.bundle import StepEntry, WeightEntry


def print_stage(report: api.StageReport, as_json: bool) -> None:
    """The result of a stage: its steps, notes, and a last line with size, nodes, time and errors; or JSON."""
    if as_json:
        print_json(report.to_json())
        return
    if err.is_terminal and report.stage.startswith("transform"):
        err.print(steps_table(report.steps))
    for step in report.steps:
        if step.error:
            err.print(visible(f"{step.name} failed and changed nothing: {step.error}"), style="yellow")
    for note in report.notes:
        err.print(visible(note), style="dim")
    worst = max(report.errors.values(), default=None)
    told = ""
    if worst is not None:
        told = f", answers off by at most {worst:.2g} (relative)" if worst else ", equal answers"
    err.print(
        f"{visible(str(report.path))}: {file_size(report.bytes)}, {report.nodes:,} nodes, {report.seconds:.1f} s{told}"
    )


def weights_table(weights: Sequence[WeightEntry]) -> Table:
    """How each weight is stored, the largest first."""
    table = Table("weight", "shape", "encoding", "decoded")
    for column in ("before", "after", "harm"):
        table.add_column(column, justify="right")
    table.add_column("because", overflow="fold", style="dim")
    for weight in sorted(weights, key=lambda weight: (-weight.bytes_before, weight.name)):
        table.add_row(
            visible(weight.name),
            "x".join(map(str, weight.shape)) or "scalar",
            weight.encoding,
            weight.placement,
            file_size(weight.bytes_before),
            file_size(weight.bytes_after),
            "" if weight.harm is None else f"{weight.harm:.1e}",
            visible(weight.reason),
        )
    return table


def steps_table(steps: Sequence[StepEntry]) -> Table:
    """What each transform did, and for what it left alone the most frequent reason."""
    table = Table("transform")
    for column in ("changes", "nodes", "size", "left alone"):
        table.add_column(column, justify="right")
    table.add_column("most often because", overflow="fold", style="dim")
    for step in steps:
        why = Counter(skip.reason for skip in step.skipped).most_common(1)
        table.add_row(
            step.name,
            f"{step.changes:,}",
            f"{step.nodes_after:,}",
            file_size(step.bytes_after),
            f"{len(step.skipped):,}",
            visible(why[0][0]) if why else "",
        )
    return table


def print_json(data: Any) -> None:
    """Data for programs, to stdout."""
    sys.stdout.write(json.dumps(data, indent=2, allow_nan=False, default=str) + "\n")


def print_table(verdict: Any, context: Any) -> None:
    """Before and after, side by side."""
    from tfslim_core.report import before_after_table

    out.print(before_after_table(verdict, context))


def conclude(verdict: Any, report: Path | str | None) -> None:
    """The summary line: the outcome, why, and where to read more."""
    reasons = " ".join(verdict.reasons)
    more = f" (report: {report}/report.html)" if report is not None else ""
    err.print(visible(f"{verdict.verdict}{': ' * bool(reasons)}{reasons}{more}"))


def exit_by(outcome: str) -> None:
    """End with the exit code of an outcome, where that is not 0."""
    code = {"pass": 0, "fail": 3, "inconclusive": 4}[outcome]
    if code:
        raise typer.Exit(code)


def visible(text: str) -> str:
    """What a model or a path says, in one line and without the power to steer a terminal."""
    from tfslim_core.report.svg import visible

    return visible(text.replace("\n", "\\n"))
