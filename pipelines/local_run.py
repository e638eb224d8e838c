"""Run a pipeline on this machine, every task a process or a container of its own, and tell how it goes."""

from __future__ import annotations

import json
import os
import re
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from kfp import local
from kfp.dsl import base_component
from kfp.local import config

from pipelines import containers
from pipelines.guard import guarding
from pipelines.steps import Step
from pipelines.watched_runner import Watch

Runner = Literal["subprocess", "docker"]
LOG = "log.txt"
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")
_TAIL = 15


@dataclass(frozen=True)
class LocalRun:
    """A run that has ended. outputs: of the pipeline, none where it failed. work: the directory with all it wrote."""

    outputs: Mapping[str, Any]
    steps: Sequence[Step]
    work: Path
    error: str = ""

    @property
    def log(self) -> Path:
        """All that the tasks and the runner wrote."""
        return self.work / LOG

    @property
    def failed(self) -> Step | None:
        """The step that failed first, if one did."""
        return next((step for step in self.steps if not step.skipped and step.failed is not False), None)

    @property
    def said(self) -> list[str]:
        """The last lines of the log."""
        return [line for line in self.log.read_text().splitlines() if line.strip()][-_TAIL:]

    def all(self, name: str) -> list[Step]:
        """The steps of that name that ended well, one for each turn of the loops around it."""
        return [step for step in self.steps if step.name == name and step.failed is False]

    def step(self, name: str) -> Step | None:
        """The first of them, or None where it was skipped or failed."""
        return next(iter(self.all(name)), None)

    def returned(self, name: str) -> Any:
        """What the step returned, or None where it did not run."""
        return wrote(self.step(name)).get("parameterValues", {}).get("Output")

    def metadata(self, name: str, artifact: str) -> dict[str, Any]:
        """What the step noted on an artifact that it made; empty where it did not run."""
        return noted(self.step(name), artifact)


def wrote(step: Step | None) -> dict[str, Any]:
    """What a step told the runner at its end; nothing where there is none."""
    path = step.folder / "executor_output.json" if step else Path()
    found: dict[str, Any] = json.loads(path.read_bytes()) if path.is_file() else {}
    return found


def noted(step: Step | None, artifact: str) -> dict[str, Any]:
    """What a step noted on an artifact that it made; nothing where there is none."""
    made = wrote(step).get("artifacts", {}).get(artifact, {}).get("artifacts", [{}])
    return dict(made[0].get("metadata", {}))


def run_locally(
    pipeline: base_component.BaseComponent,
    arguments: Mapping[str, Any],
    work: Path,
    told: Callable[[Step], None] = lambda step: None,
    runner: Runner = "subprocess",
) -> LocalRun:
    """Run a pipeline below `work`, an empty or new directory. Interrupted or killed, it leaves no process behind.

    told: called with a step when it begins, says something or ends, and with each that was skipped.

    Raises:
        UsageError: there is nothing here that runs containers, or they would not see what the arguments name.
    """
    work = work.absolute()
    outputs: Mapping[str, Any] = {}
    error = ""
    spec = pipeline.pipeline_spec  # type: ignore[attr-defined]
    processes = nullcontext(local.SubprocessRunner(use_venv=False))
    in_what = containers.runner(spec, arguments) if runner == "docker" else processes
    with _surroundings() as scratch, in_what as chosen:
        work.mkdir(parents=True, exist_ok=True)
        with (work / LOG).open("w") as log, guarding() as guard, _initialised(chosen, work, scratch):
            watch = Watch(spec, work, log, told, guard)
            with watch.watching():
                try:
                    outputs = pipeline(**arguments).outputs
                except RuntimeError as found:  # what kfp raises when a task failed
                    error = _COLOUR.sub("", str(found))
            watch.tell_skipped()
    return LocalRun(outputs, watch.steps, work, error)


@contextmanager
def _surroundings() -> Iterator[str]:
    """A directory for what is gone after the run, and the tasks' environment."""
    with tempfile.TemporaryDirectory(prefix="tfslim-run-") as scratch, warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*non-Python base image", RuntimeWarning)  # here, no image is used
        warnings.filterwarnings("ignore", ".*have no effect in the current local runner")  # a cluster's business
        # kfp leaves the source of every task behind; what TensorFlow says of itself hides what the tasks say.
        with _environment(TMPDIR=scratch, TF_CPP_MIN_LOG_LEVEL=os.environ.get("TF_CPP_MIN_LOG_LEVEL", "1")):
            yield scratch


@contextmanager
def _initialised(runner: config.LocalRunnerType, work: Path, scratch: str) -> Iterator[None]:
    local.init(runner, pipeline_root=str(work), workspace_root=tempfile.mkdtemp(dir=scratch))
    try:
        yield
    finally:
        config.LocalExecutionConfig.instance = None  # or every later call of a component would run it


@contextmanager
def _environment(**values: str) -> Iterator[None]:
    """Set variables for the tasks, and put back what was there."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
