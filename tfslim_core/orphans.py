"""A child process that ends when its parent does, also while a model keeps it busy for ever."""

from __future__ import annotations

import os
import signal
import threading
import time

_LOOK = 1.0  # seconds


def end_with_parent(*, group: bool = False) -> None:
    """From now on, end this process soon after its parent has gone. group: all of its process group with it.

    The end of a pipe is noticed only by who reads it. A parent-death signal would come too early: it is sent when the
    parent's thread ends that started this process.
    """
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(_LOOK)
        if group:
            os.killpg(0, signal.SIGKILL)
        os._exit(1)

    threading.Thread(target=watch, daemon=True, name="end with parent").start()
