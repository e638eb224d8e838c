"""What an encoding is: an array stored as other arrays, and decoded by NumPy and by TensorFlow to the same bits."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from tfslim_core.encodings.output_error import Moments
from tfslim_core.graph import Input, NameMaker, NodeDef, constant, make_node
from tfslim_core.weights import Array

Floats = NDArray[np.float32]


class NotEncodableError(Exception):
    """The values would not survive; the message is the reason. The weight is left as it is."""


@dataclass(frozen=True)
class Form:
    """Dtype and shape of an array: of what is decoded, or of a part that it is stored as."""

    dtype: np.dtype[np.generic]
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Sharing:
    """Which elements share a scale (and a zero point), or a codebook.

    axes: those that a scale is shared along. block: so many elements along the last of the axes share one; 0: all do.
    A block that does not divide the axis is taken as its largest divisor below; one of less than half the block is not,
    and the whole axis shares a scale. group: so many positions of the last axis, or some fewer so that all groups are
    nearly alike, share a codebook; 0: all do. inputs: each input of a layer has a scale of its own where the moments
    of its inputs are known; all share one where they are not.
    """

    axes: tuple[int, ...]
    block: int = 0
    group: int = 0
    inputs: bool = False


@dataclass(frozen=True)
class Part:
    """A stored array as a tensor of the graph that decodes. A table's parts may be rows that were gathered from it;
    `form` is that of the whole.
    """

    source: Input
    form: Form

    @property
    def dtype(self) -> tf.DType:
        """Its dtype."""
        return tf.as_dtype(self.form.dtype)


class Nodes:
    """The nodes that decode one weight, with names below its own."""

    def __init__(self, prefix: str, names: NameMaker, device: str = "") -> None:
        self.made: list[NodeDef] = []
        self._prefix, self._names, self._device = prefix, names, device

    def add(self, op: str, *inputs: Input, **attributes: Any) -> Input:
        """Output 0 of a new node."""
        name = self._names(f"{self._prefix}/{op}")
        self.made.append(make_node(op, name, inputs, device=self._device, **attributes))
        return Input(name, 0)

    def constant(self, value: Any, dtype: Any) -> Input:
        """A small constant."""
        node, _ = constant(self._names(f"{self._prefix}/Const"), np.asarray(value, dtype), device=self._device)
        self.made.append(node)
        return Input(node.name, 0)

    def cast(self, source: Input, given: tf.DType, wanted: tf.DType) -> Input:
        """The tensor in another dtype."""
        return source if given == wanted else self.add("Cast", source, SrcT=given, DstT=wanted)

    def reshape(self, source: Input, shape: tuple[int, ...] | Input, dtype: tf.DType) -> Input:
        """The tensor in another shape; its sizes, or a tensor of them (int32)."""
        sizes = shape if isinstance(shape, Input) else self.constant(shape, np.int32)
        return self.add("Reshape", source, sizes, T=dtype, Tshape=tf.int32)


class Scheme(Protocol):
    """How an array is decoded from its parts.

    roles: the parts, and the dtypes that each may have ("object": strings). by_row: those whose first axis is the
    array's, or is 1 where all rows share it, so that rows of them decode to rows of it; without any, only the whole can
    be decoded.
    """

    @property
    def by_row(self) -> frozenset[str]:
        """Parts that have a row for each of the array's."""
        ...

    @property
    def roles(self) -> Mapping[str, frozenset[str]]:
        """Parts, and their dtypes."""
        ...

    def problem(self, parts: Mapping[str, Form], form: Form) -> str:
        """Why these cannot be the parts of an array of this form; or nothing."""
        ...

    def decode(self, parts: Mapping[str, Array], form: Form) -> Array:
        """The array.

        Raises:
            ModelError: the parts are damaged.
        """
        ...

    def decoding_ops(self, nodes: Nodes, parts: Mapping[str, Part], form: Form) -> Input:
        """Add the nodes that decode; the last of them gives the array."""
        ...


class Encoding(Scheme, Protocol):
    """A scheme that float32 weights can be stored in.

    exact: every value comes back bit for bit, NaN and infinity too. sharings: what a user may write after a slash,
    "block" and "group" with a number.
    """

    @property
    def bits(self) -> int:
        """Bits per element, without scales and codebooks and before any compression."""
        ...

    @property
    def exact(self) -> bool:
        """Whether every value survives."""
        ...

    @property
    def sharings(self) -> tuple[str, ...]:
        """How scales or codebooks may be shared."""
        ...

    def encode(self, value: Floats, sharing: Sharing, moments: Moments | None = None) -> Mapping[str, Array]:
        """The parts.

        moments: of the inputs that the weight is multiplied with; then the outputs' error is what is kept small.

        Raises:
            NotEncodableError: the values cannot be held.
        """
        ...
