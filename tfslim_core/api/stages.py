"""The stages on bundles: freeze, transform, prune_vocabulary, quantize."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from tfslim_core import storage
from tfslim_core.api.arguments import Location, budget_within, check_workers, local, silent
from tfslim_core.api.reports import StageReport, stage_report
from tfslim_core.errors import UsageError
from tfslim_core.staging import in_buckets

if TYPE_CHECKING:
    from tfslim_core.bundle import Bundle
    from tfslim_core.stages import Errors, Progress


@in_buckets(reads=["model"], writes=["bundle"])
def freeze(
    model: Location,
    bundle: Location,
    *,
    tags: Sequence[str] = ("serve",),
    signatures: Sequence[str] | None = None,
    inputs: Sequence[str] | None = None,
    outputs: Sequence[str] | None = None,
    graph: Location | None = None,
    format: Literal["bundle", "graph_def"] = "bundle",  # noqa: A002  # the command's flag
    overwrite: bool = False,
    progress: Progress = silent,
) -> StageReport:
    """Freeze a model of any format into a bundle (or a plain frozen GraphDef), ready for the other stages.

    signatures: the ones to keep; all unless told. inputs, outputs: tensors of a graph without signatures; guessed
    unless told. graph: of a checkpoint that has no .meta. The report's first note says what the model was seen to be.

    Raises:
        ModelError, GraphError: it is of no known format, is damaged, or lacks the tags, a signature or a tensor.
        UsageError: inputs, outputs or graph for a format that has its own.
        OutputExistsError: the output exists and `overwrite` is false.
    """
    from tfslim_core import stages
    from tfslim_core.fidelity.differences import refuse_losses
    from tfslim_core.fidelity.facts import bundle_facts, promised_facts
    from tfslim_core.importing import opened, origin
    from tfslim_core.saved_model.freeze import freeze_saved_model
    from tfslim_core.saved_model.read import read_saved_model
    from tfslim_core.saved_model.sample_check import take_sample
    from tfslim_core.saved_model.write import write_graph_def

    start = time.monotonic()
    source, out = local(model), local(bundle)
    storage.check_free(out, overwrite=overwrite)
    beside = local(graph) if graph is not None else None
    with opened(source, tags=tags, inputs=inputs, outputs=outputs, graph=beside, progress=progress) as found:
        read = read_saved_model(found.path, tags, signatures)
        progress("ask the original", 0, 0)
        sample = take_sample(found.path, read.tags, list(read.signatures))
        progress("freeze", 0, 0)
        frozen = origin.told(freeze_saved_model(read), found)

        def check(made: Bundle) -> Errors:
            refuse_losses(promised_facts(read), bundle_facts(made), "freezing")
            return stages.checked(made, sample, "freezing", progress)

        if format == "graph_def":
            errors = check(frozen)
            with storage.whole_file(out, overwrite=overwrite) as file:
                write_graph_def(frozen, file)
        else:
            errors = stages.written(frozen, out, overwrite, check, progress)
        return stage_report(
            frozen, Path(bundle), "freeze", start, errors, sample, () if found.converted else found.notes
        )


@in_buckets(reads=["bundle"], writes=["out"])
def transform(
    bundle: Location,
    out: Location,
    *,
    transforms: str | Iterable[str] | None = None,
    overwrite: bool = False,
    progress: Progress = silent,
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
        stages.check_kept(before, made, "the transforms")
        return stages.checked_as_meant(made, sample, len(before.manifest.steps), "the transforms", progress)

    errors = stages.written(after, target, overwrite, check, progress)
    return stage_report(after, target, "transform", start, errors, sample)


@in_buckets(reads=["bundle"], data=["corpus", "data"], writes=["out"], check=check_workers)
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
    progress: Progress = silent,
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
    within = budget_within(
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
    return stage_report(pruned.bundle, target, "prune-vocabulary", start, errors, sample)


@in_buckets(reads=["bundle"], data=["data"], writes=["out"])
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
    progress: Progress = silent,
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
    within = budget_within(budget, encoding, main_output=main_output, minutes=search_minutes, **given)
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
        stages.check_kept(before, made, "quantization")
        return stages.measured(made, sample, "quantization", progress)

    errors = stages.written(after, target, overwrite, check, progress)
    state.unlink(missing_ok=True)
    return stage_report(after, target, "quantize", start, errors, sample)
