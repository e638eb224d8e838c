"""Factors and offsets per input channel of a layer: what stands before it, baked into its weights."""

from __future__ import annotations

import math

import numpy as np

from tfslim_core.channel_factors import NOTHING, Channels, Vector, affine, bias_add, scaled_weights, scaling, shifting
from tfslim_core.graph import Graph, Input, NodeDef, constant, data_inputs, make_node, renamed
from tfslim_core.rewriting import Edit, Match, Pattern, Skip, anything, either, op
from tfslim_core.rewriting import constant as constants

LAYERS_AFTER = frozenset("Conv2D DepthwiseConv2dNative Conv3D MatMul".split())
_ONE_BY_ONE = frozenset("Add AddV2 Sub Mul RealDiv Div".split())


def before_layer() -> Pattern:
    """The pattern of a layer whose input is multiplied by, and added to, constants; at most two such ops are seen."""
    x = anything("x")
    first = either(scaling(x, "_1"), shifting(x, "_1"))
    both = either(shifting(first, "_2"), scaling(shifting(x, "_1"), "_2"), first)
    padded = op("Pad", both, constants("paddings"), name="pad")
    return op("|".join(LAYERS_AFTER), either(padded, both), constants("weights"), name="layer")


def fold_before(graph: Graph, m: Match) -> Edit:
    """The layer with the factors in its weights, and the offsets in a bias or, where it pads, still before it.

    Raises:
        Skip: it would not be certain to compute the same.
    """
    node, suffixes = m.root_node, [s for s in ("_1", "_2") if f"affine{s}" in m]
    channels = _channels(graph, m, suffixes)
    scale, offset = np.ones(channels.number), np.zeros(channels.number)
    for suffix in suffixes:
        factor, summand = affine(m, channels, suffix)
        scale, offset = scale * factor, offset * factor + summand
    dtype = m.value("weights").dtype if (weight := m.weight("weights")) is None else weight.dtype
    if dtype not in (np.float32, np.float64):
        raise Skip(f"weights of type {dtype} would be rounded once more")
    if not (np.isfinite(scale).all() and np.isfinite(offset).all() and (np.abs(scale) < 2.0**40).all()):
        raise Skip("a factor or an offset before it is not finite, or large")
    in_bias = offset.any() and "pad" not in m and not _pads(m)
    source = m.ref("x")
    nodes: list[NodeDef] = []
    if offset.any() and not in_bias:
        if len(suffixes) < 2 and "gamma_1" not in m:
            raise Skip(NOTHING)
        if not scale.all():
            raise Skip("a factor before it is zero")
        nodes, source = _shift(m, offset / scale, channels, dtype)
    scaled, weights = scaled_weights(m, "weights", dtype, _along_inputs(m, scale))
    nodes += scaled
    if "pad" in m:
        pad = m.node("pad")
        nodes.append(renamed(pad, pad.name, [source, *data_inputs(pad)[1:]]))
        source = Input(pad.name, 0)
    inputs = [source, m.ref("weights")]
    if not in_bias:
        return Edit([*nodes, renamed(node, m.root, inputs)], weights)
    layer = renamed(node, m.fresh(f"{m.root}/{node.op}"), inputs)
    summed = _summed(m, offset).astype(dtype)
    bias, large = constant(m.fresh(f"{m.root}/bias"), summed, device=node.device)
    out = channels._replace(number=len(summed))
    nodes += [layer, bias, bias_add(m.root, layer.name, bias.name, dtype, out, node.device)]
    return Edit(nodes, {**weights, **large})


def _channels(graph: Graph, m: Match, suffixes: list[str]) -> Channels:
    """The channels of the layer's input.

    Raises:
        Skip: it is not certain that they are what the weights say.
    """
    node, shape = m.root_node, m.shape("weights")
    below = m.node("x")
    if not shape[-1] or not shape[-2]:
        raise Skip(NOTHING)
    if len(suffixes) == 1 and "pad" not in m and below.op in LAYERS_AFTER:
        raise Skip(NOTHING)  # a layer with a bias is the form that stays
    if node.op == "MatMul":
        if m.attribute(node, "transpose_a").b:
            raise Skip("the layer reads its input transposed")
        channels = Channels(shape[1 if m.attribute(node, "transpose_b").b else 0], axis=-1, rank=2)
    else:
        data_format = m.attribute(node, "data_format").s.decode()
        channels = Channels(shape[-2], data_format.index("C") - len(data_format), len(data_format))
    kinds = ("scale", "divisor", "offset", "subtrahend", "minuend")
    vectors = [m.shape(k + s) for s in suffixes for k in kinds if k + s in m and m.shape(k + s)]
    normed = any(f"gamma{s}" in m for s in suffixes)  # a batch norm has a rank, and as many values as channels
    sizes = _known_shape(graph, below)
    known = normed or (len(sizes) == channels.rank and sizes[channels.axis] == channels.number)
    if vectors and not known:
        raise Skip("the shape of what it reads is not known, and a constant before it might widen that")
    if "pad" in m and (vectors or normed) and m.value("paddings")[channels.axis].any():
        raise Skip("channels are padded")
    return channels


def _known_shape(graph: Graph, node: NodeDef, most: int = 20) -> list[int]:
    """The dimensions, -1 if not known, of what is computed from a placeholder and constants one by one; else none."""
    if node.op in ("Placeholder", "PlaceholderWithDefault"):
        return [dim.size for dim in node.attr["shape"].shape.dim]
    inputs = [graph.nodes[name] for name, _ in data_inputs(node)]
    if node.op in ("Cast", "Identity") and most:
        return _known_shape(graph, inputs[0], most - 1)
    summands = [one for one in inputs if one.op == "Const"]
    if node.op not in _ONE_BY_ONE or len(summands) != 1 or not most:
        return []
    shape = list(graph.constant_shape(summands[0].name))
    other = _known_shape(graph, inputs[1 - inputs.index(summands[0])], most - 1)
    if not other:
        return []
    rank = max(len(shape), len(other))
    padded = ([1] * (rank - len(sizes)) + sizes for sizes in (shape, other))
    return [theirs if mine == 1 else mine for mine, theirs in zip(*padded, strict=True)]


def _pads(m: Match) -> bool:
    """Whether the layer may pad its input with zeros."""
    node = m.root_node
    if node.op == "MatMul":
        return False
    padding = m.attribute(node, "padding").s
    one_by_one = math.prod(m.shape("weights")[:-2]) == 1
    return not (padding == b"VALID" or (padding == b"SAME" and one_by_one))


def _along_inputs(m: Match, values: Vector) -> Vector:
    """Values per input channel in the shape in which they are broadcast against the weights."""
    transposed = m.root_node.op == "MatMul" and m.attribute(m.root_node, "transpose_b").b
    return values if transposed else values[:, None]


def _summed(m: Match, offset: Vector) -> Vector:
    """What the layer makes of the offsets alone, per output channel."""
    products = m.value("weights").astype(np.float64) * _along_inputs(m, offset)
    if m.root_node.op == "DepthwiseConv2dNative":
        return np.asarray(products.sum((0, 1)).reshape(-1))
    transposed = m.root_node.op == "MatMul" and m.attribute(m.root_node, "transpose_b").b
    return np.asarray(products.sum(-1 if transposed else tuple(range(products.ndim - 1))))


def _shift(m: Match, offset: Vector, channels: Channels, dtype: np.dtype[np.generic]) -> tuple[list[NodeDef], Input]:
    """An AddV2 in the place of two ops before the layer."""
    same = (offset == offset[0]).all()
    value = offset[0] if same else offset.reshape(-1, *[1] * (-1 - channels.axis))
    name, device = m.ref("affine_1").node, m.root_node.device
    summand, _ = constant(m.fresh(f"{name}/offset"), np.asarray(value, dtype), device=device)
    shifted = make_node("AddV2", name, [m.ref("x"), summand.name], device=device)
    shifted.attr["T"].CopyFrom(m.root_node.attr["T"])
    return [summand, shifted], Input(name, 0)
