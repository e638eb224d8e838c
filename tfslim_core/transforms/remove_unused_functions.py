"""Drop library functions that nobody calls.

    Before: the graph calls f, f calls g; the library holds f, g, h and their gradients
    After:  the library holds f and g

A function stays when a node of the graph, or of a function that stays, calls it: as its op, or by an attribute that
names it (the branches of an If, the body of a While, what a dataset maps). Notes on gradients are kept where they can
be asked for: that f's gradient is g when a node is a SymbolicGradient of f, and then g too; that g is the gradient
registered for an op, when g itself stays. Otherwise they go, as a server takes no gradients.

Another implementation of a function, which the runtime may put in its place on a GPU (`api_implements`; Keras notes
one for each LSTM and GRU), is called by nobody and goes; the one that is called stays, and gives the same.

Exact. Nothing is left alone.

Source: none in the Graph Transform Tool, which carries the whole library along.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import chain

import tensorflow as tf

from tfslim_core.graph import Graph, needed_functions
from tfslim_core.registry import Outcome, transform


@transform("remove_unused_functions")
def remove_unused_functions(graph: Graph) -> Outcome:
    """Drop library functions that nobody calls."""
    library = graph.rest.library
    called = needed_functions(graph.callers, graph.functions)
    gradient_of = {gradient.function_name: gradient.gradient_func for gradient in library.gradient}
    if gradient_of and not _asks_for_gradients(graph, called):
        gradient_of = {}
    while missing := {gradient_of[name] for name in called if name in gradient_of} & graph.functions.keys() - called:
        nodes = chain.from_iterable(graph.functions[name].node_def for name in missing)
        called |= missing | needed_functions(nodes, graph.functions)
    gradients = [gradient for gradient in library.gradient if gradient.function_name in called & gradient_of.keys()]
    registered = [gradient for gradient in library.registered_gradients if gradient.gradient_func in called]
    functions = [function for name, function in graph.functions.items() if name in called]
    dropped = (
        *(len(library.gradient) - len(gradients), len(library.registered_gradients) - len(registered)),
        len(graph.functions) - len(functions),
    )
    if not any(dropped):
        return Outcome(graph)
    slim = graph.replace(library=functions)
    rest = tf.compat.v1.GraphDef(library=slim.rest.library, versions=slim.rest.versions)
    del rest.library.gradient[:], rest.library.registered_gradients[:]
    rest.library.gradient.extend(gradients)
    rest.library.registered_gradients.extend(registered)
    return Outcome(replace(slim, rest=rest), sum(dropped))


def _asks_for_gradients(graph: Graph, called: set[str]) -> bool:
    bodies = (graph.functions[name].node_def for name in called)
    return any(node.op == "SymbolicGradient" for node in chain(graph.nodes.values(), *bodies))
