"""validate."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from tfslim_core import storage
from tfslim_core.api.arguments import Location, check_apart, local, silent
from tfslim_core.api.reports import ValidationReport
from tfslim_core.staging import in_buckets

if TYPE_CHECKING:
    from tfslim_core.stages import Progress


@in_buckets(reads=["original", "optimized", "bundle"], data=["data"], writes=["out"])
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
    progress: Progress = silent,
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
    check_apart(target, before, after)
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
