"""How the classes that two models prefer differ: the top one, the top five, and how near they came to a flip."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tfslim_core.sketches import ExactSums
from tfslim_core.verdict import PositionMetrics

Array = NDArray[Any]

TOP = 5
# A probability below this counts as this: no answer is infinitely far from another.
LEAST_PROBABILITY = 1e-15
_SUM_TOLERANCE = 1e-3


@dataclass
class PositionStats:
    """At how many positions answers agree before they first differ: mergeable counts."""

    examples: int = 0
    first: Counter[int] = field(default_factory=Counter)

    def add(self, agree: Array) -> None:
        """Add examples, [rows, positions] bool."""
        self.examples += len(agree)
        differing = agree[~agree.all(1)]
        if len(differing):
            self.first.update(differing.argmin(1).tolist())

    def merge(self, other: PositionStats) -> None:
        """Add what another saw."""
        self.examples += other.examples
        self.first.update(other.first)

    def metrics(self) -> PositionMetrics | None:
        """The share that agrees throughout, and the median of the first difference among the rest."""
        if not self.examples:
            return None
        differing = self.first.total()
        median, seen = None, 0
        for place in sorted(self.first):
            seen += self.first[place]
            if 2 * seen >= differing:
                median = place
                break
        agreement = (self.examples - differing) / self.examples
        return PositionMetrics(examples=self.examples, agreement=agreement, first_difference=median)


@dataclass
class ClassStats:
    """What the classes that score highest come to: add batches, merge with others.

    ranked, agreed: distributions over classes that were compared, and those with the same top class. fives,
    agreed_fives: the same of sets of the top five. divergences: of `ranked`, while all of them are distributions.
    """

    ranked: int = 0
    agreed: int = 0
    fives: int = 0
    agreed_fives: int = 0
    distributions: bool = True
    divergences: ExactSums = field(default_factory=lambda: ExactSums(1))
    positions: PositionStats = field(default_factory=PositionStats)
    _flips: bool = False
    _margin: float = math.inf
    _error: float = 0.0

    @property
    def no_flip_possible(self) -> bool:
        """Whether the original's smallest lead of a best class over its second is more than twice the largest error.

        No top class could then have changed in the sample, however the errors had fallen. Both are extremes over all
        examples; an error is one of a single value, so it can lower the best class and raise another by that much each.
        """
        return bool(self.ranked) and not self._flips

    def add(self, original: Array, optimized: Array, row_errors: Array) -> Array:
        """Add a batch of scores, [rows, …, classes]; row_errors: each example's largest error, [rows].

        Returns agreed, ranked, agreed sets of five and summed divergence of each example, [4, rows].
        """
        rows, classes = len(original), original.shape[-1]
        a, b = (_plain(scores).reshape(-1, classes) for scores in (original, optimized))
        top_a, top_b = a.argmax(1), b.argmax(1)
        every = np.arange(len(a))
        best_a, best_b = a[every, top_a], b[every, top_b]
        agree = top_a == top_b
        # argmax takes the first NaN for the largest: rows agree only where the same values are NaN.
        if np.isnan(best_a).any() or np.isnan(best_b).any():
            agree &= (np.isnan(a) == np.isnan(b)).all(1)
        agree = agree.reshape(rows, -1)
        self.ranked += agree.size
        self.agreed += int(agree.sum())
        columns = np.zeros((4, rows))
        columns[0], columns[1] = agree.sum(1), agree.shape[1]
        if not self._flips:
            self._watch_margin(a, best_a, every, top_a, row_errors)
        if original.ndim > 2:
            self.positions.add(agree)
        elif classes > TOP:
            same = _same_five(a, b, row_errors)
            self.fives += rows
            self.agreed_fives += int(same.sum())
            columns[2] = same
        if self.distributions:
            found = _divergences(a, b)
            if found is None:
                self.distributions = False
            else:
                columns[3] = found.reshape(rows, -1).sum(1)
                self.divergences.add(columns[3:])
        return columns

    def merge(self, other: ClassStats) -> None:
        """Add what another saw."""
        self.ranked += other.ranked
        self.agreed += other.agreed
        self.fives += other.fives
        self.agreed_fives += other.agreed_fives
        self.distributions &= other.distributions
        self.divergences.merge(other.divergences)
        self.positions.merge(other.positions)
        self._extremes(other._margin, other._error)

    @property
    def kl_divergence(self) -> float | None:
        """The mean over distributions, nats; None where an answer is no distribution."""
        return self.divergences.values[0] / self.ranked if self.ranked and self.distributions else None

    def _watch_margin(self, a: Array, best: Array, every: Array, top: Array, row_errors: Array) -> None:
        others = a.copy()
        others[every, top] = -np.inf
        with np.errstate(all="ignore"):
            lead = float((best.astype(np.float64) - others.max(1)).min())
        self._extremes(0.0 if math.isnan(lead) else lead, float(row_errors.max(initial=0.0)))

    def _extremes(self, margin: float, error: float) -> None:
        self._margin, self._error = min(self._margin, margin), max(self._error, error)
        # Once it is so it stays so, and the extremes need not be watched any more.
        self._flips |= not self._margin > 2 * self._error


def _plain(scores: Array) -> Array:
    """bfloat16 and the like as float32, which holds them."""
    return scores if scores.dtype.kind == "f" else scores.astype(np.float32)


def _same_five(a: Array, b: Array, row_errors: Array) -> Array:
    """Whether the five highest scores belong to the same classes, [rows]; of equal scores the first counts."""
    same = np.ones(len(a), bool)
    if not row_errors.any():
        return same
    places = a.shape[1] - TOP
    ranked = np.partition(a, (places - 1, places), axis=1)
    with np.errstate(all="ignore"):
        unsure = ~(ranked[:, places].astype(np.float64) - ranked[:, places - 1] > 2 * row_errors)
    if unsure.any():
        a, b = a[unsure], b[unsure]
        five = a >= ranked[unsure, places, None]
        inside, outside = np.where(five, b, np.inf).min(1), np.where(five, -np.inf, b).max(1)
        found = inside > outside
        tied = (five.sum(1) != TOP) | (inside == outside)
        if tied.any():
            fives = [np.sort(np.argsort(-x[tied], axis=1, kind="stable")[:, :TOP], axis=1) for x in (a, b)]
            found[tied] = (fives[0] == fives[1]).all(1)
        same[unsure] = found & np.isfinite(row_errors[unsure])
    return same


def _divergences(a: Array, b: Array) -> Array | None:
    """KL(a, b) of each row in nats, float64; None where a row of either is no distribution."""
    parts = []
    for scores in (a, b):
        # Most outputs that are none show it in the first row.
        for rows in (scores[:1], scores):
            with np.errstate(all="ignore"):
                sums = rows.sum(1, dtype=np.float64)
            if not (np.abs(sums - 1) <= _SUM_TOLERANCE).all():
                return None
        if not (scores >= 0).all():
            return None
        parts.append(scores.astype(np.float64) / sums[:, None])
    p, q = parts
    logs = np.log(np.maximum(p, LEAST_PROBABILITY)) - np.log(np.maximum(q, LEAST_PROBABILITY))
    return np.asarray(np.maximum(np.einsum("ij,ij->i", p, logs), 0))
