"""tfslim checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.table import Table

from tfslim_core import api
from tfslim_core.commands.app import app, err
from tfslim_core.commands.options import AsJson, Out, Overwrite
from tfslim_core.commands.printing import print_json, visible
from tfslim_core.commands.untrusted import may_be_untrusted
from tfslim_core.terminal import Narrator, file_size


@app.command()
@may_be_untrusted([], ["out_"])
def checkpoint(
    path: Annotated[
        Path,
        typer.Argument(
            metavar="IN", help="A checkpoint's prefix, a directory that holds one, or a SavedModel.", show_default=False
        ),
    ],
    out_: Out,
    keep: Annotated[Literal["inference", "training"], typer.Option(help="What the result is for.")] = "inference",
    averages: Annotated[
        Literal["keep", "drop", "only"],
        typer.Option(help="Moving averages: beside their variables, none, or in the variables' place."),
    ] = "keep",
    include: Annotated[
        list[str] | None,
        typer.Option(metavar="PATTERN", help="Tensors that stay whatever they are, by name (* and ?)."),
    ] = None,
    exclude: Annotated[list[str] | None, typer.Option(metavar="PATTERN", help="Tensors that go, by name.")] = None,
    overwrite: Overwrite = False,
    as_json: AsJson = False,
) -> None:
    """Take optimizer slots, counters and duplicates out of a checkpoint; names and bits of the rest stay."""
    with Narrator(err) as told:
        report = api.checkpoint(
            path,
            out_,
            keep=keep,
            averages=averages,
            include=include or (),
            exclude=exclude or (),
            overwrite=overwrite,
            progress=told,
        )
    if as_json:
        print_json(report.to_json())
    else:
        _show(report)


def _show(report: api.CheckpointReport) -> None:
    table = Table("", "what")
    for column in ("tensors", "size"):
        table.add_column(column, justify="right")
    for group in report.groups:
        word = "kept" if group["kept"] else "gone"
        table.add_row(word, group["kind"], f"{group['tensors']:,}", file_size(group["bytes"]))
    done = report.done
    if done.shared:
        table.add_row("once", "the same bytes as another's", f"{len(done.shared):,}", file_size(done.shared_bytes))
    err.print(table)
    doubts = [tensor for tensor in done.tensors if tensor.kept and tensor.reason]
    for tensor in doubts[:10]:
        err.print(visible(f"{tensor.name} stays: {tensor.reason}"), style="dim")
    if len(doubts) > 10:
        err.print(f"and {len(doubts) - 10:,} others stay for a reason: see --json", style="dim")
    for note in done.notes:
        err.print(visible(note), style="dim")
    sizes = f"{file_size(done.bytes_before)} -> {file_size(report.bytes)}"
    err.print(f"{visible(str(report.prefix))}: {sizes}, every tensor read back bit for bit, {report.seconds:.1f} s")
