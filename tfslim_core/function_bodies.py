"""Function bodies as graphs: branches, loops and mapped functions are rewritten like the graph that calls them.

A body's arguments are placeholders and its inputs; what it returns are its outputs; what it runs for the effect alone
are its targets. A function whose types are decided by each caller has no graph of its own and is left alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any

import tensorflow as tf

from tfslim_core import ops
from tfslim_core.graph import CONTROL, Graph, Input, NodeDef, has_plain_weights, make_node, parse_input

FunctionDef = Any  # the protobuf classes have no types


def is_generic(function: FunctionDef) -> bool:
    """Whether callers decide about types or attributes in the body."""
    signature = function.signature
    if any(a.type_attr or a.number_attr or a.type_list_attr for a in (*signature.input_arg, *signature.output_arg)):
        return True
    return any(value.WhichOneof("value") == "placeholder" for node in function.node_def for value in node.attr.values())


def body_of(graph: Graph, name: str) -> Graph | None:
    """The body of the library function `name`, or None where it has no graph of its own.

    Its large constants become weights. The library is the graph's, so that calls in the body can be looked up.

    Raises:
        GraphError: the body is not valid.
    """
    function = graph.functions[name]
    known, body = graph.bodies.get(name, (None, None))
    if known is not function:
        body = None if is_generic(function) else _read(graph, function)
    elif body is not None and body.rest is not graph.rest:
        body = replace(body, rest=graph.rest, targets=_targets(graph, function, body.nodes.values()))
    graph.bodies[name] = (function, body)
    return body


def _read(graph: Graph, function: FunctionDef) -> Graph:
    arguments = {argument.name: tf.as_dtype(argument.type) for argument in function.signature.input_arg}
    ports = {node.name: ops.output_ports(node, graph.functions) for node in function.node_def}

    def source(text: str) -> Input:
        if text.startswith("^"):
            return Input(text[1:], CONTROL)
        node, _, rest = text.partition(":")
        if node in arguments:
            return Input(node, 0)
        argument, _, index = rest.partition(":")
        return Input(node, ports[node][argument] + int(index or 0))

    nodes: list[NodeDef] = [make_node("Placeholder", name, [], dtype=dtype) for name, dtype in arguments.items()]
    own = type(function)(node_def=function.node_def).node_def
    for node in own:
        node.input[:] = [str(source(text)) for text in node.input]
    nodes += own
    returned = [source(function.ret[argument.name]) for argument in function.signature.output_arg]
    return Graph.of_nodes(
        nodes,
        graph.rest,
        [f"{argument}:0" for argument in arguments],
        [f"{node}:{port}" for node, port in returned],
        _targets(graph, function, own),
    )


def _targets(graph: Graph, function: FunctionDef, nodes: Iterable[NodeDef]) -> tuple[str, ...]:
    # The runtime runs what has an effect even where nothing waits for it.
    effects = [node.name for node in nodes if ops.has_effect(node, graph.functions)]
    return tuple(dict.fromkeys([*function.control_ret.values(), *effects]))


def with_body(function: FunctionDef, body: Graph) -> FunctionDef:
    """A copy of the function with another body, of the same arguments and outputs.

    What the body does not have any more is not promised to have run any more.
    """
    copy = type(function)()
    copy.CopyFrom(function)
    del copy.node_def[:]
    arguments = {argument.name for argument in function.signature.input_arg}
    spelled: dict[str, list[str]] = {}

    def spell(source: Input) -> str:
        if source.port == CONTROL:
            return f"^{source.node}"
        if source.node in arguments:
            return source.node
        if source.node not in spelled:
            node = body.nodes[source.node]
            given = ops.output_arguments(node, body.functions)
            spelled[source.node] = [
                f"{source.node}:{name}:{index}" for name, dtypes in given for index in range(len(dtypes))
            ]
        return spelled[source.node][source.port]

    copy.node_def.extend(node for name, node in body.nodes.items() if name not in arguments)
    for node in copy.node_def:
        name = node.name
        node.input[:] = [spell(source) for source in body.sources(name)]
        if name in body.weights:
            node.attr["value"].tensor.CopyFrom(tf.make_tensor_proto(body.weights[name].read()))
    for argument, tensor in zip(function.signature.output_arg, body.outputs, strict=True):
        copy.ret[argument.name] = spell(parse_input(tensor))
    for key in [key for key, name in copy.control_ret.items() if name not in body.nodes]:
        del copy.control_ret[key]
        copy.signature.control_output.remove(key)
    return copy


def rewrite_bodies(graph: Graph, rewrite: Callable[[str, Graph], Graph]) -> Graph:
    """The graph with `rewrite(function name, body)` in the place of each function's body; itself where nothing changed.

    Raises:
        GraphError: a body or what came out is not valid.
    """
    changed: dict[str, FunctionDef] = {}
    bodies: dict[str, Graph] = {}  # of those that changed
    for name, function in graph.functions.items():
        body = body_of(graph, name)
        if body is None:
            continue
        new = rewrite(name, body)
        if new is not body:
            changed[name] = with_body(function, new)
            bodies[name] = new
    if not changed:
        return graph
    result = graph.replace(library=[changed.get(name, function) for name, function in graph.functions.items()])
    keep_bodies(result, bodies)
    return result


def keep_bodies(graph: Graph, bodies: Mapping[str, Graph]) -> None:
    """Have bodies at hand of which `with_body` made functions of the graph's library."""
    for name, body in bodies.items():
        function = graph.functions.get(name)
        if function is not None and (found := _as_read(function, body)):
            graph.bodies[name] = (function, found)


def _as_read(function: FunctionDef, body: Graph) -> Graph | None:
    """What `body_of` would read from the function, but for targets; None where it has to read it."""
    arguments = {argument.name: argument.type for argument in function.signature.input_arg}
    for name, dtype in arguments.items():
        node = body.nodes[name]
        if (
            node.op != "Placeholder"
            or node.attr["dtype"].type != dtype
            or len(node.attr) > 1
            or node.device
            or node.input
        ):
            return None
    return body.in_order([*arguments, *body.nodes]) if has_plain_weights(body) else None
