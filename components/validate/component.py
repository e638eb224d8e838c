"""The gate: both models on the same data, and a verdict."""
# ruff: noqa: B006  # a default that a pipeline shows; nothing changes the lists

from typing import Optional

from kfp import dsl

from components.image import IMAGE
from components.shared import call, dataset, describe, log_confusion, log_numbers, progress


@dsl.component(
    base_image=IMAGE,
    install_kfp_package=False,
    additional_funcs=[call, dataset, describe, log_confusion, log_numbers, progress],
)
def validate(
    original: dsl.Input[dsl.Model],
    optimized: dsl.Input[dsl.Model],
    data: dsl.Input[dsl.Dataset],
    verdict: dsl.Output[dsl.Artifact],
    report: dsl.Output[dsl.HTML],
    metrics: dsl.Output[dsl.Metrics],
    classes: dsl.Output[dsl.ClassificationMetrics],
    gates: list[str] = [],
    signature: str = "",
    main_output: str = "",
    label: str = "",
    fail_on_bad_records: float = 0.01,
    batch_size: int = 32,
    tags: list[str] = ["serve"],
    beam_options: list[str] = [],
    bundle: Optional[dsl.Input[dsl.Model]] = None,  # noqa: UP045  # kfp knows this spelling
) -> str:
    """Runs both models on the data and judges the difference. Returns pass, fail or inconclusive: gate on it.

    Args:
        original: The SavedModel that was slimmed.
        optimized: The SavedModel that came of it.
        data: A file of .jsonl, .npz or .tfrecord, or a directory of such files.
        verdict: A directory with verdict.json, which publish asks for, report.html and report.md.
        report: The report, for the Kubeflow page.
        metrics: Sizes, times, and how alike the answers are.
        classes: Top classes of the original by those of the optimized model, where there are few enough to count.
        gates: Checks such as "top1_agreement>=0.999"; the default ones unless told.
        signature: The signature to feed; serving_default, or the one that fits, unless told.
        main_output: The output that checks without a name mean.
        label: The key of the data that holds labels.
        fail_on_bad_records: The share of unreadable records above which the task fails.
        batch_size: Examples in one request.
        tags: The tag set to open.
        beam_options: Options of the Beam job, such as a runner.
        bundle: The one that was re-exported; the report then tells what was done to the model.
    """
    import logging
    import os
    import shutil

    from tfslim_core import api

    found = call(
        api.validate,
        original.path,
        optimized.path,
        data=dataset(data),
        out=verdict.path,
        bundle=bundle.path if bundle else None,
        gates=gates,
        signature=signature or None,
        main_output=main_output or None,
        label=label or None,
        fail_on_bad_records=fail_on_bad_records,
        batch_size=batch_size,
        tags=tags,
        beam_options=beam_options,
        overwrite=True,  # what a task that is tried again finds there is its own
        progress=progress(),
    )
    logging.info("tfslim: verdict: %s", found.outcome)
    for reason in found.verdict.reasons:
        logging.info("tfslim: %s", reason)
    log_numbers(metrics, found.metrics())
    log_confusion(classes, found.confusion())
    describe(verdict, "tfslim verdict")
    verdict.metadata["verdict"] = found.outcome
    shutil.copyfile(os.path.join(verdict.path, "report.html"), report.path)
    return found.outcome
