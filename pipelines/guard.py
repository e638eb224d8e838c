"""A process beside a run that ends the run's tasks when the run itself was killed or lost its terminal."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress

# It hears of each process group that begins or ends, and nothing more once the run is gone, however that ended.
_PROGRAM = """
import os, signal, sys
groups = set()
for line in sys.stdin:
    (groups.add if line[0] == "+" else groups.discard)(int(line[1:]))
for group in groups:
    try:
        os.killpg(group, signal.SIGKILL)
    except OSError:
        pass
"""


class Guard:
    """Knows which process groups are a run's."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def begins(self, group: int) -> None:
        """A group is there, to be ended with the run."""
        self._tell(f"+{group}\n")

    def ended(self, group: int) -> None:
        """It is gone; its number may soon be another's."""
        self._tell(f"-{group}\n")

    def _tell(self, line: str) -> None:
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):  # somebody ended the guard; the run goes on without
            self._process.stdin.write(line)
            self._process.stdin.flush()


@contextmanager
def guarding() -> Iterator[Guard]:
    """A guard for as long as this lasts; it ends with it."""
    process = subprocess.Popen(
        [sys.executable, "-I", "-S", "-c", _PROGRAM],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        text=True,
        start_new_session=True,  # what ends the run's own group leaves it alone
    )
    try:
        yield Guard(process)
    finally:
        with suppress(BrokenPipeError):
            process.communicate()
