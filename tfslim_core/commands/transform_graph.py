"""tfslim transform-graph."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tfslim_core import api
from tfslim_core.commands.app import app, err
from tfslim_core.commands.options import AsJson, Overwrite, listed
from tfslim_core.commands.printing import print_stage
from tfslim_core.commands.untrusted import may_be_untrusted
from tfslim_core.terminal import Narrator


@app.command("transform-graph")
@may_be_untrusted(["in_graph"], ["out_graph"])
def transform_graph(
    in_graph: Annotated[Path, typer.Option(metavar="A.pb", help="A frozen GraphDef.")],
    out_graph: Annotated[Path, typer.Option(metavar="B.pb", help="What to write.")],
    inputs: Annotated[str, typer.Option(help="Names of nodes or tensors, with commas between.")],
    outputs: Annotated[str, typer.Option(help="Names of nodes or tensors, with commas between.")],
    transforms: Annotated[str, typer.Option(help="As the Graph Transform Tool takes them; see: tfslim transforms")],
    overwrite: Overwrite = False,
    as_json: AsJson = False,
) -> None:
    """Transform a frozen GraphDef as the old transform_graph did.

    Both graphs then answer a made-up request, and the result is written when the answers agree. --json prints what each
    transform changed and what it left alone, with the reasons.
    """
    with Narrator(err) as told:
        report = api.transform_graph_file(
            in_graph,
            out_graph,
            inputs=listed(inputs),
            outputs=listed(outputs),
            transforms=transforms,
            overwrite=overwrite,
            progress=told,
        )
    print_stage(report, as_json)
