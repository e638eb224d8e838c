"""The table of sorted keys that a checkpoint's .index file is: TensorFlow's form of a LevelDB table.

    block*        entries: varint32 shared, varint32 unshared, varint32 value length, rest of the key, value; then the
                  positions of the entries that share nothing with the one before (uint32 each), and how many there are
    metaindex     an empty block
    index         a block: a key at or after the last of each block -> where the block is (varint64 offset, length)
    footer        where metaindex and index are, padded to 40 bytes, and the magic number

After each block come its kind (0: not compressed) and a masked CRC-32C. TensorFlow compresses no index.
Source: tensorflow/tsl/lib/io/{format,block}.cc
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Mapping

import google_crc32c

from tfslim_core.errors import ModelError

_MAGIC = (0xDB4775248B80FB57).to_bytes(8, "little")
_FOOTER = 48
_BLOCK_BYTES = 256 * 1024  # as TensorFlow's
_RESTART = 16
_PLAIN = 0
_TRAILER = 5  # bytes behind a block: how it is compressed, and its checksum


def read_table(data: bytes) -> dict[bytes, bytes]:
    """Keys and values, in order. Whatever TensorFlow's reader would stumble over is an error.

    Raises:
        ModelError: it is damaged or cut short, or its blocks are compressed.
    """
    if len(data) < _FOOTER or data[-8:] != _MAGIC:
        raise ModelError("the index is cut off, or is no index")
    found: dict[bytes, bytes] = {}
    last: bytes | None = None
    try:
        _, position = _handle(data, len(data) - _FOOTER)
        index, _ = _handle(data, position)
        for _, handle in _entries(_block(data, index)):
            for key, value in _entries(_block(data, _handle(handle, 0)[0])):
                if last is not None and key <= last:
                    raise ModelError("the keys of the index are out of order")
                found[key], last = value, key
    except (IndexError, struct.error, ValueError):
        raise ModelError("the index is damaged") from None
    return found


def table_bytes(entries: Mapping[bytes, bytes]) -> bytes:
    """The table with these entries."""
    made = bytearray()
    index: list[tuple[bytes, bytes]] = []
    for group in _groups(sorted(entries.items())):
        index.append((group[-1][0], _appended(made, _packed(group))))
    metaindex = _appended(made, _packed([]))
    footer = metaindex + _appended(made, _packed(index))
    return bytes(made) + footer.ljust(_FOOTER - len(_MAGIC), b"\0") + _MAGIC


def masked(crc: int) -> int:
    """A CRC as LevelDB and TensorFlow store it."""
    return (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF


def _groups(entries: Iterable[tuple[bytes, bytes]]) -> Iterable[list[tuple[bytes, bytes]]]:
    group: list[tuple[bytes, bytes]] = []
    size = 0
    for key, value in entries:
        if group and size > _BLOCK_BYTES:
            yield group
            group, size = [], 0
        group.append((key, value))
        size += len(key) + len(value)
    if group:
        yield group


def _packed(entries: Iterable[tuple[bytes, bytes]]) -> bytes:
    made = bytearray()
    restarts = [0]
    last = b""
    for number, (key, value) in enumerate(entries):
        shared = 0
        if number % _RESTART:
            while shared < min(len(last), len(key)) and last[shared] == key[shared]:
                shared += 1
        elif number:
            restarts.append(len(made))
        made += _varint(shared) + _varint(len(key) - shared) + _varint(len(value)) + key[shared:] + value
        last = key
    for number in (*restarts, len(restarts)):
        made += number.to_bytes(4, "little")
    return bytes(made)


def _appended(table: bytearray, block: bytes) -> bytes:
    """The handle of a block that is appended."""
    handle = _varint(len(table)) + _varint(len(block))
    kind = bytes([_PLAIN])
    table += block + kind + masked(google_crc32c.value(block + kind)).to_bytes(4, "little")
    return handle


def _block(data: bytes, handle: tuple[int, int]) -> bytes:
    start, size = handle
    end = start + size
    if end + _TRAILER > len(data) - _FOOTER:
        raise ModelError("a block of the index lies beyond its end")
    if data[end] != _PLAIN:
        raise ModelError("the index is compressed, as no TensorFlow since 1.2 writes it; save the model anew")
    if masked(google_crc32c.value(data[start : end + 1])) != struct.unpack_from("<I", data, end + 1)[0]:
        raise ModelError("a block of the index does not have its checksum")
    return data[start:end]


def _entries(block: bytes) -> Iterator[tuple[bytes, bytes]]:
    restarts = struct.unpack_from("<I", block, len(block) - 4)[0]
    stop = len(block) - 4 * (restarts + 1)
    if stop < 0 or not restarts:
        raise ModelError("a block of the index has no entries")
    at, key = 0, b""
    starts = {0}
    while at < stop:
        shared, at = _number(block, at)
        own, at = _number(block, at)
        length, at = _number(block, at)
        if shared > len(key) or at + own + length > stop:
            raise ModelError("an entry of the index is cut off")
        key = key[:shared] + block[at : at + own]
        yield key, block[at + own : at + own + length]
        at += own + length
        starts.add(at)
    # Where TensorFlow jumps to when it looks for a key.
    if not starts.issuperset(struct.unpack_from(f"<{restarts}I", block, stop)):
        raise ModelError("a block of the index has places for entries where none are")


def _handle(data: bytes, position: int) -> tuple[tuple[int, int], int]:
    offset, position = _number(data, position)
    size, position = _number(data, position)
    return (offset, size), position


def _varint(number: int) -> bytes:
    made = bytearray()
    while number >= 0x80:
        made.append(number & 0x7F | 0x80)
        number >>= 7
    made.append(number)
    return bytes(made)


def _number(data: bytes, position: int) -> tuple[int, int]:
    number = 0
    for shift in range(0, 64, 7):
        byte = data[position]
        number |= (byte & 0x7F) << shift
        position += 1
        if byte < 0x80:
            return number, position
    raise ModelError("a number in the index does not end")
