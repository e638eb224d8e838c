"""Data files as a stream of bytes, unpacked where their name says that they are packed."""

from __future__ import annotations

import bz2
import gzip
import importlib
import io
import lzma
import os
import zipfile
import zlib
from collections.abc import Callable
from typing import Any, BinaryIO, cast

from tfslim_core.errors import DataError

# What reading on raises where a file is damaged or cut off.
CUT_OFF = (OSError, EOFError, zlib.error, lzma.LZMAError, zipfile.BadZipFile)


def packing_of(file: str) -> str:
    """The extension that says how a file is packed, or nothing."""
    extension = os.path.splitext(file)[1]
    return extension if extension in PACKINGS else ""


def open_data(file: str) -> BinaryIO:
    """The content of a file, unpacked; what is wrong with a packed one shows when it is read.

    Raises:
        DataError: it cannot be opened.
    """
    try:
        return cast(BinaryIO, PACKINGS.get(packing_of(file), _plain)(file))
    except OSError as error:
        raise unreadable(file, error) from None


def unreadable(file: str, error: OSError) -> DataError:
    """That a file cannot be opened, and why."""
    return DataError(f"{file} cannot be read: {error.strerror or error}")


def _plain(file: str) -> BinaryIO:
    return open(file, "rb")


def _zstandard(file: str) -> Any:
    # Beam brings pyarrow along. It tells a file that is cut off, which the package of this name takes for its end.
    arrow = importlib.import_module("pyarrow")
    return io.BufferedReader(arrow.input_stream(file, compression="zstd"))


PACKINGS: dict[str, Callable[[str], Any]] = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open, ".zst": _zstandard}
