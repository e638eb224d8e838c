"""Numbers cut into their bytes: all lowest bytes, then all second lowest, and so on up to sign and exponent.

The bytes of a plane are alike, where those of one number are not: the exponents of a layer's weights are few, and the
high bytes of counts and ids are zeros. Each plane is stored as what is smallest for it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import tensorflow as tf

from tfslim_core.encodings.scheme import Form, Nodes, Part
from tfslim_core.graph import Input
from tfslim_core.weights import Array, aligned


@dataclass(frozen=True)
class BytePlanes:
    """Numbers of `count` bytes, of any dtype but bool; "plane0" are the lowest."""

    count: int
    by_row = frozenset[str]()

    @property
    def roles(self) -> Mapping[str, frozenset[str]]:
        """The planes."""
        return {f"plane{number}": frozenset({"uint8"}) for number in range(self.count)}

    def problem(self, parts: Mapping[str, Form], form: Form) -> str:
        """Each plane has a byte of each element."""
        if form.dtype.itemsize != self.count:
            return f"{form.dtype.name} has {form.dtype.itemsize} bytes"
        wanted = (math.prod(form.shape),)
        return next((f"{role} has the shape {part.shape}" for role, part in parts.items() if part.shape != wanted), "")

    def encode(self, value: Array) -> Mapping[str, Array]:
        """The planes."""
        numbers = np.ascontiguousarray(value).reshape(-1).view(np.uint8).reshape(-1, self.count)
        return {f"plane{number}": np.ascontiguousarray(numbers[:, number]) for number in range(self.count)}

    def decode(self, parts: Mapping[str, Array], form: Form) -> Array:
        """The numbers."""
        decoded = aligned(form.shape, form.dtype)
        numbers = decoded.reshape(-1).view(np.uint8).reshape(-1, self.count)
        for number in range(self.count):
            numbers[:, number] = parts[f"plane{number}"]
        return decoded

    def decoding_ops(self, nodes: Nodes, parts: Mapping[str, Part], form: Form) -> Input:
        """Pack, Bitcast."""
        planes = [parts[f"plane{number}"].source for number in range(self.count)]
        dtype = tf.as_dtype(form.dtype)
        numbers = nodes.add("Pack", *planes, N=self.count, T=tf.uint8, axis=1)
        return nodes.reshape(nodes.add("Bitcast", numbers, T=tf.uint8, type=dtype), form.shape, dtype)
