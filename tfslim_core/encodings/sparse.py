"""Weights that are mostly zero: a bit for each element, and the values of those that are not.

    w = 0 0 7 0 -2        codes = 0 0 1 0 1        values = 7 -2

`sparse` is bit for bit the same: what counts as zero has no bit set, so -0.0 is a value, and so are NaN and infinity.
`sparse16` and `sparse8` store the values as float16, or as int8 with one scale.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import tensorflow as tf

from tfslim_core.encodings.distinct import bit_patterns
from tfslim_core.encodings.output_error import Moments
from tfslim_core.encodings.scheme import Floats, Form, Nodes, NotEncodableError, Part, Sharing
from tfslim_core.errors import ModelError
from tfslim_core.graph import Input
from tfslim_core.weights import Array

_INTEGERS = {4: tf.int32, 8: tf.int64}
_DTYPES = frozenset({"float32", "float64", "int32", "int64"})
_BITS = {"": 32, "float16": 16, "int8": 8}


@dataclass(frozen=True)
class Sparse:
    """A mask and values. stored_as: the encoding of the values; as they are unless told."""

    stored_as: str = ""
    bits: int = 1
    by_row = frozenset[str]()
    sharings: tuple[str, ...] = ()

    @property
    def exact(self) -> bool:
        """Whether the values are stored as they are."""
        return not self.stored_as

    @property
    def roles(self) -> Mapping[str, frozenset[str]]:
        """Codes are 1 where there is a value."""
        return {"codes": frozenset({"uint8"}), "values": _DTYPES}

    def problem(self, parts: Mapping[str, Form], form: Form) -> str:
        """The codes have the weight's shape; there are no more values than elements."""
        codes, values = parts["codes"], parts["values"]
        if codes.shape != form.shape:
            return f"the codes have the shape {codes.shape}"
        return "" if len(values.shape) == 1 and values.dtype == form.dtype else f"the values are {values}"

    def encode(self, value: Floats, sharing: Sharing, moments: Moments | None = None) -> Mapping[str, Array]:
        """Refuses where the mask would take more than the zeros."""
        del sharing, moments
        parts = self.split(value)
        zeros = value.size - parts["values"].size
        if zeros * _BITS[self.stored_as] <= value.size:
            raise NotEncodableError(f"too few of its values are zero ({100 * zeros / max(value.size, 1):.2g} %)")
        return parts

    def split(self, value: Array) -> Mapping[str, Array]:
        """Mask and values of an array of any dtype that is 4 or 8 bytes wide."""
        given = bit_patterns(value) != 0
        return {
            "codes": given.view(np.uint8).reshape(value.shape),
            "values": np.ascontiguousarray(value).reshape(-1)[given],
        }

    def decode(self, parts: Mapping[str, Array], form: Form) -> Array:
        """The values where they belong."""
        given = parts["codes"] != 0
        if np.count_nonzero(given) != len(parts["values"]):
            raise ModelError("a sparse weight is damaged: its values are too few or too many")
        decoded: Array = np.zeros(form.shape, form.dtype)
        decoded[given] = parts["values"]
        return decoded

    def decoding_ops(self, nodes: Nodes, parts: Mapping[str, Part], form: Form) -> Input:
        """Where, ScatterNd: of the values' bits as integers, since the op adds to zero, which would lose -0.0."""
        dtype, integer = tf.as_dtype(form.dtype), _INTEGERS[form.dtype.itemsize]
        mask, values = (parts[role].source for role in ("codes", "values"))
        where = nodes.add("Where", nodes.reshape(mask, (-1,), tf.uint8), T=tf.uint8)
        if dtype != integer:
            values = nodes.add("Bitcast", values, T=dtype, type=integer)
        size = nodes.constant([math.prod(form.shape)], np.int64)
        whole = nodes.add("ScatterNd", where, values, size, T=integer, Tindices=tf.int64)
        if dtype != integer:
            whole = nodes.add("Bitcast", whole, T=integer, type=dtype)
        return nodes.reshape(whole, form.shape, dtype)
