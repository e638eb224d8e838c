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


class LogHistogram:
    """Counts of non-negative numbers in buckets 1/64 of a power of two wide: quantiles to 0.8 %, from 1e-38 to 3e38.

    A bucket is the upper 14 bits of the number as a float32; what is smaller than 1e-38 counts as 0.
    """

    __slots__ = ("counts",)
    _SHIFT = 17
    _TINY = 64  # buckets of float32's subnormals

    def __init__(self) -> None:
        self.counts: NDArray[np.int64] = np.zeros(1 << (31 - self._SHIFT), np.int64)

    def add(self, values: Array) -> None:
        """Count float64 values, each 0 or more, none NaN."""
        with np.errstate(over="ignore", under="ignore"):
            buckets = values.astype(np.float32).reshape(-1).view(np.int32) >> self._SHIFT
        self.counts += np.bincount(buckets, minlength=len(self.counts))

    def merge(self, other: LogHistogram) -> None:
        """Add another histogram."""
        self.counts += other.counts

    def quantile(self, share: float) -> float | None:
        """The smallest number that at least `share` of the values do not exceed, to 0.8 %; None of nothing."""
        total = int(self.counts.sum())
        if not total:
            return None
        rank = max(1, math.ceil(share * total))
        bucket = int(np.searchsorted(np.cumsum(self.counts), rank))
        return float(self._middles()[bucket]) if bucket >= self._TINY else 0.0

    def decades(self) -> tuple[list[float], list[int]]:
        """Edges [0, 1e-12, 1e-11.5, …, 1e6, inf] and the counts between them, a value at an edge in the upper bin."""
        edges = [0.0, *[10.0 ** (half / 2) for half in range(-24, 13)], math.inf]
        places = np.searchsorted(edges, self._middles(), side="right") - 1
        places[: self._TINY] = 0
        counts = np.bincount(np.minimum(places, len(edges) - 2), weights=self.counts, minlength=len(edges) - 1)
        return edges, [int(count) for count in counts]

    def _middles(self) -> Array:
        bits = (np.arange(len(self.counts), dtype=np.int32) << self._SHIFT) + (1 << (self._SHIFT - 1))
        middles = bits.view(np.float32)
        # The middle of infinity's bucket has the bits of a NaN.
        return np.where(np.isfinite(middles), middles, np.float32(math.inf)).astype(np.float64)
