"""A call's constant arguments inside of what it calls, and large constants out of it again.

Inside, everything folds as in the main graph. What is large then has to come out: in a function a constant is a part
of the graph's file and cannot be stored as a weight.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import tensorflow as tf

from tfslim_core.call_sites import CallSite
from tfslim_core.graph import (
    Graph,
    Input,
    NameMaker,
    NodeDef,
    control_inputs,
    data_inputs,
    make_node,
    needed,
    parse_input,
    renamed,
    rewired,
)
from tfslim_core.weights import Weight


@dataclass(frozen=True)
class Bound:
    """What a constant argument is: a Const node, and its weight when it is large."""

    node: NodeDef
    weight: Weight | None

    def same_as(self) -> object:
        """Something that is equal for equal constants."""
        return id(self.weight) if self.weight is not None else self.node.attr["value"].SerializeToString()


def arguments(body: Graph) -> list[str]:
    """Names of a body's arguments."""
    return [parse_input(tensor).node for tensor in body.inputs]


def passed_on(body: Graph) -> set[int]:
    """The slots that a loop's body returns as they came in."""
    found = set()
    for index, (argument, tensor) in enumerate(zip(arguments(body), body.outputs, strict=True)):
        source = parse_input(tensor)
        while body.nodes[source.node].op == "Identity":
            source = data_inputs(body.nodes[source.node])[0]
        if source == Input(argument, 0):
            found.add(index)
    return found


def bind(body: Graph, bound: Mapping[int, Bound], *, is_loop_body: bool) -> Graph:
    """The body with constants in the place of arguments, which are neither inputs nor, in a loop, outputs any more.

    What neither its results nor its effects need is left out: it would hold on to constants.
    """
    names = arguments(body)
    constants = []
    weights = {}
    for index, one in bound.items():
        constants.append(renamed(one.node, names[index], []))
        if one.weight is not None:
            weights[names[index]] = one.weight
    free = replace(
        body,
        inputs=tuple(tensor for index, tensor in enumerate(body.inputs) if index not in bound),
        outputs=tuple(t for index, t in enumerate(body.outputs) if not is_loop_body or index not in bound),
    ).replace(constants, weights=weights)
    idle = free.nodes.keys() - needed(free, free.interface)
    return free.replace(drop=idle) if bound or idle else body


@dataclass(frozen=True)
class Unbound:
    """Bodies whose large constants are arguments.

    kept: the old slots that are left. weights: what the new ones are given.
    """

    bodies: tuple[Graph, ...]
    kept: tuple[int, ...]
    weights: tuple[Weight, ...]


def unbind(
    site: CallSite,
    before: Sequence[Graph],
    after: Sequence[Graph],
    bound: Mapping[int, Bound],
    stay: Callable[[NodeDef], bool],
) -> Unbound:
    """Make arguments of the large constants.

    before, after: the bodies as they were, and as they are with constants bound. stay: which constants stay inside.
    """
    names = [arguments(body) for body in before]
    still = {i for i in bound if any(_is_large(body, own[i]) for own, body in zip(names, after, strict=True))}
    kept = tuple(index for index in range(len(site.sources)) if index not in bound or index in still)
    added: dict[int, tuple[Weight, dict[int, str]]] = {}
    for number, (own, body) in enumerate(zip(names, after, strict=True)):
        given = {own[index] for index in bound}
        for name, weight in body.weights.items():
            if name not in given and not control_inputs(body.nodes[name]) and not stay(body.nodes[name]):
                added.setdefault(id(weight), (weight, {}))[1][number] = name
    fresh = NameMaker({name for body in (*before, *after) for name in body.nodes})
    new = [fresh(_as_argument(next(iter(places.values())))) for _, places in added.values()]
    weights = tuple(weight for weight, _ in added.values())
    bodies = []
    for number, (own, body) in enumerate(zip(names, after, strict=True)):
        placed = {places[number]: n for (_, places), n in zip(added.values(), new, strict=True) if number in places}
        stand_ins = [(own[i], bound[i].weight) for i in still] + list(zip(new, weights, strict=True))
        outputs = [_moved(tensor, placed) for tensor in body.outputs]
        if site.is_loop and number == 1:
            others = iter(outputs)
            returned = [f"{own[i]}:0" if i in bound else next(others) for i in range(len(own))]
            outputs = [*(returned[i] for i in kept), *(f"{name}:0" for name in new)]
        free = replace(
            body, inputs=tuple(f"{name}:0" for name in (*(own[i] for i in kept), *new)), outputs=tuple(outputs)
        )
        placeholders = [_placeholder(name, weight) for name, weight in stand_ins if weight is not None]
        unread = {own[i] for i in bound if i not in still and own[i] in body.nodes and not _is_read(body, own[i])}
        readers = {reader.node for name in placed for reader in body.readers_of(name)}
        sources = {Input(name, 0): Input(argument, 0) for name, argument in placed.items()}
        moved = [rewired(body.nodes[name], sources) for name in readers]
        bodies.append(free.replace([*placeholders, *moved], {*unread, *placed}))
    return Unbound(tuple(bodies), kept, weights)


def _is_read(body: Graph, name: str) -> bool:
    return bool(body.readers_of(name)) or name in body.interface


def _is_large(body: Graph, name: str) -> bool:
    """Whether it is a weight that something in the body reads."""
    return name in body.weights and _is_read(body, name)


def _moved(tensor: str, placed: Mapping[str, str]) -> str:
    source = parse_input(tensor)
    return f"{placed.get(source.node, source.node)}:{source.port}"


def _placeholder(name: str, weight: Weight) -> NodeDef:
    return make_node("Placeholder", name, [], dtype=tf.as_dtype(weight.dtype))


def _as_argument(name: str) -> str:
    """A name that an argument of a function may have."""
    return "captured_" + re.sub(r"[^a-z0-9_]", "_", name.rpartition("/")[2].lower()).removeprefix("captured_")
