"""Let a convolution resize its input and mirror its borders itself.

    Before: y = Conv2D(MirrorPad(ResizeBilinear(x, size), paddings), W)
    After:  y = FusedResizeAndPadConv2D(x, size, paddings, W)

A Conv2D in the layout NHWC, float32, where batches are known to be of one image: of a larger batch TensorFlow's kernel
computes all but the first image wrong. No room is needed for the resized and the padded image. With oneDNN it took 1.1
to 1.3 times as long as the three ops, without 0.7 to 0.9 times (one image of 56 to 224 pixels).

Left alone, with a reason: batches that may be larger; half_pixel_centers, by which TensorFlow 2 resizes and which the
fused op cannot; images that are not float32; a padding that is not of rows and columns alone; the layout NCHW,
dilations, groups, EXPLICIT padding; a resized or padded image that others read too.

Exact: the same products and sums, perhaps in another order. Function bodies are entered.

Source: tensorflow/tools/graph_transforms/fuse_convolutions.cc, same name; unlike it we leave alone what the fused op
would compute otherwise.
"""

from __future__ import annotations

from functools import partial

from tfslim_core.fused_convolutions import fused, known_shapes
from tfslim_core.graph import Graph
from tfslim_core.registry import Outcome, transform
from tfslim_core.rewriting import anything, constant, op, replace_matches

_RESIZED = op("ResizeBilinear", anything("x"), anything("size"), name="resize")
_PATTERN = op("Conv2D", op("MirrorPad", _RESIZED, constant("paddings"), name="pad"), anything("filter"))


@transform("fuse_resize_pad_and_conv", enters_functions=True)
def fuse_resize_pad_and_conv(graph: Graph) -> Outcome:
    """Let a convolution resize its input and mirror its borders itself."""
    return replace_matches(
        graph, _PATTERN, partial(fused, op_name="FusedResizeAndPadConv2D", shapes=known_shapes(graph))
    )
