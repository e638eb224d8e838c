"""The cores of this machine, shared out among the worker processes of a run.

A TensorFlow that sees two cores keeps both busy, the second one mostly by waiting for work; two such processes take
turns on cores that neither needs. One that is kept on its share makes as many threads as that has cores.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class CoreShares:
    """folder: where processes mark which share they have. shares: the numbers of cores in each."""

    folder: str
    shares: Sequence[Sequence[int]]

    def take(self) -> None:
        """Keep this process, with all its threads, on a share that no other living process has; on all if none is left.

        To be called before TensorFlow makes its threads, which is when it opens the first model.
        """
        for number, cores in enumerate(self.shares):
            mark = os.open(os.path.join(self.folder, f"cores-{number}"), os.O_RDWR | os.O_CREAT, 0o600)
            try:
                fcntl.flock(mark, fcntl.LOCK_EX | fcntl.LOCK_NB)  # held until this process ends
            except OSError:
                os.close(mark)
                continue
            for thread in os.listdir("/proc/self/task"):
                with contextlib.suppress(OSError):  # one that has ended
                    os.sched_setaffinity(int(thread), cores)
            return


def core_shares(folder: str, processes: int) -> CoreShares | None:
    """Shares for so many processes, 0 for one each core; None where there is nothing to share out."""
    if not hasattr(os, "sched_getaffinity") or not os.path.isdir("/proc/self/task"):
        return None
    cores = sorted(os.sched_getaffinity(0))
    processes = processes or len(cores)
    if processes < 2 or len(cores) < 2:
        return None
    return CoreShares(folder, [cores[n % len(cores) :: processes] for n in range(processes)])
