"""What readers give: records, or what is wrong with them; and where in a dataset each one is."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
# (value, dtype, shape of one example or None where unknown) -> array of that dtype; DataError where it does not fit.
Convert = Callable[[Any, "np.dtype[Any]", "tuple[int | None, ...] | None"], Array]

_RANGE_BITS = 40  # records in a range: up to 10^12


@dataclass(frozen=True)
class Range:
    """A part of a file that one worker reads.

    number: its place among all ranges of the dataset, by file and then by position. start, stop: bytes or rows, as the
    format counts; stop None is the end of the file. stamp: size and time of the file when it was cut, see `stamp_of`;
    None where nobody looked.
    """

    number: int
    file: str
    start: int = 0
    stop: int | None = None
    stamp: tuple[int, int] | None = None


@dataclass(frozen=True)
class Record:
    """One record as its format gives it; not yet arrays of the signature.

    number: its place in the range. values: by key; None where the record is a bare value. whole: that bare value, or
    the record as it was serialized. rows: None for one example; else each value is an array with that many, and each
    of them is a record by itself if `counted`. signature: the one that the record names itself, or empty. unread: why
    nothing but the serialized record is known, or empty.
    """

    number: int
    values: Mapping[str, Any] | None
    convert: Convert
    whole: Any = None
    rows: int | None = None
    counted: bool = False
    signature: str = ""
    unread: str = ""


@dataclass(frozen=True)
class BadRecord:
    """A record that could not be read or fed.

    shown: the record, shortened, or None where it is no use. ends: nothing after it in the file could be read.
    count: how many records are lost with it, where that is known.
    """

    number: int
    error: str
    shown: Any = None
    ends: bool = False
    count: int = 1


@dataclass(frozen=True)
class Letter:
    """A bad record on its way to the dead letters; place as in `place`, the rest as in BadRecord."""

    dataset: str
    place: int
    error: str
    shown: Any = None
    ends: bool = False
    count: int = 1


def place(range_number: int, record: int) -> int:
    """One number for where a record is: it orders the records of a dataset, however many workers read it."""
    return range_number << _RANGE_BITS | record


def split_place(value: int) -> tuple[int, int]:
    """The range's number and the record's number in it."""
    return value >> _RANGE_BITS, value & ((1 << _RANGE_BITS) - 1)
