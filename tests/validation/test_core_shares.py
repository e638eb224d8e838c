"""Cores shared out among processes: by real processes that say where they may run."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tfslim_core.validation.core_shares import core_shares

TAKE = """
import os, sys
from tfslim_core.validation.core_shares import CoreShares
CoreShares(sys.argv[1], [[int(core)] for core in sys.argv[2:]]).take()
print(*sorted(os.sched_getaffinity(0)), flush=True)
sys.stdin.read()
"""


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="one core cannot be shared out")
def test_each_process_has_a_share_of_its_own_and_a_dead_one_gives_it_back(tmp_path):
    first, second = sorted(os.sched_getaffinity(0))[:2]

    def start():
        command = [sys.executable, "-c", TAKE, str(tmp_path), str(first), str(second)]
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        return process, process.stdout.readline().split()

    started = [start() for _ in range(3)]
    cores = [found for _, found in started]
    everywhere = [str(core) for core in sorted(os.sched_getaffinity(0))]
    assert cores == [[str(first)], [str(second)], everywhere]
    started[0][0].kill()
    started[0][0].wait()
    again = start()
    assert again[1] == [str(first)]
    for process, _ in (*started, again):
        process.kill()
        process.communicate()


def test_one_process_keeps_all_cores(tmp_path):
    assert core_shares(str(tmp_path), 1) is None


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="one core cannot be shared out")
def test_shares_are_all_cores_together_and_none_is_empty(tmp_path):
    cores = sorted(os.sched_getaffinity(0))
    for processes in (0, 2, len(cores), 2 * len(cores) + 1):
        shares = core_shares(str(tmp_path), processes).shares
        assert len(shares) == (processes or len(cores))
        assert all(shares)
        assert sorted({core for share in shares for core in share}) == cores
