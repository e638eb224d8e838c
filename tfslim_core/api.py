"""What tfslim does, as functions: each reads its input, calls the core once, checks the result and writes it whole.

The command line and the pipeline components call these and nothing else. Every function raises TfslimError for what
can be expected to go wrong, and then leaves nothing behind; see `errors`.
"""

from __future__ import annotations

import math
import os
import re
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from tfslim_core import storage
from tfslim_core.errors import UsageError
from tfslim_core.verdict import Outcome, Verdict

if TYPE_CHECKING:
    from tfslim_core.bundle import Bundle, StepEntry, VocabularyEntry, WeightEntry
    from tfslim_core.inspection import Inspection
    from tfslim_core.publishing import Published
    from tfslim_core.quantization.budgeting import Budget
    from tfslim_core.report import ReportContext
    from tfslim_core.saved_model.sample_check import Sample
    from tfslim_core.stages import Errors, Progress
    from tfslim_core.vocabulary.corpus_pruning import Pruning

Location = str | os.PathLike[str]


def _silent(what: str, done: int, total: int) -> None:
    del what, done, total


@dataclass(frozen=True)
class StageReport:
    """What a stage made.

    bytes: of the output directory. nodes: of the graph. errors: how far the answers are from those before, by
    "signature/output", relative L2 for floats. notes: for the reader, one sentence each.
    """

    path: Path
    stage: str
    bytes: int
    nodes: int
    seconds: float
    errors: Mapping[str, float] = field(default_factory=dict)
    steps: Sequence[StepEntry] = ()
    weights: Sequence[WeightEntry] = ()
    vocabularies: Sequence[VocabularyEntry] = ()
    notes: Sequence[str] = ()

    def metrics(self) -> dict[str, float]:
        """Finite numbers for a pipeline's Metrics artifact."""
        numbers = {"bytes": float(self.bytes), "nodes": float(self.nodes), "seconds": round(self.seconds, 3)}
        return numbers | {f"error/{key}": error for key, error in self.errors.items() if error < float("inf")}

    def to_json(self) -> dict[str, Any]:
        """The report as JSON data."""
        return {
            "stage": self.stage,
            "path": str(self.path),
            "bytes": self.bytes,
            "nodes": self.nodes,
            "seconds": round(self.seconds, 3),
            "errors": dict(self.errors),
            "steps": [step.model_dump() for step in self.steps],
            "weights": [weight.model_dump() | {"harm": _finite(weight.harm)} for weight in self.weights],
            "vocabularies": [entry.model_dump() for entry in self.vocabularies],
            "notes": list(self.notes),
        }


def freeze(
    model: Location,
    bundle: Location,
    *,
    tags: Sequence[str] = ("serve",),
    signatures: Sequence[str] | None = None,
    format: Literal["bundle", "graph_def"] = "bundle",  # noqa: A002  # the command's flag
    overwrite: bool = False,
    progress: Progress = _silent,
) -> StageReport:
    """Freeze a SavedModel into a bundle (or a plain frozen GraphDef), ready for the other stages.

    signatures: the ones to keep; all unless told.

    Raises:
        ModelError: it is not a SavedModel, is damaged, or lacks the tags or a signature.
        OutputExistsError: the output exists and `overwrite` is false.
    """
    from tfslim_core import stages
    from tfslim_core.saved_model.freeze import freeze_saved_model
    from tfslim_core.saved_model.read import read_saved_model
    from tfslim_core.saved_model.sample_check import take_sample
    from tfslim_core.saved_model.write import write_graph_def

    start = time.monotonic()
    source, out = local(model), local(bundle)
    storage.check_free(out, overwrite=overwrite)
    opened = read_saved_model(source, tags, signatures)
    progress("ask the original", 0, 0)
    sample = take_sample(source, opened.tags, list(opened.signatures))
    progress("freeze", 0, 0)
    frozen = freeze_saved_model(opened)

    def check(made: Bundle) -> Errors:
        return stages.checked(made, sample, "freezing", progress)

    if format == "graph_def":
        errors = check(frozen)
        with storage.whole_file(out, overwrite=overwrite) as file:
            write_graph_def(frozen, file)
    else:
        errors = stages.written(frozen, out, overwrite, check, progress)
    return _report(frozen, Path(bundle), "freeze", start, errors, sample)


def transform(
    bundle: Location,
    out: Location,
    *,
    transforms: str | Iterable[str] | None = None,
    overwrite: bool = False,
    progress: Progress = _silent,
) -> StageReport:
    """Rewrite a bundle's graph; the default set unless told otherwise.

    Raises:
        ModelError: it is not a bundle, or the answers changed.
        TransformError: a transform or parameter is unknown, or one failed.
        OutputExistsError: the output exists and `overwrite` is false.
    """
    from tfslim_core import stages
    from tfslim_core.bundle import read_bundle

    start = time.monotonic()
    target = local(out)
    storage.check_free(target, overwrite=overwrite)
    before = read_bundle(local(bundle))
    after = stages.transformed(before, transforms, progress)
    sample = stages.sample_of(before, progress)

    def check(made: Bundle) -> Errors:
        return stages.checked_as_meant(made, sample, len(before.manifest.steps), "the transforms", progress)

    errors = stages.written(after, target, overwrite, check, progress)
    return _report(after, target, "transform", start, errors, sample)


def prune_vocabulary(
    bundle: Location,
    out: Location,
    *,
    corpus: Mapping[str, str] | None = None,
    min_count: int | None = None,
    keep: int | None = None,
    to: Literal["oov", "centre"] | None = None,
    budget: Sequence[str] = (),
    data: Mapping[str, str] | None = None,
    signature: str | None = None,
    main_output: str | None = None,
    label: str | None = None,
    seed: int = 0,
    fail_on_bad_records: float = 0.01,
    beam_options: Sequence[str] = (),
    overwrite: bool = False,
    progress: Progress = _silent,
) -> StageReport:
    """Drop the rows of embeddings that a corpus never or rarely looks up, and the words that they belong to.

    corpus: name -> path of texts to count; the data unless told. min_count: rows that are looked up less often go; 1,
    those that never are, unless told otherwise. keep: so many of the most used rows are kept. budget: as few rows as
    hold these bounds on the data; the examples that confirm it are not counted. to: what stands for dropped rows: the
    row for unknown words, where there is one and unless told otherwise, or centres of clusters of them.

    Raises:
        UsageError: no corpus, or more than one way to choose rows.
        ModelError: it is not a bundle, or the result does not answer as it should.
        DataError: the corpus cannot be read, does not fit, or is empty; or the data cannot judge the budget.
        OutputExistsError: the output exists and `overwrite` is false.
    """
    from tfslim_core import stages
    from tfslim_core.bundle import read_bundle
    from tfslim_core.vocabulary.corpus_pruning import Pruning

    start = time.monotonic()
    target = local(out)
    storage.check_free(target, overwrite=overwrite)
    within = _within(
        budget, None, data=dict(data or {}), signature=signature, main_output=main_output, label=label, seed=seed
    )
    wanted = Pruning(
        dict(corpus or data or {}), min_count, keep, within, to, signature, tuple(beam_options), fail_on_bad_records
    )
    wanted.refuse_unclear()
    before = read_bundle(local(bundle))
    with storage.scratch_directory() as aside:
        pruned = stages.vocabulary_pruned(before, wanted, aside, progress)
        sample = stages.sample_of(before, progress, pruned.requests())

        def check(made: Bundle) -> Errors:
            return stages.checked_pruned(before, made, pruned, sample, progress)

        errors = stages.written(pruned.bundle, target, overwrite, check, progress)
    return _report(pruned.bundle, target, "prune-vocabulary", start, errors, sample)


def quantize(
    bundle: Location,
    out: Location,
    *,
    encoding: str | None = None,
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    minimum_size: int = 1024,
    placement: Literal["rows", "load", "graph"] | None = None,
    budget: Sequence[str] = (),
    data: Mapping[str, str] | None = None,
    signature: str | None = None,
    main_output: str | None = None,
    label: str | None = None,
    search_minutes: float = 10,
    seed: int = 0,
    overwrite: bool = False,
    progress: Progress = _silent,
) -> StageReport:
    """Store a bundle's weights encoded: all alike, in int8 unless told, or each as a budget allows.

    include, exclude: shell patterns of weight names. minimum_size: elements. placement: chosen by use unless told.
    data: without a budget it tells what the layers are fed, and integers and palettes are rounded so that their outputs
    are off least.
    What the encoding leaves alone is stored smaller where nothing is lost by it; what the patterns leave out is not.
    budget: bounds such as "top1_agreement>=0.99" on the answers to a sample of the data, drawn by `seed`. While the
    smallest encodings are searched, OUT.search keeps what was measured, and a run that was stopped goes on from there.

    Raises:
        UsageError: an encoding and a budget, a bound that cannot be searched for, or data that nothing heeds.
        ModelError: it is not a bundle, or the result gives NaN or infinity where there was none.
        DataError: the data cannot be read, does not fit, or cannot judge it.
        TransformError: there is no such encoding, or no weight of an included name.
        OutputExistsError: the output exists and `overwrite` is false.
    """
    from tfslim_core import encodings, stages
    from tfslim_core.bundle import read_bundle
    from tfslim_core.quantization.encode_weights import Choice
    from tfslim_core.quantization.harm import NO_HARM

    start = time.monotonic()
    target = local(out)
    storage.check_free(target, overwrite=overwrite)
    given: dict[str, Any] = {"data": dict(data or {}), "signature": signature, "label": label, "seed": seed}
    within = _within(budget, encoding, main_output=main_output, minutes=search_minutes, **given)
    if data and within is None and not encodings.heeds_moments(encoding or "int8"):
        raise UsageError(
            f"{encoding} takes no heed of data; give --budget EXPR, or an encoding of integers or palettes"
        )
    before = read_bundle(local(bundle))
    choice = Choice(encoding or "int8", tuple(include), tuple(exclude), minimum_size, placement)
    state = target.with_name(f"{target.name}.search")
    if within is None:
        moments = stages.calibrated(before, choice, given, progress) if data else None
        after = stages.quantized(before, choice, NO_HARM, progress, moments=moments)
    else:
        after = stages.searched(before, choice, within, state, progress)
    sample = stages.sample_of(before, progress)

    def check(made: Bundle) -> Errors:
        return stages.measured(made, sample, "quantization", progress)

    errors = stages.written(after, target, overwrite, check, progress)
    state.unlink(missing_ok=True)
    return _report(after, target, "quantize", start, errors, sample)


def reexport(
    bundle: Location,
    out: Location,
    *,
    format: Literal["saved_model", "graph_def"] = "saved_model",  # noqa: A002  # the command's flag
    overwrite: bool = False,
    progress: Progress = _silent,
) -> StageReport:
    """Write a bundle as a SavedModel, loaded and run by TensorFlow's C++ loader before it takes its name.

    Raises:
        ModelError: it is not a bundle, or the result does not load or does not answer.
        OutputExistsError: the output exists and `overwrite` is false.
    """
    from tfslim_core import stages
    from tfslim_core.bundle import read_bundle
    from tfslim_core.saved_model.sample_check import take_sample
    from tfslim_core.saved_model.write import write_graph_def, write_saved_model

    start = time.monotonic()
    target = local(out)
    storage.check_free(target, overwrite=overwrite)
    slimmed = read_bundle(local(bundle))
    progress("write", 0, 0)
    if format == "graph_def":
        with storage.whole_file(target, overwrite=overwrite) as file:
            write_graph_def(slimmed, file)
        return _report(slimmed, target, "reexport", start, {}, None)
    with storage.whole_directory(target, overwrite=overwrite) as aside:
        write_saved_model(slimmed, aside)
        stages.check_servable(slimmed, aside)
        progress("load with the C++ loader", 0, 0)
        sample = take_sample(aside, slimmed.manifest.tags, list(slimmed.manifest.signatures))
    return _report(slimmed, target, "reexport", start, {}, sample)


@dataclass(frozen=True)
class ValidationReport:
    """What a validation found. path: the directory with verdict.json and report.html."""

    path: Path
    verdict: Verdict
    context: ReportContext

    @property
    def outcome(self) -> Outcome:
        """pass, fail or inconclusive."""
        return self.verdict.verdict

    def metrics(self) -> dict[str, float]:
        """Finite numbers for a pipeline's Metrics artifact."""
        models = self.verdict.models
        numbers = {
            "original_bytes": float(models.original.bytes),
            "optimized_bytes": float(models.optimized.bytes),
            "size_ratio": models.optimized.bytes / max(models.original.bytes, 1),
        }
        for dataset, result in self.verdict.datasets.items():
            numbers[f"{dataset}/examples"] = float(result.examples)
            for key, output in result.outputs.items():
                found = {f"{dataset}/{key}/{name}": value for name, value in output.model_dump().items()}
                numbers |= {name: float(value) for name, value in found.items() if value is not None}
        return numbers


def validate(
    original: Location,
    optimized: Location,
    *,
    data: Mapping[str, str],
    out: Location,
    bundle: Location | None = None,
    gates: Sequence[str] = (),
    signature: str | None = None,
    main_output: str | None = None,
    label: str | None = None,
    batch_size: int = 32,
    fail_on_bad_records: float = 0.01,
    tags: Sequence[str] = ("serve",),
    beam_options: Sequence[str] = (),
    overwrite: bool = False,
    progress: Progress = _silent,
) -> ValidationReport:
    """Run both models on the data, as a Beam job, and judge the difference: verdict.json and report.html in `out`.

    data: name -> path or glob. bundle: the one that was re-exported; the report then tells what was done to the model.
    gates: expressions such as "top1_agreement>=0.99"; the default ones unless told.

    Raises:
        ModelError: a model cannot be opened, or the optimized one has another interface.
        DataError: a dataset cannot be read, does not fit, or has too many bad records.
        UsageError: a gate cannot be understood.
        OutputExistsError: the output exists and `overwrite` is false.
    """
    from tfslim_core.bundle import read_bundle
    from tfslim_core.report import write_report
    from tfslim_core.summary import context_of, plain_context, stages_of
    from tfslim_core.validation.job import validate as validated

    target, before, after = local(out), local(original), local(optimized)
    _check_apart(target, before, after)
    storage.check_free(target, overwrite=overwrite)
    with storage.whole_directory(target, overwrite=overwrite) as aside:
        found = validated(
            before,
            after,
            data,
            out=aside,
            gates=gates,
            signature=signature,
            main_output=main_output,
            label=label,
            batch_size=batch_size,
            fail_on_bad_records=fail_on_bad_records,
            tags=tags,
            beam_options=beam_options,
            progress=progress,
        )
        if bundle is None:
            context = plain_context(before, after, found)
        else:
            slimmed = read_bundle(local(bundle))
            context = context_of(slimmed, after, stages_of(slimmed.manifest, after), found)
        write_report(aside, found.verdict, context)
    return ValidationReport(target, found.verdict, context)


@dataclass(frozen=True)
class SlimReport:
    """What `slim` made. path: the servable. report: the directory with verdict.json and report.html, or None."""

    path: Path
    report: Path | None
    verdict: Verdict
    context: ReportContext
    errors: Mapping[str, float]

    @property
    def outcome(self) -> Outcome:
        """pass, fail or inconclusive."""
        return self.verdict.verdict

    def to_json(self) -> dict[str, Any]:
        """The report as JSON data."""
        return {
            "path": str(self.path),
            "report": str(self.report) if self.report else None,
            "errors": dict(self.errors),
            "weights": [asdict(weight) | {"harm": _finite(weight.harm)} for weight in self.context.weights],
            "verdict": self.verdict.model_dump(mode="json"),
        }


def slim(
    model: Location,
    out: Location,
    *,
    report: Location | None = None,
    tags: Sequence[str] = ("serve",),
    signatures: Sequence[str] | None = None,
    transforms: str | None = None,
    encoding: str | None = None,
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    minimum_size: int = 1024,
    budget: Sequence[str] = (),
    search_minutes: float = 10,
    seed: int = 0,
    data: Mapping[str, str] | None = None,
    gates: Sequence[str] = (),
    signature: str | None = None,
    main_output: str | None = None,
    label: str | None = None,
    fail_on_bad_records: float = 0.01,
    prune_vocabulary: bool = False,
    corpus: Mapping[str, str] | None = None,
    min_count: int | None = None,
    keep: int | None = None,
    to: Literal["oov", "centre"] | None = None,
    overwrite: bool = False,
    progress: Progress = _silent,
) -> SlimReport:
    """Slim a SavedModel and validate the result: all stages in one process.

    encoding: without one it is int8, and weights that it measurably harms are left alone. data: name -> path; without
    any the result is checked on made-up inputs and the verdict is inconclusive. A failed gate does not raise: the
    servable and its report are written, and the outcome says so. budget: bounds such as "top1_agreement>=0.99": the
    smallest encodings that hold them on a sample of the data, found within `search_minutes`.
    prune_vocabulary: drop rows of embeddings too, as the stage of that name does with corpus, min_count, keep and to;
    with a budget and neither of the two numbers, half of the budget is for that.

    Raises:
        UsageError: gates or a budget without data, or a budget and an encoding.
        TfslimError: as freeze, transform, quantize, reexport and validate raise it; nothing is written then.
    """
    from tfslim_core.report import write_report
    from tfslim_core.slimming import Settings, slim_into

    if gates and not data:
        raise UsageError("--gate needs data to hold it against; give --data NAME=PATH")
    source, target = local(model), local(out)
    storage.check_free(target, overwrite=overwrite)
    reported = local(report) if report is not None else None
    if reported is not None:
        _check_apart(reported, source, target)
        storage.check_free(reported, overwrite=overwrite)
    within = _within(
        budget,
        encoding,
        data=dict(data or {}),
        signature=signature,
        main_output=main_output,
        label=label,
        minutes=search_minutes,
        seed=seed,
    )
    pruning = None
    if prune_vocabulary:
        pruning = _pruning(corpus or data, min_count, keep, within, to, fail_on_bad_records)
    elif corpus or min_count is not None or keep is not None or to is not None:
        raise UsageError("--corpus, --min-count, --keep and --to are for --prune-vocabulary; give that too")
    settings = Settings(
        tags=tuple(tags),
        signatures=tuple(signatures) if signatures is not None else None,
        transforms=transforms,
        encoding=encoding,
        include=tuple(include),
        exclude=tuple(exclude),
        minimum_size=minimum_size,
        budget=within,
        data=dict(data or {}),
        gates=tuple(gates),
        signature=signature,
        main_output=main_output,
        label=label,
        fail_on_bad_records=fail_on_bad_records,
        pruning=pruning,
    )
    with ExitStack() as stack:
        beside = stack.enter_context(
            storage.whole_directory(reported, overwrite=overwrite) if reported else storage.scratch_directory()
        )
        servable = stack.enter_context(storage.whole_directory(target, overwrite=overwrite))
        made = slim_into(source, servable, beside, settings, progress)
        context = replace(made.context, optimized_path=str(target))
        write_report(beside, made.verdict, context)
    return SlimReport(target, reported, made.verdict, context, made.errors)


def inspect(model: Location, *, tags: Sequence[str] = ("serve",)) -> Inspection:
    """What is in a SavedModel or a bundle, what it costs, and what slimming would save. Nothing is run.

    Raises:
        ModelError: it is neither, or it is damaged.
    """
    from tfslim_core.inspection import inspect as inspected

    return inspected(local(model), tags)


def publish(optimized: Location, base: Location, *, verdict: Location | Verdict) -> Published:
    """Publish a model that passed its validation as the next version below `base`, TensorFlow Serving's layout.

    Raises:
        GateFailedError: the verdict is a fail. InconclusiveError: it is inconclusive.
        ModelError: the verdict is of other bytes, or the copy could not be made.
    """
    from tfslim_core.publishing import publish as published

    found = verdict if isinstance(verdict, Verdict) else Verdict.read(local(verdict))
    return published(local(optimized), local(base), found)


def rollback(base: Location) -> Published:
    """Hide the highest version below `base`, so that the one before it is served.

    Raises:
        ModelError: there is none before it.
    """
    from tfslim_core.publishing import rollback as rolled_back

    return rolled_back(local(base))


def transform_graph(
    graph_def: Any, inputs: Sequence[str], outputs: Sequence[str], transforms: str | Iterable[str]
) -> Any:
    """The Graph Transform Tool's TransformGraph: a GraphDef in, a GraphDef out.

    inputs, outputs: names of nodes or tensors ("x" or "x:0") that keep their names and meaning. An output may be a node
    without tensors, such as the one that fills the tables.

    Raises:
        TransformError: a transform or parameter is unknown, or one failed.
        GraphError: the graph is not valid, or a name is not in it.
    """
    from tfslim_core.drop_in import plain_graph
    from tfslim_core.saved_model.write import with_values
    from tfslim_core.transforms import apply

    graph, _ = apply(plain_graph(graph_def, inputs, outputs), transforms)
    return with_values(graph)


def transform_graph_file(
    in_graph: Location,
    out_graph: Location,
    *,
    inputs: Sequence[str],
    outputs: Sequence[str],
    transforms: str | Iterable[str],
    overwrite: bool = False,
    progress: Progress = _silent,
) -> StageReport:
    """`transform_graph` on .pb files; both graphs answer a made-up request before the result is written.

    Raises:
        ModelError: the file is no GraphDef, or the answers changed where nothing that was asked for changes them.
        TransformError: a transform or parameter is unknown, or one failed.
        GraphError: the graph is not valid, or a name is not in it.
        OutputExistsError: the output exists and `overwrite` is false.
    """
    from tfslim_core import stages
    from tfslim_core.drop_in import as_bundle, plain_graph
    from tfslim_core.graph_files import read_graph_def, write_graph_def
    from tfslim_core.saved_model.write import with_values

    start = time.monotonic()
    source, target = local(in_graph), local(out_graph)
    storage.check_free(target, overwrite=overwrite)
    before = as_bundle(plain_graph(read_graph_def(source), inputs, outputs), source)
    after = stages.transformed(before, transforms, progress)
    sample = stages.sample_of(before, progress)
    errors = stages.checked_as_meant(after, sample, 0, "the transforms", progress)
    write_graph_def(with_values(after.graph), target, overwrite=overwrite)
    return _report(after, target, "transform-graph", start, errors, sample)


def local(path: Location) -> Path:
    """A local path.

    Raises:
        UsageError: it is a URL.
    """
    text = os.fspath(path)
    # A Path has made "gs:/bucket" of "gs://bucket".
    if url := re.match(r"([a-z][a-z0-9+.-]+):/+", text):
        address = f"{url[1]}://{text[url.end() :]}"
        raise UsageError(f"{address}: only local paths are read and written so far; copy it here first")
    return Path(text)


def _finite(number: float | None) -> float | None:
    """The number where JSON can hold it."""
    return number if number is not None and math.isfinite(number) else None


def _check_apart(report: Path, *models: Path) -> None:
    """Refuse a report that would become a part of a model, or take the place of one."""
    place = Path(os.path.abspath(report))
    for model in models:
        other = Path(os.path.abspath(model))
        if place.is_relative_to(other) or other.is_relative_to(place):
            raise UsageError(
                f"the report {report} and the model {model} are one inside the other; give it its own place"
            )


def _within(bounds: Sequence[str], encoding: str | None, **options: Any) -> Budget | None:
    """The budget, refused early where it cannot be searched for; None where there are no bounds.

    Raises:
        UsageError: as `Budget.gates`, or an encoding was asked for too.
    """
    if not bounds:
        return None
    from tfslim_core.quantization.budgeting import Budget

    if encoding is not None:
        raise UsageError("--budget chooses the encodings itself; leave out --encoding")
    budget = Budget(tuple(bounds), **options)
    budget.gates()
    return budget


def _pruning(
    corpus: Mapping[str, str] | None,
    min_count: int | None,
    keep: int | None,
    within: Budget | None,
    to: Literal["oov", "centre"] | None,
    fail_on_bad_records: float,
) -> Pruning:
    """What `slim` drops of vocabularies: by half of the budget where nothing else is said."""
    from tfslim_core.vocabulary.corpus_pruning import Pruning

    counted = min_count is not None or keep is not None
    made = Pruning(
        dict(corpus or {}),
        min_count,
        keep,
        None if counted else within,
        to,
        fail_on_bad_records=fail_on_bad_records,
        share=0.5,
    )
    made.refuse_unclear()
    return made


def _report(
    bundle: Bundle, out: Path, stage: str, start: float, errors: Mapping[str, float], sample: Sample | None
) -> StageReport:
    notes = [f"signature {name!r} was not checked: {why}" for name, why in (sample.unchecked if sample else {}).items()]
    notes += bundle.manifest.notes
    notes += [f"{name} stays a variable: {why}" for name, why in bundle.manifest.kept_variables.items()]
    return StageReport(
        path=out,
        stage=stage,
        bytes=storage.size(out) if out.is_dir() else out.stat().st_size,
        nodes=len(bundle.graph.nodes),
        seconds=time.monotonic() - start,
        errors=errors,
        steps=bundle.manifest.steps,
        weights=bundle.manifest.weights,
        vocabularies=bundle.manifest.vocabularies,
        notes=notes,
    )
