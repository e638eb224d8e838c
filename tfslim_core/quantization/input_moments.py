"""What layers are fed: the second moments of the inputs of each weight, over a sample, in one live session.

Known for the constant operand of MatMul and BatchMatMul, of an Einsum of two, of Conv2D and DepthwiseConv2dNative. A
weight that several layers share has the sum of theirs. One with a reader of another kind, or one inside of a loop or a
branch, whose inputs cannot be fetched, has none.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from tfslim_core import ops
from tfslim_core.encodings.output_error import Moments
from tfslim_core.encodings.scheme import Floats
from tfslim_core.graph import Graph, Input, NodeDef, Reader, needed, parse_input
from tfslim_core.quantization.live_model import LiveModel
from tfslim_core.quantization.placements import use_of
from tfslim_core.weights import Array

EXAMPLES = 512  # of a sample that are looked at
MOST_INPUTS = 6000  # n; of more only the diagonal is kept
_ROWS = 32_768  # of inputs that are looked at, for one layer; of a convolution's windows some are drawn
_AT_ONCE = 256 << 20  # bytes of fetched inputs, and of moments, that are in memory together


@dataclass(frozen=True)
class _Products:
    """A layer that multiplies matrices. own: axes of the input that only it has, from the last on, so that more may be
    in front of them. along: the input's axes that are summed and apart, in the weight's order.
    """

    tensor: Input
    rank: int
    along: tuple[int, ...]
    beside: tuple[int, ...]
    summed: tuple[int, ...]
    apart: tuple[int, ...]

    def takes(self, shape: tuple[int, ...]) -> bool:
        """Whether inputs of this shape are understood."""
        return len(shape) == self.rank or (len(shape) > self.rank and not self.apart)

    def rows(self, value: Array, most: int, generator: np.random.Generator) -> tuple[Array, float]:
        """Inputs as [groups, rows, n], and how many each row stands for."""
        more = value.ndim - self.rank
        along, beside = ([more + axis for axis in axes] for axes in (self.along, self.beside))
        own = [axis for axis in range(value.ndim) if axis not in along and axis not in beside]
        groups, inputs = (math.prod(value.shape[axis] for axis in axes) for axes in (beside, along))
        found = value.transpose(*beside, *own, *along).reshape(groups, -1, inputs)
        if found.shape[1] <= most:
            return found, 1.0
        return found[:, _drawn(found.shape[1], most, generator)], found.shape[1] / most


@dataclass(frozen=True)
class _Windows:
    """A convolution over [batch, height, width, channels]."""

    tensor: Input
    size: tuple[int, int]
    strides: tuple[int, int]
    dilations: tuple[int, int]
    padding: str | tuple[tuple[int, int], tuple[int, int]]
    channels: int
    summed: tuple[int, ...]
    apart: tuple[int, ...]

    def takes(self, shape: tuple[int, ...]) -> bool:
        """Whether inputs of this shape are understood; a convolution in groups is not."""
        return len(shape) == 4 and shape[3] == self.channels

    def rows(self, value: Array, most: int, generator: np.random.Generator) -> tuple[Array, float]:
        """Windows as [groups, rows, n], and how many each row stands for."""
        spans = [(size - 1) * dilation + 1 for size, dilation in zip(self.size, self.dilations, strict=True)]
        padded = np.pad(value, [(0, 0), *self._padded(value.shape[1:3], spans), (0, 0)])
        counts = [
            max(0, (size - span) // stride + 1)
            for size, span, stride in zip(padded.shape[1:3], spans, self.strides, strict=True)
        ]
        total = len(value) * math.prod(counts)
        chosen = np.arange(total) if total <= most else _drawn(total, most, generator)
        image, place = np.divmod(chosen, max(math.prod(counts), 1))
        top, left = (
            some * stride for some, stride in zip(np.divmod(place, max(counts[1], 1)), self.strides, strict=True)
        )
        down, right = (np.arange(size) * dilation for size, dilation in zip(self.size, self.dilations, strict=True))
        windows = padded[
            image[:, None, None], (top[:, None] + down)[:, :, None], (left[:, None] + right)[:, None, :]
        ]  # [rows, kernel height, kernel width, channels]
        scale = total / max(len(chosen), 1)
        if self.apart:
            return windows.transpose(3, 0, 1, 2).reshape(value.shape[3], len(chosen), -1), scale
        return windows.reshape(1, len(chosen), -1), scale

    def _padded(self, sizes: Sequence[int], spans: Sequence[int]) -> Sequence[tuple[int, int]]:
        if not isinstance(self.padding, str):
            return self.padding
        if self.padding == "VALID":
            return [(0, 0), (0, 0)]
        found = []
        for size, span, stride in zip(sizes, spans, self.strides, strict=True):
            missing = max(0, (-(-size // stride) - 1) * stride + span - size)
            found.append((missing // 2, missing - missing // 2))
        return found


_Fed = _Products | _Windows


class InputMoments:
    """The moments of weights, in files of a temporary folder until they are asked for."""

    def __init__(self, layers: Mapping[str, Sequence[_Fed]]) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="tfslim-")
        self._layers = layers
        self._files: dict[_Fed, Path] = {}

    def keep(self, layer: _Fed, moments: Floats) -> None:
        """Keep what was found for a layer."""
        self._files[layer] = Path(self._folder.name) / f"{len(self._files)}.npy"
        np.save(self._files[layer], moments)

    def of(self, name: str) -> Moments | None:
        """The moments of a weight's inputs, where they are known."""
        layers = self._layers.get(name, ())
        if not layers or any(layer not in self._files for layer in layers):
            return None
        total = np.load(self._files[layers[0]])
        for layer in layers[1:]:
            total += np.load(self._files[layer])
        return Moments(total, layers[0].summed, layers[0].apart)


def input_moments(
    live: LiveModel,
    graph: Graph,
    names: Sequence[str],
    signature: str,
    batches: Sequence[Mapping[str, Array]],
    *,
    progress: Callable[[int, int], None] = lambda done, total: None,
    seed: int = 0,
) -> InputMoments:
    """Ask the model, as it is, and look at what its layers get.

    batches: what the signature is asked. A layer's inputs are fetched, not more at once than fit beside the model.
    """
    answering = needed(graph, [parse_input(name).node for name in live.tensors(signature)])
    fed = {name: found for name in names if (found := _layers(graph, name, answering))}
    moments = InputMoments(fed)
    layers = list(dict.fromkeys(one for found in fed.values() for one in found))
    by_tensor: dict[Input, list[_Fed]] = {}
    for layer in layers:
        by_tensor.setdefault(layer.tensor, []).append(layer)
    done = 0
    for tensors in _together(live, signature, batches[:1], by_tensor):
        progress(done, len(by_tensor))
        done += len(tensors)
        sums = {layer: _Sum() for tensor in tensors for layer in by_tensor[tensor]}
        for number, batch in enumerate(batches):
            for tensor, value in _fetched(live, signature, batch, tensors).items():
                for layer in by_tensor[tensor]:
                    generator = np.random.default_rng([seed, number])
                    sums[layer].add(*layer.rows(value, -(-_ROWS // len(batches)), generator))
        for layer, total in sums.items():
            if total.known:
                moments.keep(layer, total.value)
    return moments


class _Sum:
    """A layer's moments, summed up."""

    def __init__(self) -> None:
        self.value: Floats = np.zeros(0, np.float32)

    def add(self, rows: Array, weight: float) -> None:
        """rows: [groups, rows, n], each to be counted so often."""
        if rows.shape[2] > MOST_INPUTS:
            found = np.square(rows, dtype=np.float32).sum(axis=1)
        else:
            found = np.matmul(rows.transpose(0, 2, 1), rows)
        found *= np.float32(weight)
        self.value = self.value + found if self.value.size else found

    @property
    def known(self) -> bool:
        """Whether anything was seen, and nothing but finite numbers."""
        return self.value.size > 0 and bool(np.isfinite(self.value).all()) and bool(self.value.any())


def _together(
    live: LiveModel, signature: str, batches: Sequence[Mapping[str, Array]], layers: Mapping[Input, Sequence[_Fed]]
) -> Iterator[list[Input]]:
    """The tensors that can be fetched, as many as fit in memory at once."""
    waiting: list[Input] = []
    size = 0
    for batch in batches:
        for tensor, found in layers.items():
            value = _fetched(live, signature, batch, [tensor]).get(tensor)
            if value is None or value.dtype != np.float32 or not all(one.takes(value.shape) for one in found):
                continue
            rows = (one.rows(value, 1, np.random.default_rng(0))[0] for one in found)
            taken = value.nbytes + sum(4 * one.shape[0] * min(one.shape[2], MOST_INPUTS) ** 2 for one in rows)
            if waiting and size + taken > _AT_ONCE:
                yield waiting
                waiting, size = [], 0
            waiting.append(tensor)
            size += taken
    if waiting:
        yield waiting


def _fetched(
    live: LiveModel, signature: str, batch: Mapping[str, Array], tensors: Sequence[Input]
) -> dict[Input, Array]:
    """The tensors that have a value; what is in a loop's frame or in a branch that is not taken has none."""
    try:
        return dict(zip(tensors, live.fetch(signature, batch, list(map(_tensor, tensors))), strict=True))
    except tf.errors.OpError:
        if len(tensors) == 1:
            return {}
    return {key: value for one in tensors for key, value in _fetched(live, signature, batch, [one]).items()}


def _tensor(source: Input) -> str:
    return f"{source.node}:{source.port}"


def _drawn(count: int, most: int, generator: np.random.Generator) -> NDArray[np.int64]:
    return np.sort(generator.choice(count, most, replace=False))


def _layers(graph: Graph, name: str, answering: Collection[str]) -> list[_Fed]:
    """The layers that multiply by a weight; none where not all that answer are known, or they sum it differently."""
    readers = [reader for reader in use_of(graph, name).readers if reader.node in answering]
    found = [_layer(graph, graph.nodes[reader.node], reader, graph.weights[name].shape) for reader in readers]
    known = [layer for layer in found if layer is not None]
    alike = {(layer.summed, layer.apart) for layer in known}
    return known if len(known) == len(found) and len(alike) == 1 else []


def _layer(graph: Graph, node: NodeDef, reader: Reader, shape: tuple[int, ...]) -> _Fed | None:
    def attribute(key: str) -> Any:
        return ops.attribute(node, key, graph.functions)

    other = graph.sources(node.name)[1 - reader.position] if reader.position < 2 else None
    if other is None or other.node == node.name:
        return None
    if node.op == "MatMul" and len(shape) == 2:
        turned = [attribute(f"transpose_{side}").b for side in "ab"]
        if reader.position == 1:
            return _Products(other, 2, (0 if turned[0] else 1,), (), (1 if turned[1] else 0,), ())
        return _Products(other, 2, (1 if turned[1] else 0,), (), (0 if turned[0] else 1,), ())
    if node.op in ("BatchMatMul", "BatchMatMulV2") and reader.position == 1 and math.prod(shape[:-2]) == 1:
        rank, turned = len(shape), [attribute(f"adj_{side}").b for side in "xy"]
        return _Products(other, 2, (0 if turned[0] else 1,), (), (rank - 1 if turned[1] else rank - 2,), ())
    if node.op == "Einsum" and attribute("N").i == 2:
        return _einsum(attribute("equation").s.decode(), other, reader.position)
    if (
        node.op in ("Conv2D", "DepthwiseConv2dNative")
        and reader.position == 1
        and attribute("data_format").s == b"NHWC"
    ):
        depthwise = node.op != "Conv2D"
        strides, dilations, explicit = (
            list(attribute(k).list.i) for k in ("strides", "dilations", "explicit_paddings")
        )
        padding = attribute("padding").s.decode()
        return _Windows(
            other,
            (shape[0], shape[1]),
            (strides[1], strides[2]),
            (dilations[1], dilations[2]) if dilations else (1, 1),
            ((explicit[2], explicit[3]), (explicit[4], explicit[5])) if padding == "EXPLICIT" else padding,
            shape[2],
            (0, 1) if depthwise else (0, 1, 2),
            (2,) if depthwise else (),
        )
    return None


def _einsum(equation: str, other: Input, position: int) -> _Products | None:
    """A sum of products of two, where all that the weight alone has are outputs."""
    given, _, made = equation.replace(" ", "").partition("->")
    sides = given.split(",")
    if not made or len(sides) != 2 or "..." in sides[position]:
        return None
    weight, inputs = sides[position], sides[1 - position]
    plain = inputs.removeprefix("...")
    if "..." in plain or any(len(set(side)) != len(side) for side in (weight, plain)):
        return None
    summed = [label for label in weight if label not in made]
    apart = [label for label in weight if label in made and label in plain]
    alone = any(label not in weight + made for label in plain) or any(label not in plain for label in summed)
    if alone or not summed or (apart and plain != inputs):
        return None
    return _Products(
        other,
        len(plain),
        tuple(map(plain.index, summed)),
        tuple(map(plain.index, apart)),
        tuple(map(weight.index, summed)),
        tuple(map(weight.index, apart)),
    )
