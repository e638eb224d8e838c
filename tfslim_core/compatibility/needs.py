"""The first TensorFlow release that takes a graph: which of its ops, attributes and values is the newest."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import chain
from typing import Any, NamedTuple

from tensorflow.core.framework import types_pb2

from tfslim_core.compatibility.op_releases import Known, OpReleases, Release, op_releases, words


class Need(NamedTuple):
    """What asks for a release: what it is, such as "op BatchMatMulV3", and the node; both empty where nothing does."""

    release: Release
    what: str = ""
    node: str = ""

    @property
    def notes(self) -> list[str]:
        """What to tell a user: nothing where the oldest release on record knows all."""
        return [str(self)] if self.what else []

    def __str__(self) -> str:
        if not self.what:
            return f"needs nothing newer than TensorFlow {words(self.release)}"
        where = f" of node {self.node!r}" if self.node else ""
        return f"needs TensorFlow {words(self.release)} or later ({self.what}{where})"


def needs_of(graph_def: Any) -> Need:
    """What a GraphDef needs, its function library included."""
    bodies = (function.node_def for function in graph_def.library.function)
    known = {function.signature.name for function in graph_def.library.function}
    return needs(chain(graph_def.node, *bodies), known, graph_def.versions.min_consumer)


def needs(nodes: Iterable[Any], functions: Iterable[str] = (), min_consumer: int = 0) -> Need:
    """The newest need of these nodes, of equal ones the first.

    An op that is in no release (a custom one, whose library has to be loaded) or is a function needs nothing itself.
    An attribute that is not there is at its default, and was stripped for it: it needs nothing either.
    min_consumer: the least number that a reader of the graph has to have, as the graph says.
    """
    table, called = op_releases(), frozenset(functions)
    newest = Need(table.oldest)
    if (asked := table.of_producer(min_consumer)) is not None and asked > newest.release:
        newest = Need(asked, f"the graph's min_consumer {min_consumer}")
    for node in nodes:
        if node.op in called or node.op not in table.ops:
            continue
        for found, what in _parts(node, table.ops[node.op], table):
            if found > newest.release:
                newest = Need(found, what, node.name)
    return newest


def _parts(node: Any, known: Known, table: OpReleases) -> Iterator[tuple[Release, str]]:
    """Each thing in a node that some release did not know, and the first that did."""
    yield known.since, f"op {node.op}"
    for name in sorted(node.attr):
        if name.startswith("_"):
            continue  # hints to the runtime, which every release takes
        value = node.attr[name]
        if name in known.attributes:
            yield known.attributes[name], f"attribute {name!r} of op {node.op}"
        later = known.values.get(name, {})
        for text, dtype in _values(value):
            if dtype and text in table.dtypes:
                yield table.dtypes[text], f"{name} {_shown(text)} of op {node.op}"
            if text in later:
                yield later[text], f"{name} {_shown(text)} of op {node.op}"


def _values(value: Any) -> Iterator[tuple[str, bool]]:
    """The text of each value of an attribute, as the table has it, and whether it is a dtype."""
    match value.WhichOneof("value"):
        case "type":
            yield _dtype(value.type), True
        case "i":
            yield str(value.i), False
        case "s":
            yield value.s.decode(errors="replace"), False
        case "list":
            yield from ((_dtype(number), True) for number in value.list.type)
            yield from ((text.decode(errors="replace"), False) for text in value.list.s)


def _dtype(number: int) -> str:
    return types_pb2.DataType.Name(number) if number in types_pb2.DataType.values() else str(number)


def _shown(text: str) -> str:
    return text.removeprefix("DT_").lower() if text.startswith("DT_") else text
