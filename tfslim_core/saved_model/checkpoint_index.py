"""A look at a checkpoint's index before TensorFlow does: its C++ reader ends the process over some damaged ones.

The index is a sorted table. A key's value is a BundleEntryProto: dtype, shape, and where in which data file the bytes
are.
Source: tensorflow/core/util/tensor_bundle/tensor_bundle.cc.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import tensorflow as tf
from google.protobuf.message import DecodeError
from tensorflow.core.protobuf import tensor_bundle_pb2

from tfslim_core.errors import ModelError
from tfslim_core.saved_model.slice_keys import slice_key
from tfslim_core.saved_model.sorted_table import read_table

_MOST_INDEX = 1 << 30  # bytes; a model of a million variables has an index of 100 MB


def check_index(prefix: str) -> None:
    """Return only where the index at `prefix` is whole and claims no more than its data files hold.

    Raises:
        ModelError: it is damaged, or a tensor in it has a shape or a place that its data files do not have.
    """
    index = Path(f"{prefix}.index")
    try:
        if index.stat().st_size > _MOST_INDEX:
            raise ModelError(f"it has {index.stat().st_size:,} bytes; an index of variables is far smaller")
        _check(list(read_table(index.read_bytes()).items()), prefix)
    except ModelError as error:
        raise ModelError(f"{index}: the variables cannot be read: {error}") from None
    except (DecodeError, IndexError, ValueError):
        raise ModelError(f"{index}: the variables cannot be read: the index is damaged") from None
    except OSError as error:
        raise ModelError(f"{index}: the variables cannot be read: {error.strerror}") from None


def _check(entries: list[tuple[bytes, bytes]], prefix: str) -> None:
    if not entries or entries[0][0]:
        raise ModelError("the index has no header")
    header = tensor_bundle_pb2.BundleHeaderProto.FromString(entries[0][1])
    sizes = {}
    for shard in {tensor_bundle_pb2.BundleEntryProto.FromString(value).shard_id for _, value in entries[1:]}:
        if not 0 <= shard < header.num_shards:
            raise ModelError(f"a tensor is in part {shard} of {header.num_shards}")
        file = Path(f"{prefix}.data-{shard:05d}-of-{header.num_shards:05d}")
        # A file that is missing is TensorFlow's to tell.
        sizes[shard] = file.stat().st_size if file.is_file() else None
    found = {key: tensor_bundle_pb2.BundleEntryProto.FromString(value) for key, value in entries[1:]}
    parts = {part for key, entry in found.items() if entry.slices for part in _part_keys(key, entry)}
    for key, entry in found.items():
        if key not in parts and (key.startswith(b"\0") or not _is_text(key)):
            raise ModelError(f"{key[:80].decode(errors='backslashreplace')!r} is no name of a tensor")
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
        raise ModelError(f"{name!r} has the dtype {entry.dtype}, which there is not") from None
    dims = [dim.size for dim in entry.shape.dim]
    if entry.shape.unknown_rank or any(dim < 0 for dim in dims) or len(dims) > 254 or entry.offset < 0:
        raise ModelError(f"{name!r} has no shape that a tensor can have")
    held = sizes[entry.shard_id]
    if entry.size < 0 or (held is not None and entry.offset + entry.size > held):
        raise ModelError(f"{name!r} is said to lie beyond the end of its data file")
    if held is None:
        return
    # Each string takes a byte at least; a tensor in slices has its bytes elsewhere.
    least = math.prod(dims) * (dtype.size if dtype.is_numpy_compatible and dtype.size else 1)
    has = sum(size or 0 for size in sizes.values()) if entry.slices else entry.size
    if least > has:
        raise ModelError(f"{name!r} is said to have the shape {dims}, and has {has:,} bytes")


def _is_text(key: bytes) -> bool:
    try:
        key.decode()
    except UnicodeDecodeError:
        return False
    return True
