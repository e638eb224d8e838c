"""tfslim slim."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from tfslim_core import api
from tfslim_core.commands.app import app, err
from tfslim_core.commands.options import (
    AsJson,
    BadRecords,
    Budgets,
    Corpus,
    Data,
    Exclude,
    Gates,
    GraphFile,
    Include,
    Inputs,
    Keep,
    Label,
    MainOutput,
    MinCount,
    MinimumSize,
    MinRuntime,
    Model,
    Out,
    Outputs,
    Overwrite,
    SearchMinutes,
    Seed,
    Signature,
    Slices,
    StandIn,
    Warmup,
    listed,
    named_paths,
)
from tfslim_core.commands.printing import conclude, exit_by, print_json, print_table, visible
from tfslim_core.commands.untrusted import may_be_untrusted
from tfslim_core.terminal import Narrator


def _report_of_config(arguments: Mapping[str, Any]) -> list[str]:
    """Where the configuration puts the report, if it does."""
    from tfslim_core.configuration import settings

    report = settings(arguments["config"], {}).get("report")
    return [report] if report is not None else []


@app.command()
@may_be_untrusted(["model"], ["out_", "report_dir"], more_writes=_report_of_config)
def slim(
    model: Model,
    out_: Out,
    config: Annotated[
        Path | None, typer.Option(help="A YAML file with these options, underscores for dashes; flags win.")
    ] = None,
    encoding: Annotated[
        str | None, typer.Option(help="For every weight, as in quantize; without it int8 where it does no harm.")
    ] = None,
    data: Data = None,
    gate: Gates = None,
    report_dir: Annotated[
        Path | None, typer.Option("--report", metavar="DIR", help="Where verdict.json and the report go.")
    ] = None,
    transforms: Annotated[str | None, typer.Option(help="Instead of the default set.")] = None,
    signatures: Annotated[str | None, typer.Option(help="The signatures to keep, with commas between; all.")] = None,
    inputs: Inputs = None,
    outputs: Outputs = None,
    graph: GraphFile = None,
    include: Include = None,
    exclude: Exclude = None,
    minimum_size: MinimumSize = None,
    budget: Budgets = None,
    search_minutes: SearchMinutes = None,
    seed: Seed = None,
    signature: Signature = None,
    main_output: MainOutput = None,
    label: Label = None,
    slices: Slices = None,
    fail_on_bad_records: BadRecords = None,
    prune_vocabulary: Annotated[
        bool,
        typer.Option("--prune-vocabulary", help="Drop rows of embeddings that the corpus, or the data, does not use."),
    ] = False,
    corpus: Corpus = None,
    min_count: MinCount = None,
    keep: Keep = None,
    to: StandIn = None,
    min_runtime: MinRuntime = None,
    warmup: Warmup = None,
    tags: Annotated[
        list[str] | None,
        typer.Option(
            metavar="TAGS",
            help="A MetaGraph's tags, with commas between; serve. Repeated: all are kept, the first leads.",
        ),
    ] = None,
    overwrite: Overwrite = False,
    as_json: AsJson = False,
) -> None:
    """Slim a model, of any format, into a SavedModel: all stages at once, and a before/after table.

    With --data the result is validated and exits with 3 when the gate fails, with 4 when nothing was proven; without
    it the answers are checked on made-up inputs only, and the report says so.
    """
    from tfslim_core.configuration import settings

    flags = {
        "encoding": encoding,
        "data": named_paths(data) or None,
        "gates": gate,
        "report": report_dir,
        "transforms": transforms,
        "signatures": listed(signatures) if signatures else None,
        "inputs": listed(inputs) if inputs else None,
        "outputs": listed(outputs) if outputs else None,
        "graph": graph,
        "include": include,
        "exclude": exclude,
        "minimum_size": minimum_size,
        "budget": budget,
        "search_minutes": search_minutes,
        "seed": seed,
        "signature": signature,
        "main_output": main_output,
        "label": label,
        "slices": slices,
        "fail_on_bad_records": fail_on_bad_records,
        "prune_vocabulary": prune_vocabulary or None,
        "corpus": named_paths(corpus, "--corpus") or None,
        "min_count": min_count,
        "keep": keep,
        "to": to,
        "min_runtime": min_runtime,
        "warmup": warmup,
        "tags": listed(tags[0]) if tags else None,
        "also_tags": [listed(one) for one in tags[1:]] if tags else None,
    }
    asked = settings(config, {key: value for key, value in flags.items() if value is not None})
    with Narrator(err) as told:
        report = api.slim(model, out_, **asked, overwrite=overwrite, progress=told)
    if as_json:
        print_json(report.to_json())
    else:
        print_table(report.verdict, report.context)
    for stage in report.context.stages:
        if stage.notes:
            err.print(visible(f"{stage.name}: {stage.notes}"), style="dim")
    conclude(report.verdict, report.report)
    exit_by(report.outcome if asked.get("data") else "pass")
