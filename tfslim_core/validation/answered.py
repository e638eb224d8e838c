"""Answered examples, put together: statistics of three examples cost as much as those of hundreds."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tfslim_core.validation.batches import Batch

Array = NDArray[Any]
Answer = Mapping[str, Array]

_ROWS = 1024  # that are counted together
_BYTES = 2 << 20  # of what waits, which stays in a core's cache


@dataclass(frozen=True)
class Answered:
    """Examples and what both models answered."""

    batch: Batch
    original: Answer
    optimized: Answer

    def rows(self, rows: slice) -> Answered:
        """Some of the examples that stand together, each output with the examples as its first axis."""
        return Answered(
            self.batch.take(rows),
            {key: array[rows] for key, array in self.original.items()},
            {key: array[rows] for key, array in self.optimized.items()},
        )

    @property
    def divisible(self) -> bool:
        """Whether each array has the examples as its first axis."""
        rows = (len(self.batch),)
        return not self.batch.unbatched and all(a.shape[:1] == rows for one in self._all for a in one.values())

    @property
    def form(self) -> Any:
        """What examples must have in common to be joined."""
        arrays = [(key, array.dtype, array.shape[1:]) for one in self._all for key, array in one.items()]
        labels = self.batch.labels
        return arrays, None if labels is None else (labels.dtype, labels.shape[1:]), list(self.batch.slices)

    @property
    def weight(self) -> int:
        """Bytes that it takes."""
        return sum(_bytes(array) for one in self._all for array in one.values())

    @property
    def _all(self) -> tuple[Answer, ...]:
        return self.batch.feeds, self.original, self.optimized


class Gathering:
    """Takes answered batches and gives them joined, once there are many of one form, or on demand."""

    def __init__(self) -> None:
        self._waiting: list[Answered] = []
        self._form: Any = None
        self._rows = self._bytes = 0

    def add(self, answered: Answered) -> Iterator[Answered]:
        """Take a batch; gives what is then to be counted."""
        if not answered.divisible:
            yield answered
            return
        form = answered.form
        if form != self._form:
            yield from self.rest()
            self._form = form
        self._waiting.append(answered)
        self._rows += len(answered.batch)
        self._bytes += answered.weight
        if self._rows >= _ROWS or self._bytes >= _BYTES:
            yield from self.rest()

    def rest(self) -> Iterator[Answered]:
        """All that still waits."""
        waiting, self._waiting, self._rows, self._bytes = self._waiting, [], 0, 0
        if waiting:
            yield joined(waiting)


def joined(parts: Sequence[Answered]) -> Answered:
    """Examples of one form, one after another; they finish nothing."""
    if len(parts) == 1:
        return parts[0]
    batch = Batch.joined([part.batch for part in parts])
    return Answered(batch, _together([part.original for part in parts]), _together([part.optimized for part in parts]))


def _together(parts: Sequence[Mapping[str, Array]]) -> dict[str, Array]:
    return {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}


def _bytes(array: Array) -> int:
    if array.dtype.kind != "O":
        return array.nbytes
    return array.nbytes + sum(len(item) for item in array.flat if isinstance(item, bytes | str))
