"""How many records a dataset has, about: counted where a file says it, else judged by the start of a few files."""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Sequence
from pathlib import Path

from tfslim_core.errors import DataError
from tfslim_core.validation.npz import row_count
from tfslim_core.validation.packed import packing_of
from tfslim_core.validation.readers import parquet_rows
from tfslim_core.validation.sources import Dataset

_SAMPLED_FILES = 4
_SAMPLED_BYTES = 256 << 10


def expected_records(dataset: Dataset) -> int | None:
    """The number of records, right within a few per cent where they are of a size; None where nothing tells."""
    files = list(dict.fromkeys(part.file for part in dataset.ranges))
    try:
        if all(file.endswith((".npz", ".parquet")) for file in files):
            return sum(map(_counted, files))
        return _by_size([file for file in files if os.path.getsize(file)])
    except (OSError, DataError, zlib.error):
        return None


def _counted(file: str) -> int:
    return parquet_rows(file) if file.endswith(".parquet") else row_count(file)


def _by_size(files: Sequence[str]) -> int | None:
    """From records per byte at the start of files that are spread over all of them."""
    step = max(1, len(files) // _SAMPLED_FILES)
    counts = [_at_start(file) for file in files[::step][:_SAMPLED_FILES]]
    records, read = (sum(numbers) for numbers in zip(*counts, strict=True)) if counts else (0, 0)
    if not records or not read:
        return None
    return max(1, round(records / read * sum(map(os.path.getsize, files))))


def _at_start(file: str) -> tuple[int, int]:
    """(records, bytes of the file that hold them) at a file's start."""
    with Path(file).open("rb") as opened:
        data = opened.read(_SAMPLED_BYTES)
    stored, name = len(data), file
    if packing_of(file) not in ("", ".gz"):
        raise DataError(f"{file}: a sample of it cannot be unpacked")
    if file.endswith(".gz"):
        name = file.removesuffix(".gz")
        data = zlib.decompressobj(wbits=31).decompress(data)
    if name.endswith(".tfrecord"):
        records, whole = _frames(data)
    else:
        # The last line may lack its end, and a line that is cut off by the sample is none yet.
        ends = stored < _SAMPLED_BYTES and not data.endswith(b"\n")
        whole = len(data) if ends else data.rfind(b"\n") + 1 or len(data)
        records = max(1, data.count(b"\n", 0, whole) + ends) - name.endswith(".csv")
    return records, round(stored * whole / max(1, len(data)))


def _frames(data: bytes) -> tuple[int, int]:
    """(whole frames, bytes of them): each is a length of 8 bytes, a checksum of 4, the record, a checksum of 4."""
    records = start = 0
    while start + 12 <= len(data):
        (length,) = struct.unpack_from("<Q", data, start)
        if start + 16 + length > len(data):
            break
        start += 16 + length
        records += 1
    return records, start
