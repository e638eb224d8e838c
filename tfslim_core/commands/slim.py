"""tfslim slim."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

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
    Include,
    Keep,
    Label,
    MainOutput,
    MinCount,
    MinimumSize,
    Model,
    Out,
    Overwrite,
    SearchMinutes,
    Seed,
    Signature,
    StandIn,
    listed,
    named_paths,
)
from tfslim_core.commands.printing import conclude, exit_by, print_json, print_table, visible
from tfslim_core.terminal import Narrator


@app.command()
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
    include: Include = None,
    exclude: Exclude = None,
    minimum_size: MinimumSize = None,
    budget: Budgets = None,
    search_minutes: SearchMinutes = None,
    seed: Seed = None,
    signature: Signature = None,
    main_output: MainOutput = None,
    label: Label = None,
    fail_on_bad_records: BadRecords = None,
    prune_vocabulary: Annotated[
        bool,
        typer.Option("--prune-vocabulary", help="Drop rows of embeddings that the corpus, or the data, does not use."),
    ] = False,
    corpus: Corpus = None,
    min_count: MinCount = None,
    keep: Keep = None,
    to: StandIn = None,
    tags: Annotated[str | None, typer.Option(help="The MetaGraph's tags, with commas between; serve.")] = None,
    overwrite: Overwrite = False,
    as_json: AsJson = False,
) -> None:
    """Slim a SavedModel into a SavedModel: all stages at once, and a before/after table.

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
        "include": include,
        "exclude": exclude,
        "minimum_size": minimum_size,
        "budget": budget,
        "search_minutes": search_minutes,
        "seed": seed,
        "signature": signature,
        "main_output": main_output,
        "label": label,
        "fail_on_bad_records": fail_on_bad_records,
        "prune_vocabulary": prune_vocabulary or None,
        "corpus": named_paths(corpus, "--corpus") or None,
        "min_count": min_count,
        "keep": keep,
        "to": to,
        "tags": listed(tags) if tags is not None else None,
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
