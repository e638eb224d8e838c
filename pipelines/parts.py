"""Parts that the pipelines share, each a graph of tasks of its own.

As pipelines inside of pipelines they get their inputs by name: that keeps loops, branches and artifacts apart where the
compiler, the local runner and the backends of Kubeflow differ in what they pass from one scope into the next. A value
that a dsl.If asks for is called Output, since the local runner takes a condition on any other name as false, silently.
An importer gets the address from its own graph's inputs or loop, the one place where Kubeflow's importer looks for it.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

from kfp import dsl

from components.choose import choose
from components.freeze import freeze
from components.join import join
from components.quantize import quantize
from components.reexport import reexport
from components.transform import transform
from components.validate import validate
from pipelines.handing_on import task_of
from pipelines.resources import SEARCH, SMALL, STAGE, VALIDATION, with_needs

# Pods of a loop that run at once: of candidates, and of datasets for each of these.
AT_ONCE = 4


class Compared(NamedTuple):
    """Output: pass, fail or inconclusive. verdict: the directory with verdict.json and the report."""

    Output: str
    verdict: dsl.Artifact
    report: dsl.HTML


class Chosen(NamedTuple):
    """The chosen candidate. Output: pass, fail or inconclusive. verdict: the directory with verdict.json."""

    Output: str
    model: dsl.Model
    verdict: dsl.Artifact
    report: dsl.HTML


def _compared(given: Mapping[str, Any]) -> Compared:
    """given: the models, the data, and how to validate."""
    with dsl.ParallelFor(given["data"], parallelism=AT_ONCE) as uri:
        examples = dsl.importer(artifact_uri=uri, artifact_class=dsl.Dataset, reimport=True)
        examples.set_caching_options(False).set_display_name("the data")
        validated = task_of(validate, given, data=examples.output)
        with_needs(validated, VALIDATION, "validate")
    found = task_of(join, given, verdicts=dsl.Collected(validated.outputs["verdict"]))
    with_needs(found, SMALL, "join")
    return Compared(*(found.outputs[name] for name in Compared._fields))


@dsl.pipeline(name="compare")
def compare(
    original: dsl.Input[dsl.Model],
    optimized: dsl.Input[dsl.Model],
    bundle: dsl.Input[dsl.Model],
    data: list[str],
    gates: list[str],
    signature: str,
    main_output: str,
    label: str,
    slices: list[str],
    fail_on_bad_records: float,
    batch_size: int,
    measure_costs: bool,
    tags: list[str],
    beam_options: list[str],
) -> Compared:
    """Validates a slim model against its original on each dataset, and joins the verdicts."""
    return _compared(dict(locals()))


@dsl.pipeline(name="compare-with-served")
def compare_with_served(
    original: dsl.Input[dsl.Model],
    optimized: dsl.Input[dsl.Model],
    data: list[str],
    gates: list[str],
    signature: str,
    main_output: str,
    label: str,
    slices: list[str],
    fail_on_bad_records: float,
    batch_size: int,
    measure_costs: bool,
    tags: list[str],
    beam_options: list[str],
) -> Compared:
    """The same against the version that is served, of which there is no bundle."""
    return _compared(dict(locals()))


@dsl.pipeline(name="candidates")
def candidates(
    model: dsl.Input[dsl.Model],
    encodings: list[str],
    tuning: str,
    data: list[str],
    tags: list[str],
    signatures: list[str],
    transforms: str,
    include: list[str],
    exclude: list[str],
    minimum_size: int,
    budget: list[str],
    search_minutes: float,
    seed: int,
    gates: list[str],
    signature: str,
    main_output: str,
    label: str,
    slices: list[str],
    fail_on_bad_records: float,
    batch_size: int,
    measure_costs: bool,
    beam_options: list[str],
) -> Chosen:
    """Slims a model in as many ways as there are encodings, validates each on all data, and chooses."""
    given = dict(locals())
    examples = dsl.importer(artifact_uri=tuning, artifact_class=dsl.Dataset, reimport=True)
    examples.set_caching_options(False).set_display_name("the data for a budget")
    frozen = freeze(model=model, tags=tags, signatures=signatures)
    with_needs(frozen, STAGE, "freeze")
    transformed = transform(bundle=frozen.outputs["bundle"], transforms=transforms)
    with_needs(transformed, STAGE, "transform", cached=True)
    with dsl.ParallelFor(encodings, parallelism=AT_ONCE) as encoding:
        quantized = task_of(
            quantize, given, bundle=transformed.outputs["transformed"], encoding=encoding, data=examples.output
        )
        with_needs(quantized, SEARCH, "quantize")
        # Not by task_of: its inputs of the same names, such as signature and seed, mean something else.
        exported = reexport(bundle=quantized.outputs["quantized"])
        with_needs(exported, STAGE, "reexport", cached=True)
        compared = task_of(
            compare,
            given,
            original=model,
            optimized=exported.outputs["model"],
            bundle=quantized.outputs["quantized"],
        )
        compared.set_caching_options(False)
    chosen = choose(
        candidates=encodings,
        models=dsl.Collected(exported.outputs["model"]),
        verdicts=dsl.Collected(compared.outputs["verdict"]),
    )
    with_needs(chosen, SMALL, "choose")
    return Chosen(*(chosen.outputs[name] for name in Chosen._fields))
