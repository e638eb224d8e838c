"""Let convolutions pad their input themselves.

    Before: y = Conv2D(Pad(x, [[0, 0], [0, 1], [0, 1], [0, 0]]), W), padding VALID
    After:  y = Conv2D(x, W), padding EXPLICIT with explicit_paddings [0, 0, 0, 1, 0, 1, 0, 0]

Zeros, from Pad or from PadV2 with the value 0, go into the explicit padding of a Conv2D or a DepthwiseConv2dNative that
pads VALID or EXPLICIT; in either layout, for any batch. Other readers of the Pad keep it. On a CPU, a Conv2D took 0.97
to 1.1 times as long then, a depthwise one 0.7 to 1.0 times (one image of 56 to 224 pixels).

A MirrorPad and a Conv2D become a FusedPadConv2D where batches are known to be of one image: of a larger batch
TensorFlow's kernel computes all but the first image wrong. With oneDNN it took 1.1 to 1.5 times as long as the two ops,
without 0.6 to 0.9 times.

Left alone, with a reason: a padding that is not a constant, or not of rows and columns alone; a zero padding under a
convolution that pads SAME, which depends on the size then; for MirrorPad, batches that may be larger, the layout NCHW,
dilations, groups, EXPLICIT padding, and a MirrorPad that others read, which would be computed twice.

Exact: the same products and sums, perhaps in another order. Function bodies are entered.

Source: tensorflow/tools/graph_transforms/fuse_convolutions.cc, same name; unlike it we know Pad, and leave alone what
the fused kernel computes wrong.
"""

from __future__ import annotations

from tfslim_core.fused_convolutions import fused, known_shapes
from tfslim_core.graph import Graph, data_inputs, renamed
from tfslim_core.registry import Outcome, transform
from tfslim_core.rewriting import Edit, Match, Skip, anything, constant, either, op, replace_matches

_PADDINGS = either(constant("paddings"), anything("paddings"))
_ZEROS = either(
    op("Pad", anything("x"), _PADDINGS, name="pad", shared=True),
    op("PadV2", anything("x"), _PADDINGS, constant("value"), name="pad", shared=True),
)
_PADDED = op("Conv2D|DepthwiseConv2dNative", _ZEROS, anything("filter"))
_MIRRORED = op("Conv2D", op("MirrorPad", anything("x"), constant("paddings"), name="pad"), anything("filter"))


@transform("fuse_pad_and_conv", enters_functions=True)
def fuse_pad_and_conv(graph: Graph) -> Outcome:
    """Let convolutions pad their input themselves."""
    shapes = known_shapes(graph)
    fed = {tensor.partition(":")[0] for tensor in graph.inputs}

    def fuse(m: Match) -> Edit:
        if m.node("pad").op == "MirrorPad":
            return fused(m, "FusedPadConv2D", shapes)
        if m.node("paddings").op != "Const" or m.node("paddings").name in fed:
            raise Skip("how much is padded is not a constant")
        return _with_explicit_padding(m)

    return replace_matches(graph, (_PADDED, _MIRRORED), fuse)


def _with_explicit_padding(m: Match) -> Edit:
    conv, padding = m.root_node, m.attribute(m.root_node, "padding").s
    if "value" in m and m.value("value").any():
        raise Skip(f"{m.value('value')} is padded, not zero")
    if padding not in (b"VALID", b"EXPLICIT"):
        raise Skip(f"the convolution pads {padding.decode()} itself, which depends on the size")
    paddings = m.value("paddings")
    channel = m.attribute(conv, "data_format").s.decode().find("C")
    if paddings.shape != (4, 2) or channel < 0 or paddings[[0, channel]].any():
        raise Skip("more than rows and columns is padded")
    own = list(m.attribute(conv, "explicit_paddings").list.i) if padding == b"EXPLICIT" else [0] * 8
    new = renamed(conv, m.root, [m.ref("x"), *data_inputs(conv)[1:]])
    both = [mine + int(theirs) for mine, theirs in zip(own, paddings.reshape(-1), strict=True)]
    new.attr["padding"].s = b"EXPLICIT"
    new.attr["explicit_paddings"].list.i[:] = both
    return Edit([new])
