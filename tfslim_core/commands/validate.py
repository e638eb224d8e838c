"""tfslim validate."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tfslim_core import api
from tfslim_core.commands.app import app, err
from tfslim_core.commands.options import (
    AsJson,
    BadRecords,
    Data,
    Gates,
    GraphFile,
    Inputs,
    Label,
    MainOutput,
    Outputs,
    Overwrite,
    Signature,
    Slices,
    Tags,
    listed,
    named_paths,
    whole_numbers,
)
from tfslim_core.commands.printing import conclude, exit_by, print_json, print_table
from tfslim_core.commands.untrusted import may_be_untrusted
from tfslim_core.errors import UsageError
from tfslim_core.terminal import Narrator


@app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": False})
@may_be_untrusted(["original", "optimized"], ["report_dir"])
def validate(
    context: typer.Context,
    original: Annotated[
        Path, typer.Argument(metavar="ORIGINAL", help="The model as it was, of any format.", show_default=False)
    ],
    optimized: Annotated[Path, typer.Argument(metavar="OPTIMIZED", help="The model to judge.", show_default=False)],
    report_dir: Annotated[Path, typer.Option("--out", metavar="DIR", help="Where verdict.json and the report go.")],
    data: Data = None,
    gate: Gates = None,
    signature: Signature = None,
    main_output: MainOutput = None,
    label: Label = None,
    slices: Slices = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Examples in a request.")] = 32,
    batch_sizes: Annotated[
        str, typer.Option(metavar="SIZES", help="To measure latency and throughput at, with commas between.")
    ] = "1,32",
    no_costs: Annotated[
        bool, typer.Option("--no-costs", help="Leave out latency, throughput, load time and memory.")
    ] = False,
    fail_on_bad_records: BadRecords = None,
    tags: Tags = "serve",
    inputs: Inputs = None,
    outputs: Outputs = None,
    graph: GraphFile = None,
    overwrite: Overwrite = False,
    as_json: AsJson = False,
) -> None:
    """Compare two models on real data, as a Beam job; Beam's own options go after --.

    Exits with 3 when the gate fails and with 4 when nothing was proven.
    """
    if context.args and not context.args[0].startswith("-"):
        raise UsageError(f"validate takes two models; what is {context.args[0]!r}? (Beam's own options go after --)")
    with Narrator(err) as told:
        report = api.validate(
            original,
            optimized,
            data=named_paths(data),
            out=report_dir,
            gates=gate or (),
            signature=signature,
            main_output=main_output,
            label=label,
            slices=slices or (),
            batch_size=batch_size,
            batch_sizes=whole_numbers(batch_sizes, "--batch-sizes"),
            costs=not no_costs,
            fail_on_bad_records=0.01 if fail_on_bad_records is None else fail_on_bad_records,
            tags=listed(tags),
            inputs=listed(inputs) if inputs else None,
            outputs=listed(outputs) if outputs else None,
            graph=graph,
            beam_options=context.args,
            overwrite=overwrite,
            progress=told,
        )
    if as_json:
        print_json(report.verdict.model_dump(mode="json"))
    else:
        print_table(report.verdict, report.context)
    conclude(report.verdict, report.path)
    exit_by(report.outcome)
