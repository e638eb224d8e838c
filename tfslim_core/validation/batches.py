"""Batches: rows of records put together, never padded, so that both models get exactly the same arrays."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tfslim_core.metrics import shorten
from tfslim_core.saved_model.served_signatures import TensorSpec
from tfslim_core.validation.feeding import Rows, has_batch_axis
from tfslim_core.validation.records import Letter, place

Array = NDArray[Any]
# Rows waiting for company are bounded by so many batches, however many lengths the data has.
_MOST_WAITING = 16


@dataclass(frozen=True)
class Batch:
    """Examples of one dataset that go through the models together.

    feeds: input key -> [rows, …], or without the batch axis where the input has none (`unbatched`). places: [rows],
    see records.place. labels: [rows] or None, see feeding.Rows. finished: records counted in each range that was read
    to its end. slices: key of a slicing -> the slice of each row.
    """

    dataset: str
    feeds: Mapping[str, Array]
    places: NDArray[np.int64]
    labels: Array | None = None
    unbatched: frozenset[str] = frozenset()
    finished: Mapping[int, int] = field(default_factory=dict)
    slices: Mapping[str, Array] = field(default_factory=dict)

    @classmethod
    def empty(cls, dataset: str, finished: Mapping[int, int]) -> Batch:
        """No example, only news of ranges that are finished."""
        return cls(dataset, {}, np.zeros(0, np.int64), finished=finished)

    @classmethod
    def joined(cls, parts: Sequence[Batch]) -> Batch:
        """Examples of one dataset and of one form, one part after another; they finish nothing."""
        first = parts[0]
        labels = [part.labels for part in parts if part.labels is not None]
        return cls(
            first.dataset,
            {key: np.concatenate([part.feeds[key] for part in parts]) for key in first.feeds},
            np.concatenate([part.places for part in parts]),
            np.concatenate(labels) if labels else None,
            first.unbatched,
            slices={key: np.concatenate([part.slices[key] for part in parts]) for key in first.slices},
        )

    def __len__(self) -> int:
        return len(self.places)

    @property
    def nbytes(self) -> int:
        """Bytes of the feeds; for strings of the references to them."""
        return sum(array.nbytes for array in self.feeds.values())

    def row(self, row: int) -> Batch:
        """One example as a batch."""
        some = slice(row, row + 1)
        return replace(self.take(some), slices={key: names[some] for key, names in self.slices.items()})

    def take(self, rows: NDArray[np.intp] | slice) -> Batch:
        """Some examples as a batch that is in no slice and finishes nothing."""
        feeds = {key: array if key in self.unbatched else array[rows] for key, array in self.feeds.items()}
        labels = None if self.labels is None else self.labels[rows]
        return Batch(self.dataset, feeds, self.places[rows], labels, self.unbatched)

    def describe(self, row: int) -> Any:
        """The input of one example, shortened for reading: the value of a lone input, else by key."""
        values = {key: shorten(array if key in self.unbatched else array[row]) for key, array in self.feeds.items()}
        return values.popitem()[1] if len(values) == 1 else values


class Batcher:
    """Puts rows of equal shape together; variable lengths wait for their like.

    inputs: of the signature. An input whose batch axis has a fixed size sets the size of all batches; one without a
    batch axis has one value for a batch.
    """

    def __init__(self, dataset: str, inputs: Mapping[str, TensorSpec], batch_size: int) -> None:
        self._dataset = dataset
        self._unbatched = frozenset(key for key, spec in inputs.items() if not has_batch_axis(spec))
        fixed = {spec.shape[0] for spec in inputs.values() if spec.shape and spec.shape[0] is not None}
        self._fixed = max((size for size in fixed if size), default=None)
        self.batch_size = 1 if len(self._unbatched) == len(inputs) else self._fixed or batch_size
        self._waiting: dict[Any, list[Batch]] = defaultdict(list)
        self._sizes: dict[Any, int] = defaultdict(int)

    def add(self, rows: Rows, range_number: int) -> Iterator[Batch]:
        """Take the rows of a record; gives the batches that this fills."""
        places = place(range_number, 0) + np.asarray(rows.numbers, np.int64)
        batch = Batch(self._dataset, rows.arrays, places, rows.labels, self._unbatched, slices=rows.slices)
        # An input without a batch axis may differ from row to row.
        parts = [_slice(batch, slice(i, i + 1)) for i in range(len(batch))] if self._unbatched else [batch]
        for part in parts:
            if len(part):
                yield from self._add(part)

    def _add(self, batch: Batch) -> Iterator[Batch]:
        key = self._key(batch)
        self._waiting[key].append(batch)
        self._sizes[key] += len(batch)
        if self._sizes[key] >= self.batch_size:
            yield from self._take(key, self.batch_size)
        if not self._fixed and sum(self._sizes.values()) > _MOST_WAITING * self.batch_size:
            yield from self._take(max(self._sizes, key=self._sizes.__getitem__), 1)

    def rest(self) -> Iterator[Batch | Letter]:
        """What still waits; with a fixed batch size, letters for those that do not fill a batch."""
        for key in list(self._waiting):
            if not self._fixed:
                yield from self._take(key, 1)
                continue
            error = f"too few records are left for the signature's fixed batch of {self._fixed}"
            for batch in self._waiting[key]:
                yield from (Letter(self._dataset, value, error) for value in batch.places.tolist())

    def _key(self, batch: Batch) -> Any:
        """What rows must have in common to be in one batch."""
        return tuple(
            (key, repr(array.tolist()) if key in self._unbatched else array.shape[1:])
            for key, array in batch.feeds.items()
        )

    def _take(self, key: Any, least: int) -> Iterator[Batch]:
        """Full batches of a group while at least `least` rows wait; the last may be smaller."""
        parts, total = self._waiting.pop(key), self._sizes.pop(key)
        whole = parts[0] if len(parts) == 1 else Batch.joined(parts)
        for start in range(0, total, self.batch_size):
            rows = slice(start, start + self.batch_size)
            batch = whole if total <= self.batch_size else _slice(whole, rows)
            if len(batch) >= min(least, self.batch_size):
                yield self._ready(batch)
            else:
                self._waiting[key].append(batch)
                self._sizes[key] += len(batch)

    def _ready(self, batch: Batch) -> Batch:
        if not self._unbatched:
            return batch
        feeds = {key: array[0] if key in self._unbatched else array for key, array in batch.feeds.items()}
        return replace(batch, feeds=feeds)


def _slice(batch: Batch, rows: slice) -> Batch:
    labels = None if batch.labels is None else batch.labels[rows]
    feeds = {key: array[rows] for key, array in batch.feeds.items()}
    slices = {key: names[rows] for key, names in batch.slices.items()}
    return Batch(batch.dataset, feeds, batch.places[rows], labels, batch.unbatched, slices=slices)
