"""Run a stage again and again in child processes, each killed (SIGKILL) at another moment; print what each left.

    python -m tests.killed_stage STAGE INPUT FOLDER

A moment is a call that touches the disk, or a word about progress. One JSON line a child: the moment, how many there
are in all, and the names in its folder.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
import tempfile
from pathlib import Path

from tfslim_core import api, stages  # noqa: F401  # imported once, before the forks
from tfslim_core.saved_model import freeze, write  # noqa: F401


class Moments:
    def __init__(self, last: int) -> None:
        self.count, self.last = 0, last

    def __call__(self, *_words: object) -> None:
        self.count += 1
        if self.count == self.last:
            os.kill(os.getpid(), signal.SIGKILL)

    def watch(self, owner: object, name: str) -> None:
        """Count a moment before each call of `owner.name`."""
        function = getattr(owner, name)

        def watched(*arguments, **options):
            self()
            return function(*arguments, **options)

        setattr(owner, name, watched)


def run(stage: str, source: str, folder: Path, last: int) -> int:
    moments = Moments(last)
    for owner, names in ((Path, ("write_bytes", "write_text", "open", "rename", "replace")), (os, ("fsync",))):
        for name in names:
            moments.watch(owner, name)
    moments.watch(shutil, "copyfile")
    moments.watch(tempfile, "mkdtemp")
    getattr(api, stage)(source, folder / "out", overwrite=True, progress=moments)
    return moments.count


def in_child(stage: str, source: str, folder: Path, last: int) -> int:
    """0 where the child was killed, else the number of its moments."""
    read, send = os.pipe()
    child = os.fork()
    if not child:
        os.write(send, str(run(stage, source, folder, last)).encode())
        os._exit(0)
    os.close(send)
    _, status = os.waitpid(child, 0)
    with os.fdopen(read) as answer:
        found = answer.read()
    killed = os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL
    assert killed or os.WEXITSTATUS(status) == 0
    return 0 if killed else int(found)


def main(stage: str, source: str, base: Path) -> None:
    (base / "whole").mkdir()
    total = in_child(stage, source, base / "whole", 0)
    some = sorted({1, 2, total // 4, total // 2, 2 * total // 3, total - 3, total - 2, total - 1, total})
    for moment in (moment for moment in some if moment > 0):
        folder = base / str(moment)
        folder.mkdir()
        old = moment % 2 == 0
        if old:
            (folder / "out").mkdir()
            (folder / "out/old").write_text("old")
        left = in_child(stage, source, folder, moment)
        names = sorted(path.name for path in folder.iterdir())
        found = {"moment": moment, "total": total, "killed": left == 0, "old": old, "names": names}
        sys.stdout.write(json.dumps(found) + "\n")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], Path(sys.argv[3]))
