"""Factors and offsets per output channel: where a layer's channels are, what an op does to them, and how to bake it in.

A layer is one whose weights are a constant and whose output is linear in them. `layer()` is its pattern; what may stand
between the layer and an op per channel are a bias and a *carrier*, an op that moves values without changing them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from tfslim_core.graph import Graph, NodeDef, constant, data_inputs, external_constant, make_node, renamed
from tfslim_core.rewriting import Match, Pattern, Skip, anything, either, op
from tfslim_core.rewriting import constant as constants
from tfslim_core.weights import Array, Weight

Vector = NDArray[np.float64]
Nodes = tuple[list[NodeDef], dict[str, Weight]]

NORMS = "FusedBatchNorm|FusedBatchNormV2|FusedBatchNormV3"
OLD_NORM = "BatchNormWithGlobalNormalization"
NOTHING = ""  # the reason of a match that is left because it is the form to be reached
_LARGEST_SCALE = 2.0**40  # far beyond any batch norm; a weight times more than this might leave float32's range
_FORWARD = "Conv2D|DepthwiseConv2dNative|MatMul|Conv3D|BatchMatMul|BatchMatMulV2|Einsum"
_TRANSPOSED = ("Conv2DBackpropInput", "Conv3DBackpropInputV2")


def norm(below: Pattern, suffix: str = "") -> Pattern:
    """The pattern of a batch norm with constant parameters."""

    def parameters(names: str) -> list[Pattern]:
        return [constants(name + suffix) for name in names.split()]

    name = f"affine{suffix}"
    current = op(NORMS, below, *parameters("gamma beta mean variance"), name=name)
    return either(current, op(OLD_NORM, below, *parameters("mean variance beta gamma"), name=name))


def scaling(below: Pattern, suffix: str = "") -> Pattern:
    """The pattern of a product with a constant, a quotient by one, or a batch norm."""
    name = f"affine{suffix}"
    return either(
        norm(below, suffix),
        op("Mul", below, constants(f"scale{suffix}"), commutes=True, name=name),
        op("RealDiv|Div", below, constants(f"divisor{suffix}"), name=name),
        op("Sub", constants(f"minuend{suffix}"), below, name=name),
    )


def shifting(below: Pattern, suffix: str = "") -> Pattern:
    """The pattern of a sum with a constant."""
    name = f"affine{suffix}"
    return either(
        op("Add|AddV2", below, constants(f"offset{suffix}"), commutes=True, name=name),
        op("BiasAdd", below, constants(f"offset{suffix}"), name=name),
        op("Sub", below, constants(f"subtrahend{suffix}"), name=name),
    )


def layer(number: int = 0) -> Pattern:
    """The pattern of a layer; where a pattern has several, each has its number."""
    x, weights = anything(f"x{number}"), constants(f"weights{number}")
    return either(
        op(_FORWARD, x, weights, name=f"layer{number}"),
        op("Einsum", weights, x, name=f"layer{number}"),
        op("|".join(_TRANSPOSED), anything(), weights, x, name=f"layer{number}"),
    )


def biased(below: Pattern, number: int = 0) -> Pattern:
    """The pattern of what a constant is added to."""
    bias = constants(f"bias{number}")
    return either(
        op("BiasAdd", below, bias, name=f"biased{number}"),
        op("Add|AddV2", below, bias, name=f"biased{number}", commutes=True),
    )


def carried(below: Pattern) -> Pattern:
    """The pattern of a tensor whose values are moved, or seen in another shape."""
    return either(
        op("Squeeze", below, name="carrier"),
        op("Reshape|Transpose", below, anything("order"), name="carrier"),
        op("BatchToSpaceND", below, constants("block"), anything(), name="carrier"),
    )


class Channels(NamedTuple):
    """How many channels a tensor has, and their axis, counted from the end. With `more`, `rank` is the least it has."""

    number: int
    axis: int
    rank: int
    more: bool = False

    @property
    def data_format(self) -> str:
        """The layout as BiasAdd and the batch norms of images name it."""
        return "NHWC" if self.axis == -1 else "NCHW"


@dataclass(frozen=True)
class Layer:
    """The layer of that number in a match, with its bias and carrier, where there are any."""

    graph: Graph
    m: Match
    number: int = 0

    @property
    def node(self) -> NodeDef:
        """The layer's node."""
        return self.m.node(f"layer{self.number}")

    @property
    def has_bias(self) -> bool:
        """Whether a constant is added to it below the root."""
        return f"bias{self.number}" in self.m

    @property
    def dtype(self) -> np.dtype[np.generic]:
        """The type of layer and weights.

        Raises:
            Skip: a weight may not be rounded once more in it.
        """
        weight = self.m.weight(f"weights{self.number}")
        dtype = self.m.value(f"weights{self.number}").dtype if weight is None else weight.dtype
        if dtype not in (np.float32, np.float64):
            raise Skip(f"weights of type {dtype} would be rounded once more")
        return dtype

    @property
    def channels(self) -> Channels:
        """The channels of the layer's own output."""
        node, shape = self.node, self.m.shape(f"weights{self.number}")
        if node.op == "MatMul":
            return Channels(shape[self._weights_axis()], axis=-1, rank=2)
        if node.op == "Einsum":
            return Channels(shape[self._weights_axis()], axis=-1, rank=len(self._equation()[2]))
        if node.op.startswith("BatchMatMul"):
            if len(shape) != 2:
                raise Skip("each matrix of the batch has weights of its own")
            return Channels(shape[self._weights_axis()], axis=-1, rank=2, more=True)
        data_format = self.m.attribute(node, "data_format").s.decode()
        if data_format not in ("NHWC", "NCHW", "NDHWC", "NCDHW"):
            raise Skip(f"the data format {data_format} is not known")
        number = math.prod(shape[2:]) if node.op == "DepthwiseConv2dNative" else shape[self._weights_axis()]
        return Channels(number, data_format.index("C") - len(data_format), len(data_format))

    @property
    def carried_channels(self) -> Channels:
        """The channels of what the root reads."""
        return self._moved(self.channels) if "carrier" in self.m else self.channels

    def bias(self) -> Vector:
        """What is added to each channel below the root."""
        if not self.has_bias:
            return np.zeros(self.channels.number)
        below = data_inputs(self.m.node(f"biased{self.number}"))
        above_carrier = "carrier" in self.m and self.m.ref("carrier") in below
        channels = self.carried_channels if above_carrier else self.channels
        return added(self.m, f"bias{self.number}", self.m.node(f"biased{self.number}"), channels)

    def baked(self, scale: Vector, offset: Vector | None, top: str) -> Nodes:
        """The layer with weights times `scale` and, where given, a bias; the topmost node is called `top`.

        Raises:
            Skip: it would not be certain to compute the same, or would take more room.
        """
        m, node = self.m, self.node
        offset_value = np.zeros(0, self.dtype) if offset is None else offset.astype(self.dtype)
        if not (np.isfinite(scale).all() and np.isfinite(offset_value).all()):
            raise Skip("a factor or an offset is not finite")
        if np.abs(scale).max(initial=0) > _LARGEST_SCALE:
            raise Skip(f"a factor of {np.abs(scale).max():.3g} might leave the range of the weights")
        nodes, weights = scaled_weights(m, f"weights{self.number}", self.dtype, scale.reshape(self._scale_shape()))
        carrier = m.node("carrier") if "carrier" in m else None
        if carrier is None and offset is None:
            return [*nodes, renamed(node, top, data_inputs(node))], weights
        nodes.append(renamed(node, node.name, data_inputs(node)))
        last = node.name
        if offset is not None:
            last = top
            if carrier is not None:
                last = m.node(f"biased{self.number}").name if self.has_bias else m.fresh(f"{node.name}/BiasAdd")
            bias, large = constant(self._bias_name(top), offset_value, device=m.root_node.device)
            nodes += [bias, bias_add(last, node.name, bias.name, self.dtype, self.channels, m.root_node.device)]
            weights |= large
        if carrier is not None:
            nodes.append(renamed(carrier, top, [last, *data_inputs(carrier)[1:]]))
        return nodes, weights

    def _equation(self) -> tuple[str, str, str]:
        """The labels of the input, of the weights and of the output of an Einsum."""
        text = self.m.attribute(self.node, "equation").s.decode().replace(" ", "")
        sides = text.split("->")
        inputs = sides[0].split(",")
        position = data_inputs(self.node).index(self.m.ref(f"weights{self.number}"))
        x, weights, out = inputs[1 - position], inputs[position], sides[-1]
        known = len(sides) == 2 and out and "." not in text and len(set(weights)) == len(weights)
        if not known or weights.count(out[-1]) != 1 or out[-1] in x:
            raise Skip(f"the last axis of the output is not one of the weights alone ({text})")
        return x, weights, out

    def _weights_axis(self) -> int:
        """The axis of the weights along which the output channels are."""
        if self.node.op == "Einsum":
            _, weights, out = self._equation()
            return weights.index(out[-1]) - len(weights)
        if self.node.op in _TRANSPOSED:
            return -2
        transposed = {"MatMul": "transpose_b", "BatchMatMul": "adj_y", "BatchMatMulV2": "adj_y"}.get(self.node.op)
        return -2 if transposed and self.m.attribute(self.node, transposed).b else -1

    def _scale_shape(self) -> tuple[int, ...]:
        """The shape in which factors per output channel are broadcast against the weights."""
        shape = self.m.shape(f"weights{self.number}")
        if self.node.op == "DepthwiseConv2dNative":
            return shape[2:]
        axis = self._weights_axis()
        return (shape[axis], *[1] * (-1 - axis))

    def _moved(self, channels: Channels) -> Channels:
        """Where the carrier takes the channels."""
        node, rank, axis = self.m.node("carrier"), channels.rank, channels.axis
        if node.op == "Reshape":
            return self._reshaped(channels)
        if channels.more:
            raise Skip(f"the number of dimensions below {node.name!r} is not known")
        if node.op == "Squeeze":
            gone = {dim % rank - rank for dim in self.m.attribute(node, "squeeze_dims").list.i}
            if not gone or axis in gone:
                raise Skip(f"{node.name!r} may take the channels' axis away")
            return channels._replace(axis=axis + sum(dim > axis for dim in gone), rank=rank - len(gone))
        if node.op == "Transpose":
            order = self._order()
            if order is None:
                raise Skip(f"the order of {node.name!r} is not a constant")
            return channels._replace(axis=[int(dim) % rank for dim in order].index(axis % rank) - rank)
        if rank + axis <= math.prod(self.m.shape("block")):
            raise Skip(f"{node.name!r} cuts along the channels")
        return channels

    def _reshaped(self, channels: Channels) -> Channels:
        """The channels after a Reshape: still last when they were, and when the last dimension is as long."""
        sizes, rank = self._order(), 1
        if sizes is not None:
            last, rank = (int(sizes[-1].item()) if len(sizes) else 0), len(sizes)
        else:
            last = self._last_size()
        if channels.axis != -1 or last != channels.number:
            raise Skip(f"{self.m.node('carrier').name!r} may take the channels apart")
        return Channels(last, axis=-1, rank=rank, more=sizes is None)

    def _last_size(self) -> int:
        """The last of the sizes that a Reshape gets at run time, as Tensordot puts them together; 0 when not known."""
        node = self.m.node("order")
        inputs = data_inputs(node)
        if node.op not in ("Pack", "ConcatV2") or len(inputs) < 2:
            return 0
        end = self.graph.nodes[(inputs[-1] if node.op == "Pack" else inputs[-2]).node]
        sizes = self._constant(end)
        return 0 if sizes is None or not sizes.size else int(sizes.reshape(-1)[-1].item())

    def _order(self) -> Array | None:
        """The constant that a Reshape or a Transpose goes by."""
        return self._constant(self.m.node("order"))

    def _constant(self, node: NodeDef) -> Array | None:
        fed = {tensor.partition(":")[0] for tensor in self.graph.inputs}
        return self.graph.value(node.name) if node.op == "Const" and node.name not in fed else None

    def _bias_name(self, top: str) -> str:
        """The name of a bias that only this layer has, or a new one."""
        name = f"bias{self.number}"
        if self.has_bias and self.m.readers(name) == 1 and not self.m.is_interface(name):
            return self.m.ref(name).node
        return self.m.fresh(f"{top}/bias")


def bias_add(name: str, value: str, bias: str, dtype: np.dtype[np.generic], channels: Channels, device: str) -> NodeDef:
    """A BiasAdd node."""
    return make_node(
        "BiasAdd", name, [value, bias], T=tf.as_dtype(dtype), data_format=channels.data_format, device=device
    )


def scaled_weights(m: Match, name: str, dtype: np.dtype[np.generic], scale: Vector) -> Nodes:
    """The weights times the factors, under the weights' own name, which nobody else may read; nothing for ones."""
    if (scale == 1).all():
        return [], {}
    weight, node = m.weight(name), m.node(name)
    if m.readers(name) > 1 or m.is_interface(name):
        nbytes = math.prod(m.shape(name)) * dtype.itemsize
        raise Skip(f"the weights are shared; folding would store {nbytes:,} bytes twice")

    def scaled(value: Array) -> Array:
        product: Array = (value.astype(np.float64) * scale).astype(value.dtype)
        return product

    if weight is None:
        new, _ = constant(node.name, scaled(m.value(name)), device=node.device)
        return [new], {}
    if weight.encoded is not None:
        raise Skip(f"the weights are stored encoded ({weight.encoded.encoding}) and would be rounded once more")
    new, large = external_constant(node.name, weight.map(scaled), device=node.device)
    return [new], large


def affine(m: Match, channels: Channels, suffix: str = "") -> tuple[Vector, Vector]:
    """Factor and offset per channel, in float64, of the op whose constants the pattern names with `suffix`.

    Raises:
        Skip: it does not multiply and add per channel.
    """

    def named(name: str) -> Vector:
        return per_channel(m, name + suffix, channels)

    node = m.node(f"affine{suffix}") if f"affine{suffix}" in m else m.root_node
    zeros, ones = np.zeros(channels.number), np.ones(channels.number)
    if f"gamma{suffix}" in m:
        return _normalized(m, channels, suffix, node)
    if f"scale{suffix}" in m:
        return named("scale"), zeros
    if f"divisor{suffix}" in m:
        with np.errstate(all="ignore"):
            return 1 / named("divisor"), zeros
    if f"subtrahend{suffix}" in m:
        return ones, -named("subtrahend")
    if f"minuend{suffix}" in m:
        return -ones, named("minuend")
    return ones, added(m, f"offset{suffix}", node, channels)


def _normalized(m: Match, channels: Channels, suffix: str, node: NodeDef) -> tuple[Vector, Vector]:
    old = node.op == OLD_NORM
    data_format = "NHWC" if old else m.attribute(node, "data_format").s.decode()
    if not old and m.attribute(node, "is_training").b:
        raise Skip("it normalizes by each batch's own statistics (is_training)")
    if node is m.root_node and m.ports_read() - {0}:
        raise Skip("another output of the batch norm than the first is read")
    if data_format.index("C") - len(data_format) != channels.axis or len(data_format) != channels.rank:
        raise Skip(f"its data format is {data_format}, the layer's is {channels.data_format}")
    names = ("gamma", "beta", "mean", "variance")
    for name in names:
        if m.shape(name + suffix) != (channels.number,):
            raise Skip(f"{name} has shape {m.shape(name + suffix)}, the layer has {channels.number} channels")
    gamma, beta, mean, variance = (m.value(name + suffix).astype(np.float64) for name in names)
    if old and not m.attribute(node, "scale_after_normalization").b:
        gamma = np.ones_like(gamma)
    with np.errstate(all="ignore"):
        scale = gamma / np.sqrt(variance + m.attribute(node, "variance_epsilon" if old else "epsilon").f)
        return scale, beta - mean * scale


def added(m: Match, name: str, node: NodeDef, channels: Channels) -> Vector:
    """What a BiasAdd or an Add adds to each channel."""
    if node.op != "BiasAdd":
        return per_channel(m, name, channels)
    data_format = m.attribute(node, "data_format").s.decode()
    axis = 1 - channels.rank if data_format == "NCHW" else -1
    if axis != channels.axis or (data_format == "NCHW" and channels.more):
        raise Skip(f"the data format of {node.name!r} is {data_format}, the layer's is {channels.data_format}")
    if m.shape(name) != (channels.number,):
        raise Skip(f"the bias has shape {m.shape(name)}, the layer has {channels.number} channels")
    return m.value(name).astype(np.float64)


def per_channel(m: Match, name: str, channels: Channels) -> Vector:
    """A constant that is broadcast against a tensor, as one value per channel."""
    shape = m.shape(name)
    aligned = (1,) * (channels.rank - len(shape)) + shape
    axis = channels.rank + channels.axis
    others = [size for position, size in enumerate(aligned) if position != axis]
    if len(aligned) != channels.rank or any(size != 1 for size in others):
        rank = f"at least {channels.rank}" if channels.more else str(channels.rank)
        raise Skip(f"the constant's shape {shape} is not one value per output channel (axis {axis} of {rank})")
    if aligned[axis] not in (1, channels.number):
        raise Skip(f"the constant has shape {shape}, the layer has {channels.number} channels")
    return np.broadcast_to(m.value(name).astype(np.float64).reshape(-1), (channels.number,))
