"""Turn batch norms after convolutions into scaled filters and a bias.

    Before: y = FusedBatchNorm(Conv2D(x, W), gamma, beta, mean, variance)
    After:  y = BiasAdd(Conv2D(x, W * s), beta - mean * s)    with s = gamma / sqrt(variance + epsilon)

FusedBatchNorm V1, V2 and V3 and BatchNormWithGlobalNormalization, with constant parameters, on top of

- a Conv2D or a DepthwiseConv2dNative with a constant filter and perhaps a bias,
- the same between SpaceToBatchND and BatchToSpaceND, as a dilated convolution was written,
- a ConcatV2 of two to sixteen of them, along the channels or along another axis.

What comes last takes the batch norm's name. fold_batch_norms does this and more, by the same arithmetic and
with the same exactness; this transform is for lists that name it, and for graphs of which no more should change.

Left alone, with a reason: training batch norms, and those of which another output is read; a convolution or a filter
that is read elsewhere too or is part of the interface; vectors that are not one value per channel; factors that are not
finite; 16-bit and encoded filters, which would be rounded once more. Function bodies are not entered.

Source: tensorflow/tools/graph_transforms/fold_old_batch_norms.cc, same name; unlike it we know FusedBatchNorm V2 and V3
and biases, leave alone what others read, and come to rest when layers share statistics.
"""

from __future__ import annotations

from tfslim_core.channel_factors import NORMS, OLD_NORM, biased, carried, layer, norm
from tfslim_core.concatenated_layers import concatenated, fold_concatenated
from tfslim_core.graph import Graph
from tfslim_core.registry import Outcome, transform
from tfslim_core.rewriting import Edit, Match, Skip, either, op, replace_matches
from tfslim_core.transforms.fold_batch_norms import fold_after

_LAYER = layer()
_BIASED = either(biased(_LAYER), biased(carried(_LAYER)), carried(biased(_LAYER)))
_PATTERNS = (norm(either(_BIASED, _LAYER, carried(_LAYER), concatenated())), op(f"{NORMS}|{OLD_NORM}"))
_CONVOLUTIONS = ("Conv2D", "DepthwiseConv2dNative")


@transform("fold_old_batch_norms")
def fold_old_batch_norms(graph: Graph) -> Outcome:
    """Turn batch norms after convolutions into scaled filters and a bias."""

    def fold(m: Match) -> Edit:
        if "layer0" not in m or m.node("layer0").op not in _CONVOLUTIONS:
            raise Skip("below it is no convolution whose filter, like its own parameters, is a constant")
        return fold_concatenated(graph, m) if "concat" in m else fold_after(graph, m)

    return replace_matches(graph, _PATTERNS, fold)
