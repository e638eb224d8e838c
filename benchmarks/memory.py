"""How much memory a process takes, from /proc: its own peak, and that of all that it starts."""

from __future__ import annotations

import os
import threading
from pathlib import Path
from types import TracebackType


def resident() -> int:
    """Bytes of this process in memory now."""
    return _field(os.getpid(), "VmRSS")


def anonymous() -> int:
    """Bytes of this process in memory that no file backs."""
    return _field(os.getpid(), "RssAnon")


def peak() -> int:
    """The most bytes of this process in memory since the start or `reset_peak`."""
    return _field(os.getpid(), "VmHWM")


def reset_peak() -> None:
    """Let `peak` begin anew."""
    Path("/proc/self/clear_refs").write_text("5")


class FamilyPeak:
    """The most memory that a process and all its descendants took at once; a context manager that looks repeatedly.

    bytes: only what no file backs, so that libraries do not count for each process anew.
    """

    def __init__(self, pid: int, every_seconds: float = 0.05) -> None:
        self.bytes = 0
        self._pid, self._every = pid, every_seconds
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> FamilyPeak:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._over.wait(self._every):
            self.bytes = max(self.bytes, sum(_field(pid, "RssAnon") for pid in _family(self._pid)))


def _family(pid: int) -> set[int]:
    parents = {}
    for entry in os.scandir("/proc"):
        if entry.name.isdecimal():
            try:
                stat = Path(entry.path, "stat").read_text()
            except OSError:
                continue
            parents[int(entry.name)] = int(stat.rpartition(")")[2].split()[1])
    family, size = {pid}, 0
    while len(family) > size:
        size = len(family)
        family |= {child for child, parent in parents.items() if parent in family}
    return family


def _field(pid: int, name: str) -> int:
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0  # it has ended
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{name}:")), 0)
