"""Build the container image, check it, and make its bases where no registry can be reached."""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from components.image import IMAGE, bases, check, engine
from components.image.build import GO_IMAGE, PYTHON_IMAGE, Build, build_image
from tfslim_core.errors import TfslimError, UsageError

app = typer.Typer(add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False, help=__doc__)
EngineOption = Annotated[
    str, typer.Option("--engine", metavar="NAME", help="docker, podman or buildah; the first that answers unless told.")
]
TagOption = Annotated[str, typer.Option("--tag", metavar="NAME:TAG", help="The image's name.")]
PythonOption = Annotated[str, typer.Option(metavar="IMAGE", help="Debian with Python 3.11; best with its digest.")]
GoOption = Annotated[str, typer.Option(metavar="IMAGE", help="Go below /usr/local/go, for Beam's entrypoint.")]


@app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": False})
def build(
    context: typer.Context,
    tag: TagOption = IMAGE,
    engine_name: EngineOption = "",
    target: Annotated[str, typer.Option(metavar="STAGE", help="dataflow, for the workers of Dataflow.")] = "",
    python_image: PythonOption = PYTHON_IMAGE,
    go_image: GoOption = GO_IMAGE,
    ca: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Certificates that pip and Go shall trust while building.")
    ] = None,
    pip_conf: Annotated[
        Path | None, typer.Option(metavar="FILE", help="pip's configuration while building, such as an index.")
    ] = None,
) -> None:
    """Build the image. What follows a lone -- goes to the engine's build command as it is."""
    with _one_line():
        wanted = Build(tag, target, python_image, go_image, ca, pip_conf, context.args)
        build_image(wanted, engine.find(engine_name))
        print(tag)


@app.command("bases")
def make_bases(
    engine_name: EngineOption = "",
    python_image: PythonOption = PYTHON_IMAGE,
    go_image: GoOption = GO_IMAGE,
    mirror: Annotated[
        str, typer.Option(metavar="URL", help="Debian's archive, or a copy of it.")
    ] = "http://deb.debian.org/debian",
    security: Annotated[
        str, typer.Option(metavar="URL", help="Debian's security archive, or a copy of it.")
    ] = bases.SECURITY,
) -> None:
    """Make the two base images here, under the names that the Dockerfile asks for; needs root, debootstrap and Go."""
    with _one_line():
        found = engine.find(engine_name)
        bases.make_python(python_image, found, mirror, security)
        bases.make_go(go_image, found, python_image)
        print(python_image, go_image, sep="\n")


@app.command("check")
def check_image(
    model: Annotated[Path, typer.Option(metavar="DIR", help="A SavedModel to slim in the image.")],
    data: Annotated[Path, typer.Option(metavar="FILE", help="Requests to validate it on, as tfslim slim --data.")],
    tag: TagOption = IMAGE,
    engine_name: EngineOption = "",
) -> None:
    """Run the image in each of its roles: without a network, without root, and without a file system to write to."""
    with _one_line(), tempfile.TemporaryDirectory(prefix="tfslim-check-") as scratch:
        if not (model / "saved_model.pb").is_file():
            raise UsageError(f"--model {model}: expected a SavedModel; there is no saved_model.pb in it")
        if not data.is_file():
            raise UsageError(f"--data {data}: there is no such file")
        work = Path(scratch)
        work.chmod(0o777)  # the container's user is nobody here
        asked = check.Check(engine.find(engine_name, engine.RUNS), tag, model, data, work)
        for role in check.ROLES:
            began = time.monotonic()
            said = role(asked)
            print(f"{role.__name__.replace('_', ' ')}: {said} ({time.monotonic() - began:.0f} s)", flush=True)


@contextmanager
def _one_line() -> Iterator[None]:
    try:
        yield
    except TfslimError as error:
        print(f"tfslim: {error}", file=sys.stderr)
        sys.exit(error.exit_code)


if __name__ == "__main__":
    app(prog_name="python -m components.image")
