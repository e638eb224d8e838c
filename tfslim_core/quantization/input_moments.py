"""What layers are fed: the second moments of the inputs of each weight, over a sample, in one live session.

Known for the constant operand of MatMul and BatchMatMul, of an Einsum of two, of Conv2D and DepthwiseConv2dNative. Of a
table that rows are read from it is known how often each is. A weight that several layers share has the sum of theirs.
One with a reader of another kind, or one inside of a loop or a branch, whose inputs cannot be fetched, has none.

Few rows tell little of how many inputs go together: by chance alone those of noise do. So covariances are taken for
less than they are found, by the share of them that is chance (Schäfer and Strimmer 2005, after Ledoit and Wolf).
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
from tfslim_core.encodings.output_error import Floats, Moments
from tfslim_core.graph import Graph, Input, NodeDef, Reader, needed, parse_input
from tfslim_core.quantization.gathered_rows import rows_read
from tfslim_core.quantization.live_model import LiveModel
from tfslim_core.quantization.placements import use_of
from tfslim_core.weights import Array

EXAMPLES = 512  # of a sample that inputs are looked at for; rows that are read are counted for all
MOST_INPUTS = 6000  # n; of more only the diagonal is kept
_ROWS = 32_768  # of inputs that are looked at, for one layer; of a convolution's windows some are drawn
_AT_ONCE = 256 << 20  # bytes of fetched inputs, and of moments, that are in memory together


@dataclass
class _Sums:
    """Over rows of inputs, each counted as often as it stands for others.

    matrices: [groups, n, n], of the products of what they are off `origin`; [groups, n] where only the diagonals are
    known, of the inputs themselves. sums: [groups, n], of what they are off it. squares: [groups], of the squares of
    all products off the diagonal.
    """

    matrices: Floats
    origin: Floats
    sums: NDArray[np.float64]
    squares: NDArray[np.float64]
    weight: float
    rows: int

    def __iadd__(self, other: _Sums) -> _Sums:
        self.matrices += other.matrices
        self.sums += other.sums
        self.squares += other.squares
        self.weight += other.weight
        self.rows += other.rows
        return self

    def moments(self) -> Floats:
        """The matrices of the inputs, where what goes together by chance does not."""
        if self.matrices.ndim == 2:
            return self.matrices
        with np.errstate(over="ignore", invalid="ignore"):
            mean = (self.sums / self.weight).astype(np.float32)
            found = self.matrices - np.float32(self.weight) * mean[:, :, None] * mean[:, None, :]
            diagonals = np.diagonal(found, axis1=1, axis2=2).copy()
            found *= self.more_than_chance(found, diagonals)[:, None, None]
            places = np.arange(diagonals.shape[1])
            found[:, places, places] = diagonals
            mean += self.origin
            found += np.float32(self.weight) * mean[:, :, None] * mean[:, None, :]
        return found

    def more_than_chance(self, centred: Floats, diagonals: Floats) -> Floats:
        """[groups]: the share of what is off the diagonal that as many other rows would show too."""
        with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
            off = np.square(centred, dtype=np.float64).sum(axis=(1, 2))
            off -= np.square(diagonals, dtype=np.float64).sum(axis=1)
            chance = (self.squares - off / self.rows) / off
        return np.where(off > 0, 1 - np.clip(chance, 0, 1), 0).astype(np.float32)


@dataclass(frozen=True)
class _Products:
    """A layer that multiplies matrices. along, beside: the input's axes that are summed, and apart, in the weight's
    order; of `rank` axes, more of which may be in front where none are apart.
    """

    tensors: tuple[Input]
    rank: int
    along: tuple[int, ...]
    beside: tuple[int, ...]
    sizes: tuple[int, ...]
    summed: tuple[int, ...]
    apart: tuple[int, ...] = ()

    def takes(self, values: Sequence[Array]) -> bool:
        """Whether inputs like these are understood."""
        (value,) = values
        if value.dtype != np.float32 or value.ndim < self.rank or (self.apart and value.ndim > self.rank):
            return False
        sizes = value.shape[value.ndim - self.rank :]
        return tuple(sizes[axis] for axis in (*self.beside, *self.along)) == self.sizes

    def sums(self, values: Sequence[Array], most: int, generator: np.random.Generator, origin: Floats | None) -> _Sums:
        """From `most` rows."""
        (value,) = values
        more = value.ndim - self.rank
        along, beside = ([more + axis for axis in axes] for axes in (self.along, self.beside))
        own = [axis for axis in range(value.ndim) if axis not in along and axis not in beside]
        groups, inputs = (math.prod(value.shape[axis] for axis in axes) for axes in (beside, along))
        rows = value.transpose(*beside, *own, *along).reshape(groups, -1, inputs)
        chosen, weight = _drawn(rows.shape[1], most, generator)
        return _squared(rows if weight == 1 else rows[:, chosen], weight, origin)


@dataclass(frozen=True)
class _Windows:
    """A convolution over [batch, height, width, channels]."""

    tensors: tuple[Input]
    size: tuple[int, int]
    channels: int
    strides: tuple[int, int]
    dilations: tuple[int, int]
    padding: str | tuple[tuple[int, int], tuple[int, int]]
    summed: tuple[int, ...]
    apart: tuple[int, ...] = ()

    def takes(self, values: Sequence[Array]) -> bool:
        """Whether inputs like these are understood; those of a convolution in groups are not."""
        (value,) = values
        return value.dtype == np.float32 and value.ndim == 4 and value.shape[3] == self.channels

    def sums(self, values: Sequence[Array], most: int, generator: np.random.Generator, origin: Floats | None) -> _Sums:
        """From `most` windows."""
        (value,) = values
        spans = [(size - 1) * dilation + 1 for size, dilation in zip(self.size, self.dilations, strict=True)]
        padded = np.pad(value, [(0, 0), *self._padded(value.shape[1:3], spans), (0, 0)])
        high, wide = (
            max(0, (size - span) // stride + 1)
            for size, span, stride in zip(padded.shape[1:3], spans, self.strides, strict=True)
        )
        chosen, weight = _drawn(len(value) * high * wide, most, generator)
        image, place = np.divmod(chosen, max(high * wide, 1))
        top, left = np.divmod(place, max(wide, 1))
        down, right = (np.arange(size) * dilation for size, dilation in zip(self.size, self.dilations, strict=True))
        windows = padded[
            image[:, None, None],
            (top[:, None] * self.strides[0] + down)[:, :, None],
            (left[:, None] * self.strides[1] + right)[:, None, :],
        ]  # [windows, kernel height, kernel width, channels]
        if self.apart:
            return _squared(windows.transpose(3, 0, 1, 2).reshape(self.channels, len(chosen), -1), weight, origin)
        return _squared(windows.reshape(1, len(chosen), -1), weight, origin)

    def _padded(self, sizes: Sequence[int], spans: Sequence[int]) -> Sequence[tuple[int, int]]:
        if not isinstance(self.padding, str):
            return self.padding
        if self.padding == "VALID":
            return [(0, 0), (0, 0)]
        missing = [
            max(0, (-(-size // stride) - 1) * stride + span - size)
            for size, span, stride in zip(sizes, spans, self.strides, strict=True)
        ]
        return [(some // 2, some - some // 2) for some in missing]


@dataclass(frozen=True)
class _Rows:
    """A node that reads rows of a table. tensors: their numbers; the different ones and which of them each is, where
    the node reads no row twice.
    """

    tensors: tuple[Input, ...]
    rows: int
    summed: tuple[int, ...] = (0,)
    apart: tuple[int, ...] = ()

    def takes(self, values: Sequence[Array]) -> bool:
        """Whether these are numbers of rows."""
        return all(value.dtype.kind == "i" for value in values)

    def sums(self, values: Sequence[Array], most: int, generator: np.random.Generator, origin: Floats | None) -> _Sums:
        """[1, rows]: how often each is read."""
        del most, generator, origin
        numbers = values[0].reshape(-1).astype(np.int64)
        if len(values) > 1:
            numbers = numbers[values[1].reshape(-1)]
        numbers = numbers[(numbers >= 0) & (numbers < self.rows)]
        counts = np.bincount(numbers, minlength=self.rows).astype(np.float32)[None]
        return _Sums(counts, counts[:, :0], np.zeros((1, 0)), np.zeros(1), 1.0, len(numbers))


_Layer = _Products | _Windows | _Rows


def _drawn(count: int, most: int, generator: np.random.Generator) -> tuple[NDArray[np.int64], float]:
    """Some of `count` places, and how many each stands for."""
    if count <= most:
        return np.arange(count), 1.0
    return np.sort(generator.choice(count, most, replace=False)), count / most


def _squared(rows: NDArray[Any], weight: float, origin: Floats | None) -> _Sums:
    """Of [groups, rows, n], each counted `weight` times."""
    with np.errstate(over="ignore", invalid="ignore"):
        mean: Floats = rows.mean(axis=1) if origin is None else origin
        centred = rows - mean[:, None]
        squared = np.square(centred)
        if rows.shape[2] > MOST_INPUTS:
            found: Floats = np.square(rows).sum(axis=1)
        else:
            found = np.matmul(centred.transpose(0, 2, 1), centred)
        found *= np.float32(weight)
        sums = weight * centred.sum(axis=1, dtype=np.float64)
        lengths = np.square(squared.sum(axis=2, dtype=np.float64)).sum(axis=1)
        own = np.square(squared, out=squared).sum(axis=(1, 2), dtype=np.float64)
    count = rows.shape[1]
    return _Sums(found, mean, sums, weight**2 * (lengths - own), weight * count, count)


class InputMoments:
    """The moments of weights, in files of a temporary folder until they are asked for."""

    def __init__(self, layers: Mapping[str, Sequence[_Layer]]) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="tfslim-")
        self._layers = dict(layers)
        self._files: dict[_Layer, Path] = {}

    def keep(self, layer: _Layer, moments: Floats) -> None:
        """Keep what was found for a layer."""
        self._files[layer] = Path(self._folder.name) / f"{len(self._files)}.npy"
        np.save(self._files[layer], moments)

    @property
    def known(self) -> list[str]:
        """The weights whose inputs' moments are known."""
        return [name for name, layers in self._layers.items() if all(layer in self._files for layer in layers)]

    def forget(self, name: str) -> None:
        """Have none for a weight from now on."""
        self._layers.pop(name, None)

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

    batches: what the signature is asked. Not more of it is fetched at once than fits beside the model.
    """
    answering = needed(graph, [parse_input(name).node for name in live.tensors(signature)])
    found = InputMoments({name: layers for name in names if (layers := _layers_of(graph, name, answering))})
    layers = list(dict.fromkeys(layer for name in names for layer in _layers_of(graph, name, answering)))
    looked_at = _first(batches, EXAMPLES)
    done = 0
    for together in _together(live, signature, batches[:1], layers):
        progress(done, len(layers))
        done += len(together)
        sums: dict[_Layer, _Sums] = {}
        counted = any(isinstance(layer, _Rows) for layer in together)
        for number, batch in enumerate(batches if counted else looked_at):
            asked = [layer for layer in together if number < len(looked_at) or isinstance(layer, _Rows)]
            for layer, values in _fetched(live, signature, batch, asked).items():
                if layer.takes(values):
                    generator = np.random.default_rng([seed, number])
                    before = sums.get(layer)
                    origin = before.origin if before is not None else None
                    some = layer.sums(values, -(-_ROWS // len(looked_at)), generator, origin)
                    if before is not None:
                        before += some
                    else:
                        sums[layer] = some
        for layer, total in sums.items():
            moments = total.moments()
            if moments.any() and np.isfinite(moments).all():
                found.keep(layer, moments)
    return found


def _first(batches: Sequence[Mapping[str, Array]], examples: int) -> Sequence[Mapping[str, Array]]:
    """The first batches that hold so many, an input's first axis being the examples."""
    sizes = [max((value.shape[0] for value in batch.values() if value.ndim), default=1) for batch in batches]
    return [batch for batch, before in zip(batches, np.cumsum([0, *sizes]), strict=False) if before < examples]


def _together(
    live: LiveModel, signature: str, batches: Sequence[Mapping[str, Array]], layers: Sequence[_Layer]
) -> Iterator[list[_Layer]]:
    """The layers whose inputs can be fetched, as many as fit in memory at once."""
    together: list[_Layer] = []
    size = 0
    for layer in layers:
        found = [_fetched(live, signature, batch, [layer]).get(layer) for batch in batches]
        if not found or found[0] is None or not layer.takes(found[0]):
            continue
        taken = sum(value.nbytes for value in found[0])
        taken += layer.sums(found[0], 1, np.random.default_rng(0), None).matrices.nbytes
        if together and size + taken > _AT_ONCE:
            yield together
            together, size = [], 0
        together.append(layer)
        size += taken
    if together:
        yield together


def _fetched(
    live: LiveModel, signature: str, batch: Mapping[str, Array], layers: Sequence[_Layer]
) -> dict[_Layer, list[Array]]:
    """What the layers are fed; those in a loop's frame or in a branch that is not taken are not there."""
    tensors = list(dict.fromkeys(f"{one.node}:{one.port}" for layer in layers for one in layer.tensors))
    try:
        values = dict(zip(tensors, live.fetch(signature, batch, tensors), strict=True))
    except tf.errors.OpError:
        if len(layers) == 1:
            return {}
        return {layer: found for one in layers for layer, found in _fetched(live, signature, batch, [one]).items()}
    return {layer: [values[f"{one.node}:{one.port}"] for one in layer.tensors] for layer in layers}


def _layers_of(graph: Graph, name: str, answering: Collection[str]) -> list[_Layer]:
    """The layers that a weight is in; none where not all that answer are known, or they sum it along other axes."""
    readers = [reader for reader in use_of(graph, name).readers if reader.node in answering]
    shape = graph.weights[name].shape
    found = [_layer(graph, graph.nodes[reader.node], reader, shape) for reader in readers]
    known = [layer for layer in found if layer is not None]
    kinds = {(layer.summed, layer.apart, isinstance(layer, _Rows)) for layer in known}
    return known if len(known) == len(found) and len(kinds) == 1 else []


def _layer(graph: Graph, node: NodeDef, reader: Reader, shape: tuple[int, ...]) -> _Layer | None:
    def attribute(key: str) -> Any:
        return ops.attribute(node, key, graph.functions)

    rank, position = len(shape), reader.position
    read = rows_read(graph, reader, rank)
    if read is not None:
        return _rows(graph, node, shape[0]) if read.depth == 1 else None
    if position > 1 or len(graph.sources(node.name)) < 2:
        return None
    other = graph.sources(node.name)[1 - position]
    if node.op == "MatMul" and rank == 2:
        # Of a weight that is on the left, and of an input on the right, the last axis is the one that is summed.
        turned = [attribute(f"transpose_{side}").b for side in "ab"]
        along, summed = (int(not turned[0]), int(turned[1])) if position else (int(turned[1]), int(not turned[0]))
        return _Products((other,), 2, (along,), (), (shape[summed],), (summed,))
    if node.op in ("BatchMatMul", "BatchMatMulV2") and position == 1 and rank > 1 and math.prod(shape[:-2]) == 1:
        along, summed = int(not attribute("adj_x").b), rank - 1 if attribute("adj_y").b else rank - 2
        return _Products((other,), 2, (along,), (), (shape[summed],), (summed,))
    if node.op == "Einsum" and attribute("N").i == 2:
        return _einsum(attribute("equation").s.decode(), other, position, shape)
    if node.op in ("Conv2D", "DepthwiseConv2dNative") and position == 1 and attribute("data_format").s == b"NHWC":
        strides, dilations, sizes = (list(attribute(k).list.i) for k in ("strides", "dilations", "explicit_paddings"))
        padding = attribute("padding").s.decode()
        return _Windows(
            (other,),
            (shape[0], shape[1]),
            shape[2],
            (strides[1], strides[2]),
            (dilations[1], dilations[2]),
            ((sizes[2], sizes[3]), (sizes[4], sizes[5])) if padding == "EXPLICIT" else padding,
            *(((0, 1, 2), ()) if node.op == "Conv2D" else ((0, 1), (2,))),
        )
    return None


def _rows(graph: Graph, node: NodeDef, rows: int) -> _Rows | None:
    if node.op == "StridedSlice":
        return None
    numbers = graph.sources(node.name)[1]
    if graph.nodes[numbers.node].op in ("Unique", "UniqueV2") and numbers.port == 0:
        return _Rows((numbers, Input(numbers.node, 1)), rows)
    return _Rows((numbers,), rows)


def _einsum(equation: str, other: Input, position: int, shape: tuple[int, ...]) -> _Products | None:
    """A sum of products of two, where what only one of them has is in the result."""
    given, _, made = equation.replace(" ", "").partition("->")
    sides = given.split(",")
    weight, inputs = sides[position], sides[1 - position]
    plain = inputs.removeprefix("...")
    if "." in weight + plain or any(len(set(side)) != len(side) for side in (weight, plain)):
        return None
    if any(label not in made + other_side for side, other_side in ((weight, plain), (plain, weight)) for label in side):
        return None
    summed = [axis for axis, label in enumerate(weight) if label not in made]
    apart = [axis for axis, label in enumerate(weight) if label in made and label in plain]
    if not summed or (apart and plain != inputs):
        return None
    along, beside = (tuple(plain.index(weight[axis]) for axis in axes) for axes in (summed, apart))
    sizes = tuple(shape[axis] for axis in (*apart, *summed))
    return _Products((other,), len(plain), along, beside, sizes, tuple(summed), tuple(apart))
