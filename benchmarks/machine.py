"""What a figure has to be read with: the machine, the versions, and what else was running."""

from __future__ import annotations

import os
import platform
from datetime import UTC, datetime
from pathlib import Path


def facts(command: str) -> dict[str, str]:
    """What is measured on, by what; the load average is that of the last minute when this is called."""
    from tfslim_core.summary import versions  # imports TensorFlow

    cores = len(os.sched_getaffinity(0))
    return {
        "machine": f"{cores} cores of {_processor()}, {_memory_gib():.0f} GiB, {platform.system()}",
        "versions": ", ".join(f"{name} {version}" for name, version in versions().items()),
        "load average": f"{os.getloadavg()[0]:.1f}",
        "measured": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "command": command,
    }


def sentence(found: dict[str, str]) -> str:
    """The facts in a line for a page."""
    return (
        f"Made by `{found['command']}` on {found['measured']}: {found['machine']}; {found['versions']}; load average "
        f"before the run {found['load average']}."
    )


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def _memory_gib() -> float:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
