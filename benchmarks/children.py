"""Work that may crash or hang, done by a module of this package in a process of its own."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from typing import Any

from benchmarks.places import ROOT


class ChildError(Exception):
    """The child did not do it; the message says why. stdout: what it had printed."""

    def __init__(self, why: str, stdout: str) -> None:
        super().__init__(why)
        self.stdout = stdout


def run(module: str, *arguments: str, timeout: float) -> None:
    """`python -m module arguments`.

    Raises:
        ChildError: it failed, died or took more than `timeout` seconds.
    """
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "-1", "TF_CPP_MIN_LOG_LEVEL": "2"}
    command = [sys.executable, "-m", module, *arguments]
    try:
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=timeout)
    except subprocess.TimeoutExpired as late:
        raise ChildError(f"not done after {timeout:g} s", _text(late.stdout)) from None
    if done.returncode:
        how = signal.Signals(-done.returncode).name + ": " if done.returncode < 0 else ""
        raise ChildError(f"{how}{_last_words(done.stderr)}", done.stdout)


def _last_words(stderr: str) -> str:
    """The line that tells most: a failed check of TensorFlow's, else the last exception's, else the last."""
    lines = [line.strip() for line in stderr.splitlines() if line.strip()]
    raised = [match[1] for line in lines if (match := re.match(r"(?:\w+\.)*(\w+(?:Error|Exception)\b.*)", line))]
    fatal = [line for line in lines if "Check failed" in line]
    return ([*lines[-1:], *raised[-1:], *fatal[-1:]] or ["it said nothing"])[-1][:200]


def _text(output: Any) -> str:
    return output.decode(errors="replace") if isinstance(output, bytes) else output or ""
