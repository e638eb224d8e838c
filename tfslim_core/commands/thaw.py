"""tfslim thaw."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.table import Table

from tfslim_core import api
from tfslim_core.commands.app import app, err
from tfslim_core.commands.options import AsJson, Out, Overwrite, Tags, listed
from tfslim_core.commands.printing import print_json, visible
from tfslim_core.commands.untrusted import may_be_untrusted
from tfslim_core.terminal import Narrator, file_size


@app.command()
@may_be_untrusted(["model"], ["out_"])
def thaw(
    model: Annotated[
        Path,
        typer.Argument(metavar="MODEL", help="A bundle, or a SavedModel, slimmed or not.", show_default=False),
    ],
    out_: Out,
    tags: Tags = "serve",
    variables: Annotated[
        Literal["auto", "recorded", "layers"],
        typer.Option(help="Those that were variables, what layers read, or the latter where nothing tells."),
    ] = "auto",
    include: Annotated[
        list[str] | None, typer.Option(metavar="PATTERN", help="More constants, by name (* and ?).")
    ] = None,
    exclude: Annotated[list[str] | None, typer.Option(metavar="PATTERN", help="Constants that stay, by name.")] = None,
    like: Annotated[
        Path | None,
        typer.Option(metavar="CHECKPOINT", help="Write a checkpoint of this one's structure, Keras' for example."),
    ] = None,
    overwrite: Overwrite = False,
    as_json: AsJson = False,
) -> None:
    """Make variables of a frozen or slimmed model's weights again, for training to go on."""
    with Narrator(err) as told:
        report = api.thaw(
            model,
            out_,
            tags=listed(tags),
            variables=variables,
            include=include or (),
            exclude=exclude or (),
            like=like,
            overwrite=overwrite,
            progress=told,
        )
    print_thawed(report, as_json)


def print_thawed(report: api.ThawReport, as_json: bool) -> None:
    """What became of each variable, and a last line; or JSON."""
    if as_json:
        print_json(report.to_json())
        return
    done = report.done
    table = Table("variable", "shape", "trained", "value")
    table.columns[0].overflow = table.columns[3].overflow = "fold"
    for variable in done.variables:
        shape = "x".join(map(str, variable.weight.shape)) or "scalar"
        table.add_row(visible(variable.name), shape, "yes" if variable.trainable else "no", visible(variable.state))
    for name, why in done.gone.items():
        table.add_row(visible(name), "", "", visible(why), style="dim")
    err.print(table)
    for note in done.notes:
        err.print(visible(note), style="dim")
    for name in done.left[:10]:
        err.print(visible(f"{name} stays as it was: the model has no value for it"), style="dim")
    if len(done.left) > 10:
        err.print(f"and {len(done.left) - 10:,} others stay as they were: see --json", style="dim")
    worst = max(done.errors.values(), default=None)
    told = f", {len(done.replaced):,} tensors replaced" if done.replaced else ""
    if worst is not None:
        told = f", answers off by at most {worst:.2g} (relative)" if worst else ", equal answers"
    count = f"{len(done.variables):,} variables, {sum(v.trainable for v in done.variables):,} of them trained"
    err.print(f"{visible(str(done.prefix))}: {file_size(report.bytes)}, {count}, {report.seconds:.1f} s{told}")
