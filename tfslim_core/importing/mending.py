"""What keeps a graph from being loaded although nothing is wrong with what it computes, put right; and what is wrong.

- An attribute that this TensorFlow's op does not have. Its loaders ignore it, whatever it says, and older ones refuse
  the model: so it goes from a SavedModel, whose answers are the server's. In a graph by itself it goes where it says
  nothing: at the default that the writer's list of ops gives it, or, without a list, `false`, an empty text or an
  empty list. Anything else there may change what was meant, and is refused.
- Colocation with a node that is not there any more, as graph surgery leaves it: placement alone.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache
from typing import Any

from tfslim_core._tf_private import registered_op
from tfslim_core.errors import GraphError

_COLOCATED = "_class"
_AT = b"loc:@"


def mend(graph_def: Any, written_with: Iterable[Any] = (), *, served: bool = False) -> list[str]:
    """Mend a GraphDef in place, its functions too; what was done, a sentence each.

    written_with: OpDefs of the TensorFlow that wrote it, as a MetaGraph lists them. served: whether a server loads it
    as it is.

    Raises:
        GraphError: an attribute is unknown, and what it says cannot be left out.
    """
    functions = {function.signature.name for function in graph_def.library.function}
    defaults = {
        (one.name, attr.name): attr.default_value
        for one in written_with
        for attr in one.attr
        if attr.HasField("default_value")
    }
    dropped = Counter[tuple[str, str, str]]()
    lost = 0
    for nodes in (graph_def.node, *(function.node_def for function in graph_def.library.function)):
        for node in nodes:
            for key in _unknown(node, functions):
                said = "which said nothing" if _is_default(node, key, defaults) else f"which said {_shown(node, key)}"
                if said != "which said nothing" and not served:
                    raise GraphError(
                        f"node {node.name!r} ({node.op}) has the attribute {key!r} ({_shown(node, key)}), which this "
                        "TensorFlow does not know and which may matter; write it with a TensorFlow as old as this"
                    )
                del node.attr[key]
                dropped[node.op, key, said] += 1
    if any(_COLOCATED in node.attr for node in graph_def.node):
        names = {node.name.encode() for node in graph_def.node}
        lost = sum(_forget_lost(node, names) for node in graph_def.node if _COLOCATED in node.attr)
    notes = [
        f"mended: attribute {key!r} of {count} {op} node{'s' * (count != 1)}, {said}, was left out: this TensorFlow "
        "does not know it"
        for (op, key, said), count in sorted(dropped.items())
    ]
    if lost:
        notes.append(f"mended: {lost} node{'s' * (lost != 1)} sat with nodes that are not in the graph")
    return notes


def unknown_op(nodes: Iterable[Any], functions: Mapping[str, Any]) -> tuple[str, str] | None:
    """The op and the name of the first node that this TensorFlow cannot run."""
    return next(((n.op, n.name) for n in nodes if n.op not in functions and registered_op(n.op) is None), None)


def refuse_unknown_ops(nodes: Iterable[Any], functions: Mapping[str, Any], path: object) -> None:
    """Refuse what no server of this TensorFlow can run.

    Raises:
        GraphError: a node's op is not registered; it names both.
    """
    found = unknown_op(nodes, functions)
    if found is not None:
        op, name = found
        raise GraphError(
            f"{path}: node {name!r} is a {op}, an op that this TensorFlow does not know; a custom op's library has to "
            "be loaded first; where the answers do not need the node, name --outputs that come before it"
        )


def _unknown(node: Any, functions: Iterable[str]) -> Iterator[str]:
    """Attributes that the op does not have; one that starts with an underscore is a note that every op may bear."""
    if not node.attr or node.op in functions:
        return
    known = _declared(node.op)
    if known is not None:
        yield from [key for key in node.attr if key not in known and not key.startswith("_")]


@lru_cache(maxsize=4096)
def _declared(op: str) -> frozenset[str] | None:
    definition = registered_op(op)
    return None if definition is None else frozenset(attr.name for attr in definition.attr)


def _is_default(node: Any, key: str, defaults: Mapping[tuple[str, str], Any]) -> bool:
    default = defaults.get((node.op, key))
    return bool(node.attr[key] == default) if default is not None else _says_nothing(node.attr[key])


def _shown(node: Any, key: str) -> str:
    return " ".join(str(node.attr[key]).split())[:60]


def _says_nothing(value: Any) -> bool:
    kind = value.WhichOneof("value")
    if kind is None:
        return True
    if kind == "list":
        return not value.list.ByteSize()
    return kind in ("b", "s") and not getattr(value, kind)


def _forget_lost(node: Any, names: set[bytes]) -> bool:
    """Leave out colocations with nodes that are not there; whether there was one."""
    places = list(node.attr[_COLOCATED].list.s)
    kept = [place for place in places if place.removeprefix(_AT) in names or not place.startswith(_AT)]
    if len(kept) == len(places):
        return False
    del node.attr[_COLOCATED].list.s[:]
    node.attr[_COLOCATED].list.s.extend(kept)
    if not kept:
        del node.attr[_COLOCATED]
    return True
