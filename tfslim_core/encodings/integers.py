"""Integers of 2 to 12 bits and a scale: value = code x scale, or value = (code - zero point) x scale.

`int4` is symmetric: codes are -7..7, zero is code 0. `uint4` is affine: codes are 0..15, and the zero point is one of
them, so that zero is exact here too. Elements share a scale along axes or in blocks (see `Sharing`).

8 bits and more: scale = max |value| / (2^(bits - 1) - 1). More than 8 are for one scale shared by all elements, and for
codes that are compressed: a small step for all, which outliers do not make longer. Fewer bits: the scale, no longer
than that, with the least squared error; a few values are clipped for it (Banner et al., arXiv 1810.05723, choose theirs
the same way under a model of the values).

`int6.5` has codes up to 2^(6.5 - 1) - 1, rounded, and clips nothing: compressed, its codes take half a bit less than
those of a scale that is shorter by the square root of 2.

Where the moments of a layer's inputs are known, its errors count as those of its outputs do (see `output_error`), and
"input" gives each input a scale of its own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from tfslim_core.encodings.output_error import Moments, Rows, codes_by_outputs
from tfslim_core.encodings.scheme import Floats, Form, Nodes, Part, Sharing
from tfslim_core.graph import Input
from tfslim_core.weights import Array, aligned

_Number = TypeVar("_Number", bound=np.generic)
_BLOCK = 1024 * 1024  # elements that are rounded at a time
_IN_CACHE = 64 * 1024  # elements for which all scales are tried, one after the other
_TELLING = 64 * 1024  # elements that share a scale are enough to choose it by
_TINY = np.finfo(np.float32).tiny
_SCALE_SHARE = 50  # scales that take more than a 50th of the codes' bytes are kept in half precision
_SHRINKS = np.linspace(1, 0.3, 36, dtype=np.float32)  # of the longest scale; the best for 2 bits of a normal: 0.4


@dataclass(frozen=True)
class Integers:
    """`bits` from 2 to 12, to 8 where affine, which has a zero point. less: a part of a bit, for a longer scale."""

    bits: int
    affine: bool = False
    less: float = 0.0
    exact: bool = False
    by_row = frozenset({"codes", "scale", "zero_point"})
    sharings = ("tensor", "channel", "blockN", "input")

    @property
    def roles(self) -> Mapping[str, frozenset[str]]:
        """Codes and scale, and the zero point."""
        roles = {
            "codes": frozenset({self._dtype}),
            "scale": frozenset({"float16", "float32"}),
        }
        return {**roles, "zero_point": frozenset({"uint8"})} if self.affine else roles

    def problem(self, parts: Mapping[str, Form], form: Form) -> str:
        """The codes have the weight's shape; the scale is shared by blocks of it, split along one axis at most."""
        codes, scale = parts["codes"].shape, parts["scale"].shape
        if codes != form.shape:
            return f"the codes have the shape {codes}"
        if len(scale) != len(codes) or any(b % a if a else b for a, b in zip(scale, codes, strict=True) if a != 1):
            return f"the scale has the shape {scale}"
        if sum(1 < a < b for a, b in zip(scale, codes, strict=True)) > 1:
            return f"the scale has the shape {scale}, split along two axes"
        if self.affine and parts["zero_point"].shape != scale:
            return f"the zero point has the shape {parts['zero_point'].shape}, the scale {scale}"
        return ""

    @property
    def _dtype(self) -> str:
        return "uint8" if self.affine else "int8" if self.bits <= 8 else "int16"

    @property
    def _least(self) -> int:
        return 0 if self.affine else -self._most

    @property
    def _most(self) -> int:
        return (1 << self.bits) - 1 if self.affine else round(2 ** (self.bits - 1 - self.less)) - 1

    def encode(self, value: Floats, sharing: Sharing, moments: Moments | None = None) -> Mapping[str, Array]:
        """A slice of zeros, or of values too small for a normal scale, gets the scale 1 and becomes zeros."""
        if sharing.inputs and moments is not None and not self.affine:
            return self._encoded_by_input(value, moments)
        split, axes, scale_shape = _split(value.shape, sharing)
        blocks = value.reshape(split)
        lowest = np.minimum(blocks.min(axis=axes, keepdims=True, initial=0), 0)
        highest = np.maximum(blocks.max(axis=axes, keepdims=True, initial=0), 0)
        with np.errstate(over="ignore"):
            longest = self._longest(lowest, highest)
        flat = longest < _TINY
        longest[flat] = 1
        zero = np.rint(-lowest / longest) if self.affine else np.zeros((), np.float32)
        best = longest
        if self.bits < 8 and not self.less:
            weights = None if moments is None else _importance(moments, value.shape).reshape(split)
            best = self._best_scale(blocks, axes, longest, zero, weights)
        scale = _half(best) if best.nbytes * _SCALE_SHARE > value.size * self.bits / 8 else best
        if moments is None or not moments.whole:
            codes = self.codes(blocks, scale, zero).reshape(value.shape)
        else:
            shared = scale.reshape(scale_shape), zero.reshape(scale_shape if self.affine else ())
            codes = self._codes_by_outputs(value, moments, *shared)
        parts: dict[str, Array] = {"codes": codes, "scale": scale.reshape(scale_shape)}
        if self.affine:
            parts["zero_point"] = zero.astype(np.uint8).reshape(scale_shape)
        return parts

    def _encoded_by_input(self, value: Floats, moments: Moments) -> Mapping[str, Array]:
        """A scale for each input, so long that the largest code is the largest there is."""
        steps = moments.steps(value.shape)
        with np.errstate(over="ignore"):
            largest = self._longest(np.zeros((), np.float32), np.abs(value / steps).max(initial=0))
            scale = np.clip(steps * (largest if largest >= _TINY else 1), _TINY, self._longest_of_all)
        scale = _half(scale) if scale.nbytes * _SCALE_SHARE > value.size * self.bits / 8 else scale
        zero = np.zeros((), np.float32)
        codes = self._codes_by_outputs(value, moments, scale, zero) if moments.whole else self.codes(value, scale, zero)
        return {"codes": codes, "scale": scale}

    @property
    def _longest_of_all(self) -> np.float32:
        """The longest scale whose product with the largest code is finite."""
        longest: np.float32 = np.nextafter(np.finfo(np.float32).max / np.float32(self._most), np.float32(0))
        return longest

    def _longest(self, lowest: Floats, highest: Floats) -> Floats:
        """The scale that clips nothing, as long as the largest code times it is finite."""
        if self.affine:
            return np.minimum(highest / np.float32(self._most) - lowest / np.float32(self._most), self._longest_of_all)
        return np.minimum(np.maximum(highest, -lowest) / np.float32(self._most), self._longest_of_all)

    def codes(self, blocks: Floats, scale: NDArray[np.floating], zero: Floats) -> Array:
        """round(value / scale) + zero point, clipped, some rows at a time; scale and zero are broadcast."""
        codes: Array = np.empty(blocks.shape, self._dtype)
        for rows in _row_blocks(blocks.shape):
            codes[rows] = self._rounded(blocks[rows], _of(scale, rows), _of(zero, rows))
        return codes

    def _codes_by_outputs(self, value: Floats, moments: Moments, scale: NDArray[np.floating], zero: Floats) -> Array:
        scales = moments.as_columns(_spread(scale.astype(np.float32), value.shape))
        zeros = moments.as_columns(_spread(zero, value.shape))

        def nearest(values: Floats, group: int, rows: Rows, columns: slice) -> tuple[Array, Floats]:
            steps = scales[group, rows, columns]
            start = zeros[group, rows, columns] if self.affine else zero
            codes = self._rounded(values, steps, start)
            return codes, (codes - start) * steps if self.affine else codes * steps

        return codes_by_outputs(value, moments, nearest, self._dtype)

    def _rounded(self, values: Floats, scale: NDArray[np.floating], zero: Floats) -> Floats:
        steps: Floats = np.divide(values, scale, dtype=np.float32)
        np.rint(steps, out=steps)
        if self.affine:
            steps += zero
        np.maximum(steps, self._least, out=steps)
        np.minimum(steps, self._most, out=steps)
        return steps

    def _best_scale(
        self, blocks: Floats, axes: tuple[int, ...], longest: Floats, zero: Floats, weights: Floats | None
    ) -> Floats:
        """Of some scales no longer than the longest, the one of the least squared error, slice by slice. Where very
        many elements share a scale, some of them tell.

        weights: how much the error of each element counts; all count alike unless told.
        """
        best = longest.copy()
        parts = _row_blocks(blocks.shape, _IN_CACHE)
        shared = len(longest) == 1
        if shared:
            parts = parts[:: max(1, blocks.size // max(longest.size, 1) // _TELLING)]
        errors: float | NDArray[np.float64] = 0.0
        for rows in parts:
            some = slice(None) if shared else rows
            found = self._errors(
                blocks[rows] / longest[some], _of(zero, rows), axes, None if weights is None else weights[rows]
            )
            errors = errors + found if shared else found
            best[some] = longest[some] * _SHRINKS[np.argmin(errors, axis=0)]
        return np.where(best < _TINY, longest, best)

    def _errors(
        self, values: Floats, zero: Floats, axes: tuple[int, ...], weights: Floats | None
    ) -> NDArray[np.float64]:
        """For each shrink the squared error of values whose scale was 1, slice by slice."""
        off = np.empty_like(values)
        least, most = self._least - zero, self._most - zero
        found = []
        for shrink in _SHRINKS:
            np.divide(values, shrink, out=off)
            np.rint(off, out=off)
            np.maximum(off, least, out=off)
            np.minimum(off, most, out=off)
            off *= shrink
            off -= values
            np.square(off, out=off)
            if weights is not None:
                off *= weights
            found.append(off.sum(axis=axes, keepdims=True))
        return np.stack(found).astype(np.float64)

    def decode(self, parts: Mapping[str, Array], form: Form) -> Array:
        """The product, rounded once."""
        codes, scale = parts["codes"], parts["scale"]
        split, scale_split = _splits(codes.shape, scale.shape)
        steps = codes.reshape(split)
        if self.affine:
            steps = np.subtract(steps, parts["zero_point"].reshape(scale_split), dtype=np.float32)
        decoded = aligned(form.shape, np.dtype(np.float32))
        factors = scale.astype(np.float32).reshape(scale_split)
        np.multiply(steps, factors, out=decoded.reshape(split), dtype=np.float32)
        return decoded

    def decoding_ops(self, nodes: Nodes, parts: Mapping[str, Part], form: Form) -> Input:
        """Cast, Sub for a zero point, Mul; between two Reshapes where scales belong to blocks."""
        codes, scale = parts["codes"], parts["scale"]
        split, scale_split = _splits(codes.form.shape, scale.form.shape)
        blocked = len(split) > len(codes.form.shape)

        def floats(part: Part, shape: tuple[int, ...]) -> Input:
            found = nodes.cast(part.source, part.dtype, tf.float32)
            # Gathered rows have more leading axes, and other sizes, than the table.
            return nodes.reshape(found, (-1, *shape[1:]), tf.float32) if blocked else found

        steps = floats(codes, split)
        if self.affine:
            steps = nodes.add("Sub", steps, floats(parts["zero_point"], scale_split), T=tf.float32)
        decoded = nodes.add("Mul", steps, floats(scale, scale_split), T=tf.float32)
        if not blocked:
            return decoded
        shape = nodes.add("Shape", codes.source, T=codes.dtype, out_type=tf.int32)
        return nodes.reshape(decoded, shape, tf.float32)


def _split(shape: tuple[int, ...], sharing: Sharing) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
    """The shape with the blocked axis as two, the axes of it that share a scale, and the scale's shape."""
    axes = sharing.axes
    whole = tuple(1 if axis in axes else size for axis, size in enumerate(shape))
    if not sharing.block or not axes:
        return shape, axes, whole
    last = axes[-1]
    block = _divisor(shape[last], sharing.block)
    if block == shape[last]:
        return shape, axes, whole
    count = shape[last] // block
    split = (*shape[:last], count, block, *shape[last + 1 :])
    return split, tuple(axis + (axis == last) for axis in axes), (*whole[:last], count, *whole[last + 1 :])


def _divisor(size: int, block: int) -> int:
    """The largest divisor of `size` up to `block` and no less than half of it; else all of `size`."""
    return next((found for found in range(min(block, size), max(1, block // 2) - 1, -1) if size % found == 0), size)


def _splits(shape: tuple[int, ...], scale: tuple[int, ...]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The shapes of codes and scale in which one is broadcast to the other."""
    for axis, (size, count) in enumerate(zip(shape, scale, strict=True)):
        if 1 < count < size:
            split = (*shape[:axis], count, size // count, *shape[axis + 1 :])
            return split, (*scale[: axis + 1], 1, *scale[axis + 1 :])
    return shape, scale


def _spread(shared: NDArray[_Number], shape: tuple[int, ...]) -> NDArray[_Number]:
    """A scale for each element of the shape."""
    for axis, (size, count) in enumerate(zip(shape, shared.shape, strict=False)):
        if 1 < count < size:
            shared = np.repeat(shared, size // count, axis=axis)
    return np.broadcast_to(shared, shape)


def _importance(moments: Moments, shape: tuple[int, ...]) -> Floats:
    """How much the error of each element counts."""
    return np.broadcast_to(moments.by_input(moments.importance, shape), shape)


def _row_blocks(shape: tuple[int, ...], elements: int = _BLOCK) -> list[slice]:
    rows = max(1, elements * shape[0] // max(int(np.prod(shape)), 1)) if shape else 1
    return [slice(start, start + rows) for start in range(0, shape[0] if shape else 1, rows)]


def _of(values: NDArray[_Number], rows: slice) -> NDArray[_Number]:
    return values if values.ndim == 0 or len(values) == 1 else values[rows]


def _half(scale: Floats) -> Floats | NDArray[np.float16]:
    """The scales as float16, rounded up by 0.1 % at most so that no code is clipped; as they are where that is no
    normal float16.
    """
    if scale.min(initial=1) < np.finfo(np.float16).tiny or scale.max(initial=0) > 60000:
        return scale
    half = scale.astype(np.float16)
    return np.where(half < scale, np.nextafter(half, np.float16(np.inf)), half)
