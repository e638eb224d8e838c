"""Numpy archives (.npz), read by rows: memory is bounded by the rows that are asked for, not by the file."""

from __future__ import annotations

import math
import os
import struct
import tokenize
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from typing import IO, Any

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from tfslim_core.errors import DataError
from tfslim_core.one_line import one_line
from tfslim_core.validation.convert import from_array
from tfslim_core.validation.records import BadRecord, Range, Record

Array = NDArray[Any]
_NAME_LENGTH = 26  # where a zip file's header of a member says how long its name and its extra field are
_MOST_EMPTY = 1_000_000  # rows without a value
_CUT_OFF = (OSError, EOFError, zlib.error, zipfile.BadZipFile)
# What the standard library and numpy raise over archives and headers that nobody writes.
_DAMAGED = (
    *(*_CUT_OFF, LookupError, NotImplementedError, OverflowError, RecursionError, RuntimeError, SyntaxError),
    *(TypeError, ValueError, tokenize.TokenError),
)


def row_cuts(file: str, every: int) -> Sequence[int]:
    """Rows at which ranges start, `every` bytes apart; a compressed archive can only be read from its start."""
    with _archive(file) as archive:
        rows = _npz_rows(file, archive)
        if any(member.compress_type != zipfile.ZIP_STORED for member in archive.infolist()):
            return [0]
    return range(0, max(1, rows), max(1, every * rows // max(1, os.path.getsize(file))))


def row_count(file: str) -> int:
    """How many rows an archive has.

    Raises:
        DataError: it is damaged, or its arrays differ in length.
    """
    with _archive(file) as archive:
        return _npz_rows(file, archive)


def read_rows(part: Range, rows: int, keys: frozenset[str] | None) -> Iterator[Record | BadRecord]:
    """Blocks of rows, read from the archive as they are asked for; arrays without an axis go with every row."""
    with ExitStack() as stack:
        archive = stack.enter_context(_archive(part.file))
        total = _npz_rows(part.file, archive)
        stop = total if part.stop is None else part.stop
        at = part.start
        try:
            columns = {
                key: stack.enter_context(_Column(part.file, archive, member, at, to_end=stop == total))
                for member in archive.namelist()
                if (key := member.removesuffix(".npy")) in (keys if keys is not None else {key})
            }
            while at < stop:
                count = min(rows, stop - at)
                values = {key: column.take(count) for key, column in columns.items()}
                yield Record(at - part.start, values, from_array, rows=count, counted=True)
                at += count
        except _DAMAGED as error:
            lost = stop - at
            told = f"the archive cannot be read on: {error}{rest(lost)}"
            yield BadRecord(at - part.start, told, ends=True, count=lost)


def rest(lost: int) -> str:
    """How many records are lost with the one that could not be read, for its error."""
    return f"; {lost:,} records are lost" if lost > 1 else ""


class _Column:
    """One array of an archive, read by rows; Fortran order, which cannot be, is read whole.

    to_end: it is read to its end, and so from its beginning too: the checksum is of all.
    """

    def __init__(self, file: str, archive: zipfile.ZipFile, member: str, start: int, *, to_end: bool) -> None:
        self._stream = _opened(file, archive, member)
        self.shape, fortran, self._dtype = _npy_header(file, member, self._stream)
        self._row_bytes = self._dtype.itemsize * int(np.prod(self.shape[1:], dtype=np.int64))
        self._whole: Array | None = None
        if not self.shape or fortran:
            data = np.frombuffer(self._stream.read(), self._dtype)
            self._whole = data.reshape(self.shape, order="F" if fortran else "C")
            self._at = start
        elif start:
            begin, info = self._stream.tell(), archive.getinfo(member)
            is_whole = begin + self.shape[0] * self._row_bytes <= info.file_size
            if to_end or not is_whole or info.compress_type != zipfile.ZIP_STORED:
                self._stream.seek(start * self._row_bytes, os.SEEK_CUR)
            else:  # a seek reads all that it passes over, until Python 3.13, and a large archive has many ranges
                self._stream.close()
                self._stream = _opened_at(file, info, begin + start * self._row_bytes)

    def __enter__(self) -> _Column:
        return self

    def __exit__(self, *_: object) -> None:
        self._stream.close()

    def take(self, rows: int) -> Array:
        """The next rows, [rows, …]; all of an array without axes."""
        if self._whole is not None:
            self._at += rows
            return self._whole[self._at - rows : self._at] if self.shape else self._whole
        data = self._stream.read(rows * self._row_bytes)
        if len(data) < rows * self._row_bytes:
            raise EOFError("it is cut off")
        return np.frombuffer(data, self._dtype).reshape(rows, *self.shape[1:])


def _archive(file: str) -> zipfile.ZipFile:
    try:
        return zipfile.ZipFile(file)
    except _DAMAGED:
        raise DataError(f"{file} is no .npz archive, or is cut off; write it again with numpy.savez") from None


def _opened(file: str, archive: zipfile.ZipFile, member: str) -> IO[bytes]:
    try:
        return archive.open(member)
    except _DAMAGED as error:
        raise DataError(f"{file}: {member!r} cannot be read: {one_line(error)}") from None


def _opened_at(file: str, member: zipfile.ZipInfo, position: int) -> IO[bytes]:
    """A member that is not compressed, from a position in it on."""
    stream = open(file, "rb")  # noqa: SIM115  # closed with the column
    stream.seek(member.header_offset + _NAME_LENGTH)
    name, extra = struct.unpack("<HH", stream.read(4))
    stream.seek(name + extra + position, os.SEEK_CUR)
    return stream


def _npz_rows(file: str, archive: zipfile.ZipFile) -> int:
    """The length of the first axis, which all arrays share but those without axes."""
    shapes = {}
    for member in archive.namelist():
        with _opened(file, archive, member) as stream:
            shapes[member.removesuffix(".npy")] = _npy_header(file, member, stream)[0]
    sizes = {shape[0] for shape in shapes.values() if shape}
    if len(sizes) > 1:
        lengths = ", ".join(f"{key} {shape[0]:,}" for key, shape in shapes.items() if shape)
        raise DataError(f"{file}: the first axis is the batch and must be equally long in all arrays; it is: {lengths}")
    rows = sizes.pop() if sizes else 1
    if rows > _MOST_EMPTY and not any(math.prod(shape[1:]) for shape in shapes.values() if shape):
        raise DataError(f"{file} claims {rows:,} rows, and there is nothing in them")
    return rows


def _npy_header(file: str, member: str, stream: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    try:
        version = npy.read_magic(stream)
        read = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}[version]
        shape, fortran, dtype = read(stream)
    except _DAMAGED:
        raise DataError(f"{file}: {member} is no array that numpy.savez writes") from None
    if dtype.hasobject:
        raise DataError(f"{file}: {member} holds pickled objects, which are not read; save strings as S or U arrays")
    return shape, fortran, dtype
