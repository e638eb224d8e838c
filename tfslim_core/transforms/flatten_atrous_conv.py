"""Write a dilated convolution as one op.

    Before: y = BatchToSpaceND(Conv2D(SpaceToBatchND(x, block, paddings), W), block, crops)
    After:  y = Conv2D(x, W), dilations of the block

TensorFlow 1 and tf.nn.with_space_to_batch spell it so. A BiasAdd between Conv2D and BatchToSpaceND comes along. Along
rows and columns, the convolution pads by what SpaceToBatchND padded less what BatchToSpaceND cropped: nothing is
padding VALID, halves of what the dilated filter sees are SAME, anything else is EXPLICIT. This holds for images of any
size. The filter stays as it is and need not be a constant. A CPU took 0.5 to 1.0 times as long (filters of 3x3,
dilations of 2 and 4).

Left alone, with a reason: a block, paddings or crops that are not constants (of images whose size is not known, the
graph computes them); blocks that differ, or are not of rows and columns; crops larger than the padding; strides other
than 1; the layout NCHW; a convolution that others read. A DepthwiseConv2dNative stays too: without oneDNN, and in
float16 and float64 even with it, TensorFlow has no CPU kernel for it with dilations, and a filter with zeros in between
is slower than the three ops.

Exact: the same products and sums, perhaps in another order. Function bodies are entered.

Source: tensorflow/tools/graph_transforms/flatten_atrous.cc, same name; unlike it we work out the padding, and do not
enlarge the filter.
"""

from __future__ import annotations

from typing import NamedTuple

from tfslim_core.graph import Graph, NodeDef, data_inputs, renamed
from tfslim_core.registry import Outcome, transform
from tfslim_core.rewriting import Edit, Match, Pattern, Skip, anything, constant, either, op, replace_matches


def _known(name: str) -> Pattern:
    return either(constant(name), anything(name))


_SPREAD = op("SpaceToBatchND", anything("x"), _known("block"), _known("paddings"), name="spread", shared=True)
_CONV = op("Conv2D|DepthwiseConv2dNative", _SPREAD, anything("filter"), name="conv")
_BIASED = op("BiasAdd", _CONV, anything("bias"), name="biased")
_PATTERN = op("BatchToSpaceND", either(_BIASED, _CONV), _known("block_again"), _known("crops"))


class _Axis(NamedTuple):
    """What a dilated convolution does along one axis."""

    dilation: int
    before: int
    after: int


@transform("flatten_atrous_conv", enters_functions=True)
def flatten_atrous_conv(graph: Graph) -> Outcome:
    """Write a dilated convolution as one op."""
    fed = {tensor.partition(":")[0] for tensor in graph.inputs}

    def flatten(m: Match) -> Edit:
        for name in ("block", "paddings", "block_again", "crops"):
            if m.node(name).op != "Const" or m.node(name).name in fed:
                raise Skip(f"{name.removesuffix('_again')} {m.node(name).name!r} is not a constant")
        conv = m.node("conv")
        if conv.op != "Conv2D":
            raise Skip("few CPU kernels of TensorFlow compute a depthwise convolution with dilations")
        axes = [_along(m, axis) for axis in (0, 1)]
        inputs = [m.ref("x"), m.ref("filter")]
        if "biased" not in m:
            return Edit([_dilated(m, renamed(conv, m.root, inputs), axes)])
        biased = m.node("biased")
        bias = renamed(biased, m.root, [conv.name, *data_inputs(biased)[1:]])
        return Edit([_dilated(m, renamed(conv, conv.name, inputs), axes), bias])

    return replace_matches(graph, _PATTERN, flatten)


def _along(m: Match, axis: int) -> _Axis:
    """The convolution along rows (0) or columns (1)."""
    conv, blocks = m.node("conv"), m.value("block").reshape(-1)
    for node in (conv, *([m.node("biased")] if "biased" in m else [])):
        if m.attribute(node, "data_format").s != b"NHWC":
            raise Skip(f"{node.name!r} has its channels where the block is cut")
    if blocks.tolist() != m.value("block_again").reshape(-1).tolist():
        raise Skip("the block that is put back is not the one that was cut")
    if not 1 <= len(blocks) <= 2:
        raise Skip(f"the block has {len(blocks)} dimensions, not rows and columns")
    if any(stride != 1 for stride in m.attribute(conv, "strides").list.i):
        raise Skip("the convolution has strides")
    block, padded, cropped = 1, [0, 0], [0, 0]
    if axis < len(blocks):
        block = int(blocks[axis].item())
        padded, cropped = (m.value(name)[axis].tolist() for name in ("paddings", "crops"))
    dilation = m.attribute(conv, "dilations").list.i[1 + axis]
    own = _own_padding(m, axis, dilation)
    before, after = (padded[end] + own[end] * block - cropped[end] for end in (0, 1))
    if min(before, after) < 0:
        raise Skip("more is cropped than was padded")
    return _Axis(dilation * block, before, after)


def _own_padding(m: Match, axis: int, dilation: int) -> tuple[int, int]:
    """What the convolution itself pads with along an axis, in values of the block's batch."""
    conv = m.node("conv")
    match m.attribute(conv, "padding").s:
        case b"VALID":
            return 0, 0
        case b"EXPLICIT":
            paddings = m.attribute(conv, "explicit_paddings").list.i
            return paddings[2 + 2 * axis], paddings[3 + 2 * axis]
    size = _filter_size(m, axis)
    if size is None:
        raise Skip("the convolution pads SAME for a filter whose size is not known")
    total = (size - 1) * dilation
    return total // 2, total - total // 2


def _filter_size(m: Match, axis: int) -> int | None:
    return m.shape("filter")[axis] if m.node("filter").op == "Const" else None


def _dilated(m: Match, conv: NodeDef, axes: list[_Axis]) -> NodeDef:
    """The convolution with dilations and the padding that fits, under its simplest name."""
    conv.attr["dilations"].list.i[:] = [1, *(one.dilation for one in axes), 1]
    sizes = [_filter_size(m, axis) for axis in (0, 1)]
    totals = [None if size is None else (size - 1) * one.dilation for size, one in zip(sizes, axes, strict=True)]
    same = [None if total is None else (total // 2, total - total // 2) for total in totals]
    explicit = [0, 0, *(pad for one in axes for pad in (one.before, one.after)), 0, 0]
    conv.attr.pop("explicit_paddings", None)
    if not any(explicit):
        conv.attr["padding"].s = b"VALID"
    elif [(one.before, one.after) for one in axes] == same:
        conv.attr["padding"].s = b"SAME"
    else:
        conv.attr["padding"].s = b"EXPLICIT"
        conv.attr["explicit_paddings"].list.i[:] = explicit
    return conv
