"""The call of an engine that builds the image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from components.image import engine
from tfslim_core.errors import UsageError

ROOT = Path(__file__).parents[2]
PYTHON_IMAGE = "docker.io/library/python:3.11-slim-bookworm"
GO_IMAGE = "docker.io/library/golang:1.26-bookworm"


@dataclass(frozen=True)
class Build:
    """What to build. ca, pip_conf: files that only the build sees, none of which is left in the image."""

    tag: str
    target: str = ""
    python_image: str = PYTHON_IMAGE
    go_image: str = GO_IMAGE
    ca: Path | None = None
    pip_conf: Path | None = None
    more: Sequence[str] = ()


def command(build: Build, engine_name: str) -> list[str]:
    """Give the words of the command that builds it."""
    words = [engine_name, "build", "--tag", build.tag, "--file", str(ROOT / "Dockerfile")]
    if engine_name == "buildah":
        words.append("--layers")  # as the others do unasked: what did not change is neither built nor stored again
    if build.target:
        words += ["--target", build.target]
    words += ["--build-arg", f"PYTHON_IMAGE={build.python_image}", "--build-arg", f"GO_IMAGE={build.go_image}"]
    for name, file in (("ca", build.ca), ("pip", build.pip_conf)):
        if file is not None:
            if not file.is_file():
                raise UsageError(f"{file}: there is no such file")
            words += ["--secret", f"id={name},src={file.resolve()}"]
    return [*words, *build.more, str(ROOT)]


def build_image(build: Build, engine_name: str) -> None:
    """Build the image; what the engine says goes to the terminal."""
    engine.run(command(build, engine_name), f"building {build.tag}", shown=True)
