"""validate, and what becomes of the verdicts of several validations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from tfslim_core import storage
from tfslim_core.api.arguments import Location, check_apart, check_workers, local, silent
from tfslim_core.api.reports import ValidationReport
from tfslim_core.errors import ModelError
from tfslim_core.staging import in_buckets

if TYPE_CHECKING:
    from tfslim_core.joining import Candidate
    from tfslim_core.stages import Progress


@in_buckets(reads=["original", "optimized", "bundle"], data=["data"], writes=["out"], check=check_workers)
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
    slices: Sequence[str] = (),
    batch_size: int = 32,
    batch_sizes: Sequence[int] = (1, 32),
    costs: bool = True,
    fail_on_bad_records: float = 0.01,
    tags: Sequence[str] = ("serve",),
    inputs: Sequence[str] | None = None,
    outputs: Sequence[str] | None = None,
    graph: Location | None = None,
    beam_options: Sequence[str] = (),
    overwrite: bool = False,
    progress: Progress = silent,
) -> ValidationReport:
    """Run both models on the data, as a Beam job, and judge the difference: verdict.json, report.html and
    report.md in `out`.

    data: name -> path or glob. bundle: the one that was re-exported; the report then tells what was done to the model.
    inputs, outputs, graph: of an original that has no signatures, as in freeze. gates: expressions such as
    "top1_agreement>=0.99"; the default ones unless told. slices: keys of the data by whose values examples are told
    apart, as "language", or with buckets as "length:10,100". batch_size: of the comparison. batch_sizes: to measure
    latency and throughput at. costs: whether to measure these, load time and memory at all.

    Raises:
        ModelError: a model cannot be opened, or the optimized one has another interface.
        DataError: a dataset cannot be read, does not fit, or has too many bad records.
        UsageError: a gate or a slice cannot be understood.
        OutputExistsError: the output exists and `overwrite` is false.
    """
    from tfslim_core.bundle import read_bundle
    from tfslim_core.importing import opened
    from tfslim_core.report import write_report
    from tfslim_core.summary import context_of, plain_context, stages_of
    from tfslim_core.validation.job import validate as validated

    target, before, after = local(out), local(original), local(optimized)
    check_apart(target, before, after)
    storage.check_free(target, overwrite=overwrite)
    of = local(graph) if graph is not None else None
    with (
        opened(before, tags=tags, inputs=inputs, outputs=outputs, graph=of, progress=progress) as original_model,
        storage.whole_directory(target, overwrite=overwrite) as aside,
    ):
        found = validated(
            original_model.path,
            after,
            data,
            out=aside,
            gates=gates,
            signature=signature,
            main_output=main_output,
            label=label,
            slices=slices,
            batch_size=batch_size,
            fail_on_bad_records=fail_on_bad_records,
            tags=tags,
            beam_options=beam_options,
            measure_costs=costs,
            latency_batches=batch_sizes,
            progress=progress,
        )
        if bundle is None:
            context = plain_context(before, after, found)
        else:
            slimmed = read_bundle(local(bundle))
            context = context_of(slimmed, after, stages_of(slimmed.manifest, after), found)
        write_report(aside, found.verdict, context)
    return ValidationReport(target, found.verdict, context)


@in_buckets(reads=["original", "optimized", "bundle"], writes=["out"])
def join_verdicts(
    verdicts: Sequence[Location],
    original: Location,
    optimized: Location,
    *,
    out: Location,
    bundle: Location | None = None,
    overwrite: bool = False,
) -> ValidationReport:
    """Join what validations of the same two models found, each on datasets of its own, into one verdict: verdict.json,
    report.html and report.md in `out`, as if one validation had had all the data. The worst verdict wins.

    verdicts: directories that `validate` wrote. bundle: as in validate.

    Raises:
        ModelError: a verdict is missing, or they are not of these two models.
        DataError: two of them have a dataset of the same name.
        OutputExistsError: the output exists and `overwrite` is false.
    """
    from tfslim_core.bundle import read_bundle
    from tfslim_core.joining import joined
    from tfslim_core.report import write_report
    from tfslim_core.summary import compared_context, context_of, stages_of
    from tfslim_core.verdict import FILE_NAME, Verdict

    target, before, after = local(out), local(original), local(optimized)
    check_apart(target, before, after)
    verdict = joined([Verdict.read(local(place) / FILE_NAME) for place in verdicts])
    digest = storage.digest(after)
    if digest != verdict.models.optimized.digest:
        raise ModelError(
            f"the verdicts are not of {after}: its digest is {digest[:12]}…, "
            f"theirs is {verdict.models.optimized.digest[:12]}…; validate this one"
        )
    if bundle is None:
        context = compared_context(before, after)
    else:
        slimmed = read_bundle(local(bundle))
        context = context_of(slimmed, after, stages_of(slimmed.manifest, after), None)
    with storage.whole_directory(target, overwrite=overwrite) as aside:
        verdict.write(aside)
        write_report(aside, verdict, context)
    return ValidationReport(target, verdict, context)


def choose(candidates: Mapping[str, Location]) -> Candidate:
    """The smallest of several models that passed its validation, or the one that came closest where none did.

    candidates: name -> directory that `validate` or `join_verdicts` wrote.

    Raises:
        ModelError: there is none, or a verdict is missing.
    """
    from tfslim_core.joining import Candidate, chosen
    from tfslim_core.verdict import FILE_NAME, Verdict

    return chosen([Candidate(name, Verdict.read(local(place) / FILE_NAME)) for name, place in candidates.items()])
