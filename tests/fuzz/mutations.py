"""Valid files made hostile: by bytes, by numbers in texts, and by fields of protocol buffers with lengths that fit."""

from __future__ import annotations

import random
import re

_NUMBERS = (
    0,
    1,
    2,
    127,
    128,
    255,
    256,
    1 << 16,
    (1 << 31) - 1,
    1 << 31,
    1 << 32,
    1 << 40,
    (1 << 63) - 1,
    (1 << 64) - 1,
)
_TEXTS = (
    b"-1",
    b"0",
    b"4294967296",
    b"9223372036854775808",
    b"1e999",
    b"NaN",
    b"null",
    b"[[[[",
    b'"',
    b"../../x",
    b"\0",
)
_DEEPEST = 12


def mutated(data: bytes, others: list[bytes], rng: random.Random) -> bytes:
    """One to four changes; others: valid files of the same kind, to splice from."""
    for _ in range(rng.choice((1, 1, 1, 2, 2, 3, 4))):
        data = rng.choice(_CHANGES)(data, others, rng)
    return data


def _flip(data: bytes, others: list[bytes], rng: random.Random) -> bytes:
    if not data:
        return b"\0"
    at = rng.randrange(len(data))
    return data[:at] + bytes([data[at] ^ 1 << rng.randrange(8)]) + data[at + 1 :]


def _put(data: bytes, others: list[bytes], rng: random.Random) -> bytes:
    at = rng.randrange(len(data) + 1)
    some = bytes(rng.choice((0, 1, 0x7F, 0x80, 0xFF, rng.randrange(256))) for _ in range(rng.choice((1, 2, 4, 8))))
    return data[:at] + some + data[at + rng.choice((0, len(some))) :]


def _cut(data: bytes, others: list[bytes], rng: random.Random) -> bytes:
    at = rng.randrange(len(data) + 1)
    return data[:at] if rng.random() < 0.5 else data[:at] + data[at + rng.choice((1, 2, 8, 64)) :]


def _repeat(data: bytes, others: list[bytes], rng: random.Random) -> bytes:
    at = rng.randrange(len(data) + 1)
    piece = data[at : at + rng.choice((1, 8, 64, 256))]
    return data[:at] + piece * rng.choice((1, 2, 16)) + data[at:]


def _splice(data: bytes, others: list[bytes], rng: random.Random) -> bytes:
    other = rng.choice(others)
    at, start = rng.randrange(len(data) + 1), rng.randrange(len(other) + 1)
    return data[:at] + other[start : start + rng.choice((8, 64, len(other)))] + data[at + rng.choice((0, 8, 64)) :]


def _length(data: bytes, others: list[bytes], rng: random.Random) -> bytes:
    """A number in the place of bytes that may be a length."""
    width = rng.choice((1, 2, 4, 8))
    at = rng.randrange(max(1, len(data) - width + 1)) if rng.random() < 0.7 else 0
    number = rng.choice((*_NUMBERS, len(data), rng.getrandbits(64))) & (1 << 8 * width) - 1
    return data[:at] + number.to_bytes(width, rng.choice(("little", "little", "big"))) + data[at + width :]


def _text(data: bytes, others: list[bytes], rng: random.Random) -> bytes:
    """Another number or token in the place of one in a text."""
    found = list(re.finditer(rb"\d+|\"[^\"]*\"|\w+", data[:20_000]))
    if not found:
        return _put(data, others, rng)
    spot, with_ = rng.choice(found), rng.choice((*_TEXTS, rng.choice(found)[0]))
    return data[: spot.start()] + with_ + data[spot.end() :]


def _field(data: bytes, others: list[bytes], rng: random.Random) -> bytes:
    """A change to one field of a protocol buffer, however deep; the lengths around it are made to fit."""
    return _message(data, others, rng, 0) or _flip(data, others, rng)


def _message(data: bytes, others: list[bytes], rng: random.Random, depth: int) -> bytes | None:
    fields = parsed(data)
    if not fields:
        return None
    at = rng.randrange(len(fields))
    number, kind, value = fields[at]
    done = rng.randrange(8)
    if kind == 2 and done < 5:
        assert isinstance(value, bytes)
        inner = _message(value, others, rng, depth + 1) if depth < _DEEPEST else None
        fields[at] = (number, 2, inner if inner is not None else rng.choice(_BYTES)(value, others, rng))
    elif kind == 0 and done < 5:
        fields[at] = (number, 0, rng.choice((*_NUMBERS, rng.getrandbits(64))))
    elif done == 5:
        del fields[at]
    elif done == 6:
        fields.insert(rng.randrange(len(fields) + 1), fields[at])
    else:
        fields[at] = (rng.randrange(1, 30), kind, value)
    return encoded(fields)


def parsed(data: bytes) -> list[tuple[int, int, int | bytes]] | None:
    """The fields of a message as (number, wire type, value), or None where the bytes are none."""
    fields: list[tuple[int, int, int | bytes]] = []
    at = 0
    while at < len(data):
        tag, at = _varint(data, at)
        number, kind = tag >> 3, tag & 7
        if at < 0 or not number or kind not in (0, 1, 2, 5):
            return None
        if kind == 0:
            value, at = _varint(data, at)
            if at < 0:
                return None
            fields.append((number, kind, value))
            continue
        size = {1: 8, 5: 4}.get(kind, 0)
        if kind == 2:
            size, at = _varint(data, at)
        if at < 0 or at + size > len(data):
            return None
        fields.append((number, kind, data[at : at + size]))
        at += size
    return fields


def encoded(fields: list[tuple[int, int, int | bytes]]) -> bytes:
    """The bytes of these fields."""
    made = bytearray()
    for number, kind, value in fields:
        made += varint(number << 3 | kind)
        if isinstance(value, int):
            made += varint(value)
        else:
            made += (varint(len(value)) if kind == 2 else b"") + value
    return bytes(made)


def varint(value: int) -> bytes:
    made = bytearray()
    while value > 0x7F:
        made.append(value & 0x7F | 0x80)
        value >>= 7
    made.append(value)
    return bytes(made)


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """The number, and where it ends; -1 where it does not."""
    value = 0
    for shift in range(0, 70, 7):
        if at >= len(data):
            return 0, -1
        value |= (data[at] & 0x7F) << shift
        at += 1
        if data[at - 1] < 0x80:
            return value, at
    return 0, -1


_BYTES = (_flip, _put, _cut, _repeat, _splice, _length, _text)
_CHANGES = (*_BYTES, _field, _field, _field)
