"""tfslim publish, and back again with tfslim rollback."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

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
    keep: Annotated[
        int | None, typer.Option(metavar="N", min=2, help="Keep so many versions, and remove older ones; all.")
    ] = None,
    model_config: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Write a file for a server's --model_config_file.", show_default=False),
    ] = None,
    model_name: Annotated[
        str | None, typer.Option(metavar="NAME", help="The model's name in it; the last part of BASE.")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace FILE if it says something else.")] = False,
    as_json: AsJson = False,
) -> None:
    """Publish a model that passed, as the next version below BASE.

    Exits with 3 for a failed verdict and with 4 for an inconclusive one.
    """
    done = api.publish(
        optimized,
        base,
        verdict=verdict,
        keep=keep,
        model_config=model_config,
        model_name=model_name,
        overwrite=overwrite,
    )
    if as_json:
        print_json(asdict(done))
        return
    for note in done.notes:
        err.print(visible(note), style="yellow")
    if done.removed:
        err.print(visible(f"removed: version{'s' * (len(done.removed) != 1)} {', '.join(map(str, done.removed))}"))
    err.print(f"warm-up requests: {'in the model' if done.warmup_requests else 'none'}", style="dim")
    err.print(visible(f"published: {done.path}"))


@app.command()
def rollback(
    base: Base,
    to: Annotated[
        int | None,
        typer.Option(metavar="N", help="Hide all versions above this one; the highest only.", show_default=False),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Hide the highest version below BASE, so that the one before it is served."""
    done = api.rollback(base, to=to)
    if as_json:
        print_json({"path": str(done.path), "version": done.version})
    else:
        err.print(visible(f"now served: {done.path}"))
