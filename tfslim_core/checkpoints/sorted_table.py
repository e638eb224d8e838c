"""The table of sorted keys that a checkpoint's .index file is: TensorFlow's form of a LevelDB table.

    block*        entries: varint32 shared, varint32 unshared, varint32 value length, rest of the key, value; then the
                  positions of the entries that share nothing with the one before (uint32 each), and how many there are
    metaindex     an empty block
    index         a block: a key at or after the last of each block -> where the block is (varint64 offset, length)
    footer        where metaindex and index are, padded to 40 bytes, and the magic number

After each block come its kind (0: not compressed) and a masked CRC-32C. TensorFlow compresses no index.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import google_crc32c

from tfslim_core.errors import ModelError

_MAGIC = (0xDB4775248B80FB57).to_bytes(8, "little")
_FOOTER = 48
_BLOCK_BYTES = 256 * 1024  # as TensorFlow's
_RESTART = 16
_PLAIN = 0


class CompressedTableError(ModelError):
    """A table of another writer, whose blocks are compressed."""


def read_table(data: bytes) -> dict[bytes, bytes]:
    """Keys and values, in order.

    Raises:
        CompressedTableError: blocks are compressed.
        ModelError: it is damaged or cut short.
    """
    if len(data) < _FOOTER or data[-8:] != _MAGIC:
        raise ModelError("it does not end as an index does; it is cut short or no checkpoint")
    try:
        _, position = _handle(data, len(data) - _FOOTER)
        index, _ = _handle(data, position)
        found: dict[bytes, bytes] = {}
        for _, handle in _entries(_block(data, index)):
            found.update(_entries(_block(data, _handle(handle, 0)[0])))
    except (IndexError, ValueError) as error:
        raise ModelError(f"it is damaged: {error}") from None
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
    offset, size = handle
    block, tail = data[offset : offset + size], data[offset + size : offset + size + 5]
    if len(tail) < 5:
        raise ValueError("a block is cut short")
    if masked(google_crc32c.value(block + tail[:1])) != int.from_bytes(tail[1:], "little"):
        raise ValueError("a block's checksum does not hold")
    if tail[0] != _PLAIN:
        raise CompressedTableError("its blocks are compressed")
    return block


def _entries(block: bytes) -> Iterable[tuple[bytes, bytes]]:
    end = len(block) - 4 * (int.from_bytes(block[-4:], "little") + 1)
    if end < 0:
        raise ValueError("a block's end is not one")
    position, key = 0, b""
    while position < end:
        shared, position = _number(block, position)
        unshared, position = _number(block, position)
        length, position = _number(block, position)
        value = position + unshared
        if shared > len(key) or value + length > end:
            raise ValueError("an entry goes beyond its block")
        key = key[:shared] + block[position:value]
        position = value + length
        yield key, block[value:position]


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
    for shift in range(0, 70, 7):
        byte = data[position]
        number |= (byte & 0x7F) << shift
        position += 1
        if byte < 0x80:
            return number, position
    raise ValueError("a number has no end")
