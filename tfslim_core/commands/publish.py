"""tfslim publish, and back again with tfslim rollback."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from tfslim_core import api
from tfslim_core.commands.app import app, err
from tfslim_core.commands.options import AsJson, Base
from tfslim_core.commands.printing import print_json, visible


@app.command()
def publish(
    optimized: Annotated[
        Path, typer.Argument(metavar="OPTIMIZED", help="The SavedModel that was validated.", show_default=False)
    ],
    base: Base,
    verdict: Annotated[Path, typer.Option(metavar="FILE", help="The validation's verdict.json.")],
    as_json: AsJson = False,
) -> None:
    """Publish a model that passed, as the next version below BASE.

    Exits with 3 for a failed verdict and with 4 for an inconclusive one.
    """
    done = api.publish(optimized, base, verdict=verdict)
    _print_version(done, "published", as_json)


@app.command()
def rollback(
    base: Base,
    as_json: AsJson = False,
) -> None:
    """Hide the highest version below BASE, so that the one before it is served."""
    _print_version(api.rollback(base), "now served", as_json)


def _print_version(done: Any, word: str, as_json: bool) -> None:
    if as_json:
        print_json({"path": str(done.path), "version": done.version})
    else:
        err.print(visible(f"{word}: {done.path}"))
