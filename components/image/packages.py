"""Which packages the image holds: what its lock file says for its Python, and nothing else."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from packaging.markers import Marker, default_environment
from packaging.utils import canonicalize_name

LOCK = Path(__file__).with_name("packages.lock")
_PINNED = re.compile(r"^(?P<name>[\w.-]+)==(?P<version>[^\s;\\]+)(?: ; (?P<marker>[^\\]+?))?(?: \\)?$", re.MULTILINE)


def locked(lock: Path = LOCK, python: str = "") -> dict[str, str]:
    """Package -> version that a lock file gives a Linux with this Python (3.11.2, say), or the one that runs this."""
    environment = {**default_environment(), "sys_platform": "linux", "platform_system": "Linux"}
    if python:
        environment |= {"python_full_version": python, "python_version": ".".join(python.split(".")[:2])}
    asked = {name: str(value) for name, value in environment.items()}
    return {
        canonicalize_name(found["name"]): found["version"]
        for found in _PINNED.finditer(lock.read_text())
        if found["marker"] is None or Marker(found["marker"]).evaluate(asked)
    }


def named(versions: Mapping[str, str]) -> dict[str, str]:
    """The same, each package by the one spelling of its name that the lock files have."""
    return {canonicalize_name(name): version for name, version in versions.items()}


def difference(installed: Mapping[str, str], expected: Mapping[str, str]) -> list[str]:
    """What is there and should not be, what is missing, and what has another version; a line each."""
    lines = []
    for name in sorted(installed.keys() | expected.keys()):
        here, there = installed.get(name, "missing"), expected.get(name, "not in the lock file")
        if here != there:
            lines.append(f"{name}: {here}, expected {there}")
    return lines
