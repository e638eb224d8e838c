"""The demo: slim a real classifier of source code through the pipeline, prove it on real files, publish it."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

from rich.console import Console

from pipelines.demo_data import counts, gather, roots, write_requests
from pipelines.local_run import run_locally
from pipelines.outcome import ERROR, PASSED, context, judge
from pipelines.progress import show_log, telling
from pipelines.slim import slim
from tfslim_core.report import before_after_table

ROOT = Path(__file__).parents[1]
MODEL = ROOT / ".cache/models/guesslang/data/model"
OUT = ROOT / "build/demo"
GATES = ["nan_mismatches<=0", "top1_agreement>=0.99", "rel_l2_error<=0.1", "size_ratio<=0.27"]
FEWEST = 381  # with so many that all agree, 95 % of the time at least 99 % of all do


def main() -> int:
    """Run the demo; returns the exit code."""
    people = Console(file=sys.stderr, highlight=False)  # bound now: the run redirects sys.stderr to its log
    if not (MODEL / "saved_model.pb").is_file():
        people.print(f"demo: {_short(MODEL)}: no such model; run: make setup", soft_wrap=True)
        return ERROR
    shutil.rmtree(OUT, ignore_errors=True)
    OUT.mkdir(parents=True)

    people.print("[bold]Gathering source files[/] from installed packages and the system")
    texts = gather(roots())
    kinds = counts(texts)
    people.print(f"  {len(texts)} files of {len(kinds)} kinds: {' '.join(sorted(kinds))}", style="dim", soft_wrap=True)
    if len(texts) < FEWEST:
        people.print(f"demo: that is fewer than {FEWEST} files, too few to prove anything")
        return ERROR
    data = OUT / "source_files.jsonl"
    write_requests(texts.values(), "inputs", data)

    people.print(f"[bold]Running the pipeline[/] on {_short(MODEL)}")
    arguments = {"model": str(MODEL), "data": [str(data)], "base": str(OUT / "serving"), "gates": GATES}
    with telling(people) as teller:
        run = run_locally(slim, arguments, OUT / "run", teller.told)
    outcome = judge(run)
    if outcome.report is None or outcome.exit_code == ERROR:
        show_log(people, run)
        people.print(f"demo: {outcome.message} (the whole log: {_short(run.log)})", markup=False, soft_wrap=True)
        return ERROR
    report = OUT / "report"
    shutil.copytree(outcome.report.parent, report)

    answers = Console(highlight=False)
    answers.print(before_after_table(outcome.verdict, context(run)))
    if outcome.exit_code == PASSED:
        answers.print(f"published: {_short(Path(outcome.published))}", soft_wrap=True)
    else:
        answers.print(outcome.message, markup=False, soft_wrap=True)
    answers.print(f"report: {_short(report / 'report.html')}", soft_wrap=True)
    return outcome.exit_code


def _short(path: Path) -> str:
    return os.path.relpath(path)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
