"""Let a convolution resize its input itself.

    Before: y = Conv2D(ResizeBilinear(x, size), W)
    After:  y = FusedResizeAndPadConv2D(x, size, zeros [4, 2], W)

A Conv2D in the layout NHWC over a ResizeBilinear of float32, where batches are known to be of one image: of a larger
batch TensorFlow's kernel computes all but the first image wrong. No room is needed for the resized image. With oneDNN
it took 1.3 to 1.7 times as long as the two ops, without 0.85 to 1.0 times (one image of 56 to 224 pixels).

Left alone, with a reason: batches that may be larger; half_pixel_centers, by which TensorFlow 2 resizes and which the
fused op cannot; images that are not float32; the layout NCHW, dilations, groups, EXPLICIT padding; a resized image that
others read too.

Exact: the same products and sums, perhaps in another order. Function bodies are entered.

Source: tensorflow/tools/graph_transforms/fuse_convolutions.cc, same name; unlike it we leave alone what the fused op
would compute otherwise.
"""

from __future__ import annotations

from functools import partial

from tfslim_core.fused_convolutions import fused, known_shapes
from tfslim_core.graph import Graph
from tfslim_core.registry import Outcome, transform
from tfslim_core.rewriting import anything, op, replace_matches

_PATTERN = op("Conv2D", op("ResizeBilinear", anything("x"), anything("size"), name="resize"), anything("filter"))


@transform("fuse_resize_and_conv", enters_functions=True)
def fuse_resize_and_conv(graph: Graph) -> Outcome:
    """Let a convolution resize its input itself."""
    return replace_matches(
        graph, _PATTERN, partial(fused, op_name="FusedResizeAndPadConv2D", shapes=known_shapes(graph))
    )
