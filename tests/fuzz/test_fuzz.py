"""A short run of the fuzzer; `python -m tests.fuzz --count 1000000` is a long one."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.fuzz.mutations import encoded, parsed

ROOT = Path(__file__).parents[2]


def test_no_reader_crashes_hangs_or_takes_more_than_its_bound():
    """In a process of its own: the fuzzer forks, which this one's threads would not survive."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.fuzz", "--count", "3000", "--seed", "7"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-1000:]
    assert "seed 7: no crash, no hang, no allocation over 640 MiB" in done.stdout
    assert "| all | 3,0" in done.stdout


def test_a_crash_is_told_and_the_run_goes_on(tmp_path):
    """The fuzzer can fail: a reader that raises, one that dies, one that takes too much."""
    code = f"""
import os, pathlib
from tests.fuzz.__main__ import fuzzed
from tests.fuzz.readers import Reader

def read(folder):
    data = (folder / "x").read_bytes()
    if len(data) % 7 == 3: raise KeyError("oh")
    if len(data) % 7 == 4: os.abort()
    if len(data) % 7 == 5: bytearray(1 << 31)
    return True

tally = fuzzed(Reader("x", [b"abcdefg" * 5], read, pathlib.Path({str(tmp_path)!r})), 300, 1)
print(sum(tally.counts), tally.counts[2] > 20, tally.counts[4] > 5, sorted(tally.told))
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=100)
    assert done.stdout.startswith("300 True True"), done.stdout + done.stderr[-1000:]
    assert "KeyError" in done.stdout
    assert "SIGABRT" in done.stdout
    assert "MemoryError" in done.stdout


def test_messages_are_taken_apart_and_put_together():
    message = encoded([(1, 0, 300), (2, 2, encoded([(5, 5, b"abcd")])), (3, 1, b"12345678")])
    assert encoded(parsed(message)) == message
    assert parsed(b"\xff\xff") is None
