"""Runs and schedules as both platforms have them, and how a run ended."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, Protocol

from pipelines.remote.cron import Cron
from pipelines.remote.job import Job, Task, digest

PASSED, ERROR, FAILED_GATE, INCONCLUSIVE = 0, 1, 3, 4
VERDICTS = {"pass": PASSED, "fail": FAILED_GATE, "inconclusive": INCONCLUSIVE}
PUBLISHES = "publish"


class State(StrEnum):
    """Where a run or a step is."""

    PENDING = "pending"
    RUNNING = "running"
    PAUSED = "paused"
    SUCCEEDED = "succeeded"
    SKIPPED = "skipped"
    FAILED = "failed"
    CANCELED = "canceled"
    UNKNOWN = "unknown"

    @property
    def over(self) -> bool:
        """Whether nothing more comes."""
        return self in (State.SUCCEEDED, State.SKIPPED, State.FAILED, State.CANCELED)


# What several tasks of one name are together: the first of these that one of them is.
_STRONGEST = (
    State.FAILED,
    State.CANCELED,
    State.RUNNING,
    State.PAUSED,
    State.PENDING,
    State.UNKNOWN,
    State.SUCCEEDED,
)


@dataclass(frozen=True)
class RemoteStep:
    """A task of a run. message: what went wrong, where that is said. returned: what it returned, where known."""

    name: str
    state: State
    started: datetime | None = None
    ended: datetime | None = None
    message: str = ""
    returned: Any = None
    looks_up: bool = False

    @property
    def seconds(self) -> float | None:
        """How long it took, or takes till now; None where it did not start."""
        if self.started is None or self.state is State.SKIPPED:
            return None
        return max(0.0, ((self.ended or datetime.now(UTC)) - self.started).total_seconds())


def steps(known: Sequence[Task], there: Mapping[str, Sequence[RemoteStep]], run: State) -> Sequence[RemoteStep]:
    """A step for each task of a pipeline, in its order, of what a platform has under these names.

    A loop has several, which become one; a task that a run did not reach before it was over was skipped. There are none
    as long as the platform has none either.
    """
    return [_combined(task, there.get(task.name, ()), run) for task in known] if there or run.over else ()


def _combined(task: Task, parts: Sequence[RemoteStep], run: State) -> RemoteStep:
    if not parts:
        return RemoteStep(task.name, State.SKIPPED if run.over else State.PENDING, looks_up=task.looks_up)
    state = next((one for one in _STRONGEST if one in [part.state for part in parts]), State.SKIPPED)
    return RemoteStep(
        name=f"{task.name} ×{len(parts)}" if len(parts) > 1 else task.name,
        state=state,
        started=min((part.started for part in parts if part.started), default=None),
        ended=max((part.ended for part in parts if part.ended), default=None) if state.over else None,
        message=next((part.message for part in parts if part.message), ""),
        returned=parts[0].returned if len(parts) == 1 else None,
        looks_up=task.looks_up,
    )


@dataclass(frozen=True)
class RemoteRun:
    """A run. url: its page."""

    id: str
    name: str
    state: State
    url: str
    created: datetime | None = None
    ended: datetime | None = None
    message: str = ""
    steps: Sequence[RemoteStep] = ()
    schedule_id: str = ""

    @property
    def verdict(self) -> str | None:
        """Pass, fail or inconclusive: what the last step that judged has returned, where the platform tells that."""
        if self.published:
            return "pass"
        first = datetime.min.replace(tzinfo=UTC)
        judged = [(step.ended or first, i, step.returned) for i, step in enumerate(self.steps)]
        return max((one for one in judged if one[2] in VERDICTS), default=(None, None, None))[2]

    @property
    def published(self) -> bool:
        """Whether a step that publishes ran to its end."""
        return any(step.state is State.SUCCEEDED for step in self._publishing)

    @property
    def _publishing(self) -> list[RemoteStep]:
        return [step for step in self.steps if step.name.partition("-")[0] == PUBLISHES]

    def judge(self) -> tuple[int, str]:
        """The exit code of a run that is over, and one line."""
        if self.state is not State.SUCCEEDED:
            failed = next((step for step in self.steps if step.state is State.FAILED), None)
            what = f"{failed.name} failed" if failed else f"the run {self.state.value}"
            why = (failed.message if failed else "") or self.message
            return ERROR, f"{what}{f': {why}' if why else ''} (its log: {self.url})"
        if not self.steps:
            return PASSED, "succeeded; what its steps did is not known"
        if self.published:
            return PASSED, "succeeded and published"
        if not self._publishing:
            return PASSED, "succeeded"
        if self.verdict == "pass":
            return ERROR, "the verdict is a pass and yet publish did not run"
        if self.verdict is None:
            return FAILED_GATE, f"not published: the gate did not pass; why is in its reports: {self.url}"
        words = "the gate failed" if self.verdict == "fail" else "nothing was proven"
        return VERDICTS[self.verdict], f"not published: {words}; why is in its reports: {self.url}"


@dataclass(frozen=True)
class Plan:
    """What a schedule is to be."""

    name: str
    job: Job
    cron: Cron
    max_concurrency: int = 1
    catchup: bool = False
    options: tuple[tuple[str, str], ...] = ()

    def digest(self, cron: str) -> str:
        """Of all its settings, with the cron expression as the platform has it."""
        return digest(self.job.digest, cron, self.max_concurrency, self.catchup, self.options)


@dataclass(frozen=True)
class Schedule:
    """A schedule as a platform has it.

    settings: the digest of the plan that it was made of, empty where it was not made here. revision: counts up.
    submission: which call made it.
    """

    id: str
    name: str
    cron: str
    active: bool
    url: str
    created: datetime | None = None
    max_concurrency: int = 1
    catchup: bool = False
    next_run: datetime | None = None
    settings: str = ""
    revision: int = 0
    submission: str = ""

    @property
    def rank(self) -> tuple[int, datetime, str]:
        """Of all schedules of a name the one of the highest rank stands, and may never be deleted for another."""
        return self.revision, self.created or datetime.min.replace(tzinfo=UTC), self.id


class Platform(Protocol):
    """What both platforms can do."""

    def connect(self) -> None:
        """See that it can be talked to."""

    def submission(self, job: Job, name: str) -> dict[str, Any]:
        """The requests that `submit` would send, for a dry run."""

    def submit(self, job: Job, name: str) -> RemoteRun:
        """Start one run."""

    def run(self, run_id: str) -> RemoteRun:
        """A run with its steps."""

    def runs(self, limit: int, schedule: Schedule | None = None) -> list[RemoteRun]:
        """The last runs without their steps, the youngest first."""

    def cron(self, cron: Cron) -> str:
        """An expression in this platform's spelling."""

    def scheduling(self, plan: Plan) -> dict[str, Any]:
        """The request that `create_schedule` would send, for a dry run."""

    def schedules(self, name: str | None = None) -> list[Schedule]:
        """All schedules, or those of one name."""

    def create_schedule(self, plan: Plan, revision: int, *, paused: bool) -> Schedule:
        """Make a schedule, whatever there is of its name."""

    def change_schedule(self, schedule: Schedule, plan: Plan, revision: int) -> Schedule | None:
        """Give a schedule other settings, or None where the platform cannot."""

    def delete_schedule(self, schedule: Schedule) -> None:
        """Delete it; that it is gone already is no error."""

    def pause(self, schedule: Schedule) -> None:
        """Start no more runs."""

    def resume(self, schedule: Schedule, *, catchup: bool) -> None:
        """Start runs again; catchup: also those that it missed."""
