"""Scores counted by class and size, for the ROC curve and the area under it: mergeable counts in bounded memory."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from tfslim_core.intervals import GROUPS

Array = NDArray[Any]

MOST_CLASSES = 100  # above, the counts would take too much memory
_SHIFT = 18  # of a float32's bits: 32 buckets in a power of two
_LEAST = 2.0**-40
_PENDING = 1 << 17


class ScoreSketch:
    """How many examples of a class, and how many others, have about which score for it.

    Buckets are 1/32 of a power of two wide, as seen from 0 below 0.5, from 1 between 0.5 and 1, and from 0 above;
    scores in the same bucket count as equal. Against exact values the area is right to about 0.001. Counts are kept
    for each of `intervals.GROUPS` groups of examples, for the interval.
    """

    __slots__ = ("_classes", "_counts", "_keys", "_pending", "_size")

    def __init__(self, classes: int) -> None:
        self._classes = classes
        self._keys: NDArray[np.int64] = np.zeros(0, np.int64)
        self._counts: NDArray[np.int64] = np.zeros(0, np.int64)
        self._pending: list[NDArray[np.int64]] = []
        self._size = 0

    def add(self, scores: Array, positive: Array, groups: Array) -> None:
        """Add examples: scores [rows, classes], none NaN; positive [rows, classes] bool; groups [rows]."""
        place = groups[:, None] * self._classes + np.arange(self._classes)
        keys = ((place * 2 + positive) * _BUCKETS + _bucket(scores)).reshape(-1)
        self._pending.append(keys)
        self._size += keys.size
        if self._size > _PENDING:
            self._count()

    def merge(self, other: ScoreSketch) -> None:
        """Add what another saw."""
        self._count()
        other._count()
        self._join(other._keys, other._counts)

    def areas(self) -> tuple[float, Array] | None:
        """The mean area over the classes that some examples have and others have not, and without each group in turn.

        None where there is no such class.
        """
        self._count()
        places, buckets = np.divmod(self._keys, _BUCKETS)
        used, columns = np.unique(buckets, return_inverse=True)
        rest, positive = np.divmod(places, 2)
        group, label = np.divmod(rest, self._classes)
        found = []
        for number in range(self._classes):
            of = label == number
            parts = np.zeros((GROUPS, 2, len(used)))
            parts[group[of], positive[of], columns[of]] = self._counts[of]
            whole = parts.sum(0)
            areas = _area(np.concatenate([whole[None], whole - parts]))
            if not np.isnan(areas[0]):
                found.append(areas)
        if not found:
            return None
        # A class that all but one group lack stays as it is.
        kept = [np.where(np.isnan(areas), areas[0], areas) for areas in found]
        means = np.mean(kept, axis=0)
        return float(means[0]), means[1:]

    def totals(self) -> tuple[Array, Array, Array]:
        """(lowest score of each bucket in use, examples of the class, others), from the highest scores down.

        Of all classes together: each score counts as one of the class or of the others.
        """
        self._count()
        places, buckets = np.divmod(self._keys, _BUCKETS)
        used, columns = np.unique(buckets, return_inverse=True)
        counts = np.zeros((2, len(used)), np.int64)
        np.add.at(counts, (places % 2, columns), self._counts)
        return _lowest(used)[::-1], counts[1, ::-1], counts[0, ::-1]

    def _count(self) -> None:
        if self._pending:
            keys, counts = np.unique(np.concatenate(self._pending), return_counts=True)
            self._pending, self._size = [], 0
            self._join(keys, counts)

    def _join(self, keys: Array, counts: Array) -> None:
        self._keys, places = np.unique(np.concatenate([self._keys, keys]), return_inverse=True)
        joined = np.zeros(len(self._keys), np.int64)
        np.add.at(joined, places, np.concatenate([self._counts, counts]))
        self._counts = joined


def _area(counts: Array) -> Array:
    """The area under each ROC curve, from counts [curves, (others, of the class), buckets]; equal scores count half."""
    others, of = counts[:, 0], counts[:, 1]
    below = np.cumsum(others, axis=1) - others / 2
    with np.errstate(all="ignore"):
        return np.asarray((of * below).sum(1) / (of.sum(1) * others.sum(1)))


def _bucket(scores: Array) -> NDArray[np.int64]:
    """A number that grows with the score, below _BUCKETS."""
    size = np.abs(scores.astype(np.float64))
    near_one = _SIDE + 1 + _SIDE - _octaves(1 - size)
    above = 2 * _SIDE + 2 + np.minimum(_octaves(size) - _octaves(np.ones(1)), _SIDE)
    steps = np.where(size <= 0.5, _octaves(size), np.where(size < 1, near_one, above))
    return np.asarray(_BUCKETS // 2 + np.where(scores < 0, -steps, steps), np.int64)


def _lowest(buckets: NDArray[np.int64]) -> Array:
    """The lower end of each bucket of scores: finite, and growing with the bucket."""
    steps = buckets - _BUCKETS // 2
    # The lower end of a negative bucket is the upper one of the positive bucket of the same size.
    ends = _size(np.where(steps > 0, steps, 1 - steps))
    return np.where(steps > 0, ends, np.where(steps < 0, -ends, 0.0))


def _size(steps: NDArray[np.int64]) -> Array:
    """The absolute score at which so many steps begin."""
    one = int(_octaves(np.ones(1))[0])
    octaves = np.where(steps <= _SIDE, steps, np.where(steps <= 2 * _SIDE + 1, 2 * _SIDE + 2 - steps, 0))
    octaves = np.where(steps > 2 * _SIDE + 1, steps - 2 * _SIDE - 2 + one, octaves)
    bits = (octaves + (int(np.float32(_LEAST).view(np.int32)) >> _SHIFT)) << _SHIFT
    sizes = bits.astype(np.int32).view(np.float32).astype(np.float64)
    # Seen from 1, what lies at the lower end belongs to the bucket below; and 0.5 has one of its own.
    near_one = np.nextafter(np.maximum(1 - sizes, 0.5), 1)
    return np.where((steps > _SIDE) & (steps <= 2 * _SIDE + 1), near_one, sizes)


def _octaves(size: Array) -> NDArray[np.int64]:
    """Steps above the least size, 0 below it."""
    with np.errstate(all="ignore"):
        bits = np.maximum(size, _LEAST).astype(np.float32).view(np.int32) >> _SHIFT
    return np.asarray(bits - (np.float32(_LEAST).view(np.int32) >> _SHIFT), np.int64)


_SIDE = int(_octaves(np.array([0.5]))[0])
_BUCKETS = 2 * (3 * _SIDE + 3) + 1
