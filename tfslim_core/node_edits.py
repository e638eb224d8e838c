"""Edits that need to see one node at a time, made in the graph and in its library's functions alike.

Such an edit keeps a node's name, its inputs and the dtypes of its outputs. The nodes of a function are edited as they
are written there, so that functions whose types are decided by each caller, which have no graph of their own, are
edited too. The arguments of a function are no nodes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from tfslim_core import ops
from tfslim_core.graph import Graph, NodeDef
from tfslim_core.registry import Outcome, Skipped
from tfslim_core.rewriting import Skip

# Gives back the node, or a changed copy of it, or raises Skip.
Edit = Callable[[NodeDef], NodeDef]


def edit_nodes(graph: Graph, edit_among: Callable[[Sequence[NodeDef]], Edit]) -> Outcome:
    """The graph with each node edited; itself where no node changed.

    edit_among: called with the nodes of the graph, and of each function, for the edit that these get.

    Raises:
        GraphError: the edited graph is not valid.
    """
    skipped: list[Skipped] = []

    def edited(nodes: Sequence[NodeDef], place: str = "") -> list[NodeDef]:
        edit = edit_among(nodes)
        result = []
        for node in nodes:
            try:
                result.append(edit(node))
            except Skip as reason:
                skipped.append(Skipped(f"{place}{node.name}", str(reason)))
                result.append(node)
        return result

    before = list(graph.nodes.values())
    new = [now for was, now in zip(before, edited(before), strict=True) if now is not was]
    changes = len(new)
    library: dict[str, Any] = {}
    for name, function in graph.functions.items():
        before = list(function.node_def)
        after = edited(before, f"{name}/")
        count = sum(now is not was for was, now in zip(before, after, strict=True))
        if count:
            changes += count
            library[name] = type(function)()
            library[name].CopyFrom(function)
            del library[name].node_def[:]
            library[name].node_def.extend(after)
    if not changes:
        return Outcome(graph, skipped=tuple(skipped))
    functions = [library.get(name, function) for name, function in graph.functions.items()] if library else None
    return Outcome(graph.replace(new, library=functions), changes, tuple(skipped))


_KINDS = {
    "s": "string",
    "i": "int",
    "f": "float",
    "b": "bool",
    "type": "type",
    "shape": "shape",
    "tensor": "tensor",
    "func": "func",
}


def declared(op: str, attribute: str, functions: ops.Functions) -> Any | None:
    """How the op declares the attribute, or None where it does not.

    Raises:
        GraphError: the op is unknown.
    """
    return next((found for found in ops.op_def(op, functions).attr if found.name == attribute), None)


def is_required(declaration: Any | None) -> bool:
    """Whether TensorFlow refuses a node without the attribute."""
    return declaration is not None and not declaration.HasField("default_value")


def misfit(op: str, attribute: str, value: Any, functions: ops.Functions) -> str:
    """Why TensorFlow refuses a node of this op that has the attribute, an AttrValue; empty where it does not.

    Raises:
        GraphError: the op is unknown.
    """
    if attribute.startswith("_"):
        return ""
    declaration = declared(op, attribute, functions)
    if declaration is None:
        return f"{op} has no attribute {attribute!r}"
    kind = value.WhichOneof("value")
    if kind == "placeholder":
        return ""  # each caller of the function decides
    values: list[Any]
    if kind == "list":
        field, values = next(((f.name, list(v)) for f, v in value.list.ListFields()), ("", []))
        found = f"list({_KINDS[field]})" if field else declaration.type
        size = len(values)
        found = found if declaration.type.startswith("list") else "list"
    else:
        found = _KINDS.get(kind, "nothing")
        values = [getattr(value, kind)] if kind else []
        size = value.i
    if found != declaration.type:
        return f"the attribute {attribute!r} of {op} is of type {declaration.type}, not {found}"
    allowed = declaration.allowed_values.list
    among = {"type": list(allowed.type), "string": list(allowed.s)}.get(found.removeprefix("list(").rstrip(")"))
    if (among and any(one not in among for one in values)) or (declaration.has_minimum and size < declaration.minimum):
        return f"the attribute {attribute!r} of {op} cannot have that value"
    return ""
