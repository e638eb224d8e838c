"""All that is counted on one dataset: mergeable on workers, then summed up in a form that fits into a file."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import numpy as np
from pydantic import BaseModel, TypeAdapter

from tfslim_core.labels import LabelStats
from tfslim_core.metrics import ErrorStats, OutputSummary, kind_of, main_output, scores_classes
from tfslim_core.validation.answered import Answer, Answered, Gathering
from tfslim_core.validation.batches import Batch
from tfslim_core.validation.confusion import ConfusionStats
from tfslim_core.validation.slice_queue import Slice, SliceQueue
from tfslim_core.validation.slicing import MOST_SLICES
from tfslim_core.verdict import Confusion, LabelMetric, Roc


@dataclass(frozen=True)
class DatasetSummary:
    """What was found on one dataset.

    examples: that both models answered or only the optimized failed on. failures: the latter; first_failure: its error.
    finished: records of each range, by the range's number. labels: None where no label was named; without_label:
    examples that have none; of_no_class: those whose label is none of the classes. turned: examples that only one of
    the models gets right. broken: why the models could not be loaded, or empty. slices: key of a slicing -> slice ->
    what was found on it. crowded: keys with more values than can be told apart.
    """

    examples: int = 0
    failures: int = 0
    first_failure: str = ""
    outputs: dict[str, OutputSummary] = field(default_factory=dict)
    labels: dict[str, LabelMetric] | None = None
    turned: int = 0
    without_label: int = 0
    of_no_class: int = 0
    finished: dict[int, int] = field(default_factory=dict)
    broken: str = ""
    slices: dict[str, dict[str, DatasetSummary]] = field(default_factory=dict)
    crowded: list[str] = field(default_factory=list)
    confusion: Confusion | None = None
    roc: Roc | None = None

    def to_json(self) -> bytes:
        """The summary as a file's content."""
        return json.dumps(dataclasses.asdict(self), default=_plain).encode()

    @classmethod
    def from_json(cls, data: bytes) -> DatasetSummary:
        """A summary from `to_json`."""
        return _adapter().validate_python(json.loads(data))


@dataclass
class DatasetStats:
    """Statistics of one dataset: add answers, merge with others, then ask for the summary.

    keys: the outputs, in the signature's order. main: the named main output; guessed from the answers unless given.
    resampled: whether intervals are wanted that take resampling. slices: key of a slicing -> slice -> its statistics.
    whole: not those of a slice, which have no ROC curves. gathering, queue: answers still to be counted, in all and in
    slices.
    """

    keys: Sequence[str]
    main: str | None = None
    resampled: bool = True
    whole: bool = True
    examples: int = 0
    failures: int = 0
    first_failure: tuple[int, str] | None = None
    outputs: dict[str, ErrorStats] = field(default_factory=dict)
    labels: LabelStats | None = None
    finished: dict[int, int] = field(default_factory=dict)
    broken: str = ""
    slices: dict[str, dict[str, DatasetStats]] = field(default_factory=dict)
    crowded: set[str] = field(default_factory=set)
    confusion: ConfusionStats = field(default_factory=ConfusionStats)
    gathering: Gathering = field(default_factory=Gathering)
    queue: SliceQueue = field(default_factory=SliceQueue)

    def add(self, batch: Batch, original: Answer, optimized: Answer) -> None:
        """Add the answers to a batch, and what it tells of finished ranges."""
        self.finished.update(batch.finished)
        self.examples += len(batch)
        if not len(batch):
            return
        answered = Answered(batch, original, optimized)
        for some in self.gathering.add(answered) if self.whole else [answered]:
            self._compare(some)

    def add_failure(self, batch: Batch, error: str) -> None:
        """Add an example that only the optimized model failed on."""
        self.examples += len(batch)
        self.failures += len(batch)
        self._first_failure((int(batch.places[0]), error))
        for part, some in self._parts(batch):
            part.add_failure(some, error)

    def settle(self) -> None:
        """Count what waits for company."""
        for some in self.gathering.rest():
            self._compare(some)
        self._count(self.queue.rest())

    def merge(self, other: DatasetStats) -> None:
        """Add what another worker saw."""
        self.settle()
        other.settle()
        self.examples += other.examples
        self.failures += other.failures
        self._first_failure(other.first_failure)
        for key, stats in other.outputs.items():
            self.outputs.setdefault(key, ErrorStats(self.resampled)).merge(stats)
        if other.labels is not None:
            self.labels = self.labels or LabelStats(self.resampled)
            self.labels.merge(other.labels)
        self.crowded |= other.crowded
        for key, parts in other.slices.items():
            for name, theirs in parts.items():
                if (mine := self._slice(key, name)) is not None:
                    mine.merge(theirs)
        self.confusion.merge(other.confusion)
        self.finished.update(other.finished)
        self.broken = min(filter(None, (self.broken, other.broken)), default="")

    def summary(self) -> DatasetSummary:
        """All of it, summed up; outputs in the signature's order."""
        self.settle()
        confusion = self.confusion.summary()
        return DatasetSummary(
            examples=self.examples,
            failures=self.failures,
            first_failure=self.first_failure[1] if self.first_failure else "",
            outputs={key: self.outputs[key].summary() for key in self.keys if key in self.outputs},
            labels=self.labels.summary() if self.labels is not None else None,
            turned=self.labels.turned if self.labels is not None else 0,
            without_label=self.labels.missing if self.labels is not None else 0,
            of_no_class=self.labels.of_no_class if self.labels is not None else 0,
            finished=self.finished,
            broken=self.broken,
            slices={
                key: {name: parts[name].summary() for name in sorted(parts)}
                for key, parts in sorted(self.slices.items())
                if key not in self.crowded
            },
            crowded=sorted(self.crowded),
            confusion=confusion,
            roc=self.labels.roc(confusion.classes if confusion else ()) if self.labels and self.whole else None,
        )

    def _compare(self, some: Answered) -> None:
        batch, original, optimized = some.batch, some.original, some.optimized
        places = batch.places.tolist()
        for key in self.keys:
            if key in original and key in optimized:
                stats = self.outputs.setdefault(key, ErrorStats(self.resampled))
                stats.add_batch(original[key], optimized[key], places, batch.describe)
        self.confusion.add(original, optimized, self.main)
        if batch.labels is not None:
            self.labels = self.labels or LabelStats(self.resampled)
            self.labels.add(batch.labels, original, optimized, self._main(original), batch.places)
        self._count(self.queue.add(batch, original, optimized))

    def _main(self, original: Answer) -> str | None:
        """The main output, guessed as the gate does."""
        if self.main is not None:
            return self.main
        kinds = {key: kind_of(original[key].dtype) for key in self.keys if key in original}
        return main_output({key: (kind, scores_classes(kind, original[key].shape)) for key, kind in kinds.items()})

    def _count(self, parts: Iterable[tuple[Slice, Answered]]) -> None:
        for (key, name), some in parts:
            stats = self._slice(key, name)
            if stats is not None:
                stats.add(some.batch, some.original, some.optimized)

    def _parts(self, batch: Batch) -> Iterator[tuple[DatasetStats, Batch]]:
        """The slices that a batch has examples of, and these as a batch."""
        for key, names in batch.slices.items():
            for name in dict.fromkeys(names.tolist()):
                stats = self._slice(key, name)
                if stats is not None:
                    yield stats, batch.take(np.flatnonzero(names == name))

    def _slice(self, key: str, name: str) -> DatasetStats | None:
        """The statistics of a slice, new ones unless there are too many; None where there are."""
        found = self.slices.setdefault(key, {})
        if name not in found and len(found) >= MOST_SLICES:
            self.crowded.add(key)
        if key in self.crowded:
            found.clear()
            return None
        if name not in found:
            found[name] = DatasetStats(self.keys, self.main, self.resampled, whole=False)
        return found[name]

    def _first_failure(self, failure: tuple[int, str] | None) -> None:
        self.first_failure = min(filter(None, (self.first_failure, failure)), default=None)


@cache
def _adapter() -> TypeAdapter[DatasetSummary]:
    return TypeAdapter(DatasetSummary)


def _plain(value: Any) -> Any:
    if isinstance(value, BaseModel):
        return value.model_dump()
    raise TypeError(f"{type(value).__name__} does not go into a summary")
