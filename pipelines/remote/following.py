"""Follow a run to its end, and tell of its steps as they begin and end."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.markup import escape

from pipelines.remote.errors import RemoteError
from pipelines.remote.runs import Platform, RemoteRun, RemoteStep, State
from tfslim_core.errors import TfslimError

EVERY = 5.0
"""Seconds between two looks."""
_COLOURS = {
    State.SUCCEEDED: "green",
    State.FAILED: "red",
    State.CANCELED: "red",
    State.RUNNING: "cyan",
    State.SKIPPED: "yellow",
}
_WORDS = {State.SUCCEEDED: "done"}


class TimeoutExceededError(RemoteError):
    """The run goes on; it was not over in the time that was given."""


def follow(
    platform: Platform, run_id: str, timeout: float, told: Callable[[RemoteStep], None] = lambda step: None
) -> RemoteRun:
    """Look until the run is over.

    told: called with a step whenever it is in another state than before.

    Raises:
        TimeoutExceededError: it is not over after `timeout` seconds.
        RemoteError: the server cannot be asked any more.
    """
    stop = time.monotonic() + timeout
    before: dict[str, State] = {}
    while True:
        run = platform.run(run_id)
        for step in run.steps:
            if step.state not in (before.get(step.name), State.PENDING):
                told(step)
            before[step.name] = step.state
        if run.state.over:
            return run
        left = stop - time.monotonic()
        if left <= 0:
            raise TimeoutExceededError(
                f"the run is {run.state} after {timeout:g} s and goes on; ask: python -m pipelines status {run_id}"
            )
        time.sleep(min(EVERY, left))


def teller(console: Console) -> Callable[[RemoteStep], None]:
    """Tells of each step in a line."""

    def told(step: RemoteStep) -> None:
        if not step.looks_up or step.state is State.FAILED:
            console.print(line(step), highlight=False, soft_wrap=True)

    return told


def line(step: RemoteStep) -> str:
    """A step as people read it."""
    colour = _COLOURS.get(step.state, "default")
    word = _WORDS.get(step.state, step.state.value)
    seconds = f" [dim]{step.seconds:8.1f} s[/]" if step.seconds is not None and step.state.over else ""
    return f"  {escape(step.name):<16} [{colour}]{f'{word:<9}' if seconds else word}[/]{seconds}"


@contextmanager
def reminding(run: RemoteRun) -> Iterator[None]:
    """Whatever breaks off the following says that the run itself goes on."""
    later = f"the run goes on; ask later: python -m pipelines status {run.id}"
    try:
        yield
    except KeyboardInterrupt:
        raise InterruptedFollowingError(f"no longer following; {later}") from None
    except TimeoutExceededError:
        raise
    except RemoteError as error:
        raise RemoteError(f"{error}; {later}") from error


class InterruptedFollowingError(TfslimError):
    """The user stopped following."""

    exit_code = 130
