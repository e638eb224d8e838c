"""Arrays of any dtype that a few numbers tell, bit for bit: fills, ranges, and lookups of at most 256 values."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from tfslim_core.encodings.distinct import bit_patterns, distinct, positions
from tfslim_core.encodings.scheme import Form, Nodes, Part
from tfslim_core.errors import ModelError
from tfslim_core.graph import Input
from tfslim_core.weights import DTYPES, Array

_ANY = frozenset(DTYPES)
_RANGES = frozenset({"int32", "int64", "float32", "float64"})
_GLANCE = 1024  # elements that are looked at before all are


def _dtype_problem(parts: Mapping[str, Form], form: Form, *roles: str) -> str:
    """Why parts that hold values of the array cannot."""
    return next((f"the {role} is {parts[role].dtype.name}" for role in roles if parts[role].dtype != form.dtype), "")


@dataclass(frozen=True)
class Fill:
    """One value, in every element."""

    by_row = frozenset[str]()

    @property
    def roles(self) -> Mapping[str, frozenset[str]]:
        """The value."""
        return {"value": _ANY}

    def problem(self, parts: Mapping[str, Form], form: Form) -> str:
        """It is a scalar of the array's dtype."""
        shape = parts["value"].shape
        return f"the value has the shape {shape}" if shape else _dtype_problem(parts, form, "value")

    def encode(self, value: Array) -> Mapping[str, Array] | None:
        """The parts, or None where the elements are not all the same."""
        patterns = bit_patterns(value)
        if not patterns.size or (patterns[:_GLANCE] != patterns[0]).any() or (patterns != patterns[0]).any():
            return None
        return {"value": np.ascontiguousarray(value).reshape(-1)[:1].reshape(())}

    def decode(self, parts: Mapping[str, Array], form: Form) -> Array:
        """The value over and over."""
        return np.full(form.shape, parts["value"], form.dtype)

    def decoding_ops(self, nodes: Nodes, parts: Mapping[str, Part], form: Form) -> Input:
        """Fill."""
        sizes = nodes.constant(form.shape, np.int32)
        return nodes.add("Fill", sizes, parts["value"].source, T=tf.as_dtype(form.dtype), index_type=tf.int32)


@dataclass(frozen=True)
class Range:
    """start + i x delta, i counting the elements in flat order; integers wrap, floats are rounded twice."""

    by_row = frozenset[str]()

    @property
    def roles(self) -> Mapping[str, frozenset[str]]:
        """The first element, and the difference of one to the next."""
        return {"start": _RANGES, "delta": _RANGES}

    def problem(self, parts: Mapping[str, Form], form: Form) -> str:
        """Both are scalars of the array's dtype."""
        found = next((f"the {role} has the shape {part.shape}" for role, part in parts.items() if part.shape), "")
        return found or _dtype_problem(parts, form, "start", "delta")

    def encode(self, value: Array) -> Mapping[str, Array] | None:
        """The parts, or None where it is no such range. Subnormal numbers are none: TensorFlow takes them for zero."""
        flat: NDArray[Any] = np.ascontiguousarray(value).reshape(-1)
        if value.dtype.name not in _RANGES or flat.size < 2 or not np.isfinite(flat[:2]).all():
            return None
        with np.errstate(all="ignore"):
            steps = [flat[1:2] - flat[:1]]
            if flat.dtype.kind == "f":
                steps.append((flat[-1:] - flat[:1]) / flat.dtype.type(flat.size - 1))  # as linspace computes it
            for delta in steps:
                parts: dict[str, Array] = {"start": flat[:1].reshape(()), "delta": delta.reshape(())}
                if all(_is_range(flat[:size], parts) for size in (_GLANCE, flat.size)):
                    return parts
        return None

    def decode(self, parts: Mapping[str, Array], form: Form) -> Array:
        """The sums."""
        return _range(parts, math.prod(form.shape), form).reshape(form.shape)

    def decoding_ops(self, nodes: Nodes, parts: Mapping[str, Part], form: Form) -> Input:
        """Range, Cast, Mul, Add: TensorFlow's own Range of floats would add up its rounding."""
        dtype = tf.as_dtype(form.dtype)
        ends = [nodes.constant(number, np.int32) for number in (0, math.prod(form.shape), 1)]
        steps = nodes.cast(nodes.add("Range", *ends, Tidx=tf.int32), tf.int32, dtype)
        steps = nodes.add("Mul", steps, parts["delta"].source, T=dtype)
        return nodes.reshape(nodes.add("AddV2", steps, parts["start"].source, T=dtype), form.shape, dtype)


def _is_range(flat: NDArray[Any], parts: Mapping[str, Array]) -> bool:
    made = _range(parts, flat.size, Form(flat.dtype, flat.shape))
    if (bit_patterns(made) != bit_patterns(flat)).any():
        return False
    if flat.dtype.kind != "f":
        return True
    tiny = np.finfo(flat.dtype).tiny
    return all(not ((np.abs(numbers) > 0) & (np.abs(numbers) < tiny)).any() for numbers in (made, parts["delta"]))


def _range(parts: Mapping[str, Array], size: int, form: Form) -> Array:
    start, delta = (parts[role].astype(form.dtype).reshape(1) for role in ("start", "delta"))
    with np.errstate(all="ignore"):
        made: Array = np.arange(size, dtype=np.int32).astype(form.dtype)
        np.multiply(made, delta, out=made)
        np.add(made, start, out=made)
    return made


@dataclass(frozen=True)
class Lookup:
    """At most 256 different values, and for each element which of them it is."""

    by_row = frozenset({"codes"})

    @property
    def roles(self) -> Mapping[str, frozenset[str]]:
        """Codes, and the values that they number."""
        return {"codes": frozenset({"uint8"}), "values": _ANY}

    def problem(self, parts: Mapping[str, Form], form: Form) -> str:
        """The codes have the array's shape, the values its dtype."""
        if parts["codes"].shape != form.shape:
            return f"the codes have the shape {parts['codes'].shape}"
        if len(parts["values"].shape) != 1:
            return f"the values have the shape {parts['values'].shape}"
        return _dtype_problem(parts, form, "values")

    def encode(self, value: Array) -> Mapping[str, Array] | None:
        """The parts, or None where there are more values."""
        patterns = bit_patterns(value)
        found = distinct(patterns, 256)
        if found is None:
            return None
        return {"codes": positions(patterns, found).reshape(value.shape), "values": found.view(value.dtype)}

    def decode(self, parts: Mapping[str, Array], form: Form) -> Array:
        """The values."""
        codes, values = parts["codes"], parts["values"]
        if codes.size and int(codes.max(initial=0)) >= len(values):
            raise ModelError("a lookup is damaged: it lacks a value")
        found: Array = values[codes]
        return found

    def decoding_ops(self, nodes: Nodes, parts: Mapping[str, Part], form: Form) -> Input:
        """Cast, Gather."""
        numbers = nodes.cast(parts["codes"].source, tf.uint8, tf.int32)
        return nodes.add("Gather", parts["values"].source, numbers, Tparams=tf.as_dtype(form.dtype), Tindices=tf.int32)
