"""CSV files: rows with the names of the header, in ranges that begin where a row does.

A row may go on over several lines within quotes, so only the parser can tell where one begins. It reads bytes as
Latin-1, which has a character for each byte; what a cell holds is decoded from UTF-8 when it is known.
"""

from __future__ import annotations

import csv
import io
import mmap
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import BinaryIO, TextIO

from tfslim_core.errors import DataError
from tfslim_core.metrics import shorten
from tfslim_core.validation.convert import from_text
from tfslim_core.validation.packed import CUT_OFF, open_data, packing_of, unreadable
from tfslim_core.validation.records import BadRecord, Range, Record

_MOST_CELL = 64 << 20  # bytes: a quote that is never closed makes a cell of all that follows
_BOM = "\xef\xbb\xbf"


class _Lines:
    """The lines of a stream, and how many bytes those that were taken have."""

    def __init__(self, file: TextIO, at: int = 0) -> None:
        self._file, self.at = file, at

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        line = self._file.readline()
        if not line:
            raise StopIteration
        first, self.at = self.at == 0, self.at + len(line)
        return line.removeprefix(_BOM) if first else line


def row_starts(file: str, every: int) -> Sequence[int]:
    """Bytes at which rows begin, at least `every` apart, the first 0; a packed file can only be read from its start."""
    size = os.path.getsize(file)
    if packing_of(file) or size <= every:
        return [0]
    try:
        with open(file, "rb") as opened, mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as whole:
            # Without quotes, which is quick to see, every line is a row.
            if whole.find(b'"') < 0:
                ends = (whole.find(b"\n", at) + 1 for at in range(every, size, every))
                return [0, *sorted({end for end in ends if 0 < end < size})]
    except OSError as error:
        raise unreadable(file, error) from None
    return _parsed_starts(file, every, size)


def _parsed_starts(file: str, every: int, size: int) -> list[int]:
    starts = [0]
    with open_data(file) as raw, _text(raw) as text:
        lines = _Lines(text)
        rows = _parser(lines)
        while True:
            try:
                next(rows)
            except StopIteration:
                return starts
            except csv.Error:
                pass  # its reader will tell; the next line begins anew for both
            if lines.at - starts[-1] >= every and lines.at < size:
                starts.append(lines.at)


def read_rows(part: Range, rows: int, keys: frozenset[str] | None) -> Iterator[Record | BadRecord]:
    """The rows that begin in a range, each with the names of the file's header.

    Raises:
        DataError: the file cannot be opened, or its header has a name twice.
    """
    with open_data(part.file) as raw:
        text = _text(raw)
        lines = _Lines(text)
        number = 0
        try:
            names = _header(part.file, lines)
            if part.start:
                text.detach()  # or the stream would be closed along with it
                raw.seek(part.start)
                text = _text(raw)
                lines = _Lines(text, part.start)
            reader = _parser(lines)
            while names and (part.stop is None or lines.at < part.stop):
                try:
                    cells = next(reader)
                except StopIteration:
                    return
                except csv.Error as error:
                    yield _not_csv(number, str(error))
                else:
                    if not cells:
                        continue
                    yield _row(number, names, cells)
                number += 1
        except CUT_OFF as error:
            yield BadRecord(number, f"the file cannot be read on: {error}", ends=True)


def _not_csv(number: int, error: str) -> BadRecord:
    if "unexpected end" in error:
        return BadRecord(number, "a quote is opened here and never closed; the file is not read on", ends=True)
    return BadRecord(number, f"the line is not CSV: {error}")


def _row(number: int, names: Sequence[str], cells: list[str]) -> Record | BadRecord:
    try:
        cells = [cell if cell.isascii() else cell.encode("latin-1").decode() for cell in cells]
    except UnicodeDecodeError as error:
        shown = {name: cell.encode("latin-1") for name, cell in zip(names, cells, strict=False)}
        return BadRecord(number, f"a cell is not UTF-8: {error.reason}", shorten(shown))
    if len(cells) != len(names):
        return BadRecord(number, f"the row has {len(cells)} cells, the header {len(names)}", shorten(cells))
    return Record(number, dict(zip(names, cells, strict=True)), from_text)


def _header(file: str, lines: _Lines) -> list[str]:
    """The names of the columns; none of an empty file."""
    try:
        names = next((cells for cells in _parser(lines) if cells), [])
        names = [name.encode("latin-1").decode() for name in names]
    except (csv.Error, UnicodeDecodeError) as error:
        raise DataError(f"{file}: the header is not CSV in UTF-8: {error}") from None
    twice = next((name for name, count in Counter(names).items() if count > 1), None)
    if twice is not None:
        raise DataError(f"{file}: the header has {twice!r} twice; each column needs a name of its own")
    return names


def _text(raw: BinaryIO) -> io.TextIOWrapper:
    return io.TextIOWrapper(raw, "latin-1", newline="")


def _parser(lines: _Lines) -> Iterator[list[str]]:
    csv.field_size_limit(max(csv.field_size_limit(), _MOST_CELL))
    return csv.reader(lines, strict=True)
