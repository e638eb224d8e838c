"""Which ways there are of storing an array of any dtype in fewer bytes, bit for bit."""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from tfslim_core.encodings.byte_planes import BytePlanes
from tfslim_core.encodings.compressed import Compressed, entropy
from tfslim_core.encodings.constants import Fill, Lookup, Range
from tfslim_core.encodings.distinct import bit_patterns
from tfslim_core.encodings.sparse import Sparse
from tfslim_core.weights import Array

_SAMPLE = 256 * 1024  # bytes; four such pieces tell how well an array compresses
_LEAST_ZEROS = 0.05  # share
_WORTH = 0.95  # of the bytes, or fewer
_UNREADABLE = ("uint32", "uint64")  # dtypes that DecodeRaw lacks


@dataclass(frozen=True)
class Way:
    """The parts in a scheme. codes: those of them that may be packed or compressed in turn. values: those that may be
    stored in some such way themselves.
    """

    scheme: str
    parts: Mapping[str, Array]
    codes: tuple[str, ...] = ()
    values: tuple[str, ...] = ()


def ways(value: Array) -> Iterator[Way]:
    """How the array could be stored; the smallest is among them, or nothing is worth it."""
    for name, whole in (("fill", Fill()), ("range", Range())):
        if (found := whole.encode(value)) is not None:
            yield Way(name, found)
            return
    found = Lookup().encode(value)
    if found is not None:
        yield Way("lookup", found, ("codes",))
    zeros = value.size - np.count_nonzero(bit_patterns(value))
    if value.dtype.name in Sparse().roles["values"] and zeros > _LEAST_ZEROS * value.size:
        yield Way("sparse", Sparse().split(value), ("codes",), ("values",))
        return
    if found is None:
        yield from _compressed(value)


def _compressed(value: Array) -> Iterator[Way]:
    """Compressed as it is, or byte by byte; nothing where a sample says that it is not worth the time at load."""
    sample = _sample(value)
    planes = BytePlanes(value.itemsize).encode(sample)
    shares = {
        "bytes": sum(entropy(plane) for plane in planes.values()) / (8 * value.itemsize),
        "zlib": len(zlib.compress(sample.tobytes(), 6)) / sample.nbytes,
    }
    if value.itemsize == 1:
        del shares["bytes"]
    if value.dtype.name in _UNREADABLE:
        del shares["zlib"]
    best = min(shares, key=lambda name: shares[name], default="")
    if best and shares[best] <= _WORTH:
        if best == "zlib":
            yield Way("zlib", Compressed().encode(value))
        else:
            parts = BytePlanes(value.itemsize).encode(value)
            yield Way(f"bytes{value.itemsize}", parts, tuple(parts))


def _sample(value: Array) -> Array:
    """The array in flat order, or four pieces of it."""
    flat = np.ascontiguousarray(value).reshape(-1)
    size = _SAMPLE // value.itemsize
    if flat.size <= 4 * size:
        return flat
    return np.concatenate(
        [flat[start : start + size] for start in np.linspace(0, flat.size - size, 4).astype(np.int64)]
    )
