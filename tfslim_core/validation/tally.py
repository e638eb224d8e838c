"""All that is counted on one dataset: mergeable on workers, then summed up in a form that fits into a file."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, TypeAdapter

from tfslim_core.labels import LabelStats, predicted_labels
from tfslim_core.metrics import ErrorStats, OutputSummary, kind_of, main_output, scores_classes
from tfslim_core.validation.batches import Batch
from tfslim_core.validation.confusion import ConfusionStats
from tfslim_core.verdict import Confusion, LabelMetric

Answer = Mapping[str, NDArray[Any]]


@dataclass(frozen=True)
class DatasetSummary:
    """What was found on one dataset.

    examples: that both models answered or only the optimized failed on. failures: the latter; first_failure: its error.
    finished: records of each range, by the range's number. labels: None where no label was named. turned: examples
    that only one of the models gets right. broken: why the models could not be loaded, or empty.
    """

    examples: int = 0
    failures: int = 0
    first_failure: str = ""
    outputs: dict[str, OutputSummary] = field(default_factory=dict)
    labels: dict[str, LabelMetric] | None = None
    turned: int = 0
    finished: dict[int, int] = field(default_factory=dict)
    broken: str = ""
    confusion: Confusion | None = None

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
    """

    keys: Sequence[str]
    main: str | None = None
    examples: int = 0
    failures: int = 0
    first_failure: tuple[int, str] | None = None
    outputs: dict[str, ErrorStats] = field(default_factory=dict)
    labels: LabelStats | None = None
    finished: dict[int, int] = field(default_factory=dict)
    broken: str = ""
    confusion: ConfusionStats = field(default_factory=ConfusionStats)

    def add(self, batch: Batch, original: Answer, optimized: Answer) -> None:
        """Add the answers to a batch, and what it tells of finished ranges."""
        self.finished.update(batch.finished)
        self.examples += len(batch)
        if not len(batch):
            return
        places = batch.places.tolist()
        for key in self.keys:
            if key in original and key in optimized:
                stats = self.outputs.setdefault(key, ErrorStats())
                stats.add_batch(original[key], optimized[key], places, batch.describe)
        self.confusion.add(original, optimized, self.main)
        if batch.labels is not None:
            self.labels = self.labels or LabelStats()
            self._add_labels(batch.labels, original, optimized)

    def add_failure(self, batch: Batch, error: str) -> None:
        """Add an example that only the optimized model failed on."""
        self.examples += len(batch)
        self.failures += len(batch)
        self._first_failure((int(batch.places[0]), error))

    def merge(self, other: DatasetStats) -> None:
        """Add what another worker saw."""
        self.examples += other.examples
        self.failures += other.failures
        self._first_failure(other.first_failure)
        for key, stats in other.outputs.items():
            self.outputs.setdefault(key, ErrorStats()).merge(stats)
        if other.labels is not None:
            self.labels = self.labels or LabelStats()
            self.labels.merge(other.labels)
        self.confusion.merge(other.confusion)
        self.finished.update(other.finished)
        self.broken = min(filter(None, (self.broken, other.broken)), default="")

    def summary(self) -> DatasetSummary:
        """All of it, summed up; outputs in the signature's order."""
        return DatasetSummary(
            examples=self.examples,
            failures=self.failures,
            first_failure=self.first_failure[1] if self.first_failure else "",
            outputs={key: self.outputs[key].summary() for key in self.keys if key in self.outputs},
            labels=self.labels.summary() if self.labels is not None else None,
            turned=self.labels.turned if self.labels is not None else 0,
            finished=self.finished,
            broken=self.broken,
            confusion=self.confusion.summary(),
        )

    def _add_labels(self, labels: NDArray[Any], original: Answer, optimized: Answer) -> None:
        kinds = {key: kind_of(original[key].dtype) for key in self.keys if key in original}
        main = self.main or main_output(
            {k: (kind, scores_classes(kind, original[k].shape)) for k, kind in kinds.items()}
        )
        answers = [predicted_labels(outputs, main, labels) for outputs in (original, optimized)]
        if self.labels is not None and answers[0] is not None and answers[1] is not None:
            self.labels.add_batch(*(np.asarray(answer == labels, bool) for answer in answers))

    def _first_failure(self, failure: tuple[int, str] | None) -> None:
        self.first_failure = min(filter(None, (self.first_failure, failure)), default=None)


@cache
def _adapter() -> TypeAdapter[DatasetSummary]:
    return TypeAdapter(DatasetSummary)


def _plain(value: Any) -> Any:
    if isinstance(value, BaseModel):
        return value.model_dump()
    raise TypeError(f"{type(value).__name__} does not go into a summary")
