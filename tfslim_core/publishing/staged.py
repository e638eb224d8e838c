"""Places to fill before they count, and to clear when who filled them has died.

A lock is held on each while its process lives, which the kernel takes back when that dies, however it dies. Where a
file system knows no locks, a place is taken for abandoned when it is a day old.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_ABANDONED = 24 * 3600.0  # seconds
_SUFFIX = ".lock"


@contextmanager
def place(folder: Path) -> Iterator[Path]:
    """A new directory below `folder`, gone after the block.

    Raises:
        OSError: it cannot be made.
    """
    folder.mkdir(parents=True, exist_ok=True)
    aside = folder / uuid.uuid4().hex
    lock = _locked(aside)
    try:
        aside.mkdir()
        yield aside
    finally:
        _clear(aside)
        os.close(lock)


def clear_abandoned(folder: Path) -> None:
    """Delete the places of processes that have died. What cannot be deleted is left for the next time."""
    with suppress(OSError):
        for lock in folder.glob(f"*{_SUFFIX}"):
            with suppress(OSError):
                _clear_if_abandoned(lock)


def _locked(aside: Path) -> int:
    """A lock for a place that is yet to be made: no place is ever there without one."""
    path = f"{aside}{_SUFFIX}"
    while True:
        lock = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        with suppress(OSError):  # this file system has none
            fcntl.flock(lock, fcntl.LOCK_EX)
        with suppress(FileNotFoundError):
            if os.path.samestat(os.stat(path), os.fstat(lock)):
                return lock
        os.close(lock)  # another took the lock for an abandoned one before it was held, and deleted it


def _clear_if_abandoned(path: Path) -> None:
    lock = os.open(path, os.O_RDWR)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        dead = True
    except BlockingIOError:
        dead = False
    except OSError:
        dead = time.time() - os.fstat(lock).st_mtime > _ABANDONED
    try:
        if dead:
            _clear(path.with_suffix(""))
    finally:
        os.close(lock)


def _clear(aside: Path) -> None:
    shutil.rmtree(aside, ignore_errors=True)
    if not aside.exists():
        with suppress(OSError):
            os.unlink(f"{aside}{_SUFFIX}")
