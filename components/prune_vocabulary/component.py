"""A stage before quantize, for models with embeddings: drop the rows that nobody uses."""
# ruff: noqa: B006  # a default that a pipeline shows; nothing changes the lists

from typing import Optional

from kfp import dsl

from components.lightweight import component
from components.shared import (
    check_choice,
    dataset,
    describe,
    history,
    log_notes,
    log_numbers,
    place,
    progress,
    write,
)


@component
def prune_vocabulary(
    bundle: dsl.Input[dsl.Model],
    pruned: dsl.Output[dsl.Model],
    metrics: dsl.Output[dsl.Metrics],
    corpus: Optional[dsl.Input[dsl.Dataset]] = None,  # noqa: UP045  # kfp knows this spelling
    min_count: int = 0,
    keep: int = 0,
    to: str = "",
    budget: list[str] = [],
    data: Optional[dsl.Input[dsl.Dataset]] = None,  # noqa: UP045
    signature: str = "",
    main_output: str = "",
    label: str = "",
    seed: int = 0,
    fail_on_bad_records: float = 0.01,
    beam_options: list[str] = [],
):
    """Drops rows of embeddings, and their words, that a corpus never or rarely looks up.

    Args:
        bundle: From freeze or transform.
        corpus: Texts in which to count what is used; the data unless told.
        min_count: Rows that are looked up less often go; 1, those that never are, unless told.
        keep: So many of the most used rows are kept instead.
        to: What stands for dropped rows: oov, the row of unknown words, where there is one and unless told, or centre.
        budget: Bounds such as "top1_agreement>=0.99": as few rows are kept as hold them on the data.
        data: What a budget is measured on; a file of .jsonl, .npz or .tfrecord, or a directory of such files.
        signature: The signature that the data feeds; serving_default, or the one that fits, unless told.
        main_output: The output that bounds without a name mean.
        label: The key of the data that holds labels.
        seed: Of the sample that is drawn from the data.
        fail_on_bad_records: The share of unreadable records above which the task fails.
        beam_options: Options of the Beam job that counts, such as a runner.

    Returns:
        pruned: The bundle with fewer rows.
        metrics: Bytes and nodes, and how far the answers are from those before.
    """
    from tfslim_core import api

    check_choice("to", to, ("oov", "centre"))
    done = write(
        pruned,
        lambda path: api.prune_vocabulary(
            place(bundle),
            path,
            corpus=dataset(corpus) if corpus else None,
            min_count=min_count or None,
            keep=keep or None,
            to=to or None,
            budget=budget,
            data=dataset(data) if data else None,
            signature=signature or None,
            main_output=main_output or None,
            label=label or None,
            seed=seed,
            fail_on_bad_records=fail_on_bad_records,
            beam_options=beam_options,
            overwrite=True,
            progress=progress(),
        ),
    )
    log_notes(done.notes)
    log_numbers(metrics, done.metrics())
    rows = {entry.embedding: [entry.rows_before, entry.rows_after] for entry in done.vocabularies}
    describe(pruned, "tfslim bundle", rows=rows, **history(pruned.path))
