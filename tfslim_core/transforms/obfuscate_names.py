"""Replace the names of nodes by short ones that say nothing.

    Before: y = Relu(block1/conv/BiasAdd)        After: y = Relu(4)

Nodes are counted in the order of the graph, in base 62: `0` to `9`, `a` to `z`, `A` to `Z`, `10` and so on. Inputs,
control inputs, wishes to be placed beside a node (`_class`), the weights of large constants and the bodies of library
functions follow; the names of the nodes from which a node was made, where TensorFlow noted them, go. The same graph
always gets the same names. Exact.

What stays, since somebody outside of the graph knows it: the names of inputs, outputs, assets and the init op; of
functions and their arguments, and of the nodes that a function returns or runs for their effect; texts in attributes.
Left alone, with a reason: nodes that hold a state (variables, tables), which is known by their name.

Source: tensorflow/tools/graph_transforms/obfuscate_names.cc, same name; unlike it we know inputs and outputs that are
given as `name:port`, keep the wishes to be placed beside a node right, and enter functions.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count

from tfslim_core.graph import Graph
from tfslim_core.registry import Outcome, Skipped, transform
from tfslim_core.renaming import why_name_stays, with_names

_DIGITS = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"


@transform("obfuscate_names", enters_functions=True)
def obfuscate_names(graph: Graph) -> Outcome:
    """Replace the names of nodes by short ones that say nothing."""
    stays = {name: reason for name in graph.nodes if (reason := why_name_stays(graph, name))}
    skipped = tuple(Skipped(name, reason) for name, reason in stays.items() if name not in graph.interface)
    free = (short for short in _short_names() if short not in stays)
    names = {name: next(free) for name in graph.nodes if name not in stays}
    names = {old: new for old, new in names.items() if old != new}
    if not names:
        return Outcome(graph, skipped=skipped)
    result = with_names(graph, names)
    for new in names.values():
        # A copy that nobody else has yet; what it was made from is named in it.
        result.nodes[new].ClearField("experimental_debug_info")
    return Outcome(result, len(names), skipped)


def _short_names() -> Iterator[str]:
    for number in count():
        name = _DIGITS[number % 62]
        while number := number // 62:
            name = _DIGITS[number % 62] + name
        yield name
