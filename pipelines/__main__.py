"""Compile the pipelines, run them on this machine, or have them run on Kubeflow or Vertex AI.

Exit codes: 0 done, and passed where there was a gate; 1 a step failed; 2 usage; 3 the gate failed; 4 inconclusive.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, NoReturn, cast, get_args

import typer
from rich.console import Console

from pipelines.options import ArgOption, PipelineOption, TrainerOption, find_pipeline
from pipelines.remote import commands
from tfslim_core.errors import TfslimError, UsageError

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Compile tfslim's pipelines, run them on this machine, or have them run on Kubeflow or Vertex AI.",
)


@app.command()
def compile(  # noqa: A001  # the command's name
    pipeline: PipelineOption = "slim",
    arg: ArgOption = None,
    trainer: TrainerOption = None,
    out: Annotated[Path | None, typer.Option(metavar="FILE.yaml", help="Where to; NAME.yaml unless told.")] = None,
    overwrite: Annotated[bool, typer.Option(help="Replace the file if it is there.")] = False,
) -> None:
    """Write a pipeline as YAML, to upload to Kubeflow; arguments become its defaults."""
    with _one_line():
        from kfp import compiler

        from pipelines.arguments import check_elsewhere, parameters, parse
        from tfslim_core.storage import whole_file

        wanted = find_pipeline(pipeline, trainer)
        defaults = parse(arg or (), parameters(wanted), complete=False)
        check_elsewhere(defaults)
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
    trainer: TrainerOption = None,
    runner: Annotated[
        str, typer.Option(metavar="subprocess|docker", help="Each step a process, or a container of its image.")
    ] = "subprocess",
    work: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="A new directory for all that is made; one under build/runs unless told."),
    ] = None,
) -> None:
    """Run a pipeline here, each step a process of its own, and say how it ended."""
    console = Console(file=sys.stderr)  # bound now: the run redirects sys.stderr to its log
    with _one_line():
        from pipelines.arguments import absolute, check_here, parameters, parse
        from pipelines.local_run import LOG, Runner, run_locally
        from pipelines.outcome import ERROR, PASSED, context, judge, judge_each, worst
        from pipelines.progress import show_log, telling
        from tfslim_core.report import before_after_table
        from tfslim_core.storage import check_free

        wanted = find_pipeline(pipeline, trainer)
        values = absolute(parse(arg or (), parameters(wanted), complete=True))
        if runner not in get_args(Runner):
            raise UsageError(f"--runner {runner}: give subprocess or docker")
        check_here(values)
        where = work or Path("build/runs") / f"{pipeline}-{time.strftime('%Y%m%d-%H%M%S')}-{time.time_ns() % 1000:03d}"
        check_free(where, overwrite=False)
        with telling(console) as teller:
            try:
                done = run_locally(wanted, values, where, teller.told, cast(Runner, runner))
            except KeyboardInterrupt:
                _fail(f"interrupted (the whole log: {where.absolute() / LOG})", 130)
        if pipeline == "slim_many":
            endings = judge_each(done)
            for name, ending in endings.items():
                where = f"report: {ending.report}" if ending.report else f"the whole log: {done.log}"
                print(f"{name}: {ending.message} ({where})")
            if not endings:
                show_log(console, done)
                _fail(f"{judge(done).message} (the whole log: {done.log})", ERROR)
            raise typer.Exit(worst(endings.values()))
        outcome = judge(done)
    if outcome.exit_code == ERROR:
        show_log(console, done)
        _fail(f"{outcome.message} (the whole log: {done.log})", ERROR)
    Console().print(before_after_table(outcome.verdict, context(done)))
    print(f"report: {outcome.report}")
    if outcome.exit_code != PASSED:
        _fail(outcome.message, outcome.exit_code)
    print(outcome.message)


def main() -> None:
    """The command line."""
    app(prog_name="python -m pipelines")


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


commands.register(app, _one_line)

if __name__ == "__main__":
    main()
