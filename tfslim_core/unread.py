"""What is left behind when readers go."""

from __future__ import annotations

from collections.abc import Iterable

from tfslim_core import ops
from tfslim_core.graph import Graph


def without_unread(graph: Graph, names: Iterable[str]) -> Graph:
    """The graph without those of the nodes that nobody reads and that do nothing, and what they alone read."""
    gone: set[str] = set()
    todo = list(names)
    while todo:
        name = todo.pop()
        if name in gone or name in graph.interface or name not in graph.nodes:
            continue
        read = any(reader.node not in gone for reader in graph.readers_of(name))
        if not read and not ops.has_effect(graph.nodes[name], graph.functions):
            gone.add(name)
            todo.extend(source.node for source in graph.sources(name))
    return graph.replace(drop=gone) if gone else graph
