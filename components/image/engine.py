"""The program that builds and runs containers: Docker, Podman or Buildah, whichever answers."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from tfslim_core.errors import JobError, UsageError

# What tells that it can do its work: Docker's own command is often there where its daemon is not.
_ASKS = {"docker": ["docker", "info"], "podman": ["podman", "info"], "buildah": ["buildah", "info"]}
RUNS = ("docker", "podman")
# Docker's command can talk to Podman's service, and then can neither build with secrets nor follow what it runs.
_SERVER = ["docker", "version", "--format", "{{range .Server.Components}}{{.Name}}\n{{end}}"]
_PODMAN = "Podman Engine"


def find(name: str = "", among: Sequence[str] = tuple(_ASKS)) -> str:
    """Give the engine of that name, or the first that works."""
    if name and name not in among:
        raise UsageError(f"--engine {name}: expected one of {', '.join(among)}")
    wrong = []
    for engine in [name] if name else among:
        if shutil.which(engine) is None:
            wrong.append(f"{engine} is not installed")
            continue
        asked = subprocess.run(_ASKS[engine], capture_output=True, text=True, check=False)
        if asked.returncode != 0:
            wrong.append(f"{engine} does not answer ({_last(asked.stderr)})")
        elif engine == "docker" and _is_podman():
            wrong.append("docker talks to Podman's service (DOCKER_HOST); use podman itself")
        else:
            return engine
    raise UsageError(f"no engine to work with: {'; '.join(wrong)}")


def _is_podman() -> bool:
    told = subprocess.run(_SERVER, capture_output=True, text=True, check=False)
    return _PODMAN in told.stdout.splitlines()


def run(
    command: Sequence[str | Path], what: str, *, shown: bool = False, both: bool = False, minutes: float | None = None
) -> str:
    """Run a command and give what it printed; where it fails, `what` and its last line are the error.

    shown: its output goes to the terminal as it comes, and is not returned. both: its errors are returned, too.
    minutes: it is killed when it takes longer.
    """
    try:
        done = subprocess.run(
            [str(word) for word in command],
            stdin=subprocess.DEVNULL,
            stdout=None if shown else subprocess.PIPE,
            stderr=None if shown else subprocess.PIPE,
            text=True,
            timeout=None if minutes is None else 60 * minutes,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise JobError(f"{what}: {command[0]} had not ended after {minutes:g} minutes") from None
    except FileNotFoundError:
        raise UsageError(f"{what}: {command[0]} is not installed") from None
    if done.returncode != 0:
        said = "" if shown else f": {_last(done.stderr or done.stdout)}"
        raise JobError(f"{what}: {command[0]} ended with {done.returncode}{said}")
    return (done.stdout or "") + (done.stderr or "" if both else "")


def _last(text: str) -> str:
    return next((line.strip() for line in reversed(text.splitlines()) if line.strip()), "it said nothing")
