"""Which constant expressions are worth their bytes when they are replaced by their value."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping

import tensorflow as tf

from tfslim_core.c_graph import CGraph
from tfslim_core.constant_values import Result
from tfslim_core.graph import CONTROL, Graph, Input, NodeDef, parse_input

ALLOWANCE = 1024  # bytes that a fold may add: the node that goes, its name and attributes weigh about as much
_STRING = tf.string.as_datatype_enum


class Plan:
    """Which constant nodes are replaced by their value, decided from the readers down to what is read.

    ports: node to replace -> its outputs that are read, each node before those that it reads. unread: the nodes and
    constants that nobody reads then. reasons: why the others stay.
    """

    def __init__(
        self,
        graph: Graph,
        candidates: Mapping[str, NodeDef],
        imported: CGraph,
        *,
        most: int,
        refused: Collection[str] = (),
        borrowed: Collection[str] = (),
        guess: bool = True,
    ) -> None:
        """Decide.

        candidates: constant nodes, each after those that it reads. most: bytes that a result may have when it does not
        replace as many. refused: candidates that stay. borrowed: constants that others hold, which free nothing.
        guess: also take nodes whose size has to be computed first.
        """
        self.graph, self.candidates, self.imported = graph, candidates, imported
        self._most, self._borrowed, self._guess = most, borrowed, guess
        self.live: dict[str, int] = {}  # how many inputs of nodes that remain read a node
        self.freed: dict[str, int] = {}  # node to replace -> bytes of constants that are needed no more
        self.dead: dict[str, None] = {}  # read only by what is replaced
        self.ports: dict[str, tuple[int, ...]] = {}
        self.reasons: dict[str, str] = {}
        for name in reversed(list(candidates)):
            self._decide(name, name in refused)

    def _decide(self, name: str, refused: bool) -> None:
        if name not in self.graph.interface and not self._live(name):
            if self.graph.readers_of(name):
                self.dead[name] = None
                self._leave(name)
            return
        if refused:
            return
        ports = self._ports(name)
        reason, freed = self._verdict(name, ports)
        if reason:
            self.reasons[name] = reason
            return
        self.freed[name] = freed
        self.ports[name] = ports
        self._leave(name)

    def _live(self, name: str) -> int:
        found = self.live.get(name)
        if found is None:
            found = self.live[name] = len(self.graph.readers_of(name))
        return found

    def _leave(self, name: str) -> None:
        for source in self.graph.sources(name):
            self.live[source.node] = self._live(source.node) - 1

    def _ports(self, name: str) -> tuple[int, ...]:
        """The outputs that are read by nodes that remain or by a signature."""
        readers = self.graph.readers_of(name)
        found = {r.port for r in readers if r.node not in self.ports and r.node not in self.dead}
        if name in self.graph.interface:
            found |= {s.port for s in map(parse_input, self.graph.outputs) if s.node == name}
        found.discard(CONTROL)
        return tuple(sorted(found)) or (0,)

    def _verdict(self, name: str, ports: tuple[int, ...]) -> tuple[str, int]:
        """Why the node stays, if it does, and the bytes of constants that only it needs."""
        if name in self.graph.interface and any(ports):
            return "a signature reads another of its outputs than the first", 0
        freed = self._freed(name)
        size = self._size(name, ports)
        if size is None:
            return "" if self._guess else "its size shows only when it is computed", freed
        return self._grows(size, freed), freed

    def _grows(self, size: int, freed: int) -> str:
        """Why a result of that size is not kept, if it is not."""
        if size > freed + ALLOWANCE:
            return f"its value of {size:,} bytes would replace {freed:,} bytes of constants"
        if size > max(self._most, freed):
            return f"its value of {size:,} bytes is larger than max_constant_size_in_bytes"
        return ""

    def _size(self, name: str, ports: tuple[int, ...]) -> int | None:
        """Bytes of the node's outputs, or None when that shows only when they are computed."""
        total = 0
        dtypes = self.graph.facts(name).gives
        for port in ports:
            shape = None if dtypes[port] == _STRING else self.imported.shape(Input(name, port))
            if shape is None:
                return None
            elements = 1
            for size in shape:
                if size is None:
                    return None
                elements *= size
            total += elements * _itemsize(dtypes[port])
        return total

    def _freed(self, name: str) -> int:
        """Bytes of the constants that nobody reads once `name` is replaced."""
        left: dict[str, int] = {}
        freed = 0
        todo = [name]
        while todo:
            for source, _ in self.graph.sources(todo.pop()):
                left[source] = left.get(source, self._live(source)) - 1
                if left[source] or source in self.graph.interface:
                    continue
                if self.graph.nodes[source].op == "Const":
                    freed += 0 if source in self._borrowed else constant_bytes(self.graph, source)
                elif source in self.candidates:
                    todo.append(source)
        return freed

    def too_large(self, results: Mapping[str, Mapping[int, Result]]) -> dict[str, str]:
        """Reasons for results whose size was not known before and that turn out to grow the graph."""
        found = {}
        for name, by_port in results.items():
            size = sum(result.nbytes for result in by_port.values())
            if self._size(name, self.ports[name]) is None and (reason := self._grows(size, self.freed[name])):
                found[name] = reason
        return found

    def unread(self) -> list[str]:
        """Nodes that nobody reads any more."""
        graph = self.graph
        constants = (
            name
            for name, left in self.live.items()
            if not left and graph.nodes[name].op == "Const" and graph.readers_of(name) and name not in graph.interface
        )
        return [*self.dead, *constants]


def constant_bytes(graph: Graph, name: str) -> int:
    """The bytes that the value of a constant takes."""
    if name in graph.weights:
        return graph.weights[name].stored_bytes
    tensor = graph.nodes[name].attr["value"].tensor
    if tensor.dtype == _STRING:
        return sum(map(len, tensor.string_val))
    elements: int = math.prod(d.size for d in tensor.tensor_shape.dim)
    return elements * _itemsize(tensor.dtype)


_sizes: dict[int, int] = {dtype.as_datatype_enum: dtype.size for dtype in (tf.float32, tf.int32, tf.int64)}


def _itemsize(dtype: int) -> int:
    if dtype not in _sizes:
        _sizes[dtype] = int(tf.as_dtype(dtype).size)
    return _sizes[dtype]
