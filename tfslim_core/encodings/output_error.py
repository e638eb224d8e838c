"""Rounding that heeds what a layer is fed: the error that counts is that of its outputs, not that of its weights.

A layer computes y = xᵀ W, or many such products. With H = E[x xᵀ] over real inputs, weights that are off by D move the
outputs by tr(Dᵀ H D) on average. Where inputs are correlated, what one row of W is off can be made good by the rows
after it: row k is rounded to

    Q(w_k + sum over j < k of (R_jk / R_kk) d_j),    H = R Rᵀ with R upper triangular,  d_j = w_j - Q_j

which is the rounding of GPTQ (Frantar et al., arXiv 2210.17323), in the form that needs no inverse (Chee et al.,
arXiv 2307.13304). Rows of the largest inputs come first. A column that this makes no better is rounded plainly.

The outputs are off by sum of (R_kk step_k)² / 12. Compressed codes take bits by the logarithm of their steps, so that
for all bits together the error is least where R_kk step_k is the same for all k: long steps for rows that count little.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tfslim_core.weights import Array

Floats = NDArray[np.float32]
Rows = int | NDArray[np.int64]
Nearest = Callable[[Floats, int, Rows, slice], tuple[Array, Floats]]
"""Of values wanted in a group's row, or rows, at some columns: their codes, and what these decode to."""

DAMPING = 0.05  # of the mean of the diagonal, added to it: a sample knows the inputs only so well
_ROWS = 128  # that are rounded before what they are off is taken to all rows after them
_ELEMENTS = 4 * 1024 * 1024  # that are rounded at a time: as many columns as have no more
_STEPS = 4  # lengths of steps to a factor of two, so that a table of them is small


@dataclass(frozen=True)
class _Factors:
    """Of one matrix, damped. order: its rows, those of the largest inputs first. feedback: [n, n] in that order, R with
    each column divided by its last, R_kk. lengths: R_kk.
    """

    order: NDArray[np.int64]
    feedback: Floats
    lengths: Floats


@dataclass(frozen=True)
class Moments:
    """Second moments of what a weight is multiplied with; finite, and not all zero.

    matrices: [groups, n, n]; [groups, n] where only the diagonals are known. summed: the weight's axes along which
    products are summed up; n is the product of their sizes. apart: those along which each position has inputs of its
    own (the channels of a depthwise convolution); groups is the product of theirs.
    """

    matrices: Floats
    summed: tuple[int, ...]
    apart: tuple[int, ...] = ()

    @property
    def whole(self) -> bool:
        """Whether more than the diagonals is known, so that rows can make good what others are off."""
        return self.matrices.ndim == 3

    @cached_property
    def importance(self) -> Floats:
        """[groups, n]: the diagonals, of mean 1, and damped."""
        found = np.diagonal(self.matrices, axis1=1, axis2=2) if self.whole else self.matrices
        mean = found.mean(axis=1, keepdims=True)
        return (found / np.where(mean > 0, mean, 1) + np.float32(DAMPING)).astype(np.float32)

    @cached_property
    def factors(self) -> list[_Factors | None]:
        """Of each matrix; None of one that has none, being zero or off by rounding."""
        return [_factors(matrix) for matrix in self.matrices]

    def as_columns(self, array: NDArray[Any]) -> NDArray[Any]:
        """An array of the weight's shape as [groups, n, columns]."""
        order = self._order(array.ndim)
        sizes = [math.prod(array.shape[axis] for axis in axes) for axes in (self.apart, self.summed)]
        return array.transpose(order).reshape(*sizes, math.prod(array.shape) // max(math.prod(sizes), 1))

    def from_columns(self, columns: NDArray[Any], shape: tuple[int, ...]) -> NDArray[Any]:
        """The reverse."""
        order = self._order(len(shape))
        return columns.reshape([shape[axis] for axis in order]).transpose(np.argsort(order))

    def by_input(self, values: Floats, shape: tuple[int, ...]) -> Floats:
        """[groups, n] in a form that can be multiplied with an array of the weight's shape."""
        own = (*self.apart, *self.summed)
        return self.from_columns(values, tuple(size if axis in own else 1 for axis, size in enumerate(shape)))

    def steps(self, shape: tuple[int, ...]) -> Floats:
        """How long the steps of each input's weights should be, of mean logarithm 0 or nearly; see `by_input`."""
        found = self.importance**-0.5
        if self.whole:
            for lengths, factors in zip(found, self.factors, strict=True):
                if factors is not None:
                    lengths[factors.order] = 1 / factors.lengths
        logarithms = np.log2(found)
        rounded = np.rint((logarithms - logarithms.mean()) * _STEPS) / _STEPS
        return self.by_input(np.exp2(rounded).astype(np.float32), shape)

    def error(self, off: Floats) -> float:
        """tr(Dᵀ H D) of a weight that is off by `off`, damped as all of this is."""
        columns = self.as_columns(off)
        squares = np.square(columns, dtype=np.float64).sum(axis=2)
        if not self.whole:
            return float(((self.matrices + DAMPING * self.matrices.mean(axis=1, keepdims=True)) * squares).sum())
        total = DAMPING * float(
            (np.trace(self.matrices, axis1=1, axis2=2) / columns.shape[1] * squares.sum(axis=1)).sum()
        )
        for matrix, some in zip(self.matrices, columns, strict=True):
            width = max(1, _ELEMENTS // max(len(some), 1))
            for part in (some[:, start : start + width] for start in range(0, some.shape[1], width)):
                total += float((part * (matrix @ part)).sum(dtype=np.float64))
        return total

    def _order(self, rank: int) -> tuple[int, ...]:
        own = (*self.apart, *self.summed)
        return (*own, *(axis for axis in range(rank) if axis not in own))


def _factors(matrix: Floats) -> _Factors | None:
    order = np.argsort(-np.diagonal(matrix), kind="stable")
    some = matrix[np.ix_(order, order)].astype(np.float64)
    some.flat[:: len(some) + 1] += DAMPING * np.diagonal(matrix).mean()
    try:
        # Of the matrix backwards the lower triangle, backwards again, is the upper one.
        upper = np.linalg.cholesky(some[::-1, ::-1])[::-1, ::-1]
    except np.linalg.LinAlgError:
        return None
    lengths = np.diagonal(upper)
    return _Factors(order, (upper / lengths).astype(np.float32), lengths.astype(np.float32))


def codes_by_outputs(value: Floats, moments: Moments, nearest: Nearest, dtype: str) -> Array:
    """For each element of a weight its code, chosen so that the outputs are off little. `moments` are whole."""
    rows = moments.as_columns(value)
    codes = np.empty(rows.shape, dtype)
    width = max(1, _ELEMENTS // max(rows.shape[1], 1))
    for group, factors in enumerate(moments.factors):
        for start in range(0, rows.shape[2], width):
            columns = slice(start, start + width)
            if factors is None:
                codes[group, :, columns], _ = nearest(rows[group, :, columns], group, np.arange(rows.shape[1]), columns)
            else:
                some = np.ascontiguousarray(rows[group, factors.order, columns])
                codes[group, factors.order, columns] = _coded(some, factors, group, columns, nearest, dtype)
    return np.ascontiguousarray(moments.from_columns(codes, value.shape))


def _coded(rows: Floats, factors: _Factors, group: int, columns: slice, nearest: Nearest, dtype: str) -> Array:
    """The codes of rows in the factors' order."""
    feedback, order = factors.feedback, factors.order
    codes, plain = np.empty((2, *rows.shape), dtype)
    off, plain_off = np.empty((2, *rows.shape), np.float32)
    fed = np.empty((_ROWS, rows.shape[1]), np.float32)
    for start in range(0, len(rows), _ROWS):
        some = slice(start, min(start + _ROWS, len(rows)))
        wanted = rows[some] + feedback[:start, some].T @ off[:start]
        for row, target in enumerate(wanted, start):
            codes[row], decoded = nearest(target, group, int(order[row]), columns)
            np.subtract(rows[row], decoded, out=off[row])
            # A product of matrices for each row would wait for BLAS's threads each time.
            after = slice(row + 1, some.stop)
            wanted[row + 1 - start :] += np.multiply(
                feedback[row, after, None], off[row], out=fed[: some.stop - row - 1]
            )
        plain[some], decoded = nearest(rows[some], group, order[some], columns)
        np.subtract(rows[some], decoded, out=plain_off[some])
    # What is fed on may add up where values are clipped.
    better = _errors(off, factors) <= _errors(plain_off, factors)
    chosen: Array = np.where(better, codes, plain)
    return chosen


def _errors(off: Floats, factors: _Factors) -> NDArray[np.float64]:
    """What each column is off in the outputs."""
    moved = factors.feedback.T @ off
    moved *= factors.lengths[:, None]
    with np.errstate(over="ignore"):
        total: NDArray[np.float64] = np.square(moved, out=moved).sum(axis=0, dtype=np.float64)
    return total
