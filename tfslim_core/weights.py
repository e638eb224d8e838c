"""The value of a large constant, read only when it is needed.

A model of many GB passes through tfslim tensor by tensor: a graph holds a `Weight` for each large constant, and what
reads it (a checkpoint, a safetensors file, a fold of another weight) runs each time that the value is asked for.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from tfslim_core.errors import ModelError

Array = NDArray[np.generic]
# The dtypes that a weight may have, as safetensors calls them; other constants (strings, say) stay in the graph.
DTYPES = {
    "bool": "BOOL",
    "uint8": "U8",
    "int8": "I8",
    "uint16": "U16",
    "int16": "I16",
    "float16": "F16",
    "bfloat16": "BF16",
    "uint32": "U32",
    "int32": "I32",
    "float32": "F32",
    "uint64": "U64",
    "int64": "I64",
    "float64": "F64",
    "complex64": "C64",
}
ALIGNMENT = 64  # bytes; TensorFlow takes over an array's memory only when it starts at a multiple


@dataclass(frozen=True)
class Encoded:
    """How a weight is stored instead of as itself.

    encoding: a name in `encodings`. parts: what is stored, by role ("codes", "scale"); a part may be encoded in turn.
    """

    encoding: str
    parts: Mapping[str, Weight]

    @property
    def nbytes(self) -> int:
        """Bytes stored."""
        return sum(part.stored_bytes for part in self.parts.values())


@dataclass(frozen=True)
class Weight:
    """A constant of known dtype and shape whose value is computed or read by `read`.

    encoded: set when the weight is stored encoded; `read` then gives the decoded value. lengths: of strings (dtype
    object), how many bytes each has. origins: the keys of the checkpoint's tensors that the value is read from.
    """

    dtype: np.dtype[np.generic]
    shape: tuple[int, ...]
    read: Callable[[], Array] = field(repr=False, compare=False)
    encoded: Encoded | None = None
    lengths: tuple[int, ...] = ()
    origins: tuple[str, ...] = field(default=(), compare=False)

    @property
    def nbytes(self) -> int:
        """Bytes of the value, decoded."""
        if self.dtype == object:
            return sum(self.lengths)
        return math.prod(self.shape) * self.dtype.itemsize

    @property
    def stored_bytes(self) -> int:
        """Bytes that the weight takes in a bundle or a checkpoint."""
        return self.encoded.nbytes if self.encoded else self.nbytes

    def map(self, function: Callable[[Array], Array], shape: tuple[int, ...] | None = None) -> Weight:
        """The weight that `function` makes of this one's value; same dtype, `shape` unless told the same.

        Raises (on reading):
            ModelError: the function gave another shape or dtype than was announced.
        """
        wanted = self.shape if shape is None else shape

        def read() -> Array:
            value = function(self.read())
            if value.shape != wanted or value.dtype != self.dtype:
                raise ModelError(f"a weight came out as {value.dtype}{value.shape}, not {self.dtype}{wanted}")
            return value

        return Weight(self.dtype, wanted, read)


def aligned(shape: tuple[int, ...], dtype: np.dtype[np.generic]) -> Array:
    """An array to fill whose memory TensorFlow takes over without a copy."""
    size = math.prod(shape) * dtype.itemsize
    buffer = np.empty(size + ALIGNMENT, np.uint8)
    offset = -buffer.ctypes.data % ALIGNMENT
    return buffer[offset : offset + size].view(dtype).reshape(shape)


def in_memory(value: Array) -> Weight:
    """A weight whose value is at hand; strings are bytes."""
    lengths = tuple(map(len, value.reshape(-1).tolist())) if value.dtype == object else ()
    return Weight(value.dtype, value.shape, lambda: value, lengths=lengths)
