"""How the pipelines that publish end: what passed is published, what a run leaves, and a word on how it went."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from kfp import dsl
from kfp.dsl import base_component

from components.publish import publish
from components.report import report
from pipelines.handing_on import task_of
from pipelines.resources import LOOK, SMALL, with_needs


class Outputs(NamedTuple):
    """What a run leaves. verdict: pass, fail or inconclusive. validation: the directory with verdict.json.

    report: the same for people. optimized: the candidate that was chosen.
    """

    verdict: str
    validation: dsl.Artifact
    report: dsl.HTML
    optimized: dsl.Model


def published_if_passed(outcome: Any, found: dsl.PipelineTask, given: Mapping[str, Any]) -> Outputs:
    """Publish what `candidates` found where an outcome is a pass."""
    with dsl.If(outcome == "pass", name="passed"):
        published = task_of(publish, given, model=found.outputs["model"], verdict=found.outputs["verdict"])
        with_needs(published, SMALL, "publish")
    return Outputs(outcome, *(found.outputs[name] for name in ("verdict", "report", "model")))


def told_at_the_end(body: base_component.BaseComponent, given: Mapping[str, Any]) -> Outputs:
    """All of a pipeline but its exit task, and then that task, however the rest went."""
    done = task_of(body, given)
    done.set_caching_options(False)
    # An exit task: dsl.ExitHandler would compile to the same, and forbid a pipeline to have outputs.
    ended = task_of(report, given, run=dsl.PIPELINE_JOB_ID_PLACEHOLDER)
    with_needs(ended, LOOK, "report").after(done).ignore_upstream_failure()
    return Outputs(*(done.outputs[name] for name in Outputs._fields))
