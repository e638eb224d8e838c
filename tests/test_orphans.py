"""A child whose parent is killed is gone soon, also when its pipes are held open and it is busy."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

_CHILD = "from tfslim_core.orphans import end_with_parent; end_with_parent(group={group}); print('up', flush=True)\n"
_BUSY = "while True: pass"
_PARENT = """
import subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", sys.argv[1]], stdout=subprocess.PIPE, start_new_session={session})
child.stdout.readline()
print(child.pid, flush=True)
time.sleep(600)
"""


@pytest.mark.parametrize("group", [False, True])
def test_it_ends_when_its_parent_is_killed(group):
    code = _CHILD.format(group=group) + _BUSY
    parent = subprocess.Popen(
        [sys.executable, "-c", _PARENT.format(session=group), code], stdout=subprocess.PIPE, text=True
    )
    child = int(parent.stdout.readline())
    assert _runs(child)

    parent.kill()
    parent.wait()
    for _ in range(100):
        if not _runs(child):
            break
        time.sleep(0.1)
    assert not _runs(child)


def test_it_stays_while_its_parent_does():
    parent = subprocess.Popen(
        [sys.executable, "-c", _PARENT.format(session=False), _CHILD.format(group=False) + _BUSY],
        stdout=subprocess.PIPE,
        text=True,
    )
    child = int(parent.stdout.readline())
    time.sleep(2.5)
    assert _runs(child)
    os.kill(child, 9)
    parent.kill()
    parent.wait()


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
