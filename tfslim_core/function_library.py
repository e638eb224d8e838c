"""The functions of a graph while they are changed: what calls want to have changed becomes a function of its own."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import chain
from types import SimpleNamespace
from typing import Any

from tfslim_core import ops
from tfslim_core.call_sites import other_mentions
from tfslim_core.errors import GraphError
from tfslim_core.function_bodies import FunctionDef, body_of
from tfslim_core.graph import Graph, NameMaker, needed_functions


class FunctionLibrary:
    """Functions by name.

    settled: functions that have been looked at. made: bodies of those that were put beside others.
    """

    def __init__(self, graph: Graph) -> None:
        nodes = list(chain(graph.nodes.values(), *(function.node_def for function in graph.functions.values())))
        calls = [node for node in nodes if ops.may_call(node.op) or node.op in graph.functions]
        self._graph = graph
        self.functions: dict[str, FunctionDef] = dict(graph.functions)
        self._mentions = Counter(name for node in calls for name in ops.called_functions(node))
        self.settled: set[str] = set()
        self.made: dict[str, Graph] = {}
        self.changed = False
        self._pinned = {name for node in calls for name in other_mentions(node)}
        self._fresh = NameMaker(graph.functions)
        self._copies: dict[bytes, str] = {}  # content -> name
        self._origin: dict[str, str] = {}
        self._owned: set[str] = set()  # copies of functions that one call has
        self._budget = len(nodes)  # nodes that copies of functions that several calls have may have together
        self._bodies: dict[str, tuple[FunctionDef, Graph | None]] = {}
        self._holder = graph

    def rest(self) -> Any:
        """What a `Graph` takes as its `rest`: versions and the functions, which are not copied."""
        if self.changed:
            library = SimpleNamespace(function=list(self.functions.values()))
            self._holder = Graph(
                {}, rest=SimpleNamespace(library=library, versions=self._graph.rest.versions), bodies=self._graph.bodies
            )
        return self._holder.rest

    def body(self, name: str) -> Graph | None:
        """The function's body, or None where it has no graph of its own or not a valid one."""
        function = self.functions[name]
        known = self._bodies.get(name)
        if known is None or known[0] is not function:
            self.rest()
            try:
                body = body_of(self._holder, name)
            except GraphError:
                body = None
            known = self._bodies[name] = (function, body)
        return known[1]

    def may_follow(self, name: str, stack: Sequence[str]) -> bool:
        """Whether a call of the function may be changed: it does not call itself, nor is it used in other ways."""
        return name in self.functions and name not in stack and name not in self._pinned

    def is_sole(self, name: str) -> bool:
        """Whether one node alone calls the function."""
        return self._mentions[name] == 1 or name in self._owned

    def unsettled(self, main: Graph) -> list[str]:
        """The functions that stay and have not been looked at."""
        names = [function.signature.name for function in self.needed_by(main)]
        return [name for name in names if name not in self.settled]

    def set(self, name: str, function: FunctionDef) -> None:
        """Put a function in the place of another."""
        self.functions[name] = function
        self.settled.add(name)
        self.changed = True

    def put(
        self, names: Sequence[str], functions: Sequence[FunctionDef], bodies: Sequence[Graph], *, sole: bool
    ) -> list[str] | None:
        """Put changed functions beside those named; their names, or None when there would be too many.

        bodies: what the functions were made of. sole: nobody else calls the old ones, which then go.
        """
        contents = [_content(function) for function in functions]
        fresh = {content: len(f.node_def) for content, f in zip(contents, functions, strict=True)}
        cost = 0 if sole else sum(nodes for content, nodes in fresh.items() if content not in self._copies)
        if cost > self._budget:
            return None
        self._budget -= cost
        found = []
        for name, function, body, content in zip(names, functions, bodies, contents, strict=True):
            if content == _content(self.functions[name]):
                found.append(name)
                self.settled.add(name)
                continue
            if content not in self._copies:
                origin = self._origin.get(name, name)
                copy = self._copies[content] = self._fresh(origin)
                self._origin[copy] = origin
                function.signature.name = copy
                self.set(copy, function)
                self.made[copy] = body
                if sole:
                    self._owned.add(copy)
            found.append(self._copies[content])
        return found

    def needed_by(self, main: Graph) -> list[FunctionDef]:
        """All functions but those that were needed, or made, and are not needed any more."""
        before = needed_functions(self._graph.callers, self._graph.functions) | self._origin.keys()
        gone = before - needed_functions(main.callers, self.functions)
        return [function for name, function in self.functions.items() if name not in gone]


def _content(function: FunctionDef) -> bytes:
    """All of a function but its name."""
    copy = type(function)()
    copy.CopyFrom(function)
    copy.signature.name = ""
    content: bytes = copy.SerializeToString(deterministic=True)
    return content
