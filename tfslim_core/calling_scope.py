"""A graph whose calls are being changed: what goes into them, and what is read in the place of their outputs."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace

from tfslim_core import ops
from tfslim_core.bound_constants import Bound
from tfslim_core.call_sites import CallSite
from tfslim_core.constant_nodes import Excluded, fed_nodes
from tfslim_core.folding_plan import constant_bytes
from tfslim_core.graph import (
    CONTROL,
    EXTERNAL_BYTES,
    Graph,
    Input,
    NodeDef,
    control_inputs,
    external_constant,
    parse_input,
    rewired,
)
from tfslim_core.weights import Weight


class Scope:
    """A graph being edited: the main graph, or a body of a function that is called from `stack`.

    sole: nothing else runs it. borrowed: constants that others hold too.
    """

    def __init__(self, graph: Graph, stack: tuple[str, ...], *, sole: bool, borrowed: frozenset[str]) -> None:
        self.graph, self.stack, self.sole, self.borrowed = graph, stack, sole, borrowed
        self.fed = fed_nodes(graph)
        self.fresh = graph.fresh_names()
        self.new: dict[str, NodeDef] = {}
        self.weights: dict[str, Weight] = {}
        self.gone: dict[Input, Input] = {}  # what a loop passes on -> what went in
        self.moved: dict[Input, Input] = {}  # outputs of loops that have other numbers now
        self._effects: dict[str, bool] = {}
        self._names = {id(w): name for name, w in graph.weights.items() if not graph.nodes[name].input}

    def constant(self, weight: Weight, wish: str) -> Input:
        """A Const node with that weight."""
        if id(weight) not in self._names or self._names[id(weight)] in self.fed:
            name = self.fresh(wish)
            self.new[name], own = external_constant(name, weight)
            self.weights |= own
            self._names[id(weight)] = name
        return Input(self._names[id(weight)], 0)

    def _now(self, source: Input) -> Input:
        while source in self.gone:
            source = self.gone[source]
        return self.moved.get(source, source)

    def finish(self) -> Graph:
        """The graph with all edits."""
        graph = self.graph
        ends = {source: self._now(source) for source in (*self.gone, *self.moved)}
        for name in dict.fromkeys(r.node for source in ends for r in graph.readers_of(source.node)):
            self.new[name] = rewired(self.new.get(name, graph.nodes[name]), ends)
        if self.stack:
            sources = map(parse_input, graph.outputs)
            outputs = tuple(f"{now.node}:{now.port}" for now in (ends.get(source, source) for source in sources))
            graph = replace(graph, outputs=outputs)
        graph = graph.replace(self.new.values(), weights=self.weights)
        # What no node reads any more since loops and calls do not.
        idle = [
            name
            for name, node in self.graph.nodes.items()
            if node.op == "Const" and self.graph.readers_of(name) and not graph.readers_of(name)
        ]
        return graph.replace(drop=set(idle) - graph.interface)

    def _has_effect(self, site: CallSite) -> bool:
        if site.name not in self._effects:
            self._effects[site.name] = ops.has_effect(site.node, self.graph.functions)
        return self._effects[site.name]

    def _ports(self, site: CallSite) -> tuple[set[int], set[int]]:
        """The outputs of a loop that can be read from elsewhere, and those that a signature names."""
        nodes = {reader.port for reader in self.graph.readers_of(site.name)} - {CONTROL}
        named = {s.port for s in map(parse_input, self.graph.outputs) if s.node == site.name}
        return (nodes | named, set()) if self.stack else (nodes, named)

    def bound(self, site: CallSite, slot: int, excluded: Excluded) -> Bound | None:
        """The constant that a slot is given, where it can go inside and the slot away."""
        source = site.sources[slot]
        node = self.graph.nodes[source.node]
        weight = self.graph.weights.get(node.name)
        if node.op != "Const" or node.name in self.fed or control_inputs(node) or node in excluded:
            return None
        if (weight is None and constant_bytes(self.graph, node.name) >= EXTERNAL_BYTES) or (weight and weight.encoded):
            return None
        if site.is_loop:
            movable, fixed = self._ports(site)
            if slot <= max(fixed, default=-1):
                return None  # the outputs up to there keep their numbers
            if slot in movable and self._has_effect(site):
                return None  # who reads the output waits for the loop
        return Bound(node, weight)

    def is_lent(self, site: CallSite, slot: int) -> bool:
        """Whether the constant that a slot is given stays for others even when the call needs it no more."""
        name = site.sources[slot].node
        if site.is_loop and slot in self._ports(site)[0]:
            return True  # who reads what the loop passes on will read the constant
        return len(self.graph.readers_of(name)) != 1 or name in self.graph.interface or name in self.borrowed

    def pass_on(self, site: CallSite, passed: Collection[int], kept: Sequence[int]) -> int:
        """Read what went in where a loop gives the same, and its other outputs by their new numbers; how many."""
        movable, _ = self._ports(site)
        effect = self._has_effect(site)
        now = {old: new for new, old in enumerate(kept)}
        count = 0
        for slot, source in enumerate(site.sources):
            if slot in movable and slot in passed and not effect:
                self.gone[Input(site.name, slot)] = source
                count += 1
            elif slot in now and now[slot] != slot:
                self.moved[Input(site.name, slot)] = Input(site.name, now[slot])
        return count
