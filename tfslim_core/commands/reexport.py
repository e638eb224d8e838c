"""tfslim reexport."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

from tfslim_core import api
from tfslim_core.commands.app import app, err
from tfslim_core.commands.options import (
    AsJson,
    BundleIn,
    Data,
    MinRuntime,
    Out,
    Overwrite,
    Seed,
    Signature,
    Warmup,
    named_paths,
)
from tfslim_core.commands.printing import print_stage
from tfslim_core.terminal import Narrator


@app.command()
def reexport(
    bundle: BundleIn,
    out_: Out,
    output_format: Annotated[Literal["saved_model", "graph_def"], typer.Option("--format")] = "saved_model",
    min_runtime: MinRuntime = None,
    warmup: Warmup = None,
    data: Data = None,
    signature: Signature = None,
    seed: Seed = None,
    overwrite: Overwrite = False,
    as_json: AsJson = False,
) -> None:
    """Write a bundle as a SavedModel, loaded and run by TensorFlow's C++ loader before it counts."""
    with Narrator(err) as told:
        report = api.reexport(
            bundle,
            out_,
            format=output_format,
            min_runtime=min_runtime,
            warmup=warmup,
            data=named_paths(data),
            signature=signature,
            seed=seed or 0,
            overwrite=overwrite,
            progress=told,
        )
    print_stage(report, as_json)
