"""Slices: the examples of a dataset told apart by a key of the data, or by which bucket its number falls into."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tfslim_core.errors import DataError, UsageError
from tfslim_core.metrics import readable
from tfslim_core.validation.records import Record

Array = NDArray[Any]

MOST_SLICES = 200  # of a key: each takes memory of its own
NONE = "(none)"
_SHOWN = 100  # characters of a value


@dataclass(frozen=True)
class Slicing:
    """What examples are told apart by: each value of a key, or buckets between `edges`, the lower edge within."""

    key: str
    edges: tuple[float, ...] = ()

    @cached_property
    def names(self) -> list[str]:
        """The slices that there are before any data is seen: those of buckets, and the one for no value."""
        ends = [f"{edge:.15g}" for edge in self.edges]
        if not ends:
            return [f"{self.key}={NONE}"]
        between = [f"{low}<={self.key}<{high}" for low, high in pairwise(ends)]
        return [f"{self.key}<{ends[0]}", *between, f"{self.key}>={ends[-1]}", f"{self.key}={NONE}"]

    def slices(self, record: Record, rows: int) -> Array:
        """The slice of each row of a record, [rows] str.

        Raises:
            DataError: a value is no scalar, or a fraction or text where that has no slice.
        """
        found = np.empty(rows, object)
        found[:] = [self._slice(value) for value in column(record, self.key, rows)]
        return found

    def _slice(self, value: Any) -> str:
        value = value.decode(errors="replace") if isinstance(value, bytes) else value
        if value is None or value == "" or (isinstance(value, float) and math.isnan(value)):
            return f"{self.key}={NONE}"
        if self.edges:
            try:
                number = float(value)
            except (TypeError, ValueError):
                raise DataError(f"{self.key!r} is sliced by buckets, and {str(value)[:40]!r} is no number") from None
            return self.names[int(np.searchsorted(self.edges, number, side="right"))]
        if isinstance(value, bool):
            return f"{self.key}={str(value).lower()}"
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if not isinstance(value, str | int):
            raise DataError(
                f"{self.key!r} is neither text, a whole number nor a boolean; slice numbers by buckets, such as "
                f"--slice {self.key}:0.1,1,10"
            )
        return f"{self.key}={readable(str(value)[:_SHOWN])}"


def parse_slicing(text: str) -> Slicing:
    """A slicing from `KEY` or `KEY:10,100,1000`.

    Raises:
        UsageError: it is of neither form, or the numbers do not ascend.
    """
    key, colon, listed = text.strip().rpartition(":")
    if not colon:
        key, listed = listed, ""
    try:
        edges = tuple(float(edge) for edge in listed.split(",")) if colon else ()
    except ValueError:
        edges = (math.nan,)
    ascending = all(low < high for low, high in pairwise(edges))
    if not key or not all(map(math.isfinite, edges)) or not ascending:
        raise UsageError(f"slice {text!r} is not KEY or KEY:NUMBER,NUMBER,… with the numbers ascending")
    return Slicing(key, edges)


def parse_slicings(texts: Sequence[str]) -> list[Slicing]:
    """The slicings of several texts.

    Raises:
        UsageError: one is not understood, or two are of the same key.
    """
    slicings = [parse_slicing(text) for text in texts]
    keys = [slicing.key for slicing in slicings]
    twice = next((key for key in keys if keys.count(key) > 1), None)
    if twice is not None:
        raise UsageError(f"slice {twice!r} is given twice; give all its buckets at once")
    return slicings


def column(record: Record, key: str, rows: int) -> list[Any]:
    """One value for each row of a record: plain Python scalars, None for what is missing.

    Raises:
        DataError: there is another number of values.
    """
    value = record.values.get(key) if record.values is not None else None
    if value is None:
        return [None] * rows
    values = np.asarray(value, object).reshape(-1).tolist() if not isinstance(value, str | bytes) else [value]
    if not values:
        return [None] * rows
    if len(values) != rows:
        found = len(values) // rows if rows and len(values) % rows == 0 else len(values)
        raise DataError(f"expected one value for {key!r}, found {found}")
    return [item.item() if isinstance(item, np.generic) else item for item in values]
