"""SavedModel in, the smallest candidate that passed on all data out and published, and a word on how it ended."""
# ruff: noqa: B006  # a default that a pipeline shows; nothing changes the lists

from kfp import dsl

from components.prepare import prepare
from pipelines.ending import Outputs, published_if_passed, told_at_the_end
from pipelines.handing_on import task_of
from pipelines.parts import candidates
from pipelines.resources import LOOK, with_needs


@dsl.pipeline(name="slimming")
def slimming(
    model: str,
    data: list[str],
    base: str,
    tags: list[str],
    signatures: list[str],
    transforms: str,
    encodings: list[str],
    encoding: str,
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
    keep: int,
) -> Outputs:
    """All but the exit task."""
    given = dict(locals())
    # What lies under a URI can change between runs: it is looked up anew, and what reads it is never cached.
    imported = dsl.importer(artifact_uri=model, artifact_class=dsl.Model, reimport=True)
    imported.set_caching_options(False).set_display_name("the model")
    asked = task_of(prepare, given)
    with_needs(asked, LOOK, "prepare")
    found = task_of(
        candidates, given, model=imported.output, encodings=asked.outputs["Output"], tuning=asked.outputs["tuning"]
    )
    found.set_caching_options(False)
    return published_if_passed(found.outputs["Output"], found, given)


@dsl.pipeline(name="tfslim-slim")
def slim(
    model: str,
    data: list[str],
    base: str,
    tags: list[str] = ["serve"],
    signatures: list[str] = [],
    transforms: str = "",
    encodings: list[str] = [],
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
    slices: list[str] = [],
    fail_on_bad_records: float = 0.01,
    batch_size: int = 32,
    measure_costs: bool = True,
    beam_options: list[str] = [],
    keep: int = 0,
    report_to: str = "",
) -> Outputs:
    """Slims a SavedModel in one or several ways, proves on all data that it answers the same, and only then publishes.

    Args:
        model: URI of the SavedModel.
        data: URIs of the examples to validate on, each a file of .jsonl, .npz or .tfrecord, or a directory of such
            files. On a command line: --arg data=A --arg data=B.
        base: The directory or gs:// address that TensorFlow Serving watches, to publish to.
        tags: The tag set to open.
        signatures: The signatures to keep; all unless told.
        transforms: Calls such as "strip_unused_nodes fold_constants(ignore_errors=true)"; the default set unless told.
        encodings: How weights are stored, such as int8 and int6/block32: each is a candidate, made and validated beside
            the others; the smallest that passes is published.
        encoding: The same where there is one candidate; int8 unless told. None with a budget.
        include: Shell patterns of the weights to encode; all unless told.
        exclude: Shell patterns of the weights to leave alone.
        minimum_size: Weights of fewer elements are left alone.
        budget: Bounds such as "top1_agreement>=0.99": the smallest encodings that hold them on a sample of the first
            dataset.
        search_minutes: Time for the search of these.
        seed: Of the sample that is drawn from the data for a budget.
        gates: Checks such as "top1_agreement>=0.999", on each dataset; the default ones unless told.
        signature: The signature to validate; serving_default, or the one that fits, unless told.
        main_output: The output that checks and bounds without a name mean.
        label: The key of the data that holds labels.
        slices: Keys of the data to judge examples apart by, as "language", or with buckets as "length:10,100".
        fail_on_bad_records: The share of unreadable records above which validation fails.
        batch_size: Examples in one request of the validation.
        measure_costs: Whether to measure load time, memory and latency of both models.
        beam_options: Options of the validation's Beam job, such as a runner.
        keep: So many of the newest versions stay below the base, 2 or more; all unless told.
        report_to: A directory or a gs:// address for a JSON file on how the run ended; none unless told.
    """
    return told_at_the_end(slimming, dict(locals()))
