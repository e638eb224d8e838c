"""Compile the pipelines, and run them on this machine.

Exit codes: 0 done, and passed where there was a gate; 1 a step failed; 2 usage; 3 the gate failed; 4 inconclusive.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer
from rich.console import Console

from tfslim_core.errors import TfslimError, UsageError, nearest

if TYPE_CHECKING:
    from kfp.dsl import base_component

PIPELINES = ("slim",)

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Compile tfslim's pipelines for Kubeflow, or run them on this machine.",
)
PipelineOption = Annotated[str, typer.Option("--pipeline", metavar="NAME", help=f"One of: {', '.join(PIPELINES)}.")]
ArgOption = Annotated[
    list[str] | None,
    typer.Option("--arg", metavar="NAME=VALUE", help="An argument of the pipeline; give it once for each."),
]


@app.command()
def compile(  # noqa: A001  # the command's name
    pipeline: PipelineOption = "slim",
    arg: ArgOption = None,
    out: Annotated[Path | None, typer.Option(metavar="FILE.yaml", help="Where to; NAME.yaml unless told.")] = None,
    overwrite: Annotated[bool, typer.Option(help="Replace the file if it is there.")] = False,
) -> None:
    """Write a pipeline as YAML, to upload to Kubeflow; arguments become its defaults."""
    with _one_line():
        from kfp import compiler

        from pipelines.arguments import parameters, parse
        from tfslim_core.storage import whole_file

        wanted = _pipeline(pipeline)
        defaults = parse(arg or (), parameters(wanted), complete=False)
        file = out or Path(f"{pipeline}.yaml")
        if file.suffix not in (".yaml", ".yml"):
            raise UsageError(f"--out {file}: a compiled pipeline is a .yaml file")
        with tempfile.TemporaryDirectory() as folder, whole_file(file, overwrite=overwrite) as aside:
            compiled = Path(folder) / "pipeline.yaml"
            compiler.Compiler().compile(wanted, str(compiled), pipeline_parameters=defaults)
            aside.write_bytes(compiled.read_bytes())
        print(file)


@app.command()
def run(
    pipeline: PipelineOption = "slim",
    arg: ArgOption = None,
    work: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="A new directory for all that is made; one under build/runs unless told."),
    ] = None,
) -> None:
    """Run a pipeline here, each step a process of its own, and say how it ended."""
    console = Console(file=sys.stderr)  # bound now: the run redirects sys.stderr to its log
    with _one_line():
        from pipelines.arguments import parameters, parse
        from pipelines.local_run import run_locally
        from pipelines.outcome import ERROR, PASSED, context, judge
        from pipelines.progress import show_log, telling
        from tfslim_core.report import before_after_table
        from tfslim_core.storage import check_free

        wanted = _pipeline(pipeline)
        values = parse(arg or (), parameters(wanted), complete=True)
        where = work or Path("build/runs") / f"{pipeline}-{time.strftime('%Y%m%d-%H%M%S')}-{time.time_ns() % 1000:03d}"
        check_free(where, overwrite=False)
        with telling(console) as teller:
            done = run_locally(wanted, values, where, teller.told)
        outcome = judge(done)
    if outcome.exit_code == ERROR:
        show_log(console, done)
        _fail(f"{outcome.message} (the whole log: {done.log})", ERROR)
    Console().print(before_after_table(outcome.verdict, context(done)))
    print(f"report: {outcome.report}")
    if outcome.exit_code != PASSED:
        _fail(outcome.message, outcome.exit_code)
    print(outcome.message)


_LATER = {"ignore_unknown_options": True, "allow_extra_args": True, "help_option_names": []}


@app.command(context_settings=_LATER)
def submit() -> None:
    """Not available yet: submit to Kubeflow."""
    _not_yet("submit")


@app.command(context_settings=_LATER)
def schedule() -> None:
    """Not available yet: run on a schedule."""
    _not_yet("schedule")


@app.command(context_settings=_LATER)
def status() -> None:
    """Not available yet: ask how runs went."""
    _not_yet("status")


def main() -> None:
    """The command line."""
    app(prog_name="python -m pipelines")


def _pipeline(name: str) -> base_component.BaseComponent:
    if name not in PIPELINES:
        raise UsageError(f"no pipeline {name!r}{nearest(name, PIPELINES)} (there are: {', '.join(PIPELINES)})")
    from pipelines.slim import slim

    return {"slim": slim}[name]


def _not_yet(command: str) -> NoReturn:
    _fail(
        f"{command} is not available yet in this version; write the YAML with `python -m pipelines compile` "
        "and upload it to Kubeflow",
        2,
    )


@contextmanager
def _one_line() -> Iterator[None]:
    """Tell an error that is expected in one line."""
    try:
        yield
    except TfslimError as error:
        _fail(str(error), error.exit_code)
    except KeyboardInterrupt:
        _fail("interrupted", 130)


def _fail(message: str, exit_code: int) -> NoReturn:
    print(f"pipelines: {message}", file=sys.stderr)
    raise typer.Exit(exit_code)


if __name__ == "__main__":
    main()
