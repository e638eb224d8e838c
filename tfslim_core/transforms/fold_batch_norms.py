"""Bake batch norms, and multiplies and adds per channel, into the layer before them.

    Before: y = FusedBatchNormV3(BiasAdd(Conv2D(x, W), b), gamma, beta, mean, variance)
    After:  y = BiasAdd(Conv2D(x, W * s), (b - mean) * s + beta)  with s = gamma / sqrt(variance + epsilon)

The layer is a Conv2D (W [kh, kw, c_in / groups, c_out]), a DepthwiseConv2dNative (W [kh, kw, c_in, multiplier]) or a
MatMul (W [k, c_out], with transpose_b [c_out, k]), with a BiasAdd, Add or AddV2 of a constant after it or not. Folded
are FusedBatchNorm V1, V2 and V3, Mul, Sub, Add, AddV2 and BiasAdd by a constant that has one value per output channel
or one for all; layouts NHWC and NCHW. A layer with one BiasAdd is the form that is reached, and is left as it is.

Exact but for rounding: factors are computed in float64, each weight is multiplied once and rounded to its own type.
Large weights are not read for it; they are multiplied when they are written.

Left alone, with a reason: training batch norms; a layer or a bias that is read elsewhere too or is part of the
interface; weights that another layer shares, which would have to be stored twice; constants that are not one value per
output channel, however well the sizes fit; factors that are not finite; 16-bit and encoded weights, which would be
rounded once more.

Source: tensorflow/tools/graph_transforms/fold_batch_norms.cc, same name; the offset's formula is that of
fold_old_batch_norms.cc.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tfslim_core.graph import Graph, NodeDef, constant, external_constant, make_node, renamed
from tfslim_core.registry import Outcome, transform
from tfslim_core.rewriting import Edit, Match, Skip, anything, either, op, replace_matches
from tfslim_core.rewriting import constant as constants
from tfslim_core.weights import Array, Weight

_NORMS = "FusedBatchNorm|FusedBatchNormV2|FusedBatchNormV3"
_LAYER = op("Conv2D|DepthwiseConv2dNative|MatMul", anything("x"), constants("weights"), name="layer")
_BIASED = either(
    op("BiasAdd", _LAYER, constants("bias"), name="biased"),
    op("Add|AddV2", _LAYER, constants("bias"), name="biased", commutes=True),
)
_BODY = either(_BIASED, _LAYER)
_PATTERNS = (
    op(_NORMS, _BODY, *(constants(name) for name in ("gamma", "beta", "mean", "variance"))),
    op("Mul", _BODY, constants("scale"), commutes=True),
    op("Sub", _BODY, constants("subtrahend")),
    op("Sub", constants("minuend"), _BODY),
    op("BiasAdd", _BIASED, constants("offset")),
    op("Add|AddV2", _BIASED, constants("offset"), commutes=True),
    # Only to say of each batch norm that is left why it is.
    op(_NORMS),
)
_LARGEST_SCALE = 2.0**40  # far beyond any batch norm; a weight times more than this might leave float32's range

Vector = NDArray[np.float64]


@transform("fold_batch_norms")
def fold_batch_norms(graph: Graph) -> Outcome:
    """Bake batch norms, and multiplies and adds per channel, into the layer before them."""
    return replace_matches(graph, _PATTERNS, _fold)


class _Channels(NamedTuple):
    """Where a layer's output channels are: the axis of its result, of `rank` dimensions."""

    number: int
    axis: int
    rank: int
    data_format: str


def _fold(m: Match) -> Edit:
    if "layer" not in m:
        raise Skip("below it is no layer whose weights, like its own parameters, are constants")
    layer = m.node("layer")
    channels = _channels(m)
    scale, offset = _affine(m, channels)
    if "bias" in m:
        offset = _added(m, "bias", m.node("biased").op, channels) * scale + offset
    dtype = _dtype(m)
    offset_value = offset.astype(dtype)
    if not (np.isfinite(scale).all() and np.isfinite(offset_value).all()):
        raise Skip("a factor or an offset is not finite")
    if np.abs(scale).max(initial=0) > _LARGEST_SCALE:
        raise Skip(f"a factor of {np.abs(scale).max():.3g} might leave the range of the weights")

    nodes: list[NodeDef] = []
    weights: dict[str, Weight] = {}
    if (scale != 1).any():
        node, weights = _scaled_weights(m, scale.reshape(_scale_shape(m)))
        nodes.append(node)
    inputs = [m.ref("x"), m.ref("weights")]
    if "bias" not in m and not offset.any():
        # The layer takes the root's name, so that no reader and no signature has to change.
        return Edit([*nodes, renamed(layer, m.root, inputs)], weights)
    nodes.append(renamed(layer, layer.name, inputs))
    bias, large = constant(_bias_name(m), offset_value, device=m.root_node.device)
    added = make_node("BiasAdd", m.root, [layer.name, bias.name], device=m.root_node.device)
    added.attr["T"].CopyFrom(layer.attr["T"])
    added.attr["data_format"].s = channels.data_format.encode()
    return Edit([*nodes, bias, added], {**weights, **large})


def _channels(m: Match) -> _Channels:
    layer, shape = m.node("layer"), m.shape("weights")
    if layer.op == "MatMul":
        number = shape[0] if m.attribute(layer, "transpose_b").b else shape[1]
        return _Channels(number, axis=1, rank=2, data_format="NHWC")
    data_format = m.attribute(layer, "data_format").s.decode()
    if data_format not in ("NHWC", "NCHW"):
        raise Skip(f"the data format {data_format} is not known")
    number = shape[3] if layer.op == "Conv2D" else shape[2] * shape[3]
    return _Channels(number, axis=data_format.index("C"), rank=4, data_format=data_format)


def _dtype(m: Match) -> np.dtype[np.generic]:
    """The type of layer and weights, one in which a weight may be rounded once more."""
    weight = m.weight("weights")
    dtype = m.value("weights").dtype if weight is None else weight.dtype
    if dtype not in (np.float32, np.float64):
        raise Skip(f"weights of type {dtype} would be rounded once more")
    return dtype


def _affine(m: Match, channels: _Channels) -> tuple[Vector, Vector]:
    """Factor and offset per output channel, in float64, that the root applies to what is below it."""
    root = m.root_node
    zeros, ones = np.zeros(channels.number), np.ones(channels.number)
    if "gamma" in m:
        if m.attribute(root, "is_training").b:
            raise Skip("it normalizes by each batch's own statistics (is_training)")
        if m.ports_read() - {0}:
            raise Skip("another output of the batch norm than the first is read")
        found = m.attribute(root, "data_format").s.decode()
        if found != channels.data_format:
            raise Skip(f"its data format is {found}, the layer's is {channels.data_format}")
        names = ("gamma", "beta", "mean", "variance")
        for name in names:
            if m.shape(name) != (channels.number,):
                raise Skip(f"{name} has shape {m.shape(name)}, the layer has {channels.number} channels")
        gamma, beta, mean, variance = (m.value(name).astype(np.float64) for name in names)
        with np.errstate(all="ignore"):
            scale = gamma / np.sqrt(variance + m.attribute(root, "epsilon").f)
            return scale, beta - mean * scale
    if "scale" in m:
        return _per_channel(m, "scale", channels), zeros
    if "subtrahend" in m:
        return ones, -_per_channel(m, "subtrahend", channels)
    if "minuend" in m:
        return -ones, _per_channel(m, "minuend", channels)
    return ones, _added(m, "offset", root.op, channels)


def _added(m: Match, name: str, op_name: str, channels: _Channels) -> Vector:
    """What a BiasAdd or an Add adds to each output channel."""
    if op_name != "BiasAdd":
        return _per_channel(m, name, channels)
    node = m.node("biased") if name == "bias" else m.root_node
    data_format = m.attribute(node, "data_format").s.decode()
    axis = 1 if data_format == "NCHW" else channels.rank - 1
    if axis != channels.axis:
        raise Skip(f"the data format of {node.name!r} is {data_format}, the layer's is {channels.data_format}")
    if m.shape(name) != (channels.number,):
        raise Skip(f"the bias has shape {m.shape(name)}, the layer has {channels.number} channels")
    return m.value(name).astype(np.float64)


def _per_channel(m: Match, name: str, channels: _Channels) -> Vector:
    """A constant that is broadcast against the layer's output, as one value per output channel."""
    shape = m.shape(name)
    aligned = (1,) * (channels.rank - len(shape)) + shape
    others = [size for axis, size in enumerate(aligned) if axis != channels.axis]
    if len(aligned) != channels.rank or any(size != 1 for size in others):
        where = f"axis {channels.axis} of {channels.rank}"
        raise Skip(f"the constant's shape {shape} is not one value per output channel ({where})")
    if aligned[channels.axis] not in (1, channels.number):
        raise Skip(f"the constant has shape {shape}, the layer has {channels.number} channels")
    return np.broadcast_to(m.value(name).astype(np.float64).reshape(-1), (channels.number,))


def _scale_shape(m: Match) -> tuple[int, ...]:
    """The shape in which factors per output channel are broadcast against the weights."""
    layer, shape = m.node("layer"), m.shape("weights")
    if layer.op == "DepthwiseConv2dNative":
        return shape[2:]
    return (shape[0], 1) if layer.op == "MatMul" and m.attribute(layer, "transpose_b").b else (shape[-1],)


def _scaled_weights(m: Match, scale: Vector) -> tuple[NodeDef, dict[str, Weight]]:
    """The weights times the factors, under the weights' own name, which nobody else may read."""
    weight, node = m.weight("weights"), m.node("weights")
    if m.readers("weights") > 1 or m.is_interface("weights"):
        nbytes = math.prod(m.shape("weights")) * _dtype(m).itemsize
        raise Skip(f"the weights are shared; folding would store {nbytes:,} bytes twice")

    def scaled(value: Array) -> Array:
        product: Array = (value.astype(np.float64) * scale).astype(value.dtype)
        return product

    if weight is None:
        return constant(node.name, scaled(m.value("weights")), device=node.device)
    if weight.encoded is not None:
        raise Skip(f"the weights are stored encoded ({weight.encoded.encoding}) and would be rounded once more")
    return external_constant(node.name, weight.map(scaled), device=node.device)


def _bias_name(m: Match) -> str:
    """The name of a bias that only this layer has, or a new one."""
    if "bias" in m and m.readers("bias") == 1 and not m.is_interface("bias"):
        return m.ref("bias").node
    return m.fresh(f"{m.root}/bias")
