"""Sums and quantiles that add up in any order, in memory that does not grow with the data."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


class ExactSum:
    """A sum of float64 that does not depend on the order of its terms (Shewchuk's partials, as in math.fsum)."""

    __slots__ = ("partials",)

    def __init__(self) -> None:
        self.partials: list[float] = []

    def add(self, term: float) -> None:
        """Add one term."""
        kept = []
        for partial in self.partials:
            if abs(term) < abs(partial):
                term, partial = partial, term
            high = term + partial
            if not math.isfinite(high):
                # Infinity or NaN from here on; its parts mean nothing.
                self.partials = [high]
                return
            low = partial - (high - term)
            if low:
                kept.append(low)
            term = high
        self.partials = [*kept, term]

    def merge(self, other: ExactSum) -> None:
        """Add another sum."""
        for partial in other.partials:
            self.add(partial)

    @property
    def value(self) -> float:
        """The sum, rounded once."""
        return math.fsum(self.partials)


class ExactSums:
    """Sums of several numbers of each example, which depend neither on their order nor on how they came together.

    Examples wait until there are many: a sum without rounding costs as much for few. All terms are cut into halves of
    whole numbers by their exponent, and of those so many add up in a float64 without rounding.
    """

    __slots__ = ("_parts", "_pending", "_rows")
    _PENDING = 1024

    def __init__(self, columns: int) -> None:
        self._parts = [ExactSum() for _ in range(columns)]
        self._pending: list[Array] = []
        self._rows = 0

    def add(self, values: Array) -> None:
        """Add examples, [columns, rows] float64."""
        self._pending.append(values)
        self._rows += values.shape[1]
        if self._rows >= self._PENDING:
            self._settle()

    def merge(self, other: ExactSums) -> None:
        """Add what another saw."""
        self._settle()
        other._settle()
        for mine, theirs in zip(self._parts, other._parts, strict=True):
            mine.merge(theirs)

    @property
    def values(self) -> list[float]:
        """The sums, each rounded once."""
        self._settle()
        return [part.value for part in self._parts]

    def _settle(self) -> None:
        if not self._pending:
            return
        values = np.concatenate(self._pending, axis=1)
        self._pending, self._rows = [], 0
        usable = np.isfinite(values)
        if not usable.all():
            for column in np.flatnonzero(~usable.all(1)).tolist():
                with np.errstate(invalid="ignore"):
                    self._parts[column].add(float(values[column][~usable[column]].sum()))
            values = np.where(usable, values, 0.0)
        used = np.flatnonzero(values.any(1))
        for start in range(0, values.shape[1], 1 << 24):
            self._add_terms(used, values[used, start : start + (1 << 24)])

    def _add_terms(self, columns: NDArray[np.intp], values: Array) -> None:
        fractions, exponents = np.frexp(values)
        lowest = int(exponents.min(initial=0))
        span = int(exponents.max(initial=0)) - lowest + 1
        upper = np.floor(np.ldexp(fractions, 26))
        lower = np.ldexp(fractions, 53) - np.ldexp(upper, 27)
        places = (np.arange(len(columns))[:, None] * span + (exponents - lowest)).reshape(-1)
        for halves, shift in ((upper, 26), (lower, 53)):
            sums = np.bincount(places, weights=halves.reshape(-1), minlength=len(columns) * span)
            found = np.flatnonzero(sums)
            terms = np.ldexp(sums[found], found % span + lowest - shift)
            for column, term in zip(columns[found // span].tolist(), terms.tolist(), strict=True):
                self._parts[column].add(term)


class LogHistogram:
    """Counts of non-negative numbers in buckets 1/64 of a power of two wide: quantiles to 0.8 %, from 1e-38 to 3e38.

    A bucket is the upper 14 bits of the number as a float32; what is smaller than 1e-38 counts as 0. Zeros apart, only
    the buckets between the smallest and the largest number take memory.
    """

    __slots__ = ("_counts", "_first", "_zeros")
    _SHIFT = 17
    _TINY = 64  # buckets of float32's subnormals, which are counted as zeros

    def __init__(self) -> None:
        self._zeros = 0
        self._first = 0
        self._counts: NDArray[np.int64] = np.zeros(0, np.int64)

    def add(self, values: Array) -> None:
        """Count float64 values, each 0 or more, none NaN."""
        with np.errstate(over="ignore", under="ignore"):
            buckets = values.astype(np.float32).reshape(-1).view(np.int32) >> self._SHIFT
        if not buckets.size:
            return
        low, high = int(buckets.min()), int(buckets.max())
        if low < self._TINY:
            buckets = buckets[buckets >= self._TINY]
            self._zeros += values.size - buckets.size
            if not buckets.size:
                return
            low = int(buckets.min())
        self._cover(low, high + 1)
        self._counts += np.bincount(buckets - self._first, minlength=len(self._counts))

    def merge(self, other: LogHistogram) -> None:
        """Add another histogram."""
        self._zeros += other._zeros
        if len(other._counts):
            end = other._first + len(other._counts)
            self._cover(other._first, end)
            self._counts[other._first - self._first : end - self._first] += other._counts

    @property
    def total(self) -> int:
        """How many numbers were counted."""
        return self._zeros + int(self._counts.sum())

    def quantile(self, share: float) -> float | None:
        """The smallest number that at least `share` of the values do not exceed, to 0.8 %; None of nothing."""
        total = self.total
        if not total:
            return None
        rank = max(1, math.ceil(share * total))
        if rank <= self._zeros:
            return 0.0
        return float(self._middles()[int(np.searchsorted(np.cumsum(self._counts), rank - self._zeros))])

    def decades(self) -> tuple[list[float], list[int]]:
        """Edges [0, 1e-12, 1e-11.5, …, 1e6, inf] and the counts between them, a value at an edge in the upper bin."""
        edges = [0.0, *[10.0 ** (half / 2) for half in range(-24, 13)], math.inf]
        places = np.minimum(np.searchsorted(edges, self._middles(), side="right") - 1, len(edges) - 2)
        counts = np.bincount(places, weights=self._counts, minlength=len(edges) - 1)
        counts[0] += self._zeros
        return edges, [int(count) for count in counts]

    def _cover(self, low: int, high: int) -> None:
        """Make room for buckets from `low` up to and without `high`."""
        if not len(self._counts):
            self._first, self._counts = low, np.zeros(high - low, np.int64)
            return
        before, after = max(0, self._first - low), max(0, high - self._first - len(self._counts))
        if before or after:
            self._counts = np.pad(self._counts, (before, after))
            self._first -= before

    def _middles(self) -> Array:
        buckets = np.arange(self._first, self._first + len(self._counts), dtype=np.int32)
        middles = ((buckets << self._SHIFT) + (1 << (self._SHIFT - 1))).view(np.float32)
        # The middle of infinity's bucket has the bits of a NaN.
        return np.where(np.isfinite(middles), middles, np.float32(math.inf)).astype(np.float64)
