"""A look at a checkpoint's index before TensorFlow does: its C++ reader ends the process over some damaged ones.

The index is a table in LevelDB's format: blocks of sorted keys, a block of these blocks' places, a footer of 48 bytes.
A key's value is a BundleEntryProto: dtype, shape, and where in which data file the bytes are.
Sources: tensorflow/core/util/tensor_bundle/tensor_bundle.cc, tensorflow/tsl/lib/io/{format,block}.cc.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator
from pathlib import Path

import google_crc32c
import tensorflow as tf
from google.protobuf.message import DecodeError
from tensorflow.core.protobuf import tensor_bundle_pb2

from tfslim_core.errors import ModelError
from tfslim_core.saved_model.slice_keys import slice_key

_FOOTER, _MAGIC = 48, 0xDB4775248B80FB57
_TRAILER = 5  # bytes behind a block: how it is compressed, and its checksum
_MOST_INDEX = 1 << 30  # bytes; a model of a million variables has an index of 100 MB


def check_index(prefix: str) -> None:
    """Return only where the index at `prefix` is whole and claims no more than its data files hold.

    Raises:
        ModelError: it is damaged, or a tensor in it has a shape or a place that its data files do not have.
    """
    index = Path(f"{prefix}.index")
    try:
        if index.stat().st_size > _MOST_INDEX:
            raise ModelError(f"{index} has {index.stat().st_size:,} bytes; an index of variables is far smaller")
        entries = list(_entries(index.read_bytes()))
        _check(entries, prefix)
    except _DamagedError as error:
        raise ModelError(f"{index}: the variables cannot be read: {error}") from None
    except (DecodeError, IndexError, struct.error, ValueError):
        raise ModelError(f"{index}: the variables cannot be read: the index is damaged") from None
    except OSError as error:
        raise ModelError(f"{index}: the variables cannot be read: {error.strerror}") from None


class _DamagedError(Exception):
    pass


def _check(entries: list[tuple[bytes, bytes]], prefix: str) -> None:
    if not entries or entries[0][0]:
        raise _DamagedError("the index has no header")
    header = tensor_bundle_pb2.BundleHeaderProto.FromString(entries[0][1])
    sizes = {}
    for shard in {tensor_bundle_pb2.BundleEntryProto.FromString(value).shard_id for _, value in entries[1:]}:
        if not 0 <= shard < header.num_shards:
            raise _DamagedError(f"a tensor is in part {shard} of {header.num_shards}")
        file = Path(f"{prefix}.data-{shard:05d}-of-{header.num_shards:05d}")
        # A file that is missing is TensorFlow's to tell.
        sizes[shard] = file.stat().st_size if file.is_file() else None
    found = {key: tensor_bundle_pb2.BundleEntryProto.FromString(value) for key, value in entries[1:]}
    parts = {part for key, entry in found.items() if entry.slices for part in _part_keys(key, entry)}
    for key, entry in found.items():
        if key not in parts and (key.startswith(b"\0") or not _is_text(key)):
            raise _DamagedError(f"{key[:80].decode(errors='backslashreplace')!r} is no name of a tensor")
        _check_entry(key, entry, sizes)


def _part_keys(key: bytes, entry: tensor_bundle_pb2.BundleEntryProto) -> Iterator[bytes]:
    """The keys of the parts of a partitioned variable."""
    if not _is_text(key):
        return
    for part in entry.slices:
        extents = [(e.start, e.length if e.HasField("length") else None) for e in part.extent]
        yield slice_key(key.decode(), extents)


def _check_entry(key: bytes, entry: tensor_bundle_pb2.BundleEntryProto, sizes: dict[int, int | None]) -> None:
    name = key[:80].decode(errors="backslashreplace")
    try:
        dtype = tf.as_dtype(entry.dtype)
    except TypeError:
        raise _DamagedError(f"{name!r} has the dtype {entry.dtype}, which there is not") from None
    dims = [dim.size for dim in entry.shape.dim]
    if entry.shape.unknown_rank or any(dim < 0 for dim in dims) or len(dims) > 254 or entry.offset < 0:
        raise _DamagedError(f"{name!r} has no shape that a tensor can have")
    held = sizes[entry.shard_id]
    if entry.size < 0 or (held is not None and entry.offset + entry.size > held):
        raise _DamagedError(f"{name!r} is said to lie beyond the end of its data file")
    if held is None:
        return
    # Each string takes a byte at least; a tensor in slices has its bytes elsewhere.
    least = math.prod(dims) * (dtype.size if dtype.is_numpy_compatible and dtype.size else 1)
    has = sum(size or 0 for size in sizes.values()) if entry.slices else entry.size
    if least > has:
        raise _DamagedError(f"{name!r} is said to have the shape {dims}, and has {has:,} bytes")


def _is_text(key: bytes) -> bool:
    try:
        key.decode()
    except UnicodeDecodeError:
        return False
    return True


def _entries(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """The keys and values, in order."""
    if len(data) < _FOOTER or struct.unpack_from("<Q", data, len(data) - 8)[0] != _MAGIC:
        raise _DamagedError("the index is cut off, or is no index")
    footer = data[-_FOOTER:-8]
    at = _varint(footer, _varint(footer, 0)[1])[1]
    place, _ = _handle(footer, at)
    last = None
    for _, value in _block(data, *place):
        for key, entry in _block(data, *_handle(value, 0)[0]):
            if last is not None and key <= last:
                raise _DamagedError("the keys of the index are out of order")
            last = key
            yield key, entry


def _block(data: bytes, start: int, size: int) -> Iterator[tuple[bytes, bytes]]:
    end = start + size
    if end + _TRAILER > len(data) - _FOOTER:
        raise _DamagedError("a block of the index lies beyond its end")
    if data[end]:
        raise _DamagedError("the index is compressed, as no TensorFlow since 1.2 writes it; save the model anew")
    crc = google_crc32c.value(data[start : end + 1])
    if (crc >> 15 | crc << 17) + 0xA282EAD8 & 0xFFFFFFFF != struct.unpack_from("<I", data, end + 1)[0]:
        raise _DamagedError("a block of the index does not have its checksum")
    block = data[start:end]
    restarts = struct.unpack_from("<I", block, size - 4)[0]
    stop = size - 4 * (restarts + 1)
    if stop < 0 or not restarts:
        raise _DamagedError("a block of the index has no entries")
    at, key = 0, b""
    starts = {0}
    while at < stop:
        shared, at = _varint(block, at)
        own, at = _varint(block, at)
        length, at = _varint(block, at)
        if shared > len(key) or at + own + length > stop:
            raise _DamagedError("an entry of the index is cut off")
        key = key[:shared] + block[at : at + own]
        yield key, block[at + own : at + own + length]
        at += own + length
        starts.add(at)
    # Where TensorFlow jumps to when it looks for a key.
    if not starts.issuperset(struct.unpack_from(f"<{restarts}I", block, stop)):
        raise _DamagedError("a block of the index has places for entries where none are")


def _handle(data: bytes, at: int) -> tuple[tuple[int, int], int]:
    start, at = _varint(data, at)
    size, at = _varint(data, at)
    return (start, size), at


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 64, 7):
        byte = data[at]
        value |= (byte & 0x7F) << shift
        at += 1
        if byte < 0x80:
            return value, at
    raise _DamagedError("a number in the index does not end")
