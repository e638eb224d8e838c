"""TensorFlow's eight-bit kernels: which float op has one, what that takes, and how codes stand for values.

A tensor in eight bits is a tensor of codes 0..255 and two scalars, the range: code 0 stands for its minimum, 255 for
its maximum ("MIN_FIRST"). The range always holds zero, and zero is one of the codes. The kernels trust their inputs:
where they would compute something else than the float op, or nothing, `refusal` says why.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf

from tfslim_core.static_shapes import Shape
from tfslim_core.weights import Array

TINY = 1e-15  # the least length of a range; the product of two such is still a normal float32
LARGEST = 2.0**50  # far beyond any activation; products of larger ranges might leave float32
MOST_TERMS = (2**31 - 1) // 255**2  # of a sum of products, in 32 bits: 33,025

Range = tuple[float, float]
Attributes = Callable[[str], Any]


@dataclass(frozen=True)
class Kernel:
    """The eight-bit op of a float op.

    types: its type attributes. copied: attributes that it shares with the float op. others: inputs that are no numbers
    to compute with (an axis, a shape), counted from the front or the back. wide: its result has 32 bits.
    """

    op: str
    types: Mapping[str, tf.DType]
    copied: tuple[str, ...] = ()
    others: tuple[int, ...] = ()
    wide: bool = False


_PAIR = {"T1": tf.quint8, "T2": tf.quint8}
_POOL = ("ksize", "strides", "padding")
_ADD = Kernel("QuantizedAdd", {**_PAIR, "Toutput": tf.qint32}, wide=True)
KERNELS: Mapping[str, Kernel] = {
    "Add": _ADD,
    "AddV2": _ADD,
    "AvgPool": Kernel("QuantizedAvgPool", {"T": tf.quint8}, _POOL),
    # Not QuantizedBiasAdd, which adds in float32 and is off by up to three steps, all values alike.
    "BiasAdd": _ADD,
    "Concat": Kernel("QuantizedConcat", {"T": tf.quint8}, ("N",), (0,)),
    "ConcatV2": Kernel("QuantizedConcat", {"T": tf.quint8}, ("N",), (-1,)),
    "Conv2D": Kernel(
        "QuantizedConv2D",
        {"Tinput": tf.quint8, "Tfilter": tf.quint8, "out_type": tf.qint32},
        ("strides", "padding"),
        wide=True,
    ),
    "MatMul": Kernel("QuantizedMatMul", {**_PAIR, "Toutput": tf.qint32}, ("transpose_a", "transpose_b"), wide=True),
    "MaxPool": Kernel("QuantizedMaxPool", {"T": tf.quint8}, _POOL),
    "Mul": Kernel("QuantizedMul", {**_PAIR, "Toutput": tf.qint32}, wide=True),
    "Relu": Kernel("QuantizedRelu", {"Tinput": tf.quint8, "out_type": tf.quint8}),
    "Relu6": Kernel("QuantizedRelu6", {"Tinput": tf.quint8, "out_type": tf.quint8}),
    "Reshape": Kernel("QuantizedReshape", {"T": tf.quint8}, others=(1,)),
    "ResizeBilinear": Kernel(
        "QuantizedResizeBilinear", {"T": tf.quint8}, ("align_corners", "half_pixel_centers"), (1,)
    ),
}
# The Graph Transform Tool lists it too, but no TensorFlow has the QuantizedConv2DTranspose that it would become.
WITHOUT_KERNEL = frozenset({"Conv2DBackpropInput"})


def with_zero(low: float, high: float) -> Range:
    """The range, widened to hold zero and moved by less than half a step so that zero is a code.

    Rounded to float32, as the kernels read it; they find the same zero whichever way they round.
    """
    low, high = min(low, 0.0), max(high, 0.0)
    high = max(high, low + TINY)
    step = (high - low) / 255
    zero = math.floor(-low / step + 0.5)
    return float(np.float32(-zero * step)), float(np.float32((255 - zero) * step))


def codes(value: Array, found: Range) -> Array:
    """The codes, uint8, of values in a range of `with_zero`; what is beyond it gets the nearest end."""
    low, high = found
    scale = 255 / (high - low)
    steps = np.empty(value.shape, np.float32)
    np.rint(np.multiply(value, np.float32(scale), out=steps), out=steps)
    np.subtract(steps, np.float32(np.rint(low * scale)), out=steps)
    return np.clip(steps, 0, 255, out=steps).astype(np.uint8)


def refusal(op: str, shapes: Sequence[Shape], attributes: Attributes) -> str:
    """Why the kernel cannot take the place of the float op, or nothing.

    shapes: what is known of the data inputs' shapes. attributes: the float op's, by name.
    """
    if any(shape is not None and 0 in shape for shape in shapes):
        return "it computes with a tensor that has no elements"
    match op:
        case "Conv2D":
            return _convolution(shapes, attributes)
        case "MatMul":
            return _sum(_inner_size(shapes, attributes))
        case "Add" | "AddV2" | "Mul":
            return _broadcast(*shapes)
        case "MaxPool" | "AvgPool":
            return _layout(attributes) or _pooling(attributes)
        case "BiasAdd":
            return _layout(attributes)
    return ""


def _layout(attributes: Attributes) -> str:
    found = attributes("data_format").s.decode()
    return "" if found == "NHWC" else f"the eight-bit kernel takes NHWC, not {found}"


def _pooling(attributes: Attributes) -> str:
    padding = attributes("padding").s.decode()
    if padding not in ("SAME", "VALID"):
        return f"the eight-bit kernel knows no {padding} padding"
    windows = [list(attributes(name).list.i) for name in ("ksize", "strides")]
    if any(sizes[axis] != 1 for sizes in windows for axis in (0, 3)):
        return "it pools over examples or channels"
    return ""


def _convolution(shapes: Sequence[Shape], attributes: Attributes) -> str:
    if reason := _layout(attributes):
        return reason
    padding = attributes("padding").s.decode()
    if padding not in ("SAME", "VALID"):
        return f"the eight-bit kernel knows no {padding} padding"
    strides = list(attributes("strides").list.i)
    if strides[0] != 1 or strides[3] != 1 or strides[1] != strides[2]:
        return f"the eight-bit kernel has one stride for rows and columns, these are {strides}"
    if any(rate != 1 for rate in attributes("dilations").list.i):
        return "the eight-bit kernel knows no dilations"
    images, weights = shapes
    if weights is None or len(weights) != 4 or None in weights:
        return "the filter's shape is not known"
    height, width, depth, _ = (size or 0 for size in weights)
    channels = images[3] if images is not None else None
    if channels is None:
        return "how many channels its input has is not known"
    if channels != depth:
        return "the eight-bit kernel knows no groups"
    if reason := _sum(height * width * depth):
        return reason
    for size, window in ((images or ())[1], height), ((images or ())[2], width):
        if _misplaces(size, window, strides[1], padding):
            return f"the eight-bit kernel would begin beside the image (stride {strides[1]}, window {window})"
    return ""


def _misplaces(size: int | None, window: int, stride: int, padding: str) -> bool:
    """Whether the kernel's first window is not where the float op's is.

    It halves how far the windows reach beyond the image also where they do not reach its end, which then shifts them
    all: SAME with two pixels or more left over, VALID with three.
    """
    if padding == "SAME":
        left = stride - window if size is None else size - ((math.ceil(size / stride) - 1) * stride + window)
        return left >= 2
    left = stride - 1 if size is None else (size - window) % stride
    return left >= 3


def _inner_size(shapes: Sequence[Shape], attributes: Attributes) -> int | None:
    for shape, flag, usual in zip(shapes, ("transpose_a", "transpose_b"), (1, 0), strict=True):
        if shape is not None and len(shape) == 2:
            size = shape[1 - usual if attributes(flag).b else usual]
            if size is not None:
                return size
    return None


def _sum(terms: int | None) -> str:
    if terms is None:
        return "how many products it sums up is not known"
    if terms > MOST_TERMS:
        return f"a sum of {terms:,} products may leave 32 bits (which hold {MOST_TERMS:,})"
    return ""


def _broadcast(a: Shape, b: Shape) -> str:
    """Why not: the kernels repeat the smaller tensor as a whole, along leading axes, and nothing else."""
    if a is None or b is None:
        return "the shapes that are broadcast are not known"
    if all(size == 1 for size in a) or all(size == 1 for size in b):
        return ""
    rank = max(len(a), len(b))
    pairs = list(zip((1,) * (rank - len(a)) + a, (1,) * (rank - len(b)) + b, strict=True))
    while pairs and pairs[-1][0] == pairs[-1][1] is not None:
        pairs.pop()
    if all(x == 1 for x, _ in pairs) or all(y == 1 for _, y in pairs):
        return ""
    # A size that is not known is equal to the other or 1; either is a leading axis then.
    *leading, (x, y) = pairs
    if all(pair == (1, 1) for pair in leading) and (x is None or y is None):
        return ""
    unknown = any(size is None for pair in pairs for size in pair)
    what = "what is known of the shapes, " if unknown else "the shapes "
    return f"the eight-bit kernel repeats along leading axes only, not as {what}{_spelled(a)} and {_spelled(b)}, ask"


def _spelled(shape: Sequence[int | None]) -> str:
    return "[" + ", ".join("?" if size is None else str(size) for size in shape) + "]"
