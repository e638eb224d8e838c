"""Say on which device nodes are to run.

    Before: y = MatMul(x, W)        After: y = MatMul(x, W) on /device:CPU:0

All nodes get the device, those of library functions too; with `if_default` only those that have none yet. A device is
spelled as TensorFlow does: "/device:CPU:0", "/job:worker/task:1/device:GPU:0", or short "/cpu:0"; it is written out in
full. In a list of transforms it needs double quotes, for its colons. Exact, where the server has the device.

| parameter | |
|---|---|
| device | the device; empty for none |
| if_default | leave the nodes alone that have a device |

It is an error when the device cannot be understood. With `if_default`, left alone, with a reason: a node that has to be
on the device of another, which has one already: it wishes to be placed beside it (`_class`), or takes a variable or a
table from it.

Source: tensorflow/tools/graph_transforms/set_device.cc, same name and parameters; unlike it we look into functions, and
refuse a device that TensorFlow would refuse.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import tensorflow as tf

from tfslim_core import ops
from tfslim_core.errors import TransformError
from tfslim_core.graph import Graph, NodeDef, renamed
from tfslim_core.node_edits import Edit, edit_nodes
from tfslim_core.registry import Outcome, transform
from tfslim_core.rewriting import Skip

_DEVICE = re.compile(r"(/job:[A-Za-z]\w*)?(/replica:\d+)?(/task:\d+)?(/device:[A-Za-z]\w*:(\d+|\*))?", re.ASCII)


@transform("set_device")
def set_device(graph: Graph, *, device: str = "", if_default: bool = False) -> Outcome:
    """Say on which device nodes are to run."""
    wanted = _in_full(device)

    def edit_among(nodes: Sequence[NodeDef]) -> Edit:
        places = _places(nodes, graph.functions) if if_default and wanted else {}

        def placed(node: NodeDef) -> NodeDef:
            if node.device == wanted or (if_default and node.device):
                return node
            if places.get(node.name, wanted) != wanted:
                raise Skip(f"it has to be beside a node on {places[node.name]}")
            copy = renamed(node, node.name)
            copy.device = wanted
            return copy

        return placed

    return edit_nodes(graph, edit_among)


def _in_full(device: str) -> str:
    try:
        full: str = tf.DeviceSpec.from_string(device).to_string()
    except ValueError:
        full = "?"
    if not _DEVICE.fullmatch(full):
        raise TransformError(f'set_device: {device!r} is not a device; one is "/device:CPU:0" or "/job:worker/task:1"')
    return full


def _places(nodes: Sequence[NodeDef], functions: ops.Functions) -> dict[str, str]:
    """For each node that has to be where others are: the device that one of them has."""
    beside: dict[str, list[str]] = {}

    def join(one: str, other: str) -> None:
        beside.setdefault(one, []).append(other)
        beside.setdefault(other, []).append(one)

    handle = tf.resource.as_datatype_enum
    for node in nodes:
        if "_class" in node.attr:
            for wish in node.attr["_class"].list.s:
                join(node.name, wish.decode().removeprefix("loc:@"))
        for text, dtype in zip(node.input, ops.dtypes(node, functions).takes, strict=False):
            if dtype == handle or dtype >= ops.REF:
                join(node.name, text.partition(":")[0])
    places: dict[str, str] = {}
    for node in nodes:
        todo = [node.name] if node.device and node.name in beside else []
        while todo:
            name = todo.pop()
            if name not in places:
                places[name] = node.device
                todo += beside[name]
    return places
