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
from tfslim_core.metrics import shorten
from tfslim_core.validation.batches import Batch, Batcher
from tfslim_core.validation.feeding import Feeding
from tfslim_core.validation.readers import format_of
from tfslim_core.validation.records import BadRecord, Letter, Range, Record, place

# What one worker takes at a time: small enough to share, large enough that a batch fills.
RANGE_BYTES = 32 << 20
PEEKED = 64

Shard = tuple[Range, ...]


@dataclass(frozen=True)
class Dataset:
    """A named dataset, cut into ranges; `path` as it was given, a glob perhaps."""

    name: str
    path: str
    ranges: tuple[Range, ...]


def open_dataset(name: str, path: str, range_bytes: int = RANGE_BYTES) -> Dataset:
    """Find the files of a dataset and cut them into ranges, in the order of file names.

    Raises:
        DataError: no file is there, its extension is unknown, or a file is damaged as a whole.
    """
    ranges: list[Range] = []
    for file in _files(path):
        cuts = format_of(file).cuts(file, range_bytes)
        for start, stop in zip(cuts, [*cuts[1:], None], strict=True):
            ranges.append(Range(len(ranges), file, start, stop))
    return Dataset(name, path, tuple(ranges))


def shards(dataset: Dataset, range_bytes: int = RANGE_BYTES) -> list[Shard]:
    """The ranges in portions for workers: small files together, so that they fill batches together."""
    found: list[list[Range]] = [[]]
    taken = 0
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
        DataError: a file is damaged as a whole.
    """
    batcher = Batcher(dataset, feeding.inputs, batch_size)
    finished: dict[int, int] = {}
    for part in shard:
        records = 0
        for item in format_of(part.file).read(part, batcher.batch_size, feeding.keys):
            if isinstance(item, BadRecord):
                records = item.number + 1
                yield Letter(dataset, place(part.number, item.number), item.error, item.shown)
                continue
            count = item.rows or 1 if item.counted else 1
            records = item.number + count
            try:
                yield from batcher.add(feeding.rows(item), part.number)
            except DataError as error:
                for row in range(count):
                    yield Letter(dataset, place(part.number, item.number + row), str(error), _shown(item, row))
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


def _files(path: str) -> list[str]:
    if os.path.isfile(path):
        return [path]
    found = sorted(file for file in glob.glob(path, recursive=True) if os.path.isfile(file))
    if found:
        return found
    if glob.has_magic(path):
        raise DataError(f"{path} matches no file")
    kind = "is a directory; give its files, such as a glob" if os.path.isdir(path) else "no such file"
    raise DataError(f"{path}: {kind}")
