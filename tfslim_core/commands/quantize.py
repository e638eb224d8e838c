"""tfslim quantize."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

from tfslim_core import api
from tfslim_core.commands.app import app, err, out
from tfslim_core.commands.options import (
    AsJson,
    Budgets,
    BundleIn,
    Data,
    Exclude,
    Include,
    Label,
    MainOutput,
    MinimumSize,
    Out,
    Overwrite,
    SearchMinutes,
    Seed,
    Signature,
    named_paths,
)
from tfslim_core.commands.printing import print_stage, weights_table
from tfslim_core.commands.untrusted import may_be_untrusted
from tfslim_core.terminal import Narrator


@app.command()
@may_be_untrusted(["bundle"], ["out_"])
def quantize(
    bundle: BundleIn,
    out_: Out,
    encoding: Annotated[
        str | None,
        typer.Option(help="int8 unless told; int4/block32, palette4, sparse8, lossless …; a wrong name lists all."),
    ] = None,
    budget: Budgets = None,
    data: Data = None,
    include: Include = None,
    exclude: Exclude = None,
    minimum_size: MinimumSize = None,
    placement: Annotated[
        Literal["rows", "load", "graph"] | None, typer.Option(help="Where to decode; by each weight's use.")
    ] = None,
    signature: Signature = None,
    main_output: MainOutput = None,
    label: Label = None,
    search_minutes: SearchMinutes = None,
    seed: Seed = None,
    explain: Annotated[bool, typer.Option("--explain", help="Print how each weight is stored, and why.")] = False,
    overwrite: Overwrite = False,
    as_json: AsJson = False,
) -> None:
    """Store a bundle's weights in fewer bits, decoded where no request pays for it.

    With --budget and --data each weight gets the encoding that makes the whole smallest within that loss. With --data
    alone weights are rounded by what the layers are fed, so that the answers change less.
    """
    with Narrator(err) as told:
        report = api.quantize(
            bundle,
            out_,
            encoding=encoding,
            include=include or (),
            exclude=exclude or (),
            minimum_size=1024 if minimum_size is None else minimum_size,
            placement=placement,
            budget=budget or (),
            data=named_paths(data),
            signature=signature,
            main_output=main_output,
            label=label,
            search_minutes=10 if search_minutes is None else search_minutes,
            seed=seed or 0,
            overwrite=overwrite,
            progress=told,
        )
    if explain and not as_json:
        # Reasons are sentences: what reads a pipe gets room for them.
        out.print(weights_table(report.weights), width=None if out.is_terminal else 200)
    print_stage(report, as_json)
