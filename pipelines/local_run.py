"""Run a pipeline on this machine, every task a process of its own, and tell how it goes."""

from __future__ import annotations

import io
import json
import os
import re
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from kfp import local
from kfp.dsl import base_component
from kfp.local import config

LOG = "log.txt"
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")
# What the local runner of kfp (its version is pinned) writes when a task begins and ends.
_BEGINS = re.compile(r"- INFO - Executing task '(?P<task>[^']+)'")
_ENDS = re.compile(r"- (INFO|ERROR) - Task '(?P<task>[^']+)' finished with status (?P<status>\w+)")
_SAYS = re.compile(r"\[KFP Executor [^]]*\]: tfslim: (?P<text>.*)")
_INDENT = "    "
_TAIL = 15


@dataclass
class Step:
    """One task of a run. says: what it does now. lines: its log. failed: None while it runs."""

    name: str
    says: str = ""
    lines: list[str] = field(default_factory=list)
    seconds: float = 0.0
    failed: bool | None = None

    @property
    def said(self) -> list[str]:
        """The last lines of its log, without the arguments that kfp prints first."""
        start = next((i for i, line in enumerate(self.lines) if "Got executor_input" in line), -1)
        stop = next((i for i, line in enumerate(self.lines) if i > start and line == "}"), -1)
        lines = self.lines[stop + 1 :] if start >= 0 else self.lines
        return [line for line in lines if line.strip()][-_TAIL:]

    @property
    def imports(self) -> bool:
        """Whether it only looks an input up."""
        return self.name.startswith("importer")


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
        """The step that failed, if one did."""
        return next((step for step in self.steps if step.failed or step.failed is None), None)

    @property
    def said(self) -> list[str]:
        """The last lines of the log."""
        return [line for line in self.log.read_text().splitlines() if line.strip()][-_TAIL:]

    def step(self, name: str) -> Step | None:
        """A step that ended well, or None where it was skipped or failed."""
        return next((step for step in self.steps if step.name == name and step.failed is False), None)

    def returned(self, task: str) -> Any:
        """What a task returned, or None where it did not run."""
        return self._wrote(task).get("parameterValues", {}).get("Output")

    def metadata(self, task: str, artifact: str) -> dict[str, Any]:
        """What a task noted on an artifact that it made; empty where it did not run."""
        made = self._wrote(task).get("artifacts", {}).get(artifact, {}).get("artifacts", [{}])
        return dict(made[0].get("metadata", {}))

    def _wrote(self, task: str) -> dict[str, Any]:
        for path in self.work.glob(f"*/**/{task}/executor_output.json"):
            found: dict[str, Any] = json.loads(path.read_bytes())
            return found
        return {}


def run_locally(
    pipeline: base_component.BaseComponent,
    arguments: Mapping[str, Any],
    work: Path,
    told: Callable[[Step], None] = lambda step: None,
) -> LocalRun:
    """Run a pipeline below `work`, an empty or new directory.

    told: called with a step when it begins, says something or ends.
    """
    work = work.absolute()
    work.mkdir(parents=True, exist_ok=True)
    outputs: Mapping[str, Any] = {}
    error = ""
    with (work / LOG).open("w") as log:
        lines = _Lines(log, told)
        with redirect_stdout(lines), redirect_stderr(lines), _runner(work):
            try:
                outputs = pipeline(**arguments).outputs
            except RuntimeError as found:  # what kfp raises when a task failed
                error = _COLOUR.sub("", str(found))
        lines.flush()
    return LocalRun(outputs, lines.steps, work, error)


@contextmanager
def _runner(work: Path) -> Iterator[None]:
    with tempfile.TemporaryDirectory(prefix="tfslim-run-") as scratch, warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*non-Python base image", RuntimeWarning)  # here, no image is used
        # kfp leaves the source of every task behind; what TensorFlow says of itself hides what the tasks say.
        with _environment(TMPDIR=scratch, TF_CPP_MIN_LOG_LEVEL=os.environ.get("TF_CPP_MIN_LOG_LEVEL", "1")):
            local.init(local.SubprocessRunner(use_venv=False), pipeline_root=str(work))
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


class _Lines(io.TextIOBase):
    """Takes all that kfp and the tasks print, keeps it in the log, and makes steps of it."""

    def __init__(self, log: IO[str], told: Callable[[Step], None]) -> None:
        self.steps: list[Step] = []
        self._log = log
        self._told = told
        self._rest = ""
        self._started = 0.0

    def writable(self) -> bool:
        return True

    def write(self, text: str) -> int:
        *lines, self._rest = (self._rest + text).split("\n")
        for line in lines:
            self._line(_COLOUR.sub("", line))
        return len(text)

    def flush(self) -> None:
        self._log.flush()

    def _line(self, line: str) -> None:
        self._log.write(line + "\n")
        if found := _BEGINS.search(line):
            self.steps.append(Step(found["task"]))
            self._started = time.monotonic()
            self._told(self.steps[-1])
            return
        if not self.steps or self.steps[-1].failed is not None:
            return
        step = self.steps[-1]
        if (found := _ENDS.search(line)) and found["task"] == step.name:
            step.failed = found["status"] != "SUCCESS"
        elif line.startswith(_INDENT):
            step.lines.append(line.removeprefix(_INDENT))
            found = _SAYS.search(line)
            if not found:
                return
            step.says = found["text"]
        else:
            return
        step.seconds = time.monotonic() - self._started
        self._told(step)
