"""Put the bodies of called functions in the place of their calls.

    Before: y = StatefulPartitionedCall(x, f=body)        After: the nodes of body, named call/node

Inlined are PartitionedCall, StatefulPartitionedCall and nodes whose op is a library function, calls within inlined
bodies too; then those in the bodies of branches and loops, which keep their functions. Constants and batch norms behind
a call cannot be folded before. What has an effect (an assert, an assignment) still happens, and before whatever waited
for the call. A call that is part of the interface leaves an Identity, IdentityN or NoOp of its name behind, with the
same outputs. Functions that nobody calls any more go. Exact. The main graph of a bundle is without calls as it is.

Left alone, with a reason: a call that is fed; one whose function calls itself. Placement hints (`_class`) of the nodes
of a body go, since they name other nodes of the body.

Source: tensorflow/tools/graph_transforms/inline_partitionedcall.cc, same name; unlike it we inline stateful and nested
calls, read every output of a node at its place, and keep control inputs.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import tensorflow as tf

from tfslim_core import ops
from tfslim_core.function_bodies import rewrite_bodies
from tfslim_core.graph import (
    Graph,
    NodeDef,
    constant,
    constant_value,
    make_node,
    parse_input,
    renamed,
)
from tfslim_core.registry import Outcome, Skipped, transform
from tfslim_core.saved_model.inline_functions import Inlined, inline_functions
from tfslim_core.transforms.remove_unused_functions import remove_unused_functions
from tfslim_core.weights import Weight


@transform("inline_partitionedcall")
def inline_partitionedcall(graph: Graph) -> Outcome:
    """Put the bodies of called functions in the place of their calls."""
    circles = endless(graph.functions)
    main, changes, skipped = _without_calls(graph, circles)
    main = remove_unused_functions(main).graph if changes else main

    def rewrite(name: str, body: Graph) -> Graph:
        nonlocal changes
        new, count, left = _without_calls(body, circles)
        changes += count
        skipped.extend(Skipped(f"{name}/{one.node}", one.reason) for one in left)
        return new

    whole = rewrite_bodies(main, rewrite)
    return Outcome(whole if whole is main else remove_unused_functions(whole).graph, changes, tuple(skipped))


def _without_calls(graph: Graph, circles: Collection[str]) -> tuple[Graph, int, list[Skipped]]:
    """The graph without its calls, how many there were, and those that are left."""
    fed = {parse_input(tensor).node for tensor in graph.inputs}
    calls = _calls_of(graph)
    skipped = [
        Skipped(name, "it is fed" if name in fed else f"its function {callee!r} calls itself")
        for name, callee in calls.items()
        if name in fed or callee in circles
    ]
    wanted = calls.keys() - {one.node for one in skipped}
    return inlined(graph, wanted) if wanted else graph, len(wanted), skipped


def inlined(graph: Graph, calls: Collection[str]) -> Graph:
    """The graph with the bodies of these calls, without calls in them, in their place; its library stays."""
    left = _calls_of(graph).keys() - calls
    # In the place of a call that is left stands a node that reads the same and that nobody takes for a call.
    nodes = [make_node("NoOp", name, node.input) if name in left else node for name, node in graph.nodes.items()]
    result = inline_functions(nodes, graph.functions)
    new: dict[str, NodeDef] = {}
    weights: dict[str, Weight] = {}
    for name, node in result.nodes.items():
        if name not in graph.nodes:
            new[name], large = _of_body(node)
            weights |= large
        elif name in left:
            new[name] = renamed(graph.nodes[name], name, node.input)
        elif node is not graph.nodes[name]:
            new[name] = node
    for name in calls:
        if name in graph.interface:
            new[name] = _stand_in(graph, name, result)
    return graph.replace(new.values(), calls, weights=weights)


def _calls_of(graph: Graph) -> dict[str, str]:
    """The nodes that do nothing else than call a function, and which."""
    return {name: callee for name, node in graph.nodes.items() if (callee := _callee(node, graph.functions))}


def _callee(node: NodeDef, functions: Mapping[str, Any]) -> str:
    """The function that a node does nothing else than call, or nothing."""
    name = node.attr["f"].func.name if node.op in ops.CALLS else node.op
    return str(name) if name in functions else ""


def endless(functions: Mapping[str, Any]) -> frozenset[str]:
    """Names of the functions from which calls alone, without a branch between them, lead in a circle."""
    waits = {name: set(_calls(function, functions)) for name, function in functions.items()}
    callers: dict[str, list[str]] = {}
    for name, callees in waits.items():
        for callee in callees:
            callers.setdefault(callee, []).append(name)
    done = [name for name, callees in waits.items() if not callees]
    for name in done:
        for caller in callers.get(name, []):
            waits[caller].discard(name)
            if not waits[caller]:
                done.append(caller)
    return frozenset(waits) - frozenset(done)


def _calls(function: Any, functions: Mapping[str, Any]) -> list[str]:
    return [callee for node in function.node_def if (callee := _callee(node, functions))]


def _of_body(node: NodeDef) -> tuple[NodeDef, dict[str, Weight]]:
    """A node that was in a body as one of a graph: a large value apart, no hint to be beside a node of the body."""
    if node.op == "Const" and "value" in node.attr:
        bare, large = constant(node.name, constant_value(node), device=node.device)
        if large:
            bare.input.extend(node.input)
            return bare, large
    if "_class" in node.attr:
        node = renamed(node, node.name)
        del node.attr["_class"]
    return node, {}


def _stand_in(graph: Graph, name: str, result: Inlined) -> NodeDef:
    """A node of the call's name with the call's outputs; where it is run for its effect, that has happened before."""
    call = graph.nodes[name]
    dtypes = ops.output_dtypes(call, graph.functions)
    outputs = [parse_input(result.tensor(f"{name}:{port}")) for port in range(len(dtypes))]
    waits = [f"^{node}" for node in result.waits[name]] if name in graph.targets else []
    if len(dtypes) == 1:
        return make_node("Identity", name, [*map(str, outputs), *waits], device=call.device, T=tf.as_dtype(dtypes[0]))
    node = make_node("IdentityN" if dtypes else "NoOp", name, [*map(str, outputs), *waits], device=call.device)
    if dtypes:
        node.attr["T"].list.type.extend(dtypes)
    return node
