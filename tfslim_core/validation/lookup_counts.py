"""Which rows a corpus looks up, and how often: a Beam job that runs a model up to its row numbers.

No tokenizer is written anew: the model's own nodes make row numbers of records, and only these are counted. A worker
takes a shard of the data, counts it whole, and hands on nothing but the counts. The model is handed to the workers as
one file beside the results.
"""

from __future__ import annotations

import tempfile
import uuid
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import apache_beam as beam
import numpy as np
from apache_beam.io.filesystems import FileSystems
from apache_beam.utils.shared import Shared
from numpy.typing import NDArray

from tfslim_core.errors import DataError, TfslimError
from tfslim_core.saved_model.served_signatures import Signature
from tfslim_core.saved_model.server_loader import ServedModel
from tfslim_core.validation import runners
from tfslim_core.validation.batches import Batch
from tfslim_core.validation.feeding import Feeding, choose_signature, feeding
from tfslim_core.validation.records import Letter
from tfslim_core.validation.sources import Shard, first_records, open_dataset, read_shard, shards

BATCH = 256  # examples that the model is asked at once: nothing is kept of them but counts
_MODEL, _COUNTS = "model.zip", "counts.npz"
# What an in-process runner tells of its progress; other processes have nobody here to tell.
_listeners: dict[str, Callable[[int], None]] = {}


@dataclass(frozen=True)
class Corpus:
    """Datasets that feed one signature. feedings: by dataset. shards: (dataset, its ranges)."""

    signature: Signature
    feedings: Mapping[str, Feeding]
    shards: Sequence[tuple[str, Shard]]


@dataclass
class Tally:
    """What was counted: mergeable. counts: for each output of the model, the uses of each row."""

    counts: list[NDArray[np.int64]]
    examples: int = 0
    bad_records: int = 0
    first_bad: str = ""

    @classmethod
    def empty(cls, rows: Sequence[int]) -> Tally:
        """Nothing yet."""
        return cls([np.zeros(count, np.int64) for count in rows])

    def add(self, batch: Batch, answers: Sequence[NDArray[Any]]) -> None:
        """Count the row numbers of a batch; those that no row has are left out."""
        self.examples += len(batch)
        for total, answer in zip(self.counts, answers, strict=True):
            numbers = np.asarray(answer).reshape(-1)
            numbers = numbers[(numbers >= 0) & (numbers < len(total))]
            total += np.bincount(numbers, minlength=len(total))

    def add_bad(self, error: str) -> None:
        """Count a record that cannot be read, or that the model fails on."""
        self.bad_records += 1
        self.first_bad = min(filter(None, (self.first_bad, error)))

    def merge(self, other: Tally) -> None:
        """Add what another worker counted."""
        for total, counts in zip(self.counts, other.counts, strict=True):
            total += counts
        self.examples += other.examples
        self.bad_records += other.bad_records
        self.first_bad = min(filter(None, (self.first_bad, other.first_bad)), default="")


def open_corpus(signatures: Mapping[str, Signature], data: Mapping[str, str], signature: str | None) -> Corpus:
    """Find the files, and the signature that they feed.

    Raises:
        DataError: a dataset cannot be read, is empty, or does not fit the signature.
        ModelError: there is no such signature.
    """
    datasets = {name: open_dataset(name, path) for name, path in sorted(data.items())}
    firsts = {name: first_records(dataset) for name, dataset in datasets.items()}
    for name, records in firsts.items():
        if not records:
            raise DataError(f"{datasets[name].path}: the corpus is empty; there is nothing to count")
    peeked = [record for records in firsts.values() for record in records]
    chosen = signatures[choose_signature(signatures, signature, peeked, ", ".join(data.values()))]
    return Corpus(
        chosen,
        {name: feeding(chosen, firsts[name], None, dataset.path) for name, dataset in datasets.items()},
        [(name, shard) for name, dataset in datasets.items() for shard in shards(dataset)],
    )


def count_lookups(
    corpus: Corpus,
    model: Path,
    rows: Mapping[str, int],
    *,
    beam_options: Sequence[str] = (),
    fail_on_bad_records: float = 0.01,
    progress: Callable[[int], None] | None = None,
) -> Tally:
    """Count what the corpus looks up.

    model: a SavedModel with the corpus's signature, whose outputs are row numbers. rows: output -> how many rows there
    are. progress: told the examples of each batch, by the in-process runner.

    Raises:
        DataError: nothing could be counted, or too many records are bad.
    """
    options = runners.options_of(beam_options)
    listener = uuid.uuid4().hex
    if progress:
        _listeners[listener] = progress
    shared = runners.results_folder(options)
    try:
        with (
            tempfile.TemporaryDirectory(prefix="tfslim-") as here,
            runners.cleared(shared, here) as folder,
            runners.told(options),
        ):
            _pack(model, FileSystems.join(folder, _MODEL))
            pipeline = beam.Pipeline(options=options)
            _ = (
                pipeline
                | "Shards" >> beam.Create(list(corpus.shards))
                | "Share" >> beam.Reshuffle()
                | "Count" >> beam.ParDo(_Count(corpus, FileSystems.join(folder, _MODEL), dict(rows), listener))
                | "Add" >> beam.CombineGlobally(_Add(list(rows.values())))
                | "Write" >> beam.Map(_write, FileSystems.join(folder, _COUNTS))
            )
            pipeline.run().wait_until_finish()
            tally = _read(FileSystems.join(folder, _COUNTS), len(rows))
    finally:
        _listeners.pop(listener, None)
    total = tally.examples + tally.bad_records
    if not tally.examples or tally.bad_records > fail_on_bad_records * total:
        first = f"; the first: {tally.first_bad}" if tally.first_bad else ""
        raise DataError(f"{tally.bad_records:,} of {total:,} records of the corpus are bad{first}")
    return tally


class _Loaded:
    """A model out of a packed file, in a folder that goes with it."""

    def __init__(self, packed: str) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="tfslim-")
        with FileSystems.open(packed) as file, zipfile.ZipFile(file) as archive:
            archive.extractall(self._folder.name)
        self.model = ServedModel(self._folder.name, ("serve",))


class _Count(beam.DoFn):
    """A shard to its counts."""

    def __init__(self, corpus: Corpus, packed: str, rows: Mapping[str, int], listener: str) -> None:
        super().__init__()
        self._feedings, self._signature = corpus.feedings, corpus.signature.name
        self._packed, self._rows, self._listener = packed, rows, listener
        self._shared = Shared()

    def process(self, element: tuple[str, Shard]) -> Iterator[Tally]:
        dataset, shard = element
        loaded = self._shared.acquire(lambda: _Loaded(self._packed))
        tally = Tally.empty(list(self._rows.values()))
        for item in read_shard(dataset, shard, self._feedings[dataset], BATCH):
            if isinstance(item, Letter):
                tally.add_bad(item.error)
            elif len(item):
                self._add(tally, loaded.model, item)
                if self._listener in _listeners:
                    _listeners[self._listener](len(item))
        yield tally

    def _add(self, tally: Tally, model: ServedModel, batch: Batch) -> None:
        """Count a batch; where the model fails on it, each of its examples alone, so that only one is lost."""
        try:
            answer = model.run(self._signature, batch.feeds)
        except TfslimError as error:
            if len(batch) == 1:
                tally.add_bad(str(error))
                return
            for row in range(len(batch)):
                self._add(tally, model, batch.row(row))
            return
        tally.add(batch, [answer[key] for key in self._rows])


class _Add(beam.CombineFn):
    """Adds up tallies."""

    def __init__(self, rows: Sequence[int]) -> None:
        super().__init__()
        self._rows = rows

    def create_accumulator(self) -> Tally:
        return Tally.empty(self._rows)

    def add_input(self, mutable_accumulator: Tally, element: Tally) -> Tally:
        mutable_accumulator.merge(element)
        return mutable_accumulator

    def merge_accumulators(self, accumulators: Iterable[Tally]) -> Tally:
        total = self.create_accumulator()
        for one in accumulators:
            total.merge(one)
        return total

    def extract_output(self, accumulator: Tally) -> Tally:
        return accumulator


def _pack(model: Path, path: str) -> None:
    with FileSystems.create(path) as file, zipfile.ZipFile(file, "w") as archive:
        for one in sorted(model.rglob("*")):
            archive.write(one, one.relative_to(model))


def _write(tally: Tally, path: str) -> None:
    words = np.frombuffer(tally.first_bad.encode(), np.uint8)
    numbers = np.array([tally.examples, tally.bad_records])
    arrays: dict[str, Any] = {str(index): counts for index, counts in enumerate(tally.counts)}
    # A bundle that is retried writes the same again.
    with FileSystems.create(path) as file:
        np.savez(file, numbers=numbers, words=words, **arrays)


def _read(path: str, outputs: int) -> Tally:
    with FileSystems.open(path) as file, np.load(file, allow_pickle=False) as arrays:
        examples, bad = arrays["numbers"].tolist()
        counts = [arrays[str(index)] for index in range(outputs)]
        return Tally(counts, examples, bad, arrays["words"].tobytes().decode())
