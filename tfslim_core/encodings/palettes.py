"""Palettes: 2^k values in a codebook, and for each element the number of the nearest.

    w = 0.11 -0.48 0.13        codebook = -0.48 0.12        codes = 1 0 1

The codebook has the least squared error that Lloyd's method finds (k-means in one dimension: each value is the mean of
the elements that are nearest to it). In one dimension the elements of a codebook's value are a run of the sorted
elements, so that a round is some searches and differences of prefix sums. The first guess spreads the values by the
cube root of the elements' density, the best there is for many values (Panter and Dite, 1951).

Where there are no more than 2^k different values the codebook is these, and nothing is lost.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from tfslim_core.encodings.distinct import Patterns, bit_patterns, distinct, positions
from tfslim_core.encodings.output_error import Moments, Rows, codes_by_outputs
from tfslim_core.encodings.scheme import Floats, Form, Nodes, Part, Sharing
from tfslim_core.errors import ModelError
from tfslim_core.graph import Input
from tfslim_core.weights import Array, aligned

Doubles = NDArray[np.float64]
_BLOCK = 1024 * 1024  # elements that are coded at a time
_POINTS = 1024 * 1024  # more elements than these are taken as the means of equal runs of the sorted ones
_QUANTILES = 4096  # that the density is guessed from
_ROUNDS = 300
_SETTLED = 1e-6  # a round that lowers the error by no more than this share of it is the last
_CODEBOOK_SHARE = 50  # codebooks that take more than a 50th of the codes' bytes are kept in half precision
_HALF_ERROR = 1.01  # where that makes the squared error no larger than so many times what it was


@dataclass(frozen=True)
class Palettes:
    """`bits` from 1 to 8. A codebook for all, or for groups of positions of the last axis; a vector has one."""

    bits: int
    exact: bool = False
    by_row = frozenset({"codes"})
    sharings = ("tensor", "groupN")

    @property
    def roles(self) -> Mapping[str, frozenset[str]]:
        """Codes, and codebooks: [groups, 2^bits]."""
        return {"codes": frozenset({"uint8"}), "codebook": frozenset({"float16", "float32"})}

    def problem(self, parts: Mapping[str, Form], form: Form) -> str:
        """The codes have the weight's shape; the codebooks are as many as groups that can be."""
        codes, codebook = parts["codes"].shape, parts["codebook"].shape
        if codes != form.shape:
            return f"the codes have the shape {codes}"
        if (
            len(codebook) != 2
            or codebook[1] != 1 << self.bits
            or codebook[0] != _count(codes, _width(codes, codebook[0]))
        ):
            return f"the codebook has the shape {codebook}"
        return ""

    def encode(self, value: Floats, sharing: Sharing, moments: Moments | None = None) -> Mapping[str, Array]:
        """Codes number the nearest value of the codebook as it is stored; or, if all share one and the moments of the
        inputs are known, those with which the outputs are off least.
        """
        groups = _count(value.shape, sharing.group)
        table = value.reshape(_table(value.shape, groups))
        found = [_palette(table[:, columns].reshape(-1), self.bits) for columns in _columns(value.shape, groups)]
        codebook: NDArray[np.floating] = np.stack([palette.values for palette in found])
        large = codebook.nbytes * _CODEBOOK_SHARE > value.size * self.bits / 8
        if large and all(palette.may_be_half for palette in found):
            codebook = codebook.astype(np.float16)
        if moments is not None and moments.whole and groups == 1 and found[0].patterns is None:
            return {"codes": _codes_by_outputs(value, codebook[0].astype(np.float32), moments), "codebook": codebook}
        codes = np.empty(table.shape, np.uint8)
        for columns, palette, values in zip(_columns(value.shape, groups), found, codebook, strict=True):
            some = table[:, columns]
            codes[:, columns] = palette.codes(some.reshape(-1), values.astype(np.float32)).reshape(some.shape)
        return {"codes": codes.reshape(value.shape), "codebook": codebook}

    def decode(self, parts: Mapping[str, Array], form: Form) -> Array:
        """The codebook's values."""
        codes, codebook = parts["codes"], parts["codebook"].astype(np.float32)
        if codes.size and int(codes.max(initial=0)) >> self.bits:
            raise ModelError(f"a palette is damaged: a code has more than {self.bits} bits")
        decoded = aligned(form.shape, np.dtype(np.float32))
        given, made = (array.reshape(_table(form.shape, len(codebook))) for array in (codes, decoded))
        step = max(1, _BLOCK // given.shape[1])
        for rows in (slice(start, start + step) for start in range(0, len(given), step)):
            for columns, values in zip(_columns(form.shape, len(codebook)), codebook, strict=True):
                made[rows, columns] = values[given[rows, columns]]
        return decoded

    def decoding_ops(self, nodes: Nodes, parts: Mapping[str, Part], form: Form) -> Input:
        """Cast, Gather; before it each code becomes its place among all codebooks, group x 2^bits further on."""
        codes, codebook = parts["codes"], parts["codebook"]
        groups = codebook.form.shape[0]
        places = nodes.cast(codes.source, tf.uint8, tf.int32)
        if groups > 1:
            ends = [nodes.constant(number, np.int32) for number in (0, form.shape[-1], 1)]
            width = nodes.constant(_width(form.shape, groups), np.int32)
            group = nodes.add("FloorDiv", nodes.add("Range", *ends, Tidx=tf.int32), width, T=tf.int32)
            start = nodes.add("Mul", group, nodes.constant(1 << self.bits, np.int32), T=tf.int32)
            places = nodes.add("AddV2", places, start, T=tf.int32)
        flat = nodes.reshape(codebook.source, (-1,), codebook.dtype)
        values = nodes.cast(flat, codebook.dtype, tf.float32)
        return nodes.add("Gather", values, places, Tparams=tf.float32, Tindices=tf.int32)


def _codes_by_outputs(value: Floats, values: Floats, moments: Moments) -> Array:
    """Numbers of the codebook's values."""
    doubles = values.astype(np.float64)

    def nearest(wanted: Floats, group: int, rows: Rows, columns: slice) -> tuple[Array, Floats]:
        del group, rows, columns
        codes = _nearest(wanted.reshape(-1), doubles).reshape(wanted.shape)
        return codes, values[codes]

    return codes_by_outputs(value, moments, nearest, "uint8")


def _count(shape: tuple[int, ...], width: int) -> int:
    """How many groups of `width` positions the last axis has; 0: all in one."""
    return -(-shape[-1] // width) if len(shape) > 1 and shape[-1] and width else 1


def _width(shape: tuple[int, ...], groups: int) -> int:
    """How many positions each group has; the last may have fewer."""
    return -(-shape[-1] // groups) if shape and groups else 0


def _table(shape: tuple[int, ...], groups: int) -> tuple[int, int]:
    """The shape as a table whose columns are of one group each."""
    return (-1, shape[-1] if groups > 1 else 1)


def _columns(shape: tuple[int, ...], groups: int) -> Iterator[slice]:
    """The table's columns of each group."""
    width = _width(shape, groups) if groups > 1 else 1
    return (slice(group * width, (group + 1) * width) for group in range(groups))


@dataclass(frozen=True)
class _Palette:
    """A codebook. patterns: the different values, where the codebook holds them all."""

    values: Floats
    may_be_half: bool
    patterns: Patterns | None = None

    def codes(self, elements: Floats, values: Floats) -> NDArray[np.uint8]:
        """For each element the number of the nearest of `values`, which are the codebook's as they are stored."""
        if self.patterns is not None:
            return positions(bit_patterns(elements), self.patterns)
        return _nearest(elements, values.astype(np.float64))


def _palette(elements: Floats, bits: int) -> _Palette:
    size = 1 << bits
    patterns = distinct(bit_patterns(elements), size)
    if patterns is not None:
        values = np.zeros(size, np.float32)
        values[: patterns.size] = patterns.view(np.float32)
        return _Palette(values, bool((bit_patterns(_half(values)) == bit_patterns(values)).all()), patterns)
    points, counts = _points(np.sort(elements))
    values = np.clip(_codebook(points, counts, size), points[0], points[-1]).astype(np.float32)
    error, half_error = (_error(points, counts, some) for some in (values, _half(values)))
    return _Palette(values, half_error <= _HALF_ERROR * error)


def _half(values: Floats) -> Floats:
    """What half precision makes of them."""
    with np.errstate(over="ignore"):
        return values.astype(np.float16).astype(np.float32)


def _nearest(elements: NDArray[np.floating], values: Doubles) -> NDArray[np.uint8]:
    found = np.empty(elements.size, np.uint8)
    with np.errstate(invalid="ignore"):
        middles = (values[1:] + values[:-1]) / 2
    for start in range(0, elements.size, _BLOCK):
        found[start : start + _BLOCK] = np.searchsorted(middles, elements[start : start + _BLOCK])
    return found


def _error(points: Doubles, counts: Doubles, values: Floats) -> float:
    """Squared error of the points at their nearest values; infinite where a value is."""
    if not np.isfinite(values).all():
        return np.inf
    doubles = values.astype(np.float64)
    return float((counts * np.square(points - doubles[_nearest(points, doubles)])).sum())


def _points(ordered: Floats) -> tuple[Doubles, Doubles]:
    """Sorted elements, and how many each stands for; of very many the means of runs, but for the least and largest,
    which are far from each other.
    """
    size, edge = ordered.size, _POINTS // 4
    starts = np.arange(size)
    if size > _POINTS:
        starts = np.concatenate([starts[:edge], starts[edge : size - edge : -(-size // (2 * edge))], starts[-edge:]])
    counts = np.diff(starts, append=size).astype(np.float64)
    return np.add.reduceat(ordered, starts, dtype=np.float64) / counts, counts


def _codebook(points: Doubles, counts: Doubles, size: int) -> Doubles:
    """Lloyd's method on sorted points, more than `size` of them being different; sorted values."""
    middle = points[points.size // 2]
    away = points - middle  # squares of what is far from zero would cancel badly
    number, total, squares = (np.append(0, np.cumsum(counts * some)) for some in (1, away, away * away))
    values = _first_guess(away, number, size)
    best, least = values, np.inf
    for _ in range(_ROUNDS):
        cuts = np.concatenate([[0], np.searchsorted(away, (values[1:] + values[:-1]) / 2), [away.size]])
        many, sums = np.diff(number[cuts]), np.diff(total[cuts])
        empty = many == 0
        values = np.where(empty, values, sums / np.maximum(many, 1))
        errors = np.diff(squares[cuts]) - np.where(empty, 0, values * sums)
        if errors.sum() >= least * (1 - _SETTLED):
            break
        if errors.sum() < least:
            best, least = values, errors.sum()
        if empty.any():
            values = _reseeded(values, empty, errors, away[cuts[:-1].clip(max=away.size - 1)], away[cuts[1:] - 1])
    found: Doubles = np.sort(best) + middle
    return found


def _first_guess(points: Doubles, number: Doubles, size: int) -> Doubles:
    """Values between quantiles, as dense as the cube root of the density. number: of elements before each point."""
    places = np.searchsorted(number, np.linspace(0, number[-1] - 1, _QUANTILES + 1), side="right") - 1
    quantiles = points[places]
    share = np.append(0, np.cumsum(np.diff(quantiles) ** (2 / 3)))
    found: Doubles = np.interp((np.arange(size) + 0.5) / size * share[-1], share, quantiles)
    return found


def _reseeded(values: Doubles, empty: NDArray[np.bool], errors: Doubles, first: Doubles, last: Doubles) -> Doubles:
    """Values that no point is nearest to, put on the points that are farthest from the values of largest error."""
    worst = np.argsort(-errors, kind="stable")[: np.count_nonzero(empty)]
    far = np.where(values - first > last - values, first, last)
    moved = values.copy()
    moved[empty] = far[worst]
    return np.sort(moved)
