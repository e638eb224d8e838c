"""The gate: both models on the same data, and a verdict."""
# ruff: noqa: B006  # a default that a pipeline shows; nothing changes the lists

from typing import Optional

from kfp import dsl

from components.lightweight import component
from components.shared import (
    call,
    dataset,
    describe,
    log_classes,
    log_notes,
    log_numbers,
    place,
    progress,
    whole_numbers,
    write,
)


@component
def validate(
    original: dsl.Input[dsl.Model],
    optimized: dsl.Input[dsl.Model],
    data: dsl.Input[dsl.Dataset],
    verdict: dsl.Output[dsl.Artifact],
    report: dsl.Output[dsl.HTML],
    metrics: dsl.Output[dsl.Metrics],
    classes: dsl.Output[dsl.ClassificationMetrics],
    summary: dsl.Output[dsl.Markdown],
    gates: list[str] = [],
    signature: str = "",
    main_output: str = "",
    label: str = "",
    slices: list[str] = [],
    fail_on_bad_records: float = 0.01,
    batch_size: int = 32,
    measure_costs: bool = True,
    cost_batch_sizes: list[int] = [],
    tags: list[str] = ["serve"],
    inputs: list[str] = [],
    outputs: list[str] = [],
    graph: Optional[dsl.Input[dsl.Artifact]] = None,  # noqa: UP045  # kfp knows this spelling
    beam_options: list[str] = [],
    bundle: Optional[dsl.Input[dsl.Model]] = None,  # noqa: UP045
    untrusted: bool = False,
) -> str:
    """Runs both models on the data and judges the difference.

    Args:
        original: The model that was slimmed, of any format that freeze takes.
        optimized: The SavedModel that came of it.
        data: A file of .jsonl, .npz or .tfrecord, or a directory of such files.
        gates: Checks such as "top1_agreement>=0.999"; the default ones unless told.
        signature: The signature to feed; serving_default, or the one that fits, unless told.
        main_output: The output that checks without a name mean.
        label: The key of the data that holds labels.
        slices: Keys of the data to judge examples apart by, as "language", or with buckets as "length:10,100".
        fail_on_bad_records: The share of unreadable records above which the task fails.
        batch_size: Examples in one request.
        measure_costs: Measure latency, throughput, load time and memory too.
        cost_batch_sizes: The batch sizes to measure latency and throughput at; 1 and 32 unless told.
        tags: The tag set to open.
        inputs: Tensors of an original without signatures, as in freeze.
        outputs: The same.
        graph: Of an original that is a checkpoint without a .meta file.
        beam_options: Options of the Beam job, such as a runner.
        bundle: The one that was re-exported; the report then tells what was done to the model.
        untrusted: Refuse a model that reaches beyond itself, to files or the network, before any of it runs.

    Returns:
        verdict: A directory with verdict.json, which publish asks for, report.html and report.md.
        report: The report, for the Kubeflow page.
        metrics: Sizes, times, and how alike the answers are.
        classes: Top classes of the original by those of the optimized model, where there are few enough to count; with
            labels also the optimized model's ROC curve.
        summary: The report in short, as Markdown.
        Output: pass, fail or inconclusive: gate on it.
    """
    import logging
    import os
    import shutil

    from tfslim_core import api
    from tfslim_core.safety import refuse_dangerous

    beside = place(graph) if graph else None
    if untrusted:
        call(refuse_dangerous, place(original), beside)
        call(refuse_dangerous, place(optimized))
    found = write(
        verdict,
        lambda path: api.validate(
            place(original),
            place(optimized),
            data=dataset(data),
            out=path,
            bundle=place(bundle) if bundle else None,
            gates=gates,
            signature=signature or None,
            main_output=main_output or None,
            label=label or None,
            slices=slices,
            batch_size=batch_size,
            batch_sizes=whole_numbers("cost_batch_sizes", cost_batch_sizes) or (1, 32),
            costs=measure_costs,
            fail_on_bad_records=fail_on_bad_records,
            tags=tags,
            inputs=inputs or None,
            outputs=outputs or None,
            graph=beside,
            beam_options=beam_options,
            overwrite=True,
            progress=progress(),
        ),
    )
    logging.info("tfslim: verdict: %s", found.outcome)
    log_notes(found.verdict.reasons)
    log_numbers(metrics, found.metrics())
    log_classes(classes, found)
    for page, name in ((report, "report.html"), (summary, "report.md")):
        shutil.copyfile(os.path.join(verdict.path, name), page.path)
        describe(page, "tfslim report", verdict=found.outcome)
    describe(
        verdict,
        "tfslim verdict",
        verdict=found.outcome,
        original_digest=found.verdict.models.original.digest,
        optimized_digest=found.verdict.models.optimized.digest,
    )
    return found.outcome
