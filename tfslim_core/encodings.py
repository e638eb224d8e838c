"""How a weight is stored: a NumPy encoder, and the few stock TensorFlow ops that decode it to the same bits.

An encoding turns a float array into parts ("codes", "scale") and back. Where the decoding ops are put (after a gather,
at load, in the graph) is a placement's business; see `quantization.placements`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from tfslim_core.errors import ModelError, TransformError, nearest
from tfslim_core.graph import Input, NameMaker, NodeDef, make_node
from tfslim_core.weights import Array, Encoded, Weight, aligned, in_memory

_BLOCK = 4 * 1024 * 1024  # elements that are rounded at a time
_LARGEST_SCALE = np.nextafter(np.finfo(np.float32).max / np.float32(127), np.float32(0))  # 127 x this is finite
_SCALE_SHARE = 50  # scales that take more than a 50th of the codes' bytes are kept in half precision


class NotEncodableError(Exception):
    """The values would not survive; the message is the reason. The weight is left as it is."""


@dataclass(frozen=True)
class Encoding:
    """encode(values, axes) -> parts, and the decoding in NumPy and in TensorFlow.

    axes: those that a scale is shared along; () means a scale per element of nothing, i.e. encodings without scales.
    encode raises NotEncodableError. decoding_ops(name, parts, dtypes, names): nodes, the last one called `name`.
    parts: what is stored, by role, and which dtypes it may have.
    """

    name: str
    encode: Callable[[Array, tuple[int, ...]], Mapping[str, Array]]
    decode: Callable[[Mapping[str, Array]], Array]
    decoding_ops: Callable[[str, Mapping[str, Input], Mapping[str, tf.DType], NameMaker], list[NodeDef]]
    parts: Mapping[str, frozenset[str]]


def encoding(name: str) -> Encoding:
    """The encoding called `name`.

    Raises:
        TransformError: there is none; the nearest is suggested.
    """
    if name not in ENCODINGS:
        raise TransformError(f"no encoding {name!r}{nearest(name, ENCODINGS)} (there are: {', '.join(ENCODINGS)})")
    return ENCODINGS[name]


def encoded(weight: Weight, name: str, axes: tuple[int, ...]) -> Weight:
    """The weight stored in an encoding. Its value is read now; it reads as the decoded value from then on.

    Raises:
        NotEncodableError: it is not float32, holds NaN or infinity, or values that the encoding cannot hold.
    """
    if weight.dtype != np.float32:
        raise NotEncodableError(f"it is {weight.dtype.name}, not float32")
    value = weight.read()
    # NaN and infinity come through a minimum or a maximum; a whole array of booleans would not be small.
    if not np.isfinite(value.min(initial=0)) or not np.isfinite(value.max(initial=0)):
        raise NotEncodableError("it holds NaN or infinity")
    parts = encoding(name).encode(value, axes)
    return decoded(Encoded(name, {role: in_memory(part) for role, part in parts.items()}))


def decoded(stored: Encoded) -> Weight:
    """The weight that is stored as `stored`.

    Raises:
        ModelError: these are not the encoding's parts.
    """
    scheme = encoding(stored.encoding)
    found = {role: part.dtype.name for role, part in stored.parts.items()}
    if found.keys() != scheme.parts.keys() or any(found[role] not in dtypes for role, dtypes in scheme.parts.items()):
        raise ModelError(f"{stored.encoding} has the parts {', '.join(scheme.parts)}; found: {found}")
    codes = stored.parts["codes"]
    for role, part in stored.parts.items():
        if len(part.shape) != len(codes.shape) or any(
            a not in (1, b) for a, b in zip(part.shape, codes.shape, strict=True)
        ):
            raise ModelError(f"the {role} of an {stored.encoding} weight {codes.shape} has the shape {part.shape}")

    def read() -> Array:
        return scheme.decode({role: part.read() for role, part in stored.parts.items()})

    return Weight(np.dtype(np.float32), codes.shape, read, stored)


def _encode_float16(value: Array, axes: tuple[int, ...]) -> Mapping[str, Array]:
    del axes
    if value.size and np.abs(value).max() > np.finfo(np.float16).max:
        raise NotEncodableError("its largest value is beyond what float16 can hold (65504)")
    return {"codes": value.astype(np.float16)}


def _decode_float16(parts: Mapping[str, Array]) -> Array:
    return parts["codes"].astype(np.float32)


def _float16_ops(
    name: str, parts: Mapping[str, Input], dtypes: Mapping[str, tf.DType], names: NameMaker
) -> list[NodeDef]:
    del names
    return [make_node("Cast", name, [parts["codes"]], SrcT=dtypes["codes"], DstT=tf.float32)]


def _encode_int8(value: Array, axes: tuple[int, ...]) -> Mapping[str, Array]:
    """Symmetric: scale = max |value| / 127 along `axes`, code = round(value / scale) in -127..127; a zero keeps code 0.

    A slice of zeros has scale 0 in the formula; it gets 1, so that nothing is divided by it.
    """
    floats = value.astype(np.float32, copy=False)
    highest = floats.max(axis=axes, keepdims=True, initial=0)
    lowest = floats.min(axis=axes, keepdims=True, initial=0)
    scale = np.minimum(np.maximum(highest, -lowest) / np.float32(127), _LARGEST_SCALE)
    scale[scale < np.finfo(np.float32).tiny] = 1  # so small a slice becomes zeros; a subnormal scale is not exact
    if scale.nbytes * _SCALE_SHARE > value.size:
        scale = _half(scale)
    codes = np.empty(value.shape, np.int8)
    rows = max(1, _BLOCK * len(floats) // max(floats.size, 1))
    for start in range(0, len(floats), rows):
        block = slice(start, start + rows)
        steps = np.divide(floats[block], scale if len(scale) == 1 else scale[block], dtype=np.float32)
        codes[block] = np.clip(np.rint(steps, out=steps), -127, 127, out=steps)
    return {"codes": codes, "scale": scale}


def _half(scale: NDArray[np.float32]) -> NDArray[np.float32] | NDArray[np.float16]:
    """The scales as float16, rounded up by 0.1 % at most so that no code is clipped; as they are where that is no
    normal float16.
    """
    if scale.min(initial=1) < np.finfo(np.float16).tiny or scale.max(initial=0) > 60000:
        return scale
    half = scale.astype(np.float16)
    return np.where(half < scale, np.nextafter(half, np.float16(np.inf)), half)


def _decode_int8(parts: Mapping[str, Array]) -> Array:
    decoded = aligned(parts["codes"].shape, np.dtype(np.float32))
    np.multiply(parts["codes"], parts["scale"].astype(np.float32), out=decoded, dtype=np.float32)
    return decoded


def _int8_ops(name: str, parts: Mapping[str, Input], dtypes: Mapping[str, tf.DType], names: NameMaker) -> list[NodeDef]:
    nodes = [make_node("Cast", names(f"{name}/cast"), [parts["codes"]], SrcT=dtypes["codes"], DstT=tf.float32)]
    scale = parts["scale"]
    if dtypes["scale"] != tf.float32:
        nodes.append(make_node("Cast", names(f"{name}/scale_cast"), [scale], SrcT=dtypes["scale"], DstT=tf.float32))
        scale = Input(nodes[-1].name, 0)
    return [*nodes, make_node("Mul", name, [nodes[0].name, scale], T=tf.float32)]


ENCODINGS: Mapping[str, Encoding] = {
    "float16": Encoding("float16", _encode_float16, _decode_float16, _float16_ops, {"codes": frozenset({"float16"})}),
    "int8": Encoding(
        "int8",
        _encode_int8,
        _decode_int8,
        _int8_ops,
        {"codes": frozenset({"int8"}), "scale": frozenset({"float16", "float32"})},
    ),
}
