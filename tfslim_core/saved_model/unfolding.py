"""How large a graph becomes when its calls are inlined, before anything does so.

Forty functions that each call the next one twice name more nodes than any memory holds.
"""

from __future__ import annotations

from typing import Any

from tfslim_core.errors import ModelError

MOST_NODES = 20_000_000  # that a graph and all that it calls may come to; TensorFlow unfolds branches and loops too

MOST_DEEP = 200  # calls within calls


def check_unfolding(graph_def: Any) -> None:
    """Refuse a graph that comes to more nodes than any real one, counted without unfolding it.

    A function that is reached from itself counts once: it is left as a call.

    Raises:
        ModelError: it does, or calls lie deeper in each other than in any real one.
    """
    functions = {function.signature.name: function for function in graph_def.library.function}
    if not functions:
        return
    calls = {name: _called(function.node_def, functions) for name, function in functions.items()}
    sizes: dict[str, int] = {}
    depths: dict[str, int] = {}
    entered: set[str] = set()
    todo = list(functions)
    while todo:
        name = todo[-1]
        if name in sizes:
            todo.pop()
        elif name in entered:
            todo.pop()
            depths[name] = 1 + max((depths.get(callee, 0) for callee in calls[name]), default=0)
            sizes[name] = len(functions[name].node_def) + sum(sizes.get(callee, 0) for callee in calls[name])
        else:
            entered.add(name)
            todo += [callee for callee in calls[name] if callee not in entered]
    total = len(graph_def.node) + sum(sizes[callee] for callee in _called(graph_def.node, functions))
    if max(depths.values()) > MOST_DEEP:
        raise ModelError(f"the functions of the graph call each other more than {MOST_DEEP} deep")
    if total > MOST_NODES:
        raise ModelError(f"the functions of the graph unfold into more than {MOST_NODES:,} nodes")


def _called(nodes: Any, functions: dict[str, Any]) -> list[str]:
    """The functions that nodes call, as often as they do."""
    found = []
    for node in nodes:
        if node.op in functions:
            found.append(node.op)
        for value in node.attr.values():
            kind = value.WhichOneof("value")
            if kind == "func":
                found.append(value.func.name)
            elif kind == "list":
                found += [one.name for one in value.list.func]
    return [name for name in found if name in functions]
