"""tfslim warmup."""

from __future__ import annotations

from typing import Annotated

import typer

from tfslim_core import api
from tfslim_core.commands.app import app, err
from tfslim_core.commands.options import (
    AsJson,
    Data,
    Model,
    Out,
    Overwrite,
    Seed,
    Signature,
    Tags,
    listed,
    named_paths,
)
from tfslim_core.commands.printing import print_json, visible
from tfslim_core.commands.untrusted import may_be_untrusted
from tfslim_core.terminal import Narrator, file_size


@app.command()
@may_be_untrusted(["model"], ["out_"])
def warmup(
    model: Model,
    out_: Out,
    data: Data = None,
    count: Annotated[int, typer.Option(min=1, max=1000, help="Requests to make.")] = 100,
    signature: Signature = None,
    seed: Seed = None,
    tags: Tags = "serve",
    overwrite: Overwrite = False,
    as_json: AsJson = False,
) -> None:
    """Make a file of warm-up requests for TensorFlow Serving from a sample of the data."""
    with Narrator(err) as told:
        report = api.warmup(
            model,
            out_,
            data=named_paths(data),
            count=count,
            signature=signature,
            seed=seed or 0,
            tags=listed(tags),
            overwrite=overwrite,
            progress=told,
        )
    if as_json:
        print_json(report.to_json())
        return
    for note in report.notes:
        err.print(visible(note), style="dim")
    size = file_size(report.bytes)
    err.print(f"{visible(str(report.path))}: {report.requests} requests, {size}, {report.seconds:.1f} s")
