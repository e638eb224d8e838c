"""Call `python -m pipelines` as a user does."""

from __future__ import annotations

from dataclasses import dataclass

from kfp.dsl import base_component
from typer.testing import CliRunner

from pipelines.__main__ import app

ARGUMENTS = ("--arg", "model=gs://m/model", "--arg", "data=gs://m/data.jsonl", "--arg", "base=gs://m/served")


@dataclass(frozen=True)
class Called:
    exit_code: int
    out: str
    err: str

    @property
    def run_id(self) -> str:
        """The id that submit printed."""
        return self.out.splitlines()[0].removeprefix("run: ")


def called(*arguments: object, **environ: str) -> Called:
    done = CliRunner().invoke(app, [str(one) for one in arguments], env=environ)
    if done.exception and not isinstance(done.exception, SystemExit):
        raise done.exception
    return Called(done.exit_code, done.stdout, done.stderr)


def needed(pipeline: base_component.BaseComponent) -> dict[str, object]:
    """An argument for each that the pipeline cannot do without."""
    inputs = pipeline.component_spec.inputs
    return {name: ["x"] if "List" in spec.type else "x" for name, spec in inputs.items() if not spec.optional}
