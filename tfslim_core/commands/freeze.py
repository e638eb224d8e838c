"""tfslim freeze."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from tfslim_core import api
from tfslim_core.commands.app import app, err
from tfslim_core.commands.options import AsJson, GraphFile, Inputs, Model, Outputs, Overwrite, Tags, listed
from tfslim_core.commands.printing import print_stage
from tfslim_core.commands.untrusted import may_be_untrusted
from tfslim_core.terminal import Narrator


@app.command()
@may_be_untrusted(["model"], ["bundle"])
def freeze(
    model: Model,
    bundle: Annotated[
        Path, typer.Argument(metavar="BUNDLE", help="What to write; it appears whole.", show_default=False)
    ],
    tags: Tags = "serve",
    signatures: Annotated[str | None, typer.Option(help="The signatures to keep, with commas between; all.")] = None,
    inputs: Inputs = None,
    outputs: Outputs = None,
    graph: GraphFile = None,
    output_format: Annotated[
        Literal["bundle", "graph_def"], typer.Option("--format", help="A plain frozen .pb for tools that want one.")
    ] = "bundle",
    overwrite: Overwrite = False,
    as_json: AsJson = False,
) -> None:
    """Freeze a model's variables and inline its functions: the first stage. It says what it saw.

    A SavedModel, a frozen .pb or .pbtxt, a checkpoint with its .meta or a graph, a .keras or .h5 file.
    """
    with Narrator(err) as told:
        report = api.freeze(
            model,
            bundle,
            tags=listed(tags),
            signatures=listed(signatures) if signatures else None,
            inputs=listed(inputs) if inputs else None,
            outputs=listed(outputs) if outputs else None,
            graph=graph,
            format=output_format,
            overwrite=overwrite,
            progress=told,
        )
    print_stage(report, as_json)
