"""After several candidates were validated: the smallest that passed."""

from typing import List  # noqa: UP035  # kfp knows this spelling of a list of artifacts

from kfp import dsl

from components.lightweight import component
from components.shared import call, describe, log_notes, place


@component
def choose(
    candidates: list[str],
    models: dsl.Input[List[dsl.Model]],  # noqa: UP006
    verdicts: dsl.Input[List[dsl.Artifact]],  # noqa: UP006
    model: dsl.Output[dsl.Model],
    verdict: dsl.Output[dsl.Artifact],
    report: dsl.Output[dsl.HTML],
) -> str:
    """Chooses the smallest model that passed its validation; where none did, the one that came closest.

    Args:
        candidates: What each model is called, such as its encoding.
        models: SavedModels, in that order.
        verdicts: From validate or join, in that order.

    Returns:
        model: The chosen one.
        verdict: The directory with its verdict.json, which publish asks for, and its report.
        report: Its report, for the Kubeflow page.
        Output: pass, fail or inconclusive: gate on it.
    """
    import os
    import shutil
    import sys

    from tfslim_core import api

    if not len(candidates) == len(models) == len(verdicts):
        counts = f"{len(candidates)} candidates, {len(models)} models and {len(verdicts)} verdicts"
        sys.exit(f"tfslim: there are {counts}; give as many of each")
    places = {f"{name or 'default'}": place(one) for name, one in zip(candidates, verdicts, strict=True)}
    chosen = call(api.choose, places)
    at = list(places).index(chosen.name)
    log_notes([f"candidate {line}" for line in chosen.others])
    log_notes([f"{'chosen' if chosen.outcome == 'pass' else 'none passed; the closest is'} {chosen}"])
    for source, target in ((models[at], model), (verdicts[at], verdict)):
        shutil.rmtree(target.path, ignore_errors=True)  # of a task that is tried again
        call(api.fetch, place(source), target.path)
    shutil.copyfile(os.path.join(verdict.path, "report.html"), report.path)
    model.metadata.update(models[at].metadata)
    describe(model, "SavedModel", candidate=chosen.name)
    told = {"candidate": chosen.name, "verdict": chosen.outcome, "others": chosen.others}
    describe(verdict, "tfslim verdict", **told)
    describe(report, "tfslim report", verdict=chosen.outcome)
    return chosen.outcome
