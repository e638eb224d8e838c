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

Where the graph contradicts `type` or `shape` for some of several such inputs, as where a list that was written for the
images is used with a graph that takes sizes too, these get the type and the shape that the graph says, with a reason;
where it contradicts for all of them, that is an error. A shape by name counts, whatever the graph says; a type by name
that the readers cannot take is an error.

Exact. Nothing else is left alone; a graph without outputs, which would leave nothing, is an error.

Source: tensorflow/tools/graph_transforms/strip_unused_nodes.cc, same name and parameters; unlike it we infer the type,
give none that the readers cannot take, take -1 in a shape, leave a PlaceholderWithDefault its default, forget
colocation with what goes, and look at functions.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

import tensorflow as tf

from tfslim_core import ops
from tfslim_core.errors import GraphError, TransformError, nearest
from tfslim_core.function_bodies import rewrite_bodies
from tfslim_core.graph import Graph, Input, NodeDef, make_node, needed, parse_input
from tfslim_core.idle_controls import busy_nodes, without_idle_controls
from tfslim_core.registry import Outcome, Skipped, transform
from tfslim_core.static_shapes import static_shapes
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
    by_name = _by_name(graph, name, type_for_name, shape_for_name)
    placeholders, skipped = _placeholders(graph, _wish(type, shape), by_name)
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
    return Outcome(slim.graph, changes + slim.changes, skipped)


def _stripped(graph: Graph) -> Outcome:
    """The graph without control inputs from nodes that do nothing, and without the nodes that it then does not need."""
    freed = without_idle_controls(graph)
    graph = graph.replace(freed) if freed else graph
    unneeded = graph.nodes.keys() - needed(graph, graph.interface)
    return Outcome(graph.replace(drop=unneeded) if unneeded else graph, len(freed) + len(unneeded))


@dataclass(frozen=True)
class _Kind:
    """A type and a shape; None where nothing is said of it."""

    dtype: tf.DType | None
    shape: tf.TensorShape | None

    def fits(self, known: _Kind) -> bool:
        return self.dtype in (None, known.dtype) and (
            self.shape is None or known.shape is None or self.shape.is_compatible_with(known.shape)
        )

    def __str__(self) -> str:
        shape = "" if self.shape is None or self.shape.rank is None else str(self.shape.as_list()).replace("None", "-1")
        return " ".join(filter(None, [self.dtype.name if self.dtype else "", shape]))


def _wish(dtype: str | None, shape: str | None, of: str = "") -> _Kind:
    """What the texts of the parameters mean."""
    try:
        sizes = None if shape is None else [int(size) for size in shape.split(",") if size.strip()]
        return _Kind(
            None if dtype is None else tf.as_dtype(dtype),
            None if sizes is None else tf.TensorShape([None if size < 0 else size for size in sizes]),
        )
    except (TypeError, ValueError):
        where = f" (for {of!r})" if of else ""
        raise TransformError(f"strip_unused_nodes: no type {dtype!r} or no shape {shape!r}{where}") from None


def _by_name(
    graph: Graph, names: tuple[str, ...], dtypes: tuple[str, ...], shapes: tuple[str, ...]
) -> dict[str, _Kind]:
    """What is asked for each input that is named."""
    inputs = dict.fromkeys(parse_input(tensor).node for tensor in graph.inputs)
    for found, parameter in ((dtypes, "type_for_name"), (shapes, "shape_for_name")):
        if len(found) != len(names):
            raise TransformError(f"strip_unused_nodes: {len(names)} times name, but {len(found)} times {parameter}")
    for name in names:
        if parse_input(name).node not in inputs:
            raise TransformError(f"strip_unused_nodes: {name!r} is not an input{nearest(name, inputs)}")
    return {
        parse_input(name).node: _wish(dtype, shape, name)
        for name, dtype, shape in zip(names, dtypes, shapes, strict=True)
    }


def _placeholders(graph: Graph, wish: _Kind, by_name: Mapping[str, _Kind]) -> tuple[list[NodeDef], tuple[Skipped, ...]]:
    """A placeholder for each input that is none yet and of which something is asked."""
    made: dict[str, NodeDef] = {}
    others = []
    for name in dict.fromkeys(parse_input(tensor).node for tensor in graph.inputs):
        if graph.nodes[name].op in _PLACEHOLDERS:
            continue
        if name not in by_name:
            others.append(name)
            continue
        dtype, asked = _dtype(graph, name), by_name[name].dtype
        if asked not in (None, dtype):
            raise TransformError(f"strip_unused_nodes: {name!r} is {dtype.name}, its readers cannot take {asked.name}")
        made[name] = _placeholder(graph, name, dtype, by_name[name].shape)
    if wish == _Kind(None, None) or not others:
        return list(made.values()), ()
    shapes = _shapes(graph, others) if wish.shape is not None else {}
    known = {name: _Kind(_dtype(graph, name), shapes.get(name)) for name in others}
    strange = [name for name in others if not wish.fits(known[name])]
    if len(strange) == len(others):
        found = ", ".join(f"{name!r} is {known[name]}" for name in others)
        raise TransformError(
            f"strip_unused_nodes: {wish} was asked for, but in the graph {found}; leave out the type or shape that is "
            "wrong, or give both by name, type_for_name and shape_for_name"
        )
    for name in others:
        kind = known[name] if name in strange else wish
        made[name] = _placeholder(graph, name, known[name].dtype, kind.shape)
    return list(made.values()), tuple(
        Skipped(name, f"{wish} was asked for, but in the graph it is {known[name]}: a placeholder of that")
        for name in strange
    )


def _dtype(graph: Graph, name: str) -> tf.DType:
    """Of the one output of a node."""
    node = graph.nodes[name]
    outputs = ops.output_dtypes(node, graph.functions)
    if len(outputs) != 1:
        raise TransformError(
            f"strip_unused_nodes: {name!r} ({node.op}) has {len(outputs)} outputs, a placeholder has one"
        )
    return tf.as_dtype(outputs[0] % ops.REF)


def _shapes(graph: Graph, names: Iterable[str]) -> dict[str, tf.TensorShape]:
    """What the graph says of the nodes' shapes when they are computed, not fed."""
    try:
        found = static_shapes(replace(graph, inputs=()), [Input(name, 0) for name in names])
    except GraphError:
        return {}
    return {source.node: tf.TensorShape(shape) for source, shape in found.items()}


def _placeholder(graph: Graph, name: str, dtype: tf.DType, shape: tf.TensorShape | None) -> NodeDef:
    placeholder = make_node("Placeholder", name, [], device=graph.nodes[name].device, dtype=dtype)
    placeholder.attr["shape"].shape.CopyFrom((shape or tf.TensorShape(None)).as_proto())
    return placeholder
