"""The tasks of a run as people see them."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path

# Graphs inside of a pipeline whose name tells what the tasks in it are for.
_ABOUT = {"compare-with-served": "against served"}
_SAYS = re.compile(r"\[KFP Executor [^]]*\]: tfslim: (?P<text>.*)")
_ENDED = "tfslim: "
# What TensorFlow tells of itself whatever it is asked to be silent about, and kfp once a task has ended.
_CHATTER = re.compile(
    r"I\d{4} \d\d:\d\d|WARNING: All log messages before absl|To enable the following instructions: |"
    r"Executing task |Task .*'.*'.* finished with status |-{20,}$"
)
_TAIL = 15


@dataclass
class Step:
    """One task of a run.

    component: KFP's name of what it runs. inside: the graphs that it is in. items: what the loops around it are at.
    folder: what it wrote. says: what it does now. lines: its log. failed: None while it runs. stopped: with the run, by
    who started it. skipped: it never began.
    """

    name: str
    component: str = ""
    inside: tuple[str, ...] = ()
    items: tuple[str, ...] = ()
    folder: Path = Path()
    says: str = ""
    lines: list[str] = field(default_factory=list)
    seconds: float = 0.0
    failed: bool | None = None
    stopped: bool = False
    skipped: bool = False

    @property
    def title(self) -> str:
        """Its name with what tells it from its like."""
        about = [_ABOUT[graph] for graph in self.inside if graph in _ABOUT]
        return " ".join([self.name, *about, *self.items])

    @property
    def imports(self) -> bool:
        """Whether it only looks an input up."""
        return self.name.startswith("importer")

    @property
    def said(self) -> list[str]:
        """The last lines of its log, without the arguments that kfp prints first and what every task prints."""
        start = next((i for i, line in enumerate(self.lines) if "Got executor_input" in line), -1)
        stop = next((i for i, line in enumerate(self.lines) if i > start and line == "}"), -1)
        lines = self.lines[stop + 1 :] if start >= 0 else self.lines
        return [line for line in lines if line.strip() and not _CHATTER.match(line)][-_TAIL:]

    @property
    def reason(self) -> str:
        """Why it failed, where it said so; else the last that it said, such as an exception, or Killed."""
        told = (line.removeprefix(_ENDED) for line in reversed(self.lines) if line.startswith(_ENDED))
        return next(told, self.said[-1] if self.said else "")

    def add(self, line: str) -> bool:
        """Take a line of its log; whether that says what it does now."""
        self.lines.append(line)
        found = _SAYS.search(line)
        if found:
            self.says = found["text"]
        return found is not None
