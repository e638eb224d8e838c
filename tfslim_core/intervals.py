"""Intervals of 95 %: how far a value that was found on some examples may be from the one on all of them.

Three kinds. A share of examples has Wilson's score interval. A quantile has the interval between two order statistics,
which holds for any distribution. Everything else has a Poisson bootstrap: in each of 200 replicates an example counts
as often as a Poisson number of mean 1 says, which is a hash of where the example is; so neither batches nor workers nor
the order of merging can change a replicate.

Sources: E. B. Wilson, JASA 22 (1927); H. A. David and H. N. Nagaraja, Order Statistics, 7.1; N. Chamandy et al.,
Estimating Uncertainty for Massive Data Streams (2012), for the Poisson bootstrap.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
# Low and high end; None where what was seen bounds nothing on that side.
Interval = tuple[float | None, float | None]

DEVIATIONS = 1.959963984540054  # 95 % of a normal distribution lie within
REPLICATES = 200
GROUPS = 20
_STUDENT = 2.093024054408263  # 95 % of Student's distribution with GROUPS - 1 degrees of freedom lie within
_DIGITS = 4
# Rows that are put together before they are weighed: the weights cost as much for one row as for many.
_PENDING = 1024
# Multiplications at a time: OpenBLAS would spread more over threads, which wait longer for each other than they work.
_PRODUCT = 1 << 18
_LANES = REPLICATES // 8  # one hash of 64 bits is eight weights
# The Poisson number of mean 1 for each value of a byte: mean and variance are 257/256.
_POISSON = b"".join(bytes([many]) * values for many, values in enumerate((94, 94, 47, 16, 4, 1)))


def wilson(share: float, examples: int) -> Interval:
    """Wilson's score interval of a share of examples, both ends within 0 and 1."""
    square = DEVIATIONS**2 / examples
    spread = DEVIATIONS * math.sqrt(share * (1 - share) / examples + square / (4 * examples))
    middle, scale = share + square / 2, 1 + square
    low, high = (middle - spread) / scale, (middle + spread) / scale
    return (0.0 if share == 0 else max(0.0, low), 1.0 if share == 1 else min(1.0, high))


def examples_for_all(share: float) -> int | None:
    """How many examples, all alike, put Wilson's interval above `share`; None where no number does."""
    return math.ceil(DEVIATIONS**2 * share / (1 - share)) if 0 <= share < 1 else None


def quantile_shares(share: float, examples: int) -> tuple[float, float | None]:
    """The shares of the sample between whose quantiles the population's lies.

    The upper is None where even the largest of so many examples may lie below, as for p99 with fewer than 368.
    """
    spread = DEVIATIONS * math.sqrt(share * (1 - share) / examples)
    open_above = share**examples > 0.025
    return max(0.0, share - spread), None if open_above else min(1.0, share + spread)


def rounded(value: float, *, below: float = 0.0) -> float:
    """Four significant digits, of the distance to `below`: sums of floats depend on their order in the 15th.

    below: the value that means no loss, 1 for shares and cosines.
    """
    if not below:
        return float(f"{value:.{_DIGITS - 1}e}")
    loss = round(below - value, 12)
    return below - float(f"{loss:.{_DIGITS - 1}e}")


def of_replicates(values: Array, *, below: float = 0.0) -> Interval | None:
    """The percentile interval of a statistic's values in the replicates, [REPLICATES]; None of what is not finite."""
    known = values[~np.isnan(values)]
    if len(known) < REPLICATES * 0.95 or not np.isfinite(known).all():
        return None
    low, high = np.quantile(known, (0.025, 0.975))
    return rounded(float(low), below=below), rounded(float(high), below=below)


def of_groups(value: float, without: Array) -> Interval:
    """The interval of a statistic from its values without each of the groups in turn (delete-a-group jackknife)."""
    parts = len(without)
    spread = math.sqrt((parts - 1) / parts * float(np.square(without - without.mean()).sum()))
    return rounded(value - _STUDENT * spread), rounded(value + _STUDENT * spread)


def groups(places: Array) -> NDArray[np.int64]:
    """The group of each example by where it is, [rows], below GROUPS."""
    return (_hashes(np.asarray(places, np.int64), 1)[:, 0] % np.uint64(GROUPS)).astype(np.int64)


class Replicates:
    """Sums over examples in each replicate: add rows, merge with others in any order, then read them.

    columns: how many numbers an example has; their sums are [columns, REPLICATES] float64.
    """

    __slots__ = ("_pending", "_rows", "_sums")

    def __init__(self, columns: int) -> None:
        self._sums: Array = np.zeros((columns, REPLICATES))
        self._pending: list[tuple[Array, Array]] = []
        self._rows = 0

    def add(self, values: Array, places: Array) -> None:
        """Add examples: values [columns, rows], places [rows] int64."""
        self._pending.append((values, places))
        self._rows += len(places)
        if self._rows >= _PENDING:
            self._weigh()

    def merge(self, other: Replicates) -> None:
        """Add what another saw."""
        self._weigh()
        other._weigh()
        self._sums += other._sums

    @property
    def sums(self) -> Array:
        """[columns, REPLICATES]."""
        self._weigh()
        return self._sums

    def _weigh(self) -> None:
        if not self._pending:
            return
        values = np.concatenate([rows for rows, _ in self._pending], axis=1)
        places = np.concatenate([places for _, places in self._pending])
        step = max(1, _PRODUCT // (len(values) * REPLICATES))
        with np.errstate(all="ignore"):
            for start in range(0, len(places), _PENDING):
                weights = _weights(places[start : start + _PENDING].tobytes())
                for row in range(0, len(weights), step):
                    columns = values[:, start + row : start + min(row + step, len(weights))]
                    self._sums += columns @ weights[row : row + step]
        self._pending, self._rows = [], 0


# All outputs of a batch ask for the same.
@lru_cache(maxsize=2)
def _weights(places: bytes) -> Array:
    """How often each example counts in each replicate, [rows, REPLICATES]; places: int64."""
    hashes = _hashes(np.frombuffer(places, np.int64), _LANES).astype("<u8")
    drawn = np.frombuffer(hashes.tobytes().translate(_POISSON), np.uint8)
    return drawn.reshape(-1, REPLICATES).astype(np.float64)


def _hashes(places: Array, lanes: int) -> NDArray[np.uint64]:
    """[rows, lanes] from a counter, without state (SplitMix64: Steele, Lea and Flood, OOPSLA 2014)."""
    counters = places.astype(np.uint64)[:, None] * np.uint64(lanes)
    mixed: NDArray[np.uint64] = np.add(counters, np.arange(1, lanes + 1, dtype=np.uint64), dtype=np.uint64)
    mixed *= np.uint64(0x9E3779B97F4A7C15)
    mixed ^= mixed >> np.uint64(30)
    mixed *= np.uint64(0xBF58476D1CE4E5B9)
    mixed ^= mixed >> np.uint64(27)
    mixed *= np.uint64(0x94D049BB133111EB)
    mixed ^= mixed >> np.uint64(31)
    return mixed
