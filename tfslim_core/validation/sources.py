"""Datasets: the files behind a path, the ranges that workers share, and the batches and bad records in a range."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np

from tfslim_core.errors import DataError
from tfslim_core.metrics import readable, shorten
from tfslim_core.validation.batches import Batch, Batcher
from tfslim_core.validation.feeding import Feeding
from tfslim_core.validation.packed import unreadable
from tfslim_core.validation.readers import format_of
from tfslim_core.validation.records import BadRecord, Letter, Range, Record, place

# What one worker takes at a time: small enough to share, large enough that batches fill. It depends on the data alone,
# so that batches and with them all numbers are the same however many workers there are.
_PORTIONS = 16
_LEAST_BYTES, _MOST_BYTES = 1 << 20, 32 << 20
PEEKED = 64

Shard = tuple[Range, ...]


@dataclass(frozen=True)
class Dataset:
    """A named dataset, cut into ranges of about `range_bytes`; `path` as it was given, a glob perhaps."""

    name: str
    path: str
    ranges: tuple[Range, ...]
    range_bytes: int


def open_dataset(name: str, path: str, range_bytes: int | None = None) -> Dataset:
    """Find the files of a dataset and cut them into ranges, in the order of file names.

    range_bytes: of a portion for a worker; by how much data there is unless given.

    Raises:
        DataError: no file is there, its extension is unknown, or a file is damaged as a whole.
    """
    ranges: list[Range] = []
    stamps = {file: _stamp(file) for file in _files(path)}
    if range_bytes is None:
        total = sum(size for size, _ in stamps.values())
        range_bytes = min(max(total // _PORTIONS, _LEAST_BYTES), _MOST_BYTES)
    for file, stamp in stamps.items():
        cuts = format_of(file).cuts(file, range_bytes)
        for start, stop in zip(cuts, [*cuts[1:], None], strict=True):
            ranges.append(Range(len(ranges), file, start, stop, stamp))
    return Dataset(name, path, tuple(ranges), range_bytes)


def shards(dataset: Dataset) -> list[Shard]:
    """The ranges in portions for workers: small files together, so that they fill batches together."""
    found: list[list[Range]] = [[]]
    taken, range_bytes = 0, dataset.range_bytes
    for part in dataset.ranges:
        whole = part.start == 0 and part.stop is None
        weight = min(range_bytes, os.path.getsize(part.file)) if whole else range_bytes
        if found[-1] and taken + weight > range_bytes:
            found.append([])
            taken = 0
        found[-1].append(part)
        taken += weight
    return [tuple(shard) for shard in found if shard]


def first_records(dataset: Dataset, limit: int = PEEKED) -> list[Record]:
    """The readable ones of a dataset's first records."""
    return [item for item in islice(_items(dataset), limit) if isinstance(item, Record)]


def records_of(dataset: Dataset) -> Iterator[Record]:
    """The readable records of a dataset, row by row."""
    return (item for item in _items(dataset) if isinstance(item, Record))


def _items(dataset: Dataset) -> Iterator[Record | BadRecord]:
    return (item for part in dataset.ranges for item in format_of(part.file).read(part, 1, None))


def read_shard(dataset: str, shard: Sequence[Range], feeding: Feeding, batch_size: int) -> Iterator[Batch | Letter]:
    """The batches of a shard, and a letter for each bad record.

    A last batch without rows tells how many records each range had.

    Raises:
        DataError: a file is damaged as a whole, or is not what it was when it was cut.
    """
    batcher = Batcher(dataset, feeding.inputs, batch_size)
    finished: dict[int, int] = {}
    for part in shard:
        records = 0
        _check_unchanged(part)
        for item in format_of(part.file).read(part, batcher.batch_size, feeding.keys):
            if isinstance(item, BadRecord):
                records = item.number + item.count
                where = place(part.number, item.number)
                yield Letter(dataset, where, readable(item.error), item.shown, item.ends, item.count)
                continue
            count = item.rows or 1 if item.counted else 1
            records = item.number + count
            try:
                yield from batcher.add(feeding.rows(item), part.number)
            except DataError as error:
                for row in range(count):
                    where = place(part.number, item.number + row)
                    yield Letter(dataset, where, readable(str(error)), _shown(item, row))
        _check_unchanged(part)
        finished[part.number] = records
    yield from batcher.rest()
    yield Batch.empty(dataset, finished)


def _shown(record: Record, row: int) -> Any:
    if record.rows is None:
        return shorten(record.values if record.values is not None else record.whole)
    values = record.values if record.values is not None else {}
    return {
        key: shorten(value[row] if np.ndim(value) and row < len(value) else value) for key, value in values.items()
    } or None


def _stamp(file: str) -> tuple[int, int]:
    try:
        with open(file, "rb") as opened:
            found = os.fstat(opened.fileno())
    except OSError as error:
        raise unreadable(file, error) from None
    return found.st_size, found.st_mtime_ns


def _check_unchanged(part: Range) -> None:
    """Refuse a file that was written to since it was cut: its ranges may now be none, and records would be lost."""
    if part.stamp is not None and _stamp(part.file) != part.stamp:
        raise DataError(f"{part.file} was changed while it was validated; run again on data that stays as it is")


def _files(path: str) -> list[str]:
    if os.path.isfile(path):
        return [path]
    found = sorted(file for file in glob.glob(path, recursive=True) if os.path.isfile(file))
    if found:
        return found
    if glob.has_magic(path):
        raise DataError(f"{path} matches no file")
    kind = (
        f"is a directory; give its files, such as {os.path.join(path, '*.jsonl')}"
        if os.path.isdir(path)
        else "no such file"
    )
    raise DataError(f"{path}: {kind}")
