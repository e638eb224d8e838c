"""All of it in one process: freeze, transform, quantize, re-export, validate; nothing is written in between."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from tfslim_core import compatibility, encodings, gate, registry, storage
from tfslim_core.bundle import Bundle
from tfslim_core.compared_models import compared_models
from tfslim_core.fidelity.facts import bundle_facts, promised_facts, without_file_names
from tfslim_core.further_tag_sets import check_further, slim_further
from tfslim_core.importing import Opened
from tfslim_core.importing.origin import told as told_of
from tfslim_core.quantization.encode_weights import Choice
from tfslim_core.quantization.harm import NO_HARM, Harm, measure_harm
from tfslim_core.report import ReportContext, Stage
from tfslim_core.saved_model.freeze import freeze_saved_model
from tfslim_core.saved_model.fresh_process import Request
from tfslim_core.saved_model.join import write_joined
from tfslim_core.saved_model.read import read_saved_model
from tfslim_core.saved_model.sample_check import Feeds, Sample, differences, take_sample
from tfslim_core.saved_model.write import write_saved_model
from tfslim_core.stages import (
    Progress,
    calibrated,
    check_as_pruned,
    check_servable,
    checked_as_meant,
    quantized,
    refuse_broken,
    runtime_of,
    sample_of,
    searched,
    transformed,
    vocabulary_pruned,
)
from tfslim_core.summary import context_of
from tfslim_core.transforms import stored_bytes
from tfslim_core.verdict import Verdict
from tfslim_core.warmup_requests import Wanted, warmed

if TYPE_CHECKING:
    from tfslim_core.quantization.budgeting import Budget
    from tfslim_core.quantization.input_moments import InputMoments
    from tfslim_core.validation.job import ValidationResult
    from tfslim_core.validation.sample import RealRequests
    from tfslim_core.vocabulary.corpus_pruning import Pruning


@dataclass(frozen=True)
class Settings:
    """What `slim` is asked for; see the command's help."""

    tags: tuple[str, ...] = ("serve",)
    also_tags: tuple[tuple[str, ...], ...] = ()
    signatures: tuple[str, ...] | None = None
    transforms: str | None = None
    encoding: str | None = None
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    minimum_size: int = 1024
    budget: Budget | None = None
    data: Mapping[str, str] = field(default_factory=dict)
    gates: tuple[str, ...] = ()
    signature: str | None = None
    main_output: str | None = None
    label: str | None = None
    slices: tuple[str, ...] = ()
    fail_on_bad_records: float = 0.01
    pruning: Pruning | None = None
    min_runtime: str | None = None
    warmup: Wanted | None = None


@dataclass(frozen=True)
class Slimmed:
    """The servable that was made, what was found about it, and all that a report tells."""

    bundle: Bundle
    verdict: Verdict
    context: ReportContext
    validation: ValidationResult | None
    errors: Mapping[str, float]


def slim_into(source: Opened, servable: Path, report: Path, settings: Settings, progress: Progress) -> Slimmed:
    """Slim a model into the empty directory `servable`, and write verdict.json into the empty directory `report`.

    With no encoding asked for it is int8, and weights that it measurably harms are left alone.

    Raises:
        TfslimError: see `api.slim`.
    """
    with tempfile.TemporaryDirectory(prefix="tfslim-") as aside:
        return _slim_into(source, servable, report, settings, Path(aside), progress)


def _slim_into(
    model_in: Opened, servable: Path, report: Path, settings: Settings, aside: Path, progress: Progress
) -> Slimmed:
    """The same. aside: for files that are needed until the end."""
    source = model_in.path
    _refuse_early(settings)
    stages: list[Stage] = []
    model = read_saved_model(source, settings.tags, settings.signatures)
    real = _real_requests(source, settings, list(model.signatures))
    progress("ask the original", 0, 0)
    given = {real.signature: real.feeds} if real is not None and real.feeds else None
    sample = take_sample(source, model.tags, list(model.signatures), given)
    start = time.monotonic()
    progress("freeze", 0, 0)
    frozen = told_of(freeze_saved_model(model), model_in)
    stages.append(Stage("original", frozen.manifest.source.bytes, frozen.manifest.source.nodes))
    stages.append(_stage("freeze", frozen, start, "; ".join(frozen.manifest.notes)))
    timed = next(iter(sample.requests), None)
    if timed is None:
        sample = replace(sample_of(frozen, progress), unchecked=sample.unchecked)
    start = time.monotonic()
    rewritten = transformed(frozen, settings.transforms, progress)
    checked_as_meant(rewritten, sample, len(frozen.manifest.steps), "freezing and the transforms", progress)
    stages.append(_stage("transform", rewritten, start))
    reference = None
    if settings.pruning is not None:
        start, reference = time.monotonic(), rewritten
        rewritten = _pruned(reference, replace(settings.pruning, signature=settings.signature), aside, progress)
        told = "; ".join(rewritten.manifest.notes[len(reference.manifest.notes) :])
        stages.append(_stage("prune-vocabulary", rewritten, start, told))
    start = time.monotonic()
    choice = Choice(settings.encoding or "int8", settings.include, settings.exclude, settings.minimum_size)
    if settings.budget is None:
        harm = _harm(rewritten, choice, sample, settings, progress)
        moments = _moments(rewritten, choice, settings, progress)
        stored = quantized(rewritten, choice, harm, progress, moments=moments)
        told = "; ".join(filter(None, (_words(harm), *stored.manifest.notes[len(rewritten.manifest.notes) :])))
    else:
        stored = searched(rewritten, choice, settings.budget, None, progress, reference)
        told = "; ".join(stored.manifest.notes[len(rewritten.manifest.notes) :])
    stages.append(_stage("quantize", stored, start, told))
    further = [
        slim_further(source, tags, stored, choice, settings.transforms, settings.signatures, given, progress)
        for tags in settings.also_tags
    ]
    start = time.monotonic()
    progress("write", 0, 0)
    if further:
        shared = write_joined([stored, *(one.bundle for one in further)], servable)
        notes = [
            note
            for one in (stored, *(one.bundle for one in further))
            for note in runtime_of(one, servable, settings.min_runtime)
        ]
    else:
        shared = []
        graph_def = write_saved_model(stored, servable)
        notes = list(compatibility.refuse_newer(graph_def, stored.manifest.source, settings.min_runtime).notes)
    pruned = ("table", "asset") if settings.pruning is not None else ()
    promised = {**bundle_facts(frozen), **promised_facts(model)}
    check_servable(without_file_names(promised) if further else promised, model.tags, servable, pruned)
    progress("load with the C++ loader", 0, 0)
    found = differences(sample, servable, model.tags)
    errors = {f"{signature}/{key}": error for (signature, key), error in found.items()}
    refuse_broken(errors, "quantization")
    more, reasons = check_further(further, shared[1:], servable)
    errors |= more
    told = "; ".join(dict.fromkeys([*notes, *warmed(servable, stored.manifest, settings.warmup, progress)]))
    stages.append(Stage("reexport", storage.size(servable), len(stored.graph.nodes), time.monotonic() - start, told))
    validation = None
    if real is not None:
        validation = _validated(source, servable, report, replace(settings, signature=real.signature), progress)
        verdict = validation.verdict
    else:
        verdict = _unproven(source, servable, sample, timed, errors, settings, progress)
    verdict = verdict.model_copy(update={"reasons": [*verdict.reasons, *reasons]})
    verdict.write(report)
    context = context_of(stored, servable, stages, validation)
    return Slimmed(stored, verdict, context, validation, errors)


def _pruned(bundle: Bundle, wanted: Pruning, aside: Path, progress: Progress) -> Bundle:
    """The bundle without the rows and words that the corpus does not need."""
    found = vocabulary_pruned(bundle, wanted, aside, progress)
    progress("check the answers", 0, 0)
    check_as_pruned(bundle, found.bundle, found)
    return found.bundle


def _refuse_early(settings: Settings) -> None:
    """Refuse what would otherwise be refused when much of the work is done.

    Raises:
        TransformError, UsageError: see `api.slim`.
    """
    if settings.encoding is not None:
        encodings.named(settings.encoding)
    if settings.transforms is not None:
        registry.parse(settings.transforms)
    if settings.min_runtime is not None:
        compatibility.release(settings.min_runtime)
    for text in settings.gates:
        gate.parse(text)


def _real_requests(source: Path, settings: Settings, kept: Sequence[str]) -> RealRequests | None:
    """The data's first requests to one of the signatures that are kept; None without data."""
    if not settings.data:
        return None
    from tfslim_core.validation.sample import real_requests

    return real_requests(source, settings.data, settings.tags, settings.signature, kept)


def _harm(bundle: Bundle, choice: Choice, sample: Sample, settings: Settings, progress: Progress) -> Harm:
    """What the encoding would harm; an encoding that was asked for by name is used wherever it can be."""
    if settings.encoding is not None:
        return NO_HARM
    return measure_harm(
        bundle,
        choice,
        sample.requests,
        sample.random,
        lambda done, total: progress("measure what int8 does to each weight", done, total),
    )


def _moments(bundle: Bundle, choice: Choice, settings: Settings, progress: Progress) -> InputMoments | None:
    """Of what layers are fed in the data, for an encoding that was asked for; plain int8 harms little as it is."""
    if not settings.data or settings.encoding is None or not encodings.heeds_moments(settings.encoding):
        return None
    given = {"data": settings.data, "signature": settings.signature, "label": settings.label}
    return calibrated(bundle, choice, given, progress)


def _words(harm: Harm) -> str:
    if not harm.instead:
        return ""
    left = sum(not encoding for encoding in harm.instead.values())
    worst = max(harm.alone[name] for name in harm.instead)
    moved = f"moves them by {100 * worst:.2g} %" if worst < float("inf") else "makes NaN or infinity of them"
    ways = {"stored in more bits": len(harm.instead) - left, "left as they were": left}
    what = ", ".join(f"{many} weight{'s' * (many != 1)} {how}" for how, many in ways.items() if many)
    return f"{what}: int8 harms the answers (the worst alone {moved})"


def _stage(name: str, bundle: Bundle, start: float, notes: str = "") -> Stage:
    return Stage(name, stored_bytes(bundle.graph), len(bundle.graph.nodes), time.monotonic() - start, notes)


def _validated(source: Path, servable: Path, report: Path, settings: Settings, progress: Progress) -> ValidationResult:
    from tfslim_core.validation.job import validate

    return validate(
        source,
        servable,
        settings.data,
        out=report,
        gates=settings.gates,
        signature=settings.signature,
        main_output=settings.main_output,
        label=settings.label,
        slices=settings.slices,
        fail_on_bad_records=settings.fail_on_bad_records,
        tags=settings.tags,
        progress=progress,
    )


def _unproven(
    source: Path,
    servable: Path,
    sample: Sample,
    timed: Request | None,
    errors: Mapping[str, float],
    settings: Settings,
    progress: Progress,
) -> Verdict:
    """Without data nothing is proven; what made-up requests show is told, and what both models cost is measured.

    timed: None where the original answers no request, and so cannot be measured.
    """
    from tfslim_core.costs import measure_pair

    costs = None
    if timed is not None:
        progress("measure costs", 0, 0)
        costs = measure_pair(
            source,
            servable,
            {_rows(timed.feeds): timed.feeds} if timed.feeds else {},
            timed.signature,
            settings.tags,
            seconds=4,
            progress=lambda done, total: progress("measure costs", done, total),
        )
    models = compared_models(source, servable, costs)
    worst = max(errors.values(), default=None)
    if worst is None:
        reasons = ["There was no data, and no made-up input that the model answers."]
    else:
        reasons = ["There was no data: the answers were compared on made-up inputs only, which proves nothing."]
        reasons.append(f"On these no output differs by more than {worst:.2g} (relative L2; a share for strings).")
    reasons += [f"Signature {name!r} could not be tried: {why}" for name, why in sample.unchecked.items()]
    return Verdict(verdict="inconclusive", reasons=reasons, checks=[], models=models, datasets={})


def _rows(feeds: Feeds) -> int:
    """How many examples a request holds; 1 where its inputs are scalars."""
    return next((len(array) for array in feeds.values() if array.ndim), 1)
