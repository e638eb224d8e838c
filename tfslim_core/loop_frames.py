"""The loops of TensorFlow 1 that a node runs in, and how a value from outside gets to where it runs.

A loop's nodes run in a frame of their own, and what enters it comes through an Enter node. Whatever decides that a node
runs (the loop's condition, a branch's) it waits for, so that its frame is found by going up its inputs: an Enter leads
out of a frame, an Exit into one.
"""

from __future__ import annotations

import tensorflow as tf

from tfslim_core.graph import Graph, NameMaker, NodeDef, control_inputs, make_node, parse_input

_EXITS = frozenset({"Exit", "RefExit"})
_ENTERS = frozenset({"Enter", "RefEnter"})
_BACK = frozenset({"NextIteration", "RefNextIteration"})


def loops_around(graph: Graph, name: str) -> tuple[NodeDef, ...]:
    """For each loop that the node runs in, the outermost first, an Enter node of it."""
    if _ENTERS.isdisjoint(graph.by_op):
        return ()
    found: list[NodeDef] = []
    left = 0
    node = graph.nodes[name]
    while sources := [parse_input(text).node for text in node.input]:
        if node.op in _EXITS:
            left += 1
        elif node.op in _ENTERS and left:
            left -= 1
        elif node.op in _ENTERS:
            found.append(node)
        # All inputs are of one frame; but what comes back from the end of a loop would lead round it.
        before = (source for source in sources if graph.nodes[source].op not in _BACK)
        node = graph.nodes[next(before, sources[0])]
    return tuple(reversed(found))


def brought_in(
    value: str, node: NodeDef, loops: tuple[NodeDef, ...], dtype: tf.DType, names: NameMaker
) -> list[NodeDef]:
    """Nodes that take the place of a constant in loops and give it the output of the node `value`, which is in none.

    The last has the constant's name and waits for what it waited for: where a branch is not taken it has no value.
    """
    made: list[NodeDef] = []
    for loop in loops:
        enter = make_node("Enter", names(f"{node.name}/Enter"), [value], device=node.device, T=dtype, is_constant=True)
        for attribute in ("frame_name", "parallel_iterations"):
            if attribute in loop.attr:
                enter.attr[attribute].CopyFrom(loop.attr[attribute])
        made.append(enter)
        value = enter.name
    waits = [f"^{other}" for other in control_inputs(node)]
    return [*made, make_node("Identity", node.name, [value, *waits], device=node.device, T=dtype)]
