"""Dropout, spelled out in ops as TensorFlow 1 and 2 do it, and which of them drop nothing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from tfslim_core.graph import CONTROL, Graph, Input, NodeDef, data_inputs, parse_input
from tfslim_core.rewriting import Skip
from tfslim_core.static_shapes import static_shapes

_UNIFORM = frozenset({"RandomUniform", "StatelessRandomUniform", "StatelessRandomUniformV2"})
_DEPTH = 8  # of nodes looked at above a number: more than any rate is away from its constants


@dataclass(frozen=True)
class Dropout:
    """A node that gives `kept` where a random mask says so and 0 elsewhere.

    scaled: what the mask is applied to, `kept` times 1 / (1 - rate). draw: the node that draws the random numbers.
    nodes: those between, whose control inputs the result has to wait for. rate: 0 drops nothing; None when unknown.
    """

    root: str
    kept: Input
    scaled: Input
    draw: NodeDef
    nodes: tuple[str, ...]
    rate: float | None
    rate_from: Input


def dropouts(graph: Graph) -> list[Dropout]:
    """The graph's dropouts, those whose rate is not known too."""
    fed = {parse_input(tensor).node for tensor in graph.inputs}
    found = [_Reading(graph, fed).dropout(node) for node in graph.nodes.values() if node.op in _ROOTS]
    return [dropout for dropout in found if dropout is not None]


_ROOTS = frozenset({"Mul", "SelectV2", "Select"})


class _Reading:
    """One try to read a node as a dropout; `nodes` are those that were looked through."""

    def __init__(self, graph: Graph, fed: set[str]) -> None:
        self.graph, self.fed = graph, fed
        self.nodes: list[str] = []

    def dropout(self, root: NodeDef) -> Dropout | None:
        inputs = data_inputs(root)
        if root.op == "Mul":
            choices = [(inputs[1], inputs[0]), (inputs[0], inputs[1])]
        elif self.number(inputs[2]) == 0:
            choices = [(inputs[0], inputs[1])]
        else:
            return None
        for mask, scaled in choices:
            self.nodes = []
            read = self.mask(mask, numbers=root.op == "Mul")
            if read is None:
                continue
            draw, rate, rate_from = read
            kept = self.unscaled(scaled) if rate == 0 else scaled
            return Dropout(root.name, kept, scaled, draw, tuple(self.nodes), rate, rate_from)
        return None

    def node(self, source: Input, *op_names: str) -> list[Input] | None:
        """The data inputs of what gives the tensor, when it is one of these ops and not fed."""
        node = self.graph.nodes[source.node]
        if node.op not in op_names or source.node in self.fed or source.port:
            return None
        self.nodes.append(source.node)
        return data_inputs(node)

    def mask(self, source: Input, *, numbers: bool) -> tuple[NodeDef, float | None, Input] | None:
        """What draws a mask, of numbers 0 and 1 or of truth values; its rate, and where that comes from."""
        if numbers and (floor := self.node(source, "Floor")):
            for keep, uniform in self.both_ways(floor[0], "Add", "AddV2"):
                if draw := self.uniform(uniform):
                    number = self.number(keep)
                    return draw, None if number is None else 1 - float(number), keep
            return None
        if numbers:
            cast = self.node(source, "Cast")
            if cast is None:
                return None
            source = cast[0]
        compared = self.node(source, "GreaterEqual")
        draw = self.uniform(compared[0]) if compared else None
        if compared is None or draw is None:
            return None
        number = self.number(compared[1])
        return draw, None if number is None else float(number), compared[1]

    def both_ways(self, source: Input, *op_names: str) -> list[tuple[Input, Input]]:
        inputs = self.node(source, *op_names)
        return [(inputs[0], inputs[1]), (inputs[1], inputs[0])] if inputs else []

    def uniform(self, source: Input) -> NodeDef | None:
        """The node that draws the tensor from [0, 1), if one does; a factor of 1 or an offset of 0 may follow."""
        if self.node(source, *_UNIFORM) is not None:
            return self.graph.nodes[source.node]
        for scaled, low in self.both_ways(source, "Add", "AddV2"):
            if self.number(low) == 0:
                return self.uniform(scaled)
        for drawn, width in self.both_ways(source, "Mul"):
            if self.number(width) == 1:
                return self.uniform(drawn)
        return None

    def unscaled(self, source: Input) -> Input:
        """What was multiplied by 1 or divided by 1, if the tensor is that."""
        if (divided := self.node(source, "RealDiv")) and self.number(divided[1]) == 1:
            return divided[0]
        for tensor, factor in self.both_ways(source, "Mul"):
            if self.number(factor) == 1:
                return tensor
        return source

    def number(self, source: Input, depth: int = _DEPTH) -> Any:
        """The value of a scalar that is computed from constants alone, in its own type; None when it is not."""
        node = self.graph.nodes[source.node]
        if source.port or source.node in self.fed or not depth:
            return None
        if node.op == "Const":
            if source.node in self.graph.weights or self.graph.constant_shape(source.node):
                return None
            value = self.graph.value(source.node)
            if value.dtype.kind not in "fV":
                return None
            self.nodes.append(source.node)
            return value[()]
        if node.op not in _ARITHMETIC:
            return None
        numbers = [self.number(tensor, depth - 1) for tensor in data_inputs(node)]
        if any(number is None for number in numbers):
            return None
        self.nodes.append(source.node)
        with np.errstate(all="ignore"):
            return _ARITHMETIC[node.op](*numbers)


_ARITHMETIC: dict[str, Any] = {
    "Identity": lambda a: a,
    "Sub": lambda a, b: a - b,
    "RealDiv": lambda a, b: a / b,
}


def check_idle(graph: Graph, dropout: Dropout) -> None:
    """Say whether the dropout gives what it is given, whatever is drawn.

    Raises:
        Skip: it does not, or that is not certain.
    """
    if dropout.rate is None:
        default = graph.nodes[dropout.rate_from.node].op == "PlaceholderWithDefault"
        hint = " (freeze_defaults=true takes its default)" if default else ""
        raise Skip(f"it drops values at random, at a rate that is no constant{hint}")
    if dropout.rate != 0:
        raise Skip(f"it drops values at random, at a rate of {dropout.rate:.3g}; without, answers would change")
    shape = data_inputs(dropout.draw)[0]
    node = graph.nodes[shape.node]
    if node.op == "Shape" and data_inputs(node)[0] in (dropout.kept, dropout.scaled):
        return
    if node.op == "Const":
        drawn = [int(size) for size in graph.value(shape.node)]
        known = static_shapes(graph, [dropout.kept])[dropout.kept]
        if known is not None and len(drawn) <= len(known):
            sizes = known[len(known) - len(drawn) :]
            if all(one in (1, size) for one, size in zip(drawn, sizes, strict=True)):
                return
    raise Skip("what it draws may have another shape than what it masks")


def waits(graph: Graph, dropout: Dropout) -> list[str]:
    """What the nodes that a dropout is made of wait for besides each other."""
    names = dict.fromkeys([*dropout.nodes, dropout.draw.name, *(source.node for source in data_inputs(dropout.draw))])
    controls = (source.node for name in names for source in graph.sources(name) if source.port == CONTROL)
    return [name for name in dict.fromkeys(controls) if name not in names]
