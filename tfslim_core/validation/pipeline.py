"""The Beam pipeline: shards of data in, a summary and the bad records of each dataset out.

Nothing but shards (names of files and positions) passes between stages at the start, and nothing but statistics at the
end: batches stay inside one fused stage, so memory is bounded by the batch and no data is pickled.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import apache_beam as beam
from apache_beam.io.filesystems import FileSystems
from apache_beam.ml.inference.base import RunInference
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.pvalue import TaggedOutput
from apache_beam.transforms.window import GlobalWindows

from tfslim_core.errors import JobError
from tfslim_core.validation import runners
from tfslim_core.validation.batches import Batch
from tfslim_core.validation.feeding import Feeding
from tfslim_core.validation.gathered_letters import GatheredLetters, merged
from tfslim_core.validation.paired_models import Answers, LoadFailure, PairHandler
from tfslim_core.validation.records import Letter
from tfslim_core.validation.sources import Shard, read_shard
from tfslim_core.validation.tally import DatasetStats, DatasetSummary

_LETTERS = "letters"
# What an in-process runner tells of its progress; other processes have nobody here to tell.
_listeners: dict[str, Callable[[int], None]] = {}


@dataclass(frozen=True)
class Plan:
    """Everything that the workers have to know.

    shards: (dataset, its ranges). feedings: by dataset. keys: outputs of the signature, in order. main: the named main
    output, or None.
    """

    shards: Sequence[tuple[str, Shard]]
    feedings: Mapping[str, Feeding]
    keys: Sequence[str]
    batch_size: int
    main: str | None = None
    listener: str = field(default_factory=lambda: uuid.uuid4().hex)


def run(
    plan: Plan,
    handler: PairHandler,
    results: str,
    options: PipelineOptions,
    progress: Callable[[int], None] | None = None,
) -> tuple[dict[str, DatasetSummary], dict[str, list[Letter]]]:
    """Run the job and wait for it: (summaries, bad records in order), by dataset; datasets with nothing are left out.

    results: a directory or prefix that driver and workers can write to, gs:// too. options: from `runners.options_of`.
    progress: told the examples done so far, by the in-process runner.

    Raises:
        JobError: the runner failed, or the workers' results are not where this process sees them.
    """
    if progress:
        _listeners[plan.listener] = progress
    try:
        with runners.told(options):
            pipeline = beam.Pipeline(options=options)
            build(pipeline, plan, handler, results)
            pipeline.run().wait_until_finish()
    finally:
        _listeners.pop(plan.listener, None)
    names = list(plan.feedings)
    summaries = {name: _read(_result(results, names.index(name), "summary")) for name in names}
    for name in {dataset for dataset, _ in plan.shards}:
        # Each shard ends with a word on what it held, however little: a summary that is missing was written elsewhere.
        if not summaries[name]:
            raise JobError(
                f"the job ended and left no result on dataset {name!r} in {results}: do its workers share that folder "
                "with this machine? --temp_location names one that all of them can write to"
            )
    letters = {name: _read(_result(results, names.index(name), _LETTERS)) for name in names}
    return (
        {name: DatasetSummary.from_json(data) for name, data in summaries.items() if data},
        {name: [Letter(**fields) for fields in json.loads(data)] for name, data in letters.items() if data},
    )


def build(pipeline: beam.Pipeline, plan: Plan, handler: PairHandler, results: str) -> None:
    """Add the job to a pipeline."""
    paths = {name: index for index, name in enumerate(plan.feedings)}
    read = (
        pipeline
        | "Shards" >> beam.Create(list(plan.shards))
        | "Share" >> beam.Reshuffle()
        | "Read" >> beam.ParDo(_Read(plan)).with_outputs(_LETTERS, main="batches")
    )
    ran = (
        read.batches
        | "Run" >> RunInference(handler)
        | "Sort" >> beam.ParDo(_Sort(plan.listener)).with_outputs(_LETTERS, main="answers")
    )
    _ = (
        ran.answers
        | "Compare" >> beam.CombinePerKey(_Compare(plan.keys, plan.main))
        | "WriteSummaries" >> beam.Map(_write_summary, results, paths)
    )
    _ = (
        (read[_LETTERS], ran[_LETTERS])
        | "BadRecords" >> beam.Flatten()
        | "Gather" >> beam.GroupByKey()
        | "WriteLetters" >> beam.Map(_write_letters, results, paths)
    )


class _Gathering(beam.DoFn):
    """Gathers bad records, of which there may be as many as records, and passes them on when the bundle ends."""

    def start_bundle(self) -> None:
        self._gathered: dict[str, GatheredLetters] = {}

    def gather(self, letter: Letter) -> None:
        """Take a bad record."""
        self._gathered.setdefault(letter.dataset, GatheredLetters()).add(letter)

    def finish_bundle(self) -> Iterator[TaggedOutput]:
        for named in self._gathered.items():
            yield TaggedOutput(_LETTERS, GlobalWindows.windowed_value(named))


class _Read(_Gathering):
    """Shards to batches; bad records go to the letters."""

    def __init__(self, plan: Plan) -> None:
        super().__init__()
        self._feedings, self._batch_size = plan.feedings, plan.batch_size
        self._bad = beam.metrics.Metrics.counter("tfslim", "bad_records")

    def process(self, element: tuple[str, Shard]) -> Iterator[Batch]:
        dataset, shard = element
        for item in read_shard(dataset, shard, self._feedings[dataset], self._batch_size):
            if isinstance(item, Letter):
                self._bad.inc()
                self.gather(item)
            else:
                yield item


class _Sort(_Gathering):
    """Answers by dataset; examples that the original cannot answer go to the letters."""

    def __init__(self, listener: str) -> None:
        super().__init__()
        self._listener = listener
        self._examples, self._batches, self._failures = (
            beam.metrics.Metrics.counter("tfslim", name) for name in ("examples", "batches", "failures")
        )
        self._sizes = beam.metrics.Metrics.distribution("tfslim", "batch_size")

    def process(self, element: Answers | LoadFailure) -> Iterator[tuple[str, Any]]:
        if isinstance(element, LoadFailure):
            yield element.dataset, element
            return
        batch = element.batch
        if element.original is None:
            self.gather(Letter(batch.dataset, int(batch.places[0]), element.error, batch.describe(0)))
        else:
            yield batch.dataset, element
        if len(batch):
            self._examples.inc(len(batch))
            self._batches.inc()
            self._sizes.update(len(batch))
            if element.optimized is None and element.original is not None:
                self._failures.inc(len(batch))
        if self._listener in _listeners:
            _listeners[self._listener](len(batch))


class _Compare(beam.CombineFn):
    """Adds up answers; the arithmetic is in DatasetStats."""

    def __init__(self, keys: Sequence[str], main: str | None) -> None:
        super().__init__()
        self._keys, self._main = keys, main

    def create_accumulator(self) -> DatasetStats:
        return DatasetStats(self._keys, self._main)

    def add_input(self, mutable_accumulator: DatasetStats, element: Answers | LoadFailure) -> DatasetStats:
        if isinstance(element, LoadFailure):
            mutable_accumulator.broken = element.error
        elif element.original is None or element.optimized is None:
            mutable_accumulator.add_failure(element.batch, element.error)
        else:
            mutable_accumulator.add(element.batch, element.original, element.optimized)
        return mutable_accumulator

    def compact(self, accumulator: DatasetStats) -> DatasetStats:
        """What is sent to where it is merged: numbers, and no example that waits to be counted."""
        accumulator.settle()
        return accumulator

    def merge_accumulators(self, accumulators: Iterable[DatasetStats]) -> DatasetStats:
        total = self.create_accumulator()
        for one in accumulators:
            total.merge(one)
        return total

    def extract_output(self, accumulator: DatasetStats) -> DatasetSummary:
        return accumulator.summary()


def _write_summary(named: tuple[str, DatasetSummary], results: str, paths: Mapping[str, int]) -> None:
    dataset, summary = named
    _write(_result(results, paths[dataset], "summary"), summary.to_json())


def _write_letters(named: tuple[str, Iterable[GatheredLetters]], results: str, paths: Mapping[str, int]) -> None:
    dataset, parts = named
    content = json.dumps([asdict(letter) for letter in merged(parts).all()])
    _write(_result(results, paths[dataset], _LETTERS), content.encode())


def _result(results: str, index: int, kind: str) -> str:
    path: str = FileSystems.join(results, f"{index}-{kind}.json")
    return path


def _write(path: str, content: bytes) -> None:
    # A bundle that is retried writes the same again, and a worker given up for lost may do so at the same time.
    aside = f"{path}.{uuid.uuid4().hex}"
    with FileSystems.create(aside) as file:
        file.write(content)
    FileSystems.rename([aside], [path])


def _read(path: str) -> bytes:
    if not FileSystems.exists(path):
        return b""
    with FileSystems.open(path) as file:
        content: bytes = file.read()
    return content
