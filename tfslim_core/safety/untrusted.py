"""A tfslim command in a process of its own: no network, bounds on memory and time, nothing left over."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tfslim_core.errors import ModelError
from tfslim_core.safety.confinement import unreadable

MEMORY_LIMIT = 8 << 30  # bytes
TIME_LIMIT = 3600.0  # seconds
_LOOK = 0.1  # seconds between two looks at the memory that is used
_PATIENCE = 5.0  # seconds that a command gets to end after Ctrl-C

# What a command needs of the environment; anything else might be a secret.
_KEPT = frozenset(
    """PATH HOME LANG LANGUAGE TERM COLORTERM NO_COLOR FORCE_COLOR COLUMNS LINES TZ VIRTUAL_ENV LD_LIBRARY_PATH
    CUDA_VISIBLE_DEVICES""".split()
)
_KEPT_PREFIXES = ("LC_", "PYTHON", "TF_", "OMP_", "MKL_", "KMP_")
_SECRETS = ("TOKEN", "SECRET", "PASSWORD", "CREDENTIAL", "KEY", "TF_CONFIG")


@dataclass(frozen=True)
class Bounds:
    """memory: bytes of all processes together, and of each; seconds: from start to end."""

    memory: int = MEMORY_LIMIT
    seconds: float = TIME_LIMIT


def run(arguments: Sequence[str], writes: Sequence[str], bounds: Bounds, module: str = "tfslim_core.cli") -> int:
    """Run `python -m MODULE ARGUMENTS` confined; its exit code. stdout and stderr are this process's.

    writes: the outputs, whose folders alone can be written to.

    Raises:
        ModelError: it passed a bound or was killed; what it had begun to write is gone.
    """
    outputs = [Path(os.path.abspath(path)) for path in writes]
    aside = tempfile.mkdtemp(prefix="tfslim-untrusted-")
    folders = [aside, *(str(_existing(output.parent)) for output in outputs)]
    settings = json.dumps({"module": module, "folders": folders, "memory": bounds.memory})
    try:
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", "tfslim_core.safety.confined", settings, *arguments],
            # Keras imports scikit-learn where there is one, whose joblib would complain about semaphores.
            env=_environment() | {"TMPDIR": aside, "JOBLIB_MULTIPROCESSING": "0"},
            stdin=subprocess.DEVNULL,
            stderr=_descriptor(sys.stderr),
            # A group of its own, out of which the confinement lets nobody go: it is killed whole.
            start_new_session=True,
        )
        try:
            with unreadable():
                code = _watched(process, bounds)
        finally:
            _kill_group(process)
            for output in outputs:
                _clear(output, process.pid)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    if code < 0:
        raise ModelError(
            f"--untrusted: the command was ended by {_signal_name(-code)}: the model makes TensorFlow fail, or needs "
            f"more than {bounds.memory / 2**30:g} GiB of memory (--memory-limit)"
        )
    return code


def _watched(process: subprocess.Popen[bytes], bounds: Bounds) -> int:
    end = time.monotonic() + bounds.seconds
    while True:
        try:
            return process.wait(_LOOK)
        except subprocess.TimeoutExpired:
            pass
        except KeyboardInterrupt:
            os.killpg(process.pid, signal.SIGINT)
            with suppress(subprocess.TimeoutExpired):
                return process.wait(_PATIENCE)
            raise
        if time.monotonic() > end:
            raise ModelError(
                f"--untrusted: the command took longer than {bounds.seconds:g} s and was ended; see --time-limit"
            )
        if _memory(process.pid) > bounds.memory:
            raise ModelError(
                f"--untrusted: the command took more than {bounds.memory / 2**30:g} GiB of memory and was ended; "
                "see --memory-limit"
            )


def _memory(group: int) -> int:
    """Bytes that the processes of a group have for themselves."""
    total = 0
    for entry in os.scandir("/proc"):
        if not entry.name.isdigit():
            continue
        with suppress(OSError, ValueError, IndexError):
            # After the name, which is in brackets and may hold anything: state, parent, group.
            if int(Path(entry.path, "stat").read_text().rpartition(")")[2].split()[2]) == group:
                lines = Path(entry.path, "status").read_text().splitlines()
                total += sum(int(line.split()[1]) << 10 for line in lines if line.startswith(("RssAnon", "RssShmem")))
    return total


def _environment() -> dict[str, str]:
    return {
        name: value
        for name, value in os.environ.items()
        if (name in _KEPT or name.startswith(_KEPT_PREFIXES)) and not any(word in name.upper() for word in _SECRETS)
    }


def _existing(folder: Path) -> Path:
    return next(place for place in (folder, *folder.parents) if place.is_dir())


def _kill_group(process: subprocess.Popen[bytes]) -> None:
    """Kill what is left of the group, and wait until it is gone."""
    end = time.monotonic() + _PATIENCE
    with suppress(ProcessLookupError, PermissionError):
        while time.monotonic() < end:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            time.sleep(_LOOK / 10)


def _clear(output: Path, pid: int) -> None:
    """Remove what a killed process had begun to write beside `output`, and put back what it had moved away."""
    with suppress(OSError):
        for left in output.parent.glob(f".{_literal(output.name)}.old-{pid}-*"):
            if (left / "old").exists() and not os.path.lexists(output):
                (left / "old").rename(output)
            shutil.rmtree(left, ignore_errors=True)
        begun = f".{_literal(output.name)}.part-{pid}"
        for left in (*output.parent.glob(begun), *output.parent.glob(f"{begun}-*")):
            shutil.rmtree(left) if left.is_dir() else left.unlink()


def _descriptor(stream: Any) -> int | None:
    """Where Python's stderr goes, which is not where TensorFlow's does; None for the process's own."""
    stream.flush()
    try:
        return int(stream.fileno())
    except (OSError, ValueError):
        return None


def _literal(name: str) -> str:
    return "".join(f"[{letter}]" if letter in "*?[" else letter for letter in name)


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
