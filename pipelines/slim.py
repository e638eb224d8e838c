"""SavedModel in, validated smaller SavedModel out and published: every stage a task, and a gate before the last."""
# ruff: noqa: B006  # a default that a pipeline shows; nothing changes the lists

from typing import NamedTuple

from kfp import dsl

from components.freeze import freeze
from components.publish import publish
from components.quantize import quantize
from components.reexport import reexport
from components.transform import transform
from components.validate import validate


class Outputs(NamedTuple):
    """What a run leaves. verdict: pass, fail or inconclusive. validation: the directory with verdict.json."""

    verdict: str
    validation: dsl.Artifact
    report: dsl.HTML
    optimized: dsl.Model


@dsl.pipeline(name="tfslim-slim")
def slim(
    model: str,
    data: str,
    base: str,
    tags: list[str] = ["serve"],
    signatures: list[str] = [],
    transforms: str = "",
    encoding: str = "",
    include: list[str] = [],
    exclude: list[str] = [],
    minimum_size: int = 1024,
    budget: list[str] = [],
    search_minutes: float = 10.0,
    seed: int = 0,
    gates: list[str] = [],
    signature: str = "",
    main_output: str = "",
    label: str = "",
    fail_on_bad_records: float = 0.01,
    batch_size: int = 32,
    beam_options: list[str] = [],
) -> Outputs:
    """Slims a SavedModel, proves on data that it answers the same, and only then publishes it.

    Args:
        model: URI of the SavedModel.
        data: URI of the examples to validate on: a file of .jsonl, .npz or .tfrecord, or a directory of such files.
        base: The directory that TensorFlow Serving watches, to publish to.
        tags: The tag set to open.
        signatures: The signatures to keep; all unless told.
        transforms: Calls such as "strip_unused_nodes fold_constants(ignore_errors=true)"; the default set unless told.
        encoding: How each weight is stored, such as int4/block32; int8 unless told. None with a budget.
        include: Shell patterns of the weights to encode; all unless told.
        exclude: Shell patterns of the weights to leave alone.
        minimum_size: Weights of fewer elements are left alone.
        budget: Bounds such as "top1_agreement>=0.99": the smallest encodings that hold them on a sample of the data.
        search_minutes: Time for the search of these.
        seed: Of the sample that is drawn from the data for a budget.
        gates: Checks such as "top1_agreement>=0.999"; the default ones unless told.
        signature: The signature to validate; serving_default, or the one that fits, unless told.
        main_output: The output that checks and bounds without a name mean.
        label: The key of the data that holds labels.
        fail_on_bad_records: The share of unreadable records above which validation fails.
        batch_size: Examples in one request of the validation.
        beam_options: Options of the validation's Beam job, such as a runner.
    """
    # What lies under a URI can change between runs: both are looked up anew, and what reads them is never cached.
    imported = dsl.importer(artifact_uri=model, artifact_class=dsl.Model, reimport=True)
    imported.set_caching_options(False).set_display_name("the model")
    examples = dsl.importer(artifact_uri=data, artifact_class=dsl.Dataset, reimport=True)
    examples.set_caching_options(False).set_display_name("the data")

    frozen = freeze(model=imported.output, tags=tags, signatures=signatures)
    frozen.set_caching_options(False)
    transformed = transform(bundle=frozen.outputs["bundle"], transforms=transforms)
    quantized = quantize(
        bundle=transformed.outputs["transformed"],
        encoding=encoding,
        include=include,
        exclude=exclude,
        minimum_size=minimum_size,
        budget=budget,
        data=examples.output,
        signature=signature,
        main_output=main_output,
        label=label,
        search_minutes=search_minutes,
        seed=seed,
    )
    quantized.set_caching_options(False)
    exported = reexport(bundle=quantized.outputs["quantized"])
    validated = validate(
        original=imported.output,
        optimized=exported.outputs["model"],
        data=examples.output,
        gates=gates,
        signature=signature,
        main_output=main_output,
        label=label,
        fail_on_bad_records=fail_on_bad_records,
        batch_size=batch_size,
        tags=tags,
        beam_options=beam_options,
        bundle=quantized.outputs["quantized"],
    )
    validated.set_caching_options(False)
    # The condition has to be on a component's one returned value: on a field of a NamedTuple it is silently false.
    with dsl.If(validated.outputs["Output"] == "pass", name="passed"):
        published = publish(model=exported.outputs["model"], verdict=validated.outputs["verdict"], base=base)
        published.set_caching_options(False)
    return Outputs(
        verdict=validated.outputs["Output"],
        validation=validated.outputs["verdict"],
        report=validated.outputs["report"],
        optimized=exported.outputs["model"],
    )
