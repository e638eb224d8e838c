"""tfslim transform."""

from __future__ import annotations

from typing import Annotated

import typer

from tfslim_core import api
from tfslim_core.commands.app import app, err
from tfslim_core.commands.options import AsJson, BundleIn, Out, Overwrite
from tfslim_core.commands.printing import print_stage
from tfslim_core.commands.untrusted import may_be_untrusted
from tfslim_core.terminal import Narrator


@app.command()
@may_be_untrusted(["bundle"], ["out_"])
def transform(
    bundle: BundleIn,
    out_: Out,
    transforms: Annotated[
        str | None,
        typer.Option(help='E.g. "fold_constants(ignore_errors=true) fold_batch_norms"; see: tfslim transforms'),
    ] = None,
    overwrite: Overwrite = False,
    as_json: AsJson = False,
) -> None:
    """Rewrite a bundle's graph: prune, fold constants and batch norms, merge duplicates."""
    with Narrator(err) as told:
        report = api.transform(bundle, out_, transforms=transforms, overwrite=overwrite, progress=told)
    print_stage(report, as_json)
