"""Arrays compressed by zlib, which TensorFlow's DecodeCompressed opens (RFC 1950, RFC 1951).

Codes of weights have no repetitions worth a dictionary; what pays is their distribution, and Huffman coding alone comes
within a percent of its entropy, ten times faster. The array is cut into chunks, so that no string is large.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import tensorflow as tf

from tfslim_core.encodings.scheme import Form, Nodes, Part
from tfslim_core.errors import ModelError
from tfslim_core.graph import Input
from tfslim_core.weights import Array

CHUNK_BYTES = 1 << 20
_LEVEL = 6  # the highest takes twenty times as long to find repetitions in what is mostly zeros, two seconds a chunk
_STRATEGIES = (zlib.Z_HUFFMAN_ONLY, zlib.Z_RLE, zlib.Z_DEFAULT_STRATEGY)


@dataclass(frozen=True)
class Compressed:
    """Numbers as strings: each the same count of numbers, the last padded by zeros."""

    by_row = frozenset[str]()

    @property
    def roles(self) -> Mapping[str, frozenset[str]]:
        """Only strings."""
        return {"chunks": frozenset({"object"})}

    def problem(self, parts: Mapping[str, Form], form: Form) -> str:
        """There are as many chunks as the array needs."""
        wanted = (len(range(0, _bytes(form), CHUNK_BYTES)),)
        found = parts["chunks"].shape
        return "" if found == wanted else f"there are {found} chunks, not {wanted}"

    def encode(self, value: Array) -> Mapping[str, Array]:
        """The strings."""
        data = np.ascontiguousarray(value).reshape(-1).view(np.uint8)
        first = data[:CHUNK_BYTES].tobytes()
        strategy = min(_STRATEGIES, key=lambda one: len(_deflated(first, one)))
        size = min(CHUNK_BYTES, len(data))
        chunks = [_deflated(chunk.tobytes().ljust(size, b"\0"), strategy) for chunk in _chunks(data)]
        found = np.empty(len(chunks), object)
        found[:] = chunks
        return {"chunks": found}

    def decode(self, parts: Mapping[str, Array], form: Form) -> Array:
        """The array."""
        total = _bytes(form)
        data = np.empty(total, np.uint8)
        for start, chunk in zip(range(0, total, CHUNK_BYTES), parts["chunks"].tolist(), strict=True):
            found = np.frombuffer(_inflated(chunk), np.uint8)
            wanted = min(CHUNK_BYTES, total - start)
            if len(found) < wanted:
                raise ModelError("a compressed weight is damaged: it is too short")
            data[start : start + wanted] = found[:wanted]
        return data.view(form.dtype).reshape(form.shape)

    def decoding_ops(self, nodes: Nodes, parts: Mapping[str, Part], form: Form) -> Input:
        """DecodeCompressed, DecodeRaw; without the last chunk's padding."""
        dtype = tf.as_dtype(form.dtype)
        opened = nodes.add("DecodeCompressed", parts["chunks"].source, compression_type="ZLIB")
        numbers = nodes.add("DecodeRaw", opened, out_type=dtype, little_endian=True)
        total = _bytes(form)
        if total > CHUNK_BYTES and total % CHUNK_BYTES:
            flat = nodes.reshape(numbers, (-1,), dtype)
            begin, sizes = nodes.constant([0], np.int32), nodes.constant([math.prod(form.shape)], np.int32)
            numbers = nodes.add("Slice", flat, begin, sizes, T=dtype, Index=tf.int32)
        return nodes.reshape(numbers, form.shape, dtype)


def entropy(codes: Array) -> float:
    """Zero-order entropy of an array of bytes, in bits per element: -sum p log2 p."""
    counts = np.zeros(256, np.int64)
    for chunk in _chunks(codes.reshape(-1).view(np.uint8)):
        counts += np.bincount(chunk, minlength=256)  # of a chunk: it makes integers of 8 bytes of all it counts
    shares = counts[counts > 0] / max(codes.size, 1)
    return float(-(shares * np.log2(shares)).sum())


def _bytes(form: Form) -> int:
    return math.prod(form.shape) * form.dtype.itemsize


def _chunks(data: np.ndarray) -> Iterator[np.ndarray]:
    return (data[start : start + CHUNK_BYTES] for start in range(0, len(data), CHUNK_BYTES))


def _deflated(data: bytes, strategy: int) -> bytes:
    writer = zlib.compressobj(_LEVEL, zlib.DEFLATED, zlib.MAX_WBITS, 9, strategy)
    return writer.compress(data) + writer.flush()


def _inflated(data: bytes) -> bytes:
    reader = zlib.decompressobj()
    try:
        found = reader.decompress(data, CHUNK_BYTES)
    except zlib.error as error:
        raise ModelError(f"a compressed weight is damaged: {error}") from None
    if not reader.eof and reader.decompress(reader.unconsumed_tail, 1):
        raise ModelError("a compressed weight is damaged: it is too long")
    return found
