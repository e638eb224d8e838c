"""Bake batch norms, and multiplies and adds per channel, into the layers beside them.

    Before: y = FusedBatchNormV3(BiasAdd(Conv2D(x, W), b), gamma, beta, mean, variance)
    After:  y = BiasAdd(Conv2D(x, W * s), (b - mean) * s + beta)  with s = gamma / sqrt(variance + epsilon)

A layer's weights are a constant; its output channels are an axis of them:

| layer | weights |
|---|---|
| Conv2D, Conv3D | [..., c_in / groups, c_out] |
| DepthwiseConv2dNative | [kh, kw, c_in, multiplier] |
| Conv2DBackpropInput, Conv3DBackpropInputV2 (transposed convolutions) | [..., c_out, c_in] |
| MatMul, BatchMatMul, BatchMatMulV2 | [k, c_out], transposed [c_out, k] |
| Einsum | any order; the output's last label is one of the weights alone |

**After a layer**, folded are FusedBatchNorm V1, V2 and V3, BatchNormWithGlobalNormalization, and Mul, RealDiv, Div,
Sub, Add, AddV2 and BiasAdd by a constant of one value per output channel or one for all. Between them and the layer may
stand a bias (BiasAdd, Add, AddV2), and an op that only moves values: Squeeze, Reshape and Transpose that leave the
channels whole, and the BatchToSpaceND of a dilated convolution. Or a ConcatV2 of two to sixteen layers: each gets its
share. A layer with one bias is the form that is reached, and is left as it is.

**Before a layer** (Conv2D, Conv3D, DepthwiseConv2dNative, MatMul), factors go into the weights, through a Pad with
zeros too, and offsets into the bias. Where the layer pads with zeros, an offset is not the same at the border: of a
product and a sum an AddV2 is left then, and of a batch norm too. A constant that is more than a scalar could widen a
tensor of one channel, so the shape of what it is applied to has to be known from a placeholder.

A Mul by a scalar 1, as Keras' swish has one, is taken out.

Layouts are NHWC and NCHW, and NDHWC and NCDHW. Exact but for rounding: factors are computed in float64, each weight is
multiplied once and rounded to its own type. Large weights are not read for it, unless an offset before the layer is
summed over them; they are multiplied when they are written.

Left alone, with a reason: training batch norms; a layer or a bias that is read elsewhere too or is part of the
interface; weights that another layer shares, which would have to be stored twice; constants that are not one value per
output channel, however well the sizes fit; factors that are not finite; 16-bit and encoded weights, which would be
rounded once more. Function bodies are not entered.

Source: tensorflow/tools/graph_transforms/fold_batch_norms.cc, same name; it knows the Mul of a scale that comes second,
directly after Conv2D, MatMul or DepthwiseConv2dNative. The offset's formula is that of fold_old_batch_norms.cc.
"""

from __future__ import annotations

import numpy as np

from tfslim_core.channel_factors import (
    NORMS,
    NOTHING,
    OLD_NORM,
    Layer,
    affine,
    biased,
    carried,
    layer,
    scaling,
    shifting,
)
from tfslim_core.concatenated_layers import concatenated, fold_concatenated
from tfslim_core.graph import Graph, Input, control_inputs, data_inputs, parse_input, rewired
from tfslim_core.input_factors import LAYERS_AFTER, before_layer, fold_before
from tfslim_core.registry import Outcome, Skipped, transform
from tfslim_core.rewriting import Edit, Match, Skip, anything, either, op, replace_matches
from tfslim_core.rewriting import constant as constants

_LAYER = layer()
_BIASED = either(biased(_LAYER), biased(carried(_LAYER)), carried(biased(_LAYER)))
_CONCATENATED = concatenated()
_BODY = either(_BIASED, _LAYER, carried(_LAYER), _CONCATENATED)
_PATTERNS = (
    scaling(_BODY),
    op("Sub", _BODY, constants("subtrahend")),
    shifting(_BIASED),
    shifting(_CONCATENATED),
    before_layer(),
    # Only to say of each batch norm that is left why it is.
    op(f"{NORMS}|{OLD_NORM}", name="norm"),
    op("Add|AddV2", op("Mul", anything(), constants(), commutes=True, shared=True), constants(), commutes=True),
)


@transform("fold_batch_norms")
def fold_batch_norms(graph: Graph) -> Outcome:
    """Bake batch norms, and multiplies and adds per channel, into the layers beside them."""
    graph, ones = _without_ones(graph)
    told: set[Skipped] = set()

    def fold(m: Match) -> Edit:
        if "concat" in m:
            return fold_concatenated(graph, m)
        if "layer0" in m:
            return fold_after(graph, m)
        if "layer" not in m:
            raise Skip("below it is no layer whose weights, like its own parameters, are constants")
        try:
            return fold_before(graph, m)
        except Skip as reason:
            told.add(Skipped(m.root, str(reason)))
            raise

    done = replace_matches(graph, _PATTERNS, fold)

    def is_worth_telling(one: Skipped) -> bool:
        # That a layer reads what others read too is no news; what `fold_before` says of it is.
        return one.reason != NOTHING and (done.graph.nodes[one.node].op not in LAYERS_AFTER or one in told)

    return Outcome(done.graph, done.changes + ones, tuple(filter(is_worth_telling, done.skipped)))


def fold_after(graph: Graph, m: Match) -> Edit:
    """The layer below the root with factors in its weights and offsets in its bias.

    Raises:
        Skip: it would not be certain to compute the same, or would take more room.
    """
    found = Layer(graph, m)
    scale, offset = affine(m, found.carried_channels)
    with np.errstate(all="ignore"):
        offset = found.bias() * scale + offset
    nodes, weights = found.baked(scale, offset if found.has_bias or offset.any() else None, m.root)
    return Edit(nodes, weights)


def _without_ones(graph: Graph) -> tuple[Graph, int]:
    """The graph without products with a scalar 1, and how many there were."""
    fed = {parse_input(tensor).node for tensor in graph.inputs}
    gone: dict[Input, Input] = {}
    for node in graph.of_ops(("Mul",)):
        if node.name in graph.interface or control_inputs(node):
            continue
        sources = data_inputs(node)
        ones = [source for source in sources if source.node not in fed and _is_one(graph, source.node)]
        if ones and all(reader.port == 0 for reader in graph.readers_of(node.name)):
            gone[Input(node.name, 0)] = sources[1 - sources.index(ones[0])]
    if not gone:
        return graph, 0
    for name in gone:
        while gone[name] in gone:
            gone[name] = gone[gone[name]]
    names = {source.node for source in gone}
    readers = dict.fromkeys(reader.node for name in names for reader in graph.readers_of(name))
    new = [rewired(graph.nodes[name], gone) for name in readers if name not in names]
    return graph.replace(new, names), len(gone)


def _is_one(graph: Graph, name: str) -> bool:
    node = graph.nodes[name]
    scalar = node.op == "Const" and graph.constant_shape(name) == () and not control_inputs(node)
    return scalar and bool(graph.value(name) == 1)
