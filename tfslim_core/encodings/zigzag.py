"""Integers of more than 8 bits whose values are small but for a few: two planes of bytes, one of which is nearly empty.

    0, -1, 1, -2, 2, …  ->  0, 1, 2, 3, 4, …        low: the last 8 bits of that, high: what is left

so that the sign of a small code does not show in its high byte, which compresses to next to nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import tensorflow as tf

from tfslim_core.encodings.scheme import Form, Nodes, Part
from tfslim_core.graph import Input
from tfslim_core.weights import Array


@dataclass(frozen=True)
class Zigzag:
    """int16 codes."""

    by_row = frozenset[str]()

    @property
    def roles(self) -> Mapping[str, frozenset[str]]:
        """The two planes."""
        return {"low": frozenset({"uint8"}), "high": frozenset({"uint8"})}

    def problem(self, parts: Mapping[str, Form], form: Form) -> str:
        """Each plane has a byte for each code."""
        if form.dtype != np.int16:
            return f"{form.dtype.name} codes have no planes"
        return next((f"{role} has the shape {p.shape}" for role, p in parts.items() if p.shape != form.shape), "")

    def encode(self, codes: Array) -> Mapping[str, Array]:
        """The planes."""
        signed = codes.astype(np.int16)
        folded = ((signed << 1) ^ (signed >> 15)).view(np.uint16)
        return {"low": (folded & 255).astype(np.uint8), "high": (folded >> 8).astype(np.uint8)}

    def decode(self, parts: Mapping[str, Array], form: Form) -> Array:
        """The codes."""
        del form
        folded = parts["high"].astype(np.int16) << 8 | parts["low"].astype(np.int16)
        # Of 16 bits the highest is data here, not a sign.
        return ((folded >> 1) & 0x7FFF) ^ -(folded & 1)

    def decoding_ops(self, nodes: Nodes, parts: Mapping[str, Part], form: Form) -> Input:
        """Shifts and masks."""
        del form
        wide = {"T": tf.int16}
        low, high = (nodes.cast(parts[role].source, parts[role].dtype, tf.int16) for role in ("low", "high"))
        one = nodes.constant(1, np.int16)
        folded = nodes.add("BitwiseOr", nodes.add("LeftShift", high, nodes.constant(8, np.int16), **wide), low, **wide)
        half = nodes.add("RightShift", folded, one, **wide)
        half = nodes.add("BitwiseAnd", half, nodes.constant(0x7FFF, np.int16), **wide)
        # The lowest bit everywhere. Not Neg, which takes 16 bits from TensorFlow 2.3 on only; and Grappler before that
        # makes Neg of a subtraction from 0.
        last = nodes.constant(15, np.int16)
        sign = nodes.add("RightShift", nodes.add("LeftShift", folded, last, **wide), last, **wide)
        return nodes.add("BitwiseXor", half, sign, **wide)
