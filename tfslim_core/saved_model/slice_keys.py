"""The keys under which a checkpoint's index holds the parts of a partitioned variable."""

from __future__ import annotations

from collections.abc import Iterable


def slice_key(name: str, extents: Iterable[tuple[int, int | None]]) -> bytes:
    """The key of a part: TensorFlow's EncodeTensorNameSlice."""
    extents = list(extents)
    key = b"\0" + name.encode() + b"\0\1" + _ordered(len(extents))
    for start, length in extents:
        key += _ordered_signed(start) + _ordered_signed(-1 if length is None else length)
    return key


def _ordered(number: int) -> bytes:
    """A number so that bytes sort as it does: how many bytes, then these."""
    data = number.to_bytes((number.bit_length() + 7) // 8, "big")
    return bytes([len(data)]) + data


def _ordered_signed(number: int) -> bytes:
    """The same with a sign: as many leading ones as bytes, the sign bit turned around."""
    bits = (number if number >= 0 else ~number).bit_length() + 1
    length = (bits + 6) // 7
    if length == 1:
        return bytes([(number & 0xFF) ^ 0x80])
    data = bytearray((number & ((1 << (8 * length)) - 1)).to_bytes(length, "big"))
    header = ((1 << length) - 1) << (16 - length)
    data[0] ^= header >> 8
    if length > 1:
        data[1] ^= header & 0xFF
    return bytes(data)
