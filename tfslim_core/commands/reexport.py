"""tfslim reexport."""

from __future__ import annotations

from pathlib import Path
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
from tfslim_core.commands.untrusted import may_be_untrusted
from tfslim_core.terminal import Narrator


@app.command()
@may_be_untrusted(["bundle"], ["out_"])
def reexport(
    bundle: BundleIn,
    out_: Out,
    output_format: Annotated[
        Literal["saved_model", "graph_def", "tflite", "checkpoint"],
        typer.Option(
            "--format",
            help="graph_def: a plain frozen .pb. tflite: a directory with model.tflite, for --prefer_tflite_model. "
            "checkpoint: variables again, as thaw writes them.",
        ),
    ] = "saved_model",
    tflite_quantize: Annotated[
        Literal["none", "float16", "dynamic", "int8"] | None,
        typer.Option(
            help="How TFLite's converter stores weights: none (float32), float16, dynamic (int8 kernels, scaled for "
            "each request), int8 (scaled for --data)."
        ),
    ] = None,
    min_runtime: MinRuntime = None,
    warmup: Warmup = None,
    data: Data = None,
    signature: Signature = None,
    seed: Seed = None,
    also: Annotated[
        list[Path] | None,
        typer.Option(metavar="BUNDLE", help="A further tag set of the same SavedModel. May be repeated."),
    ] = None,
    overwrite: Overwrite = False,
    as_json: AsJson = False,
) -> None:
    """Write a bundle as a SavedModel, loaded and run by TensorFlow's C++ loader before it counts.

    As TFLite it is loaded and run by TFLite's interpreter, and compared with the bundle, on --data where given.
    """
    with Narrator(err) as told:
        report = api.reexport(
            bundle,
            out_,
            format=output_format,
            tflite_quantize=tflite_quantize,
            min_runtime=min_runtime,
            warmup=warmup,
            data=named_paths(data),
            signature=signature,
            seed=seed or 0,
            also=also or (),
            overwrite=overwrite,
            progress=told,
        )
    print_stage(report, as_json)
