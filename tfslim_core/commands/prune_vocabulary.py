"""tfslim prune-vocabulary."""

from __future__ import annotations

from typing import Annotated

import typer

from tfslim_core import api
from tfslim_core.commands.app import app, err
from tfslim_core.commands.options import (
    AsJson,
    BadRecords,
    BundleIn,
    Corpus,
    Data,
    Keep,
    Label,
    MainOutput,
    MinCount,
    Out,
    Overwrite,
    Seed,
    Signature,
    StandIn,
    named_paths,
)
from tfslim_core.commands.printing import print_stage
from tfslim_core.commands.untrusted import may_be_untrusted
from tfslim_core.errors import UsageError
from tfslim_core.terminal import Narrator


@app.command("prune-vocabulary", context_settings={"allow_extra_args": True, "ignore_unknown_options": False})
@may_be_untrusted(["bundle"], ["out_"])
def prune_vocabulary(
    context: typer.Context,
    bundle: BundleIn,
    out_: Out,
    corpus: Corpus = None,
    min_count: MinCount = None,
    keep: Keep = None,
    to: StandIn = None,
    budget: Annotated[
        list[str] | None,
        typer.Option("--budget", metavar="EXPR", help='Keep as few rows as hold, e.g. "top1_agreement>=0.99".'),
    ] = None,
    data: Data = None,
    signature: Signature = None,
    main_output: MainOutput = None,
    label: Label = None,
    seed: Seed = None,
    fail_on_bad_records: BadRecords = None,
    overwrite: Overwrite = False,
    as_json: AsJson = False,
) -> None:
    """Drop rows of embeddings, and words, that a corpus never or rarely uses; Beam's own options go after --.

    With --budget and --data as few rows are kept as hold it; the examples that confirm it are not counted.
    """
    if context.args and not context.args[0].startswith("-"):
        raise UsageError(
            f"one bundle goes in, one comes out; what is {context.args[0]!r}? (Beam's options go after --)"
        )
    if data and not budget:
        raise UsageError("--data is what a budget is measured on; give --budget EXPR too, or --corpus NAME=PATH")
    with Narrator(err) as told:
        report = api.prune_vocabulary(
            bundle,
            out_,
            corpus=named_paths(corpus, "--corpus"),
            min_count=min_count,
            keep=keep,
            to=to,
            budget=budget or (),
            data=named_paths(data),
            signature=signature,
            main_output=main_output,
            label=label,
            seed=seed or 0,
            fail_on_bad_records=0.01 if fail_on_bad_records is None else fail_on_bad_records,
            beam_options=context.args,
            overwrite=overwrite,
            progress=told,
        )
    print_stage(report, as_json)
