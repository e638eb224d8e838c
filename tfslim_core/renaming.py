"""Names of nodes: which must stay, and a graph under other names."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from tfslim_core import ops
from tfslim_core.graph import Graph, NodeDef, check, renamed

_COLOCATED = b"loc:@"


def why_name_stays(graph: Graph, name: str) -> str:
    """Why a node cannot have another name; empty where it can."""
    if name in graph.interface:
        return "it is part of the interface, whose names stay"
    definition = ops.op_def(graph.nodes[name].op, graph.functions)
    if any(attribute.name in ("shared_name", "container") for attribute in definition.attr):
        return "it holds a state, which is known by its name"
    return ""


def with_names(graph: Graph, names: Mapping[str, str]) -> Graph:
    """The graph with other names for the nodes that are keys of `names`; the order of the nodes stays.

    Inputs, control inputs, wishes to be placed beside a node, and weights follow. Function bodies are not entered.

    Raises:
        ValueError: a new name is taken.
        GraphError: the result is not valid: an input or output has lost its name.
    """
    nodes = {}
    for node in graph.nodes.values():
        new = _renamed(graph, node, names)
        nodes[new.name] = new
    weights = {names.get(name, name): weight for name, weight in graph.weights.items()}
    if len(nodes) < len(graph.nodes):
        raise ValueError("two nodes would have one name")
    result = replace(graph, nodes=nodes, weights=weights)
    check(result)
    return result


def _renamed(graph: Graph, node: NodeDef, names: Mapping[str, str]) -> NodeDef:
    sources = graph.sources(node.name)
    wishes = list(node.attr["_class"].list.s) if "_class" in node.attr else []
    wished = [_renamed_wish(wish, names) for wish in wishes]
    if node.name not in names and wished == wishes and not any(source.node in names for source in sources):
        return node
    inputs = [source._replace(node=names.get(source.node, source.node)) for source in sources]
    copy = renamed(node, names.get(node.name, node.name), inputs)
    if wished != wishes:
        copy.attr["_class"].list.s[:] = wished
    return copy


def _renamed_wish(wish: bytes, names: Mapping[str, str]) -> bytes:
    if not wish.startswith(_COLOCATED):
        return wish
    name = wish.removeprefix(_COLOCATED).decode()
    return _COLOCATED + names.get(name, name).encode()
