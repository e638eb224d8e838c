"""slim: all stages at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from typing import TYPE_CHECKING, Literal

from tfslim_core import storage
from tfslim_core.api.arguments import Location, budget_within, check_apart, local, silent
from tfslim_core.api.reports import SlimReport
from tfslim_core.errors import UsageError
from tfslim_core.staging import in_buckets, shown

if TYPE_CHECKING:
    from tfslim_core.quantization.budgeting import Budget
    from tfslim_core.stages import Progress
    from tfslim_core.vocabulary.corpus_pruning import Pruning


@in_buckets(reads=["model"], data=["corpus", "data"], writes=["out", "report"])
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
    progress: Progress = silent,
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
        check_apart(reported, source, target)
        storage.check_free(reported, overwrite=overwrite)
    within = budget_within(
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
        context = replace(made.context, optimized_path=shown(target))
        write_report(beside, made.verdict, context)
    return SlimReport(target, reported, made.verdict, context, made.errors)


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
