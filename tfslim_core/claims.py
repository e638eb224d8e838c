"""What tensors claim to be against what they hold: a few bytes of a protocol buffer may name a shape of gigabytes."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import tensorflow as tf

from tfslim_core.errors import GraphError

# Bytes that the constants of one graph may come to beyond what is stored of them (one zero for all elements, say), and
# that a node's value may have while constants are folded.
MOST_CLAIMED = 256 << 20


def claimed_bytes(tensor: Any) -> int:
    """Bytes of the tensor that a TensorProto names.

    Raises:
        GraphError: it has a dtype or a shape that no tensor has.
    """
    dims = [dim.size for dim in tensor.tensor_shape.dim]
    if tensor.tensor_shape.unknown_rank or any(size < 0 for size in dims):
        raise GraphError(f"it has the shape {dims[:8]}, which no value can have")
    try:
        size = int(tf.as_dtype(tensor.dtype).size) or 1
    except TypeError:
        raise GraphError(f"it has the dtype {tensor.dtype}, which there is not") from None
    return int(math.prod(dims)) * size


def check_claims(tensors: Iterable[tuple[str, Any]]) -> None:
    """Refuse constants, by name, that come to far more together than is stored of them.

    Raises:
        GraphError: they do, or one has a dtype or a shape that no tensor has.
    """
    beyond = 0
    for name, tensor in tensors:
        try:
            claimed = claimed_bytes(tensor)
        except GraphError as error:
            raise GraphError(f"constant {name!r} cannot be read: {error}") from None
        if claimed <= 1024:
            continue
        beyond += max(0, claimed - tensor.ByteSize())
        if beyond > MOST_CLAIMED:
            raise GraphError(
                f"constant {name!r} is said to have {claimed:,} bytes and holds {tensor.ByteSize():,}; with others, "
                f"more than {MOST_CLAIMED >> 20} MiB are claimed and not there"
            )
