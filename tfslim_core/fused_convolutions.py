"""Convolutions that resize or mirror their input themselves: FusedPadConv2D and FusedResizeAndPadConv2D.

Their CPU kernel computes the first image of a batch right and the others wrong, in TensorFlow 2.21 too. So a graph may
have them only where a batch is known to be one image.
"""

from __future__ import annotations

import numpy as np
import tensorflow as tf

from tfslim_core.errors import GraphError
from tfslim_core.graph import Graph, Input, NodeDef, constant, data_inputs, make_node
from tfslim_core.rewriting import Edit, Match, Skip
from tfslim_core.static_shapes import Shape, static_shapes

Shapes = dict[Input, Shape]
_MOVED = frozenset({"MirrorPad", "ResizeBilinear"})
_TYPES = {
    "FusedPadConv2D": (tf.float16, tf.bfloat16, tf.float32, tf.float64),
    "FusedResizeAndPadConv2D": (tf.float32,),  # what ResizeBilinear gives
}


def known_shapes(graph: Graph) -> Shapes:
    """The shapes, as far as they are known, of what is resized or mirrored and of the filters of convolutions."""
    wanted: list[Input] = []
    for node in graph.nodes.values():
        if node.op in _MOVED:
            wanted.append(data_inputs(node)[0])
        elif node.op == "Conv2D" and graph.nodes[data_inputs(node)[0].node].op in _MOVED:
            wanted.append(data_inputs(node)[1])
    try:
        return static_shapes(graph, wanted) if wanted else {}
    except GraphError:
        return {}


def fused(m: Match, op_name: str, shapes: Shapes) -> Edit:
    """The convolution `conv` of a match with the MirrorPad `pad` and the ResizeBilinear `resize` below it taken in.

    Raises:
        Skip: the fused op would compute something else, or nothing.
    """
    conv = m.root_node
    if m.attribute(conv, "data_format").s != b"NHWC":
        raise Skip(f"{op_name} knows the layout NHWC only")
    if any(size != 1 for size in m.attribute(conv, "dilations").list.i):
        raise Skip(f"{op_name} knows no dilations")
    padding = m.attribute(conv, "padding").s
    if padding not in (b"VALID", b"SAME"):
        raise Skip(f"{op_name} pads SAME or VALID, the convolution {padding.decode()}")
    if tf.as_dtype(conv.attr["T"].type) not in _TYPES[op_name]:
        raise Skip(f"{op_name} has no kernel for {tf.as_dtype(conv.attr['T'].type).name}")
    source, kernel = shapes.get(m.ref("x")), shapes.get(m.ref("filter"))
    if source is None or source[0] != 1:
        raise Skip(f"TensorFlow's {op_name} computes only the first image of a batch right; more than one may come")
    if kernel is None or source[3] is None or kernel[2] != source[3]:
        raise Skip(f"{op_name} knows no groups, and whether the convolution has some is not known")
    nodes: list[NodeDef] = []
    inputs = [m.ref("x")]
    more = {}
    if "resize" in m:
        resize = m.node("resize")
        if m.attribute(resize, "half_pixel_centers").b:
            raise Skip(f"{op_name} cannot resize by half_pixel_centers")
        if resize.attr["T"].type != conv.attr["T"].type:
            raise Skip(f"{op_name} resizes {tf.as_dtype(conv.attr['T'].type).name} only")
        inputs.append(m.ref("size"))
        more["resize_align_corners"] = m.attribute(resize, "align_corners")
    paddings = m.value("paddings") if "pad" in m else np.zeros((4, 2), np.int32)
    if paddings.shape != (4, 2) or paddings[[0, 3]].any():
        raise Skip(f"{op_name} mirrors rows and columns only")
    if "pad" in m and paddings.dtype == np.int32:
        inputs.append(m.ref("paddings"))
    else:
        new, _ = constant(m.fresh(f"{m.root}/paddings"), paddings.astype(np.int32), device=conv.device)
        nodes.append(new)
        inputs.append(Input(new.name, 0))
    mode = m.attribute(m.node("pad"), "mode") if "pad" in m else b"REFLECT"
    strides = m.attribute(conv, "strides")
    inputs.append(m.ref("filter"))
    result = make_node(op_name, m.root, inputs, device=conv.device, mode=mode, strides=strides, padding=padding, **more)
    result.attr["T"].CopyFrom(conv.attr["T"])
    return Edit([*nodes, result])
