"""Inputs that are parts of one tensor, sparse or ragged, and values for them that fit each other.

A signature of TensorFlow 1 says which inputs these are (`key/indices`, `key/values`, `key/dense_shape`). One of
TensorFlow 2 has them flattened under names of their own (`key`, `key_1`, `key_2`), and only their dtypes and shapes
tell: integers of two dimensions, values, and as many integers as the first has columns; or values and a vector of
integers. That is a guess, good enough to make up a request.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from tfslim_core.saved_model.served_signatures import TensorSpec

_INTEGERS = (np.dtype(np.int64), np.dtype(np.int32))


@dataclass(frozen=True)
class Sparse:
    """The keys of a sparse tensor's parts."""

    indices: str
    values: str
    dense_shape: str

    def feeds(
        self, inputs: Mapping[str, TensorSpec], batch: int, size: int, rng: np.random.Generator
    ) -> dict[str, np.ndarray]:
        """One value in each row of a batch."""
        rank = (inputs[self.indices].shape or (None, None))[1] or (inputs[self.dense_shape].shape or (2,))[0] or 2
        known = inputs[self.dense_shape].whole or (None,) * rank
        shape = [n if n is not None else batch if axis == 0 else size for axis, n in enumerate(known)]
        indices = np.array([[min(row, n - 1) for n in shape] for row in range(shape[0])], np.int64).reshape(-1, rank)
        return {
            self.indices: indices,
            self.values: _values(inputs[self.values].dtype, len(indices), rng),
            self.dense_shape: np.array(shape, np.int64),
        }


@dataclass(frozen=True)
class Ragged:
    """The keys of a ragged tensor's values, of one ragged dimension, and where its rows begin."""

    values: str
    splits: str

    def feeds(
        self, inputs: Mapping[str, TensorSpec], batch: int, size: int, rng: np.random.Generator
    ) -> dict[str, np.ndarray]:
        """Rows of two values, and of none in the last."""
        spec = inputs[self.values]
        shape = [2 * (batch - 1), *(size if n is None else n for n in (spec.shape or (None,))[1:])]
        ends = np.minimum(2 * np.arange(batch + 1), shape[0]).astype(inputs[self.splits].dtype)
        return {self.values: _values(spec.dtype, int(np.prod(shape)), rng).reshape(shape), self.splits: ends}


def composites(inputs: Mapping[str, TensorSpec]) -> list[Sparse | Ragged]:
    """The tensors whose parts are among the inputs, each part in one of them."""
    found: list[Sparse | Ragged] = []
    used: set[str] = set()
    for key in sorted(inputs):
        for one in (*_named(key), *_flattened(key)):
            parts = vars(one).values()
            if used.isdisjoint(parts) and all(part in inputs for part in parts) and _fits(one, inputs):
                found.append(one)
                used |= set(parts)
    return found


def _named(key: str) -> list[Sparse | Ragged]:
    whole, _, part = key.rpartition("/")
    return [Sparse(key, f"{whole}/values", f"{whole}/dense_shape")] if part == "indices" else []


def _flattened(key: str) -> list[Sparse | Ragged]:
    return [Sparse(key, f"{key}_1", f"{key}_2"), Ragged(key, f"{key}_1")]


def _fits(one: Sparse | Ragged, inputs: Mapping[str, TensorSpec]) -> bool:
    if isinstance(one, Ragged):
        splits, values = inputs[one.splits], inputs[one.values]
        return splits.dtype in _INTEGERS and splits.shape == (None,) and bool(values.shape) and _unknown(values, 0)
    indices, values, whole = inputs[one.indices], inputs[one.values], inputs[one.dense_shape]
    return (
        indices.dtype == whole.dtype == np.dtype(np.int64)
        and indices.shape is not None
        and whole.shape is not None
        and (len(indices.shape), len(whole.shape)) == (2, 1)
        and indices.shape[1] == whole.shape[0]
        and values.shape == (None,)
    )


def _unknown(spec: TensorSpec, axis: int) -> bool:
    return spec.shape is not None and spec.shape[axis] is None


def _values(dtype: np.dtype[np.generic], count: int, rng: np.random.Generator) -> np.ndarray:
    if dtype.kind == "O":
        return np.array([b"value"] * count, object)
    if dtype.kind == "f":
        return rng.random(count).astype(dtype)
    return rng.integers(0, 2, count).astype(dtype)
