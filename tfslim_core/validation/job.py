"""Validate an optimized model against its original, on data: from paths to a verdict."""

from __future__ import annotations

import logging
import os
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from apache_beam.options.pipeline_options import PipelineOptions
from numpy.typing import NDArray

from tfslim_core import gate
from tfslim_core.compared_models import compared_models
from tfslim_core.costs import Costs, measure_pair
from tfslim_core.details import tell_detail
from tfslim_core.errors import DataError, ModelError, UsageError, nearest
from tfslim_core.metrics import WorstCase
from tfslim_core.metrics import main_output as guess_main_output
from tfslim_core.report import BadRecords
from tfslim_core.saved_model.served_signatures import Signature
from tfslim_core.served import signatures_of
from tfslim_core.validation import pipeline, runners
from tfslim_core.validation.batches import Batch, Batcher
from tfslim_core.validation.core_shares import core_shares
from tfslim_core.validation.dead_letters import Locate, by_error, lost, write_dead_letters
from tfslim_core.validation.expected import expected_records
from tfslim_core.validation.feeding import Feeding, choose_signature, feeding, has_batch_axis
from tfslim_core.validation.pace import Pace
from tfslim_core.validation.paired_models import OpenModel, PairHandler, open_served_model
from tfslim_core.validation.records import Letter, Record, split_place
from tfslim_core.validation.slicing import MOST_SLICES, parse_slicings
from tfslim_core.validation.sources import Dataset, Shard, first_records, open_dataset, shards
from tfslim_core.validation.tally import DatasetSummary
from tfslim_core.verdict import DatasetResult, LatencyPair, Models, SliceResult, Verdict, WorstExample

LATENCY_BATCHES = (1, 32)
_WORST_TOLD = 20
_EVERY_SECONDS = 0.1

_log = logging.getLogger("tfslim")

Feeds = Mapping[str, NDArray[Any]]
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class ValidationResult:
    """A verdict, and what a report tells beside it.

    signature: the one that was fed. main_output: the one that gates without a name mean; None where nothing was
    compared. histograms: dataset -> output -> (edges, counts) of absolute errors, first edge 0, last infinite.
    worst: dataset -> (output, case), the main output's first; the index of a case is the record's number in its
    dataset, from 0 on, as in the verdict. costs: of original and optimized; None where they were not measured.
    bad_records: by dataset and error.
    """

    verdict: Verdict
    signature: str
    main_output: str | None
    histograms: Mapping[str, Mapping[str, tuple[list[float], list[int]]]] = field(default_factory=dict)
    worst: Mapping[str, Sequence[tuple[str, WorstCase]]] = field(default_factory=dict)
    costs: tuple[Costs, Costs] | None = None
    bad_records: Sequence[BadRecords] = ()


def validate(
    original: Path,
    optimized: Path,
    data: Mapping[str, str],
    *,
    out: Path,
    gates: Sequence[str] = (),
    signature: str | None = None,
    main_output: str | None = None,
    label: str | None = None,
    slices: Sequence[str] = (),
    batch_size: int = 32,
    fail_on_bad_records: float = 0.01,
    tags: Sequence[str] = ("serve",),
    beam_options: Sequence[str] = (),
    measure_costs: bool = True,
    latency_batches: Sequence[int] = LATENCY_BATCHES,
    progress: Progress | None = None,
    open_model: OpenModel = open_served_model,
) -> ValidationResult:
    """Run both models on the data and judge the difference.

    out: an existing directory, into which verdict.json and, where there are bad records, dead_letters.jsonl are
    written; `storage.whole_directory` makes one that appears whole or not at all.
    data: name -> path or glob. gates: see gate.parse; the default ones where there are none. slices: see
    slicing.parse_slicing; examples are told apart by each of these keys too. fail_on_bad_records: the
    share of bad records, per dataset, above which the data counts as broken. progress: told (what, done, in all), 0 in
    all where that is not known. latency_batches: the batch sizes to measure latency and throughput at.
    open_model: opens each model in the workers.

    Raises:
        UsageError: a gate or a slice cannot be understood or answered, there are gates and no data, or an option of
            Beam's is unknown or names workers that cannot see the models and the data.
        JobError: the runner failed, or its workers' results cannot be seen from here.
        ModelError: a model cannot be opened, or the optimized one does not have the original's interface.
        DataError: a dataset cannot be read, does not fit the signature, or has too many bad records.
    """
    parsed = [gate.parse(text) for text in gates]
    slicings = parse_slicings(slices)
    if parsed and not data:
        raise UsageError("--gate needs data to hold it against; give --data NAME=PATH")
    options = runners.options_of(beam_options)
    paths = {"ORIGINAL": str(original), "OPTIMIZED": str(optimized)}
    runners.check_reachable(options, {**paths, **{f"--data {name}": path for name, path in data.items()}})
    before, after = (signatures_of(path, tuple(tags)) for path in (original, optimized))
    _check_latency_batches(parsed, latency_batches, measured=measure_costs)
    _check_numbers(batch_size, fail_on_bad_records)
    datasets = {name: open_dataset(name, path) for name, path in data.items()}
    firsts = {name: first_records(dataset) for name, dataset in datasets.items()}
    served = before[choose_signature(before, signature, [r for rs in firsts.values() for r in rs], _paths(data))]
    _check_interface(served, after, optimized)
    _check_main(main_output, served)
    gate.check_names(
        parsed,
        list(served.outputs),
        labelled=label is not None,
        datasets=list(datasets),
        slicings={slicing.key: slicing.names if slicing.edges else [] for slicing in slicings},
    )
    feedings = {
        name: feeding(served, firsts[name], label, dataset.path, slicings) for name, dataset in datasets.items()
    }
    plan = pipeline.Plan(
        shards=[(name, _absolute(shard)) for name, dataset in datasets.items() for shard in shards(dataset)],
        feedings=feedings,
        keys=list(served.outputs),
        batch_size=batch_size,
        main=main_output,
    )
    places = os.path.abspath(original), os.path.abspath(optimized)
    handler = PairHandler(*places, tuple(tags), served.name, open_model)
    summaries, letters = _run(plan, handler, options, progress, Pace(_expected(datasets)))
    _check_bad_records(datasets, summaries, letters, fail_on_bad_records)
    _check_slices(datasets, summaries)
    costs = None
    latencies: dict[str, LatencyPair] = {}
    timed = next((name for name in datasets if name in summaries and summaries[name].examples), None)
    if measure_costs:
        feeds = _latency_feeds(feedings[timed], firsts[timed], latency_batches) if timed else {}
        costs = measure_pair(original, optimized, feeds, served.name, tags, progress=_steps(progress))
        latencies = {timed: _latency_pair(costs)} if timed else {}

    def locate(name: str, letter: Letter) -> tuple[str, int]:
        return _locate(datasets[name], summaries.get(name), letter.place)

    findings = {
        name: _findings(
            summaries.get(name, DatasetSummary()),
            letters.get(name, []),
            latencies.get(name),
            _cut_off(name, letters, locate),
        )
        for name in datasets
    }
    models = _timed_on(compared_models(original, optimized, costs), timed)
    judged = gate.evaluate(parsed, findings, models, main_output)
    chosen = main_output or _main_of(summaries)
    worst = {name: _worst(found, chosen) for name, found in findings.items() if name in summaries}
    verdict = Verdict(
        verdict=judged.outcome,
        reasons=judged.reasons,
        checks=judged.checks,
        models=models,
        datasets={
            name: _dataset_result(found, worst.get(name, []), summaries.get(name, DatasetSummary()))
            for name, found in findings.items()
        },
    )
    write_dead_letters(out, letters, locate)
    verdict.write(out)
    return ValidationResult(
        verdict=verdict,
        signature=served.name,
        main_output=chosen,
        histograms={name: _histograms(found) for name, found in findings.items()},
        worst=worst,
        costs=costs,
        bad_records=by_error(letters, locate),
    )


def _run(
    plan: pipeline.Plan, handler: PairHandler, options: PipelineOptions, progress: Progress | None, pace: Pace
) -> tuple[dict[str, DatasetSummary], dict[str, list[Letter]]]:
    if not plan.shards:
        return {}, {}
    told = 0.0

    def tell(examples: int) -> None:
        nonlocal told
        pace.add(examples)
        if progress and time.monotonic() > told + _EVERY_SECONDS:
            told = time.monotonic()
            tell_detail(progress, "compare", pace.examples, pace.total, pace.words())

    shared = runners.results_folder(options)
    with tempfile.TemporaryDirectory(prefix="tfslim-") as here, runners.cleared(shared, here) as folder:
        handler.share_cores(core_shares(here, runners.processes(options)))
        summaries, letters = pipeline.run(plan, handler, folder, options, tell)
    if progress:
        tell_detail(progress, "compare", pace.examples, pace.total, pace.words())
    _log.info("compare: %s", pace.summary(sum(summary.examples for summary in summaries.values())))
    for summary in summaries.values():
        if summary.broken:
            raise ModelError(summary.broken)
    return summaries, letters


def _expected(datasets: Mapping[str, Dataset]) -> int | None:
    """Examples in all, about."""
    counts = [expected_records(dataset) for dataset in datasets.values()]
    return sum(count or 0 for count in counts) if None not in counts else None


def _absolute(shard: Shard) -> Shard:
    """With paths for workers, which may work in another directory."""
    return tuple(replace(part, file=os.path.abspath(part.file)) for part in shard)


def _check_interface(served: Signature, after: Mapping[str, Signature], optimized: Path) -> None:
    if served.name not in after:
        raise ModelError(f"{optimized} has no signature {served.name!r} (it has: {', '.join(after) or 'none'})")
    for what in ("inputs", "outputs"):
        before = {key: spec.dtype.name for key, spec in getattr(served, what).items()}
        found = {key: spec.dtype.name for key, spec in getattr(after[served.name], what).items()}
        if before != found:
            has = f"{optimized}: signature {served.name!r} has the {what} {_specs(found)}"
            raise ModelError(f"{has}; the original has {_specs(before)}")


def _check_main(main: str | None, served: Signature) -> None:
    if main is not None and main not in served.outputs:
        hint = nearest(main, served.outputs)
        raise UsageError(f"--main-output: no output {main!r}{hint} (there are: {', '.join(served.outputs)})")


def _check_latency_batches(gates: Sequence[gate.Gate], sizes: Sequence[int], *, measured: bool) -> None:
    if measured and (not sizes or min(sizes) < 1):
        raise UsageError("--batch-sizes takes whole numbers from 1 on, with commas between")
    for one in gates:
        if not measured and one.metric in gate.MODEL_METRICS and one.metric != "size_ratio":
            raise UsageError(f"gate '{one}' needs what --no-costs leaves out; drop one of the two")


def _check_numbers(batch_size: int, fail_on_bad_records: float) -> None:
    if batch_size < 1:
        raise UsageError(f"the batch size is {batch_size}; a batch has one example or more")
    if not 0 <= fail_on_bad_records <= 1:
        raise UsageError(f"--fail-on-bad-records is {fail_on_bad_records}; it is a share, from 0 to 1")


def _check_bad_records(
    datasets: Mapping[str, Dataset],
    summaries: Mapping[str, DatasetSummary],
    letters: Mapping[str, list[Letter]],
    allowed: float,
) -> None:
    for name, bad in letters.items():
        many = lost(bad)
        total = sum(summaries[name].finished.values()) if name in summaries else many
        if many > allowed * max(total, 1):
            where = _locate(datasets[name], summaries.get(name), bad[0].place)
            raise DataError(
                f"{datasets[name].path}: {many:,} of {total:,} records are bad, more than --fail-on-bad-records "
                f"{allowed:g} allows; the first: {where[0]}, record {where[1]}: {bad[0].error}"
            )


def _cut_off(name: str, letters: Mapping[str, Sequence[Letter]], locate: Locate) -> list[str]:
    """The files whose end could not be read, and from which record on."""
    ended = [locate(name, letter) for letter in letters.get(name, ()) if letter.ends]
    return [f"{file} from record {record:,} on" for file, record in ended]


def _check_slices(datasets: Mapping[str, Dataset], summaries: Mapping[str, DatasetSummary]) -> None:
    for name, summary in summaries.items():
        for key in summary.crowded:
            raise DataError(
                f"{datasets[name].path}: --slice {key} has more than {MOST_SLICES} values; if they are numbers give "
                f"buckets, such as --slice {key}:10,100,1000"
            )


def _findings(
    summary: DatasetSummary, letters: list[Letter], latency: LatencyPair | None, cut_off: Sequence[str]
) -> gate.Findings:
    found = _found(summary, _range_starts(summary.finished), lost(letters), latency or LatencyPair())
    return replace(found, cut_off=cut_off)


def _found(summary: DatasetSummary, starts: Mapping[int, int], bad_records: int, latency: LatencyPair) -> gate.Findings:
    """What a gate looks at; examples are numbered through the dataset, in slices too."""

    def numbered(case: WorstCase) -> WorstCase:
        number, record = split_place(case.index)
        return replace(case, index=starts.get(number, 0) + record)

    return gate.Findings(
        examples=summary.examples,
        bad_records=bad_records,
        failures=summary.failures,
        first_failure=summary.first_failure,
        outputs={key: replace(o, worst=[numbered(c) for c in o.worst]) for key, o in summary.outputs.items()},
        labels=summary.labels,
        latency_ms=latency,
        without_label=summary.without_label,
        of_no_class=summary.of_no_class,
        slices={
            key: {name: _found(part, starts, 0, LatencyPair()) for name, part in parts.items()}
            for key, parts in summary.slices.items()
        },
    )


def _range_starts(finished: Mapping[int, int]) -> dict[int, int]:
    """The number of each range's first record in the dataset."""
    starts, total = {}, 0
    for number in sorted(finished):
        starts[number] = total
        total += finished[number]
    return starts


def _main_of(summaries: Mapping[str, DatasetSummary]) -> str | None:
    for summary in summaries.values():
        if summary.outputs:
            return guess_main_output({key: (o.kind, o.scores_classes) for key, o in summary.outputs.items()})
    return None


def _worst(found: gate.Findings, main: str | None) -> list[tuple[str, WorstCase]]:
    """The main output's worst first, then the others'."""
    keys = sorted(found.outputs, key=lambda key: key != main)
    return [(key, case) for key in keys for case in found.outputs[key].worst][:_WORST_TOLD]


def _dataset_result(
    found: gate.Findings, worst: Sequence[tuple[str, WorstCase]], summary: DatasetSummary
) -> DatasetResult:
    return DatasetResult(
        examples=found.examples,
        bad_records=found.bad_records,
        outputs={key: output.metrics for key, output in found.outputs.items()},
        latency_ms=found.latency_ms,
        labels=dict(found.labels) if found.labels is not None else None,
        without_label=found.without_label if found.labels is not None else None,
        slices={name: _slice_result(part) for parts in found.slices.values() for name, part in parts.items()},
        worst=[WorstExample(index=case.index, output=key, error=case.error, input=case.input) for key, case in worst],
        confusion=summary.confusion,
        roc=summary.roc,
    )


def _slice_result(found: gate.Findings) -> SliceResult:
    return SliceResult(
        examples=found.examples,
        outputs={key: output.metrics for key, output in found.outputs.items()},
        labels=dict(found.labels) if found.labels is not None else None,
    )


def _histograms(found: gate.Findings) -> dict[str, tuple[list[float], list[int]]]:
    return {key: output.histogram for key, output in found.outputs.items() if output.histogram is not None}


def _latency_feeds(fed: Feeding, records: Sequence[Record], sizes: Sequence[int]) -> dict[int, Feeds]:
    """Real requests to time: the first records that batch together, repeated where there are too few."""
    if not all(has_batch_axis(spec) and not (spec.shape and spec.shape[0]) for spec in fed.inputs.values()):
        batches = _batches(fed, records, 1)
        return {1: batches[0].feeds} if batches else {}
    largest = max(_batches(fed, records, max(sizes)), key=len, default=None)
    if largest is None:
        return {}
    return {
        size: {key: array[np.arange(size) % len(largest)] for key, array in largest.feeds.items()} for size in sizes
    }


def _batches(fed: Feeding, records: Sequence[Record], size: int) -> list[Batch]:
    batcher = Batcher("", fed.inputs, size)
    found: list[Batch | Letter] = []
    for record in records:
        try:
            found += batcher.add(fed.rows(record), 0)
        except DataError:
            continue
    return [batch for batch in (*found, *batcher.rest()) if isinstance(batch, Batch)]


def _latency_pair(costs: tuple[Costs, Costs]) -> LatencyPair:
    original, optimized = ({str(size): p for size, p in cost.latency_ms.items()} for cost in costs)
    return LatencyPair(original=original, optimized=optimized)


def _timed_on(models: Models, dataset: str | None) -> Models:
    """With the dataset that requests were taken from: the first that has an example."""
    of_requests = [ratio.metric == "first_request_ratio" or ratio.batch is not None for ratio in models.ratios]
    ratios = [
        ratio.model_copy(update={"dataset": dataset}) if timed else ratio
        for ratio, timed in zip(models.ratios, of_requests, strict=True)
    ]
    return models.model_copy(update={"ratios": ratios})


def _steps(progress: Progress | None) -> Callable[[int, int], None] | None:
    return (lambda done, total: progress("measure costs", done, total)) if progress else None


def _locate(dataset: Dataset, summary: DatasetSummary | None, place: int) -> tuple[str, int]:
    """The file and the number in it of a record."""
    number, record = split_place(place)
    file = dataset.ranges[number].file
    before = [part.number for part in dataset.ranges[:number] if part.file == file]
    return file, record + sum(summary.finished.get(earlier, 0) for earlier in before if summary)


def _paths(data: Mapping[str, str]) -> str:
    return ", ".join(data.values())


def _specs(dtypes: Mapping[str, str]) -> str:
    return ", ".join(f"{key} ({dtype.replace('object', 'string')})" for key, dtype in dtypes.items()) or "none"
