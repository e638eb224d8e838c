"""Examples of slices that wait until there are many."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tfslim_core.validation.answered import Answer, Answered, joined
from tfslim_core.validation.batches import Batch

Array = NDArray[Any]
Slice = tuple[str, str]
"""(key of a slicing, name of the slice)"""

_ROWS = 512  # of a slice that are counted together
_BYTES = 16 << 20  # of all that wait
_SLICES = 1000  # that wait; a key may turn out to have a value of its own in each example


class SliceQueue:
    """Takes answered batches, and gives the examples of a slice once there are many of one form, or on demand."""

    def __init__(self) -> None:
        self._waiting: dict[Slice, list[Answered]] = {}
        self._rows: dict[Slice, int] = {}
        self._forms: dict[Slice, Any] = {}
        self._bytes = 0

    def add(self, batch: Batch, original: Answer, optimized: Answer) -> Iterator[tuple[Slice, Answered]]:
        """Take a batch; gives what is then to be counted."""
        for key, names in batch.slices.items():
            order, groups = _grouped(names)
            taken = Answered(
                batch.take(order), _of_rows(original, order, len(batch)), _of_rows(optimized, order, len(batch))
            )
            form = taken.form
            self._bytes += taken.weight
            for name, rows in groups:
                place, some = (key, name), taken.rows(rows)
                if batch.unbatched:  # of other inputs, without a batch axis, an example has its own
                    yield place, some
                    continue
                if self._forms.get(place, form) != form:
                    yield from self._take(place)
                self._forms[place] = form
                self._waiting.setdefault(place, []).append(some)
                self._rows[place] = self._rows.get(place, 0) + len(some.batch)
                if self._rows[place] >= _ROWS:
                    yield from self._take(place)
        if self._bytes > _BYTES or len(self._waiting) > _SLICES:
            yield from self.rest()

    def rest(self) -> Iterator[tuple[Slice, Answered]]:
        """All that still waits."""
        for place in list(self._waiting):
            yield from self._take(place)
        self._bytes = 0

    def _take(self, place: Slice) -> Iterator[tuple[Slice, Answered]]:
        parts = self._waiting.pop(place, [])
        self._rows.pop(place, None)
        self._forms.pop(place, None)
        if parts:
            yield place, joined(parts)


def _grouped(names: Array) -> tuple[NDArray[np.intp], list[tuple[str, slice]]]:
    """(order that puts the rows of each name together, each name with its rows in that order)."""
    numbers: dict[str, int] = {}
    of_rows = np.array([numbers.setdefault(name, len(numbers)) for name in names.tolist()], np.intp)
    ends = np.cumsum(np.bincount(of_rows, minlength=len(numbers))).tolist()
    groups = [(name, slice(start, end)) for name, start, end in zip(numbers, [0, *ends], ends, strict=False)]
    return np.argsort(of_rows, kind="stable"), groups


def _of_rows(answer: Answer, rows: NDArray[np.intp], of: int) -> Answer:
    """The answers to some rows of a batch; one without a batch axis belongs to no row."""
    return {key: array[rows] for key, array in answer.items() if array.shape[:1] == (of,)}
