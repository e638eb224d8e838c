"""Drop the nodes and functions that no signature needs.

    Before: x -> A -> y (output)        After: x -> A -> y
            x -> B -> C

Kept is what the outputs, the asset paths and the init op need over data and control inputs; inputs are always kept.
A control input from a node that neither has an effect, nor sees that of another, nor follows one that does, is not
needed: there is nothing in it to wait for. (In TensorFlow 1 control flow it says on which branch a node runs, and is
kept.) Library functions that nobody calls go too, as in `remove_unused_functions`. In the bodies of the others, what
neither their results nor an effect needs goes; arguments stay.

An input that is not a placeholder becomes one, and what led to it goes, where a type or a shape is given for it: by
`type` and `shape` for all of them, or by `name`, `type_for_name` and `shape_for_name`, which are repeated together.
What is not given is the tensor's own type, and an unknown shape. A shape is written "1,299,299,3", -1 for an unknown
dimension.

Exact. Nothing is left alone; a graph without outputs, which would leave nothing, is an error.

Source: tensorflow/tools/graph_transforms/strip_unused_nodes.cc, same name and parameters; unlike it we infer the type,
take -1 in a shape, leave a PlaceholderWithDefault its default, forget colocation with what goes, and look at functions.
"""

from __future__ import annotations

from dataclasses import replace

import tensorflow as tf

from tfslim_core import ops
from tfslim_core.errors import TransformError, nearest
from tfslim_core.function_bodies import rewrite_bodies
from tfslim_core.graph import Graph, NodeDef, make_node, needed, parse_input
from tfslim_core.idle_controls import busy_nodes, without_idle_controls
from tfslim_core.registry import Outcome, transform
from tfslim_core.transforms.remove_unused_functions import remove_unused_functions

_PLACEHOLDERS = ("Placeholder", "PlaceholderV2", "PlaceholderWithDefault")


@transform("strip_unused_nodes")
def strip_unused_nodes(
    graph: Graph,
    *,
    type: str | None = None,  # noqa: A002 - the name that users know
    shape: str | None = None,
    name: tuple[str, ...] = (),
    type_for_name: tuple[str, ...] = (),
    shape_for_name: tuple[str, ...] = (),
) -> Outcome:
    """Drop the nodes and functions that no signature needs."""
    if not graph.outputs and not graph.targets:
        raise TransformError("strip_unused_nodes: the graph has no outputs, so that nothing would be left")
    given = _given(graph, type, shape, name, type_for_name, shape_for_name)
    placeholders = [_placeholder(graph, input_name, *given[input_name]) for input_name in given]
    fed = graph.replace(placeholders) if placeholders else graph
    main = _stripped(fed)
    called = remove_unused_functions(main.graph)
    changes = len(placeholders) + main.changes + called.changes

    def strip(name: str, body: Graph) -> Graph:
        nonlocal changes
        # What a function promises to run is worth running while it does something.
        busy = busy_nodes(body)
        done = _stripped(replace(body, targets=tuple(name for name in body.targets if name in busy)))
        changes += done.changes
        return done.graph if done.changes else body

    slim = remove_unused_functions(rewrite_bodies(called.graph, strip))
    return Outcome(slim.graph, changes + slim.changes)


def _stripped(graph: Graph) -> Outcome:
    """The graph without control inputs from nodes that do nothing, and without the nodes that it then does not need."""
    freed = without_idle_controls(graph)
    graph = graph.replace(freed) if freed else graph
    unneeded = graph.nodes.keys() - needed(graph, graph.interface)
    return Outcome(graph.replace(drop=unneeded) if unneeded else graph, len(freed) + len(unneeded))


def _given(
    graph: Graph,
    dtype: str | None,
    shape: str | None,
    names: tuple[str, ...],
    dtypes: tuple[str, ...],
    shapes: tuple[str, ...],
) -> dict[str, tuple[str | None, str | None]]:
    """Type and shape, either may be None, for each input that is to become a placeholder."""
    inputs = dict.fromkeys(parse_input(tensor).node for tensor in graph.inputs)
    for found, parameter in ((dtypes, "type_for_name"), (shapes, "shape_for_name")):
        if len(found) != len(names):
            raise TransformError(f"strip_unused_nodes: {len(names)} times name, but {len(found)} times {parameter}")
    for name in names:
        if parse_input(name).node not in inputs:
            raise TransformError(f"strip_unused_nodes: {name!r} is not an input{nearest(name, inputs)}")
    given: dict[str, tuple[str | None, str | None]] = {}
    if dtype is not None or shape is not None:
        given = dict.fromkeys(inputs, (dtype, shape))
    own = {parse_input(name).node: pair for name, pair in zip(names, zip(dtypes, shapes, strict=True), strict=True)}
    given.update(own)
    return {name: pair for name, pair in given.items() if graph.nodes[name].op not in _PLACEHOLDERS}


def _placeholder(graph: Graph, name: str, dtype: str | None, shape: str | None) -> NodeDef:
    node = graph.nodes[name]
    outputs = ops.output_dtypes(node, graph.functions)
    if len(outputs) != 1:
        raise TransformError(
            f"strip_unused_nodes: {name!r} ({node.op}) has {len(outputs)} outputs, a placeholder has one"
        )
    own = tf.as_dtype(outputs[0] % ops.REF)
    try:
        asked = own if dtype is None else tf.as_dtype(dtype)
        dimensions = None if shape is None else [int(size) for size in shape.split(",") if size.strip()]
    except (TypeError, ValueError):
        raise TransformError(f"strip_unused_nodes: no type {dtype!r} or no shape {shape!r} (for {name!r})") from None
    if asked != own:
        raise TransformError(f"strip_unused_nodes: {name!r} is {own.name}, its readers cannot take {asked.name}")
    placeholder = make_node("Placeholder", name, [], device=node.device, dtype=own)
    placeholder.attr["shape"].shape.CopyFrom(
        tf.TensorShape(None if dimensions is None else [None if d < 0 else d for d in dimensions]).as_proto()
    )
    return placeholder
