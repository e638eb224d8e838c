"""Train, slim, compare with the float model and with what is served, and publish what passes both.

The trainer is any KFP component that takes `data`, a Dataset, and makes `model`, a Model that is a SavedModel; other
inputs need defaults. `label` and `seed` are handed to one that has inputs of these names. A pipeline of several tasks
will do as well; it says itself what each of them needs.
"""
# ruff: noqa: B006  # a default that a pipeline shows; nothing changes the lists

from kfp import dsl
from kfp.dsl import base_component

from components.decide import decide
from components.prepare import prepare
from components.served import served
from components.skip import skip
from components.train import train
from pipelines.ending import Outputs, published_if_passed, told_at_the_end
from pipelines.handing_on import task_of
from pipelines.parts import candidates, compare_with_served
from pipelines.resources import LOOK, TRAINING, with_needs
from tfslim_core.errors import UsageError

# Two trainings answer alike on the whole, not one by one: what counts is how often each is right.
SERVED_GATES = ["nan_mismatches<=0", "label_accuracy_drop<=0.02"]
# What a trainer is handed where it takes it, and KFP's names of their types.
_HANDED = {"seed": "Integer", "label": "String"}


def retraining(trainer: base_component.BaseComponent = train) -> base_component.BaseComponent:
    """The pipeline with a trainer.

    Raises:
        UsageError: it does not take and make what a trainer has to.
    """
    extra = _extra_inputs(trainer)

    @dsl.pipeline(name="retraining")
    def body(
        training_data: str,
        data: list[str],
        base: str,
        served_gates: list[str],
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
        given = dict(locals())
        asked = task_of(prepare, given)
        with_needs(asked, LOOK, "prepare")
        examples = dsl.importer(artifact_uri=training_data, artifact_class=dsl.Dataset, reimport=True)
        examples.set_caching_options(False).set_display_name("the training data")
        trained = trainer(data=examples.output, **{name: given[name] for name in extra}).after(asked)
        if trainer.component_spec.implementation.graph is None:
            with_needs(trained, TRAINING, "train")
        else:
            trained.set_display_name("train").set_caching_options(False)
        found = task_of(
            candidates,
            given,
            model=trained.outputs["model"],
            encodings=asked.outputs["Output"],
            tuning=asked.outputs["tuning"],
        )
        found.set_caching_options(False)
        now = served(base=base)
        with_needs(now, LOOK, "served").after(found)
        with dsl.If(now.outputs["Output"] == "served", name="something is served"):
            against = task_of(
                compare_with_served,
                given,
                original=now.outputs["model"],
                optimized=found.outputs["model"],
                gates=served_gates,
            )
            against.set_caching_options(False)
        with dsl.Else(name="nothing is served yet"):
            skipped = skip(reason="nothing is served yet, so there is nothing to compare with")
            with_needs(skipped, LOOK, "skip")
        both = decide(
            own=found.outputs["Output"], served=dsl.OneOf(against.outputs["Output"], skipped.outputs["Output"])
        )
        with_needs(both, LOOK, "decide")
        return published_if_passed(both.outputs["Output"], found, given)

    @dsl.pipeline(name="tfslim-retrain-and-slim")
    def retrain_and_slim(
        training_data: str,
        data: list[str],
        base: str,
        served_gates: list[str] = SERVED_GATES,
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
        label: str = "label",
        slices: list[str] = [],
        fail_on_bad_records: float = 0.01,
        batch_size: int = 32,
        measure_costs: bool = True,
        beam_options: list[str] = [],
        keep: int = 0,
        report_to: str = "",
    ) -> Outputs:
        """Trains a model, slims it, and publishes it if it answers as its float model does and is right as often as the
        version that is served.

        Args:
            training_data: URI of what the trainer reads.
            data: URIs of the examples to validate on, each a file of .jsonl, .npz or .tfrecord, or a directory of such
                files; with labels, and not used in the training. On a command line: --arg data=A --arg data=B.
            base: The directory or gs:// address that TensorFlow Serving watches, to publish to.
            served_gates: Checks of the new version against the one that is served; skipped where nothing is served yet.
            tags: The tag set to open.
            signatures: The signatures to keep; all unless told.
            transforms: Calls such as "strip_unused_nodes fold_constants"; the default set unless told.
            encodings: How weights are stored, such as int8 and int6/block32: each is a candidate, made and validated
                beside the others; the smallest that passes is published.
            encoding: The same where there is one candidate; int8 unless told. None with a budget.
            include: Shell patterns of the weights to encode; all unless told.
            exclude: Shell patterns of the weights to leave alone.
            minimum_size: Weights of fewer elements are left alone.
            budget: Bounds such as "top1_agreement>=0.99": the smallest encodings that hold them on a sample of the
                first dataset.
            search_minutes: Time for the search of these.
            seed: Of the sample that is drawn from the data for a budget, and of the training.
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
        return told_at_the_end(body, dict(locals()))

    return retrain_and_slim


def _extra_inputs(trainer: base_component.BaseComponent) -> list[str]:
    """Which of a pipeline's parameters a trainer takes beside its data."""
    spec = trainer.component_spec
    inputs, outputs = spec.inputs or {}, spec.outputs or {}
    known = [name for name in _HANDED if name in inputs]
    if "data" not in inputs or not inputs["data"].type.startswith(("system.Dataset", "system.Artifact")):
        raise UsageError(f"the trainer {trainer.name!r} takes no Dataset called data; a trainer has to")
    if inputs["data"].is_artifact_list:
        raise UsageError(f"the trainer {trainer.name!r} takes a list as data; a trainer has to take one Dataset")
    for name in known:
        if inputs[name].type != _HANDED[name]:
            raise UsageError(
                f"the trainer {trainer.name!r} takes {name} as {inputs[name].type}; it is handed one as {_HANDED[name]}"
            )
    if "model" not in outputs or not outputs["model"].type.startswith("system.Model"):
        raise UsageError(f"the trainer {trainer.name!r} makes no Model called model; a trainer has to")
    needed = [name for name, one in inputs.items() if not one.optional and name not in ("data", *known)]
    if needed:
        raise UsageError(f"the trainer {trainer.name!r} needs {', '.join(needed)}; give it a default")
    return known
