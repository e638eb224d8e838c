"""tfslim reexport."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

from tfslim_core import api
from tfslim_core.commands.app import app, err
from tfslim_core.commands.options import AsJson, BundleIn, Out, Overwrite
from tfslim_core.commands.printing import print_stage
from tfslim_core.commands.untrusted import may_be_untrusted
from tfslim_core.terminal import Narrator


@app.command()
@may_be_untrusted(["bundle"], ["out_"])
def reexport(
    bundle: BundleIn,
    out_: Out,
    output_format: Annotated[Literal["saved_model", "graph_def"], typer.Option("--format")] = "saved_model",
    overwrite: Overwrite = False,
    as_json: AsJson = False,
) -> None:
    """Write a bundle as a SavedModel, loaded and run by TensorFlow's C++ loader before it counts."""
    with Narrator(err) as told:
        report = api.reexport(bundle, out_, format=output_format, overwrite=overwrite, progress=told)
    print_stage(report, as_json)
