"""After validations on several datasets: one verdict."""

from typing import List, Optional  # noqa: UP035  # kfp knows this spelling of a list of artifacts

from kfp import dsl

from components.lightweight import component
from components.shared import call, describe, log_notes, log_numbers, place


@component
def join(
    verdicts: dsl.Input[List[dsl.Artifact]],  # noqa: UP006
    original: dsl.Input[dsl.Model],
    optimized: dsl.Input[dsl.Model],
    verdict: dsl.Output[dsl.Artifact],
    report: dsl.Output[dsl.HTML],
    metrics: dsl.Output[dsl.Metrics],
    bundle: Optional[dsl.Input[dsl.Model]] = None,  # noqa: UP045
) -> str:
    """Joins the verdicts on several datasets into one; the worst wins.

    Args:
        verdicts: From validate, one for each dataset, all of the same two models.
        original: The model that was slimmed.
        optimized: The SavedModel that came of it.
        bundle: The one that was re-exported; the report then tells what was done to the model.

    Returns:
        verdict: A directory with verdict.json, which publish asks for, report.html and report.md.
        report: The report on all datasets, for the Kubeflow page.
        metrics: Sizes, times, and how alike the answers are.
        Output: pass, fail or inconclusive: gate on it.
    """
    import logging
    import os
    import shutil

    from tfslim_core import api

    found = call(
        api.join_verdicts,
        [place(one) for one in verdicts],
        place(original),
        place(optimized),
        out=verdict.path,
        bundle=place(bundle) if bundle else None,
        overwrite=True,  # what a task that is tried again finds there is its own
    )
    logging.info("tfslim: verdict: %s", found.outcome)
    log_notes(found.verdict.reasons)
    log_numbers(metrics, found.metrics())
    shutil.copyfile(os.path.join(verdict.path, "report.html"), report.path)
    describe(report, "tfslim report", verdict=found.outcome)
    describe(verdict, "tfslim verdict", verdict=found.outcome, datasets=sorted(found.verdict.datasets))
    return found.outcome
