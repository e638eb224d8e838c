"""Integers of fewer than 8 bits, several to a byte.

A code of 6 bits is cut into 4 and 2, which are packed two and four to a byte, each into a plane of its own:

    code = plane4 << 2 | plane2        plane4: 4 bits of each code, the first in the low half of a byte

so that shifts, masks and reshapes decode it. Signed codes are stored with 2^(bits - 1) added.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from tfslim_core.encodings.scheme import Form, Nodes, Part
from tfslim_core.graph import Input
from tfslim_core.weights import Array

Bytes = NDArray[np.uint8]


@dataclass(frozen=True)
class PackedBits:
    """Codes of `bits` bits, int8 or uint8."""

    bits: int
    by_row = frozenset[str]()

    @property
    def widths(self) -> tuple[int, ...]:
        """The widths of the planes, the highest bits first."""
        return tuple(width for width in (4, 2, 1) if self.bits & width)

    @property
    def roles(self) -> Mapping[str, frozenset[str]]:
        """A plane for each width."""
        return {f"plane{width}": frozenset({"uint8"}) for width in self.widths}

    def problem(self, parts: Mapping[str, Form], form: Form) -> str:
        """Each plane is as long as the codes need."""
        if form.dtype not in (np.int8, np.uint8):
            return f"{form.dtype.name} codes cannot be packed"
        for width in self.widths:
            wanted = (_packed_size(form.shape, width),)
            found = parts[f"plane{width}"].shape
            if found != wanted:
                return f"plane{width} has the shape {found}, not {wanted}"
        return ""

    def encode(self, codes: Array) -> Mapping[str, Array]:
        """The planes."""
        left = np.ascontiguousarray(codes).reshape(-1).view(np.uint8)
        if codes.dtype == np.int8:
            left = left + np.uint8(self._bias)  # wraps as intended
        planes: dict[str, Array] = {}
        low = self.bits
        for width in self.widths:
            low -= width
            planes[f"plane{width}"] = _pack((left >> np.uint8(low)) & np.uint8(2**width - 1), width)
        return planes

    def decode(self, parts: Mapping[str, Array], form: Form) -> Array:
        """The codes."""
        size = math.prod(form.shape)
        codes = np.zeros(size, np.uint8)
        for width in self.widths:
            codes <<= np.uint8(width)
            codes |= _unpack(parts[f"plane{width}"].astype(np.uint8, copy=False), width)[:size]
        if form.dtype == np.int8:
            codes -= np.uint8(self._bias)
        return codes.view(form.dtype).reshape(form.shape)

    def decoding_ops(self, nodes: Nodes, parts: Mapping[str, Part], form: Form) -> Input:
        """Shifts and masks; the codes are in memory as bytes from then on."""
        size = math.prod(form.shape)
        codes: Input | None = None
        for width in self.widths:
            plane = _unpacking(nodes, parts[f"plane{width}"], width, size)
            if codes is not None:
                codes = nodes.add("LeftShift", codes, nodes.constant(width, np.uint8), T=tf.uint8)
                plane = nodes.add("BitwiseOr", codes, plane, T=tf.uint8)
            codes = plane
        assert codes is not None
        if form.dtype == np.int8:
            codes = nodes.add("Cast", codes, SrcT=tf.uint8, DstT=tf.int8)
            codes = nodes.add("Sub", codes, nodes.constant(self._bias, np.int8), T=tf.int8)
        return nodes.reshape(codes, form.shape, tf.as_dtype(form.dtype))

    @property
    def _bias(self) -> int:
        return 1 << (self.bits - 1)


def _packed_size(shape: tuple[int, ...], width: int) -> int:
    return -(-math.prod(shape) * width // 8)


def _pack(values: Bytes, width: int) -> Bytes:
    per_byte = 8 // width
    padded = np.zeros((_packed_size(values.shape, width), per_byte), np.uint8)
    padded.reshape(-1)[: values.size] = values
    packed = np.zeros(len(padded), np.uint8)
    for position in range(per_byte):
        packed |= padded[:, position] << np.uint8(position * width)
    return packed


def _unpack(plane: Bytes, width: int) -> Bytes:
    shifts = np.arange(0, 8, width, dtype=np.uint8)
    return ((plane[:, None] >> shifts) & np.uint8(2**width - 1)).reshape(-1)


def _unpacking(nodes: Nodes, plane: Part, width: int, size: int) -> Input:
    column = nodes.reshape(plane.source, (-1, 1), tf.uint8)
    shifted = nodes.add("RightShift", column, nodes.constant(range(0, 8, width), np.uint8), T=tf.uint8)
    masked = nodes.add("BitwiseAnd", shifted, nodes.constant(2**width - 1, np.uint8), T=tf.uint8)
    flat = nodes.reshape(masked, (-1,), tf.uint8)
    if size * width % 8 == 0:
        return flat
    begin, sizes = nodes.constant([0], np.int32), nodes.constant([size], np.int32)
    return nodes.add("Slice", flat, begin, sizes, T=tf.uint8, Index=tf.int32)
