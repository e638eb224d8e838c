"""An op per channel after a ConcatV2 of layers, baked into each of them."""

from __future__ import annotations

import numpy as np

from tfslim_core.channel_factors import NOTHING, Channels, Layer, Vector, affine, bias_add, biased, layer
from tfslim_core.graph import Graph, NodeDef, constant, data_inputs, renamed
from tfslim_core.rewriting import Edit, Match, Pattern, Skip, either, op
from tfslim_core.rewriting import constant as constants
from tfslim_core.weights import Weight

_MOST = 16  # layers under one ConcatV2


def concatenated() -> Pattern:
    """The pattern of two to sixteen layers, with or without a bias, under a ConcatV2."""

    def joined(count: int) -> Pattern:
        branches = [either(biased(layer(number), number), layer(number)) for number in range(count)]
        return op("ConcatV2", *branches, constants("axis"), name="concat")

    return either(*(joined(count) for count in range(2, _MOST + 1)))


def fold_concatenated(graph: Graph, m: Match) -> Edit:
    """Each layer with its share; offsets go into the biases or, where there are none, into one after the ConcatV2.

    Raises:
        Skip: it would not be certain to compute the same, or would take more room.
    """
    concat = m.node("concat")
    layers = [Layer(graph, m, number) for number in range(len(data_inputs(concat)) - 1)]
    if len({one.node.name for one in layers}) < len(layers):
        raise Skip("the same layer is concatenated twice")
    each = [one.channels for one in layers]
    channels, along = _joined(each, int(m.value("axis")))
    scale, offset = affine(m, channels)
    ends = np.cumsum([one.number for one in each])[:-1]
    scales = np.split(scale, ends) if along else [scale] * len(layers)
    has_bias = any(one.has_bias for one in layers)
    if not has_bias and (scale == 1).all():
        raise Skip(NOTHING)  # a bias after the ConcatV2 is the form that stays
    nodes: list[NodeDef] = []
    weights: dict[str, Weight] = {}

    def bake(position: int, added: Vector | None, top: str) -> str:
        new, large = layers[position].baked(scales[position], added, top)
        nodes.extend(new)
        weights.update(large)
        return top

    if has_bias:
        offsets = np.split(offset, ends) if along else [offset] * len(layers)
        tops = []
        for position, one in enumerate(layers):
            top = m.node(f"biased{position}").name if one.has_bias else m.fresh(f"{one.node.name}/BiasAdd")
            tops.append(bake(position, one.bias() * scales[position] + offsets[position], top))
        return Edit([*nodes, renamed(concat, m.root, [*tops, m.ref("axis")])], weights)
    names = [bake(position, None, one.node.name) for position, one in enumerate(layers)]
    if not offset.any():
        return Edit([*nodes, renamed(concat, m.root, [*names, m.ref("axis")])], weights)
    value = offset.astype(layers[0].dtype)
    if not np.isfinite(value).all():
        raise Skip("a factor or an offset is not finite")
    bias, large = constant(m.fresh(f"{m.root}/bias"), value, device=m.root_node.device)
    sum_of_all = bias_add(m.root, concat.name, bias.name, layers[0].dtype, channels, m.root_node.device)
    nodes += [renamed(concat, concat.name, [*names, m.ref("axis")]), bias, sum_of_all]
    return Edit(nodes, {**weights, **large})


def _joined(each: list[Channels], axis: int) -> tuple[Channels, bool]:
    """The channels of the ConcatV2, and whether it is along them.

    Raises:
        Skip: they do not fit together.
    """
    first = each[0]
    if any(one.more or (one.axis, one.rank) != (first.axis, first.rank) for one in each):
        raise Skip("the concatenated layers have their channels at different places")
    if axis % first.rank == first.axis % first.rank:
        return first._replace(number=sum(one.number for one in each)), True
    if any(one.number != first.number for one in each):
        raise Skip("the concatenated layers have different numbers of channels")
    return first, False
