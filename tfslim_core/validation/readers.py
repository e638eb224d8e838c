"""Data files, format by format: where they can be cut into ranges, and the records of a range.

A reader gives records and bad records; it raises DataError only for what makes the whole file unusable. What ends a
file early (a broken frame, a cut archive) is one bad record.
"""

from __future__ import annotations

import importlib
import json
import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tfslim_core.errors import DataError
from tfslim_core.metrics import shorten
from tfslim_core.one_line import one_line
from tfslim_core.validation import csv_rows
from tfslim_core.validation.convert import from_array, from_flat, from_nested
from tfslim_core.validation.messages import parse_example, parse_prediction_log
from tfslim_core.validation.npz import read_rows, rest, row_cuts
from tfslim_core.validation.packed import CUT_OFF, PACKINGS, open_data, packing_of
from tfslim_core.validation.records import BadRecord, Range, Record
from tfslim_core.validation.tfrecord import frame_starts, read_frames

Item = Record | BadRecord
Array = NDArray[Any]
WARMUP_FILE = "tf_serving_warmup_requests"  # as TensorFlow Serving wants it named: TFRecords without an extension
_ARROW = (LookupError, NotImplementedError, OSError, OverflowError, TypeError, ValueError)  # pyarrow's own are such


@dataclass(frozen=True)
class Format:
    """How to read one kind of file.

    cuts: (file, bytes wanted per range) -> the positions at which ranges start, the first 0. read: (range, rows to read
    at a time, keys wanted or None for all) -> its records.
    """

    cuts: Callable[[str, int], Sequence[int]]
    read: Callable[[Range, int, frozenset[str] | None], Iterator[Item]]


def format_of(file: str) -> Format:
    """The format by the file's extension.

    Raises:
        DataError: no format has it.
    """
    packing = packing_of(file)
    name = os.path.basename(file).removesuffix(packing)
    if name == WARMUP_FILE:
        return FORMATS[".tfrecord"]
    extension = os.path.splitext(name)[1]
    if extension not in FORMATS or (packing and extension in (".npz", ".parquet")):
        known = " ".join(FORMATS)
        raise DataError(
            f"{file}: cannot tell the format by the extension; it may be one of {known}, and those of .jsonl, .csv and "
            f".tfrecord with one of {' '.join(PACKINGS)} behind it"
        )
    return FORMATS[extension]


def _line_cuts(file: str, every: int) -> Sequence[int]:
    """Every so many bytes: a range has the lines that start in it."""
    return [0] if packing_of(file) else range(0, max(1, os.path.getsize(file)), every)


def _read_jsonl(part: Range, rows: int, keys: frozenset[str] | None) -> Iterator[Item]:
    number = 0
    with open_data(part.file) as file:
        if part.start:
            file.seek(part.start - 1)
            file.readline()
        try:
            while (part.stop is None or file.tell() < part.stop) and (line := file.readline()):
                if line.isspace():
                    continue
                try:
                    yield _json_record(number, _parsed(line))
                except (ValueError, RecursionError) as error:
                    # Without the place, which differs from line to line, so that lines of one error are told as such.
                    yield BadRecord(number, f"the line is not JSON: {getattr(error, 'msg', error)}", shorten(line))
                number += 1
        except CUT_OFF as error:
            yield BadRecord(number, f"the file cannot be read on: {error}", ends=True)


def _parsed(line: bytes) -> Any:
    return _DECODER.decode(line.decode(json.detect_encoding(line), "surrogatepass"))


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Which of two values a server takes is not told by JSON."""
    found = dict(pairs)
    if len(found) != len(pairs):
        twice = next(key for key, many in Counter(key for key, _ in pairs).items() if many > 1)
        raise ValueError(f"it has the key {shorten(twice)!r} twice")
    return found


_DECODER = json.JSONDecoder(object_pairs_hook=_object)


def _json_record(number: int, value: Any) -> Record | BadRecord:
    if isinstance(value, list) and any(isinstance(item, dict) and set(item) != {"b64"} for item in value):
        return BadRecord(number, "the line is a list of records; a .jsonl file has each on a line of its own")
    named = isinstance(value, dict) and set(value) != {"b64"}
    return Record(number, value if named else None, from_nested, whole=value)


def _frame_cuts(file: str, every: int) -> Sequence[int]:
    size = os.path.getsize(file)
    if packing_of(file) or size <= every:
        return [0]
    with open(file, "rb") as opened:
        return frame_starts(opened, size, every)


def _read_tfrecord(part: Range, rows: int, keys: frozenset[str] | None) -> Iterator[Item]:
    number = 0
    with open_data(part.file) as file:
        if part.start:
            file.seek(part.start)
        try:
            for data in read_frames(file, part.stop):
                yield _tfrecord_record(number, data)
                number += 1
        except DataError as error:
            yield BadRecord(number, f"{error}; the file is not read on", ends=True)
        except CUT_OFF as error:
            yield BadRecord(number, f"the file cannot be read on: {error}", ends=True)


def _tfrecord_record(number: int, data: bytes) -> Record:
    """A request, a tf.Example, or what only a model that takes it serialized knows how to read."""
    try:
        request = parse_prediction_log(data)
        if request is None:
            return Record(number, parse_example(data), from_flat, whole=data)
    except DataError as error:
        return Record(number, None, from_flat, whole=data, unread=str(error))
    signature, inputs = request
    if isinstance(inputs, dict):
        sizes = {len(array) for array in inputs.values() if array.ndim}
        rows = sizes.pop() if len(sizes) == 1 else 1
        return Record(number, inputs, from_array, rows=rows, signature=signature)
    examples = np.empty(len(inputs), object)
    examples[:] = inputs
    return Record(number, None, from_array, whole=examples, rows=len(inputs), signature=signature)


def _parquet_cuts(file: str, every: int) -> Sequence[int]:
    """Row groups, each a range."""
    return range(max(1, _parquet(file).num_row_groups))


def parquet_rows(file: str) -> int:
    """How many rows a parquet file has.

    Raises:
        DataError: it is no parquet file, or is cut off.
    """
    return int(_parquet(file).metadata.num_rows)


def _read_parquet(part: Range, rows: int, keys: frozenset[str] | None) -> Iterator[Item]:
    file = _parquet(part.file)
    wanted = [name for name in file.schema_arrow.names if keys is None or name in keys]
    stop = file.num_row_groups if part.stop is None else part.stop
    total = sum(file.metadata.row_group(group).num_rows for group in range(part.start, stop))
    number = 0
    try:
        for batch in file.iter_batches(rows, list(range(part.start, stop)), wanted):
            for row in batch.to_pylist():
                yield Record(number, row, from_nested)
                number += 1
    except _ARROW as error:
        lost = max(1, total - number)
        yield BadRecord(number, f"the file cannot be read on: {one_line(error)}{rest(lost)}", ends=True, count=lost)


def _parquet(file: str) -> Any:
    parquet = importlib.import_module("pyarrow.parquet")
    try:
        opened = parquet.ParquetFile(file)
    except _ARROW as error:
        raise DataError(f"{file} is no parquet file, or is cut off: {one_line(error)}") from None
    twice = next((name for name, many in Counter(opened.schema_arrow.names).items() if many > 1), None)
    if twice is not None:
        raise DataError(f"{file}: there are two columns {twice!r}; each needs a name of its own")
    return opened


FORMATS = {
    ".jsonl": Format(_line_cuts, _read_jsonl),
    ".npz": Format(row_cuts, read_rows),
    ".tfrecord": Format(_frame_cuts, _read_tfrecord),
    ".csv": Format(csv_rows.row_starts, csv_rows.read_rows),
    ".parquet": Format(_parquet_cuts, _read_parquet),
}
