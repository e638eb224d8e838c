"""Find patterns in a graph and replace them: match, check, rewrite.

A pattern is a tree of `op`, `anything`, `constant` and `either`; the node that matches its top is the root. A rewrite
looks at one `Match` and gives an `Edit`, or raises `Skip` with the reason why this match stays as it is.
`replace_matches` takes care of the rest, the same way for every transform:

- Control inputs are ignored when matching and kept in the result.
- A node below the root goes away with its match, so it may have no reader outside of the match and may not be part of
  the interface; otherwise the match is skipped, or, where the pattern says `shared`, the node stays for the others.
  A matched constant goes only when nobody reads it any more.
- A node that is fed at run time is never matched: its value is not what the graph says.
- Edits are made on a draft that later matches see, and become one new graph at the end: no copy per match. A root is
  looked at again when something near it changed; a rule that never comes to rest is an error, not an endless loop.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, ClassVar, NamedTuple

from tfslim_core import ops
from tfslim_core.errors import TransformError
from tfslim_core.graph import (
    CONTROL,
    Graph,
    Input,
    NameMaker,
    NodeDef,
    constant_value,
    control_inputs,
    data_inputs,
    execution_order,
    parse_input,
    renamed,
)
from tfslim_core.registry import Outcome, Skipped
from tfslim_core.weights import Array, Weight


class Skip(Exception):  # noqa: N818 - it is a decision, not an error
    """Leave this match as it is, for the reason given."""


@dataclass(frozen=True)
class Anything:
    """Any tensor."""

    name: str = ""
    depth: ClassVar[int] = 0


@dataclass(frozen=True)
class Constant:
    """The value of a Const node that is not fed."""

    name: str = ""
    depth: ClassVar[int] = 0


@dataclass(frozen=True)
class Op:
    """Output `port` of a node whose op is one of `ops` and whose data inputs match `inputs`; None takes any inputs.

    shared: below the root it may have readers outside of the match, for whom it then stays.
    """

    ops: frozenset[str]
    inputs: tuple[Pattern, ...] | None
    name: str = ""
    commutes: bool = False
    port: int = 0
    shared: bool = False

    @cached_property
    def depth(self) -> int:
        """The most nodes on a path through the pattern, constants not counted."""
        return 1 + max((pattern.depth for pattern in self.inputs or ()), default=0)


@dataclass(frozen=True)
class Either:
    """Whatever one of the patterns matches, the first that does."""

    choices: tuple[Pattern, ...]

    @cached_property
    def depth(self) -> int:
        """The depth of the deepest."""
        return max(pattern.depth for pattern in self.choices)


Pattern = Anything | Constant | Op | Either


def anything(name: str = "") -> Anything:
    """Match any tensor; in one pattern, the same name stands for the same tensor."""
    return Anything(name)


def constant(name: str = "") -> Constant:
    """Match a constant."""
    return Constant(name)


def op(types: str, *inputs: Pattern, name: str = "", commutes: bool = False, port: int = 0, shared: bool = False) -> Op:
    """Match a node of one of the ops, as in "Conv2D|MatMul".

    inputs: a pattern for each data input; none at all matches whatever the node reads. commutes: in either order.
    shared: others may read the node too; it stays for them. (A rewrite must not give a node of its name then.)
    """
    return Op(frozenset(types.split("|")), inputs or None, name, commutes, port, shared)


def either(*choices: Pattern) -> Either:
    """Match what any of the patterns does."""
    return Either(choices)


@dataclass(frozen=True)
class Edit:
    """What takes the place of a match: nodes, one of them named as the root, and the values of large new constants.

    A node may keep the name of a matched node, which it then stands for. Control inputs are added by the engine.
    """

    nodes: Sequence[NodeDef]
    weights: Mapping[str, Weight] = field(default_factory=dict)


class _Use(NamedTuple):
    reader: str
    port: int


class _Draft:
    """A graph being edited: nodes, and who reads them, kept up to date edit by edit."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.nodes: dict[str, NodeDef] = dict(graph.nodes)
        self.weights: dict[str, Weight] = dict(graph.weights)
        self._uses: dict[str, dict[_Use, int]] = {}  # of the nodes that were asked for or edited around
        self.changed: set[str] = set()
        self.fed = frozenset(parse_input(tensor).node for tensor in graph.inputs)
        self.fresh = NameMaker(self.nodes)

    def _count(self, name: str, node: NodeDef, by: int) -> None:
        for source in map(parse_input, node.input):
            uses, use = self.uses_of(source.node), _Use(name, source.port)
            left = uses.get(use, 0) + by
            if left:
                uses[use] = left
            else:
                del uses[use]

    def uses_of(self, name: str) -> dict[_Use, int]:
        """Who reads the node, and how many times."""
        found = self._uses.get(name)
        if found is None:
            found = self._uses[name] = {}
            for reader in self.graph.readers_of(name):
                use = _Use(reader.node, reader.port)
                found[use] = found.get(use, 0) + 1
        return found

    def only_for(self, name: str, readers: set[str]) -> bool:
        """Whether nobody but these nodes wants the node."""
        return name not in self.graph.interface and all(use.reader in readers for use in self.uses_of(name))

    def put(self, node: NodeDef) -> None:
        if node.name in self.nodes:
            self._count(node.name, self.nodes[node.name], -1)
        self.nodes[node.name] = node
        self._count(node.name, node, 1)
        self.changed.add(node.name)

    def drop(self, name: str) -> None:
        self._count(name, self.nodes.pop(name), -1)
        self.changed.add(name)

    def finish(self) -> Graph:
        new = [self.nodes[name] for name in self.nodes if name in self.changed]
        drop = [name for name in self.changed if name not in self.nodes]
        weights = {name: self.weights[name] for name in self.changed if name in self.weights}
        return self.graph.replace(new, drop, weights=weights)


class _Found(NamedTuple):
    """A way in which a pattern fits: tensors by the pattern's names, and the nodes that it covers, root first.

    shared: those of `ops` that stay when others read them.
    """

    names: Mapping[str, Input]
    ops: tuple[str, ...]
    constants: tuple[str, ...]
    shared: tuple[str, ...] = ()


@dataclass(frozen=True)
class Match:
    """One place where the pattern fits. Tensors and nodes are asked for by the names given in the pattern."""

    root: str
    _found: _Found
    _draft: _Draft

    def __contains__(self, name: str) -> bool:
        return name in self._found.names

    def ref(self, name: str) -> Input:
        """The tensor that the pattern calls `name`."""
        return self._found.names[name]

    def node(self, name: str) -> NodeDef:
        """The node that gives it."""
        return self._draft.nodes[self.ref(name).node]

    @property
    def root_node(self) -> NodeDef:
        """The root's node."""
        return self._draft.nodes[self.root]

    def attribute(self, node: NodeDef, name: str) -> Any:
        """An attribute's AttrValue, or its registered default."""
        return ops.attribute(node, name, self._draft.graph.functions)

    def weight(self, name: str) -> Weight | None:
        """A large constant's weight, not read; None for a small one, whose value the node holds."""
        return self._draft.weights.get(self.ref(name).node)

    def value(self, name: str) -> Array:
        """A constant's value; a large one is read for it."""
        weight = self.weight(name)
        return constant_value(self.node(name)) if weight is None else weight.read()

    def shape(self, name: str) -> tuple[int, ...]:
        """A constant's shape, without reading the value."""
        weight = self.weight(name)
        if weight is not None:
            return weight.shape
        return tuple(d.size for d in self.node(name).attr["value"].tensor.tensor_shape.dim)

    def readers(self, name: str) -> int:
        """How many inputs of nodes, control inputs too, read the node that gives `name`."""
        return sum(self._draft.uses_of(self.ref(name).node).values())

    def is_interface(self, name: str) -> bool:
        """Whether a signature, an asset or the init op names the node."""
        return self.ref(name).node in self._draft.graph.interface

    def ports_read(self) -> frozenset[int]:
        """The root's outputs that are read, by nodes or by the interface."""
        inside = {use.port for use in self._draft.uses_of(self.root) if use.port != CONTROL}
        graph = self._draft.graph
        outside = {s.port for s in map(parse_input, (*graph.inputs, *graph.outputs)) if s.node == self.root}
        return frozenset(inside | outside)

    def fresh(self, wish: str) -> str:
        """A name like `wish` that no node has."""
        return self._draft.fresh(wish)


Rewrite = Callable[[Match], Edit]


def replace_matches(graph: Graph, patterns: Pattern | Sequence[Pattern], rewrite: Rewrite) -> Outcome:
    """Replace every match until none is left that `rewrite` does not skip.

    A node's reason for being skipped is the one given when it was last looked at. Time is linear in the graph and the
    number of edits.

    Raises:
        TransformError: the edits never end.
        GraphError: the edited graph is not valid.
    """
    choices = tuple(patterns) if isinstance(patterns, Sequence) else (patterns,)
    root_ops = frozenset(name for pattern in choices for name in _root_ops(pattern))
    depth = max(pattern.depth for pattern in choices)
    if root_ops.isdisjoint(graph.by_op):
        return Outcome(graph)
    draft = _Draft(graph)
    queue = deque(name for name in execution_order(graph) if graph.nodes[name].op in root_ops)
    queued = set(queue)
    reasons: dict[str, str] = {}
    changes = 0
    most = 10 * len(graph.nodes) + 100
    while queue:
        root = queue.popleft()
        queued.discard(root)
        reasons.pop(root, None)
        if root not in draft.nodes:
            continue
        edited = _rewrite_one(draft, choices, root, rewrite, reasons)
        if not edited:
            continue
        changes += 1
        if changes > most:
            raise TransformError(f"more than {most} edits, the last at {root!r}: the rewrite never comes to rest")
        for name in _around(draft, edited, depth):
            if name not in queued and draft.nodes[name].op in root_ops:
                queue.append(name)
                queued.add(name)
    skipped = tuple(Skipped(name, reason) for name, reason in reasons.items() if name in draft.nodes)
    return Outcome(draft.finish() if changes else graph, changes, skipped)


def _rewrite_one(
    draft: _Draft, choices: Sequence[Pattern], root: str, rewrite: Rewrite, reasons: dict[str, str]
) -> set[str]:
    """Names of the nodes that changed; empty when no match at `root` was rewritten, with `reasons` telling why."""
    for pattern in choices:
        for found in _matches(draft, pattern, Input(root, _port(pattern))):
            try:
                _refuse_shared(draft, found)
                edit = rewrite(Match(root, found, draft))
            except Skip as reason:
                reasons.setdefault(root, str(reason))
                continue
            reasons.pop(root, None)
            return _apply(draft, found, edit)
    return set()


def _refuse_shared(draft: _Draft, found: _Found) -> None:
    """Skip a match whose inner nodes are wanted elsewhere too."""
    covered = set(found.ops)
    for name in found.ops[1:]:
        if name in found.shared:
            continue
        if name in draft.graph.interface:
            raise Skip(f"{name!r} below it is part of the interface")
        others = sorted({use.reader for use in draft.uses_of(name)} - covered)
        if others:
            raise Skip(f"{name!r} below it is read by {others[0]!r} too")


def _apply(draft: _Draft, found: _Found, edit: Edit) -> set[str]:
    root, covered = found.ops[0], set(found.ops) | set(found.constants)
    named = {node.name for node in edit.nodes}
    taken = [name for name in named - covered if name in draft.nodes]
    taken += [
        name for name in named.intersection((*found.constants, *found.shared)) if not draft.only_for(name, covered)
    ]
    if root not in named or len(named) < len(edit.nodes) or taken:
        raise ValueError(f"a rewrite of {root!r} gave the nodes {sorted(named)}; taken: {taken}")
    sources = {source.node for name in covered for source in map(parse_input, draft.nodes[name].input)} - covered

    def controls(names: Sequence[str]) -> list[str]:
        each = (source for name in names for source in control_inputs(draft.nodes[name]) if source not in covered)
        return list(dict.fromkeys(each))

    matched = [*found.ops, *(name for name in found.constants if name not in found.ops)]
    gone = [name for name in matched if name not in named]
    added: dict[str, list[str]] = {}
    for node in edit.nodes:
        if draft.graph.has_v1_control_flow:
            # There a control input also says in which loop and on which branch a node runs: all have to agree.
            added[node.name] = controls(matched)
        elif node.name == root:
            added[node.name] = controls(list(dict.fromkeys([root, *gone])))
        else:
            added[node.name] = controls([node.name]) if node.name in covered else []
    draft.weights.update(edit.weights)
    for node in edit.nodes:
        inputs = dict.fromkeys([*(f"^{name}" for name in control_inputs(node)), *(f"^{n}" for n in added[node.name])])
        draft.put(renamed(node, node.name, [*data_inputs(node), *inputs]))
    for name in gone:
        stays = name in found.shared and (name in draft.graph.interface or draft.uses_of(name))
        if name in found.ops and not stays:
            draft.drop(name)
    for name in found.constants:
        unread = name in draft.nodes and not draft.uses_of(name)
        if unread and name not in named and name not in draft.graph.interface:
            draft.drop(name)
    # What has one reader left may have been skipped for having two.
    return named | {name for name in sources if len(draft.uses_of(name)) == 1}


def _around(draft: _Draft, names: set[str], depth: int) -> list[str]:
    """The nodes and those that read them within `depth` steps: the roots whose match may have changed."""
    found = dict.fromkeys(sorted(names))
    edge = list(found)
    for _ in range(depth):
        edge = [use.reader for name in edge for use in draft.uses_of(name) if use.reader not in found]
        found.update(dict.fromkeys(edge))
    return list(found)


def _matches(draft: _Draft, pattern: Pattern, source: Input) -> Iterator[_Found]:
    """The ways in which the pattern fits the tensor."""
    match pattern:
        case Anything(name):
            yield _Found({name: source} if name else {}, (), ())
        case Constant(name):
            node = draft.nodes[source.node]
            if node.op == "Const" and source.port == 0 and source.node not in draft.fed:
                yield _Found({name: source} if name else {}, (), (source.node,))
        case Either(choices):
            for choice in choices:
                yield from _matches(draft, choice, source)
        case Op():
            node = draft.nodes[source.node]
            if node.op not in pattern.ops or source.port != pattern.port or source.node in draft.fed:
                return
            own = _Found(
                {pattern.name: source} if pattern.name else {},
                (source.node,),
                (),
                (source.node,) if pattern.shared else (),
            )
            if pattern.inputs is None:
                yield own
                return
            sources = data_inputs(node)
            if len(sources) != len(pattern.inputs):
                return
            yield from _matches_all(draft, pattern.inputs, sources, own)
            if pattern.commutes:
                yield from _matches_all(draft, pattern.inputs, sources[::-1], own)


def _matches_all(
    draft: _Draft, patterns: Sequence[Pattern], sources: Sequence[Input], so_far: _Found
) -> Iterator[_Found]:
    if not patterns:
        yield so_far
        return
    for found in _matches(draft, patterns[0], sources[0]):
        if all(so_far.names.get(name, source) == source for name, source in found.names.items()):
            joined = _Found(
                {**so_far.names, **found.names},
                so_far.ops + found.ops,
                so_far.constants + found.constants,
                so_far.shared + found.shared,
            )
            yield from _matches_all(draft, patterns[1:], sources[1:], joined)


def _root_ops(pattern: Pattern) -> Iterator[str]:
    match pattern:
        case Op():
            yield from pattern.ops
        case Either(choices):
            for choice in choices:
                yield from _root_ops(choice)
        case _:
            raise ValueError("a pattern needs an op at its root; a constant's is op('Const')")


def _port(pattern: Pattern) -> int:
    return pattern.port if isinstance(pattern, Op) else 0


def redirected(node: NodeDef, sources: Mapping[str, str]) -> NodeDef:
    """The node, or a copy that reads other nodes at the same ports; control inputs come once each."""
    inputs = [parse_input(text) for text in node.input]
    if not any(source.node in sources for source in inputs):
        return node
    new = [source._replace(node=sources.get(source.node, source.node)) for source in inputs]
    control = dict.fromkeys(source for source in new if source.port == CONTROL)
    return renamed(node, node.name, [*(source for source in new if source.port != CONTROL), *control])
