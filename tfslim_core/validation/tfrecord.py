"""TFRecord files: frames with checksums.

A frame: length (uint64), masked CRC32C of the length (uint32), data, masked CRC32C of the data (uint32); little endian.
Source: tensorflow/core/lib/io/record_writer.h.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import BinaryIO

import google_crc32c

from tfslim_core.errors import DataError

MOST_BYTES = (1 << 31) - 1  # that a protocol buffer may have
_AT_ONCE = 16 << 20  # bytes that are asked for before they are known to be there
_HEADER, _FOOTER = struct.Struct("<QI"), struct.Struct("<I")


def masked_crc(data: bytes) -> int:
    """CRC32C of `data`, rotated and shifted as TFRecord stores it."""
    crc: int = google_crc32c.value(data)
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def frame(data: bytes) -> bytes:
    """One record as it stands in a file."""
    length = struct.pack("<Q", len(data))
    return length + _FOOTER.pack(masked_crc(length)) + data + _FOOTER.pack(masked_crc(data))


def read_frames(file: BinaryIO, stop: int | None = None) -> Iterator[bytes]:
    """The records from where `file` stands, up to its end or to the offset `stop`, which starts a frame.

    Raises:
        DataError: a frame is cut off or a checksum does not hold.
    """
    at = file.tell() if stop is not None else 0
    while (stop is None or at < stop) and (header := file.read(_HEADER.size)):
        length = _length(header)
        if length > MOST_BYTES:
            raise DataError(f"a frame claims {length:,} bytes, more than a protocol buffer can have")
        data, footer = _read(file, length), file.read(_FOOTER.size)
        if len(data) < length or len(footer) < _FOOTER.size:
            raise DataError(f"a frame of {length:,} bytes is cut off")
        if _FOOTER.unpack(footer)[0] != masked_crc(data):
            raise DataError("a frame's data does not have its checksum (CRC)")
        yield data
        at += _HEADER.size + length + _FOOTER.size


def _read(file: BinaryIO, length: int) -> bytes:
    """So many bytes, or what is there: memory grows with what is found rather than with what is claimed."""
    data = file.read(min(length, _AT_ONCE))
    if len(data) < length:
        parts, left = [data], length - len(data)
        while left and (more := file.read(min(left, _AT_ONCE))):
            parts.append(more)
            left -= len(more)
        data = b"".join(parts)
    return data


def frame_starts(file: BinaryIO, size: int, every: int) -> list[int]:
    """Offsets of frames at least `every` bytes apart, the first 0; found without reading the data of frames.

    Frames after a broken header belong to the last range, whose reader will report it. size: bytes of the file.
    """
    starts, at = [0], 0
    while at < size:
        file.seek(at)
        try:
            at += _HEADER.size + _length(file.read(_HEADER.size)) + _FOOTER.size
        except DataError:
            break
        if at - starts[-1] >= every and at < size:
            starts.append(at)
    return starts


def _length(header: bytes) -> int:
    if len(header) < _HEADER.size:
        raise DataError("a frame's header is cut off")
    length, crc = _HEADER.unpack(header)
    if crc != masked_crc(header[:8]):
        raise DataError("a frame's length does not have its checksum (CRC); is this a TFRecord file?")
    return int(length)
