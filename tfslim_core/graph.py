"""A read-only view of a frozen graph, and the one function that makes a new one from it.

A graph is valid when names are unique, every input resolves, dtypes agree and the interface is whole; `check` says so
after every step. A large constant is a `Const` node without its `value` attribute; its value is the graph's weight of
the same name. TensorFlow refuses such a node, so that none is ever taken for a zero.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache
from typing import Any, NamedTuple

import tensorflow as tf

from tfslim_core import ops
from tfslim_core.claims import check_claims, claimed_bytes
from tfslim_core.errors import GraphError
from tfslim_core.weights import DTYPES, Array, Weight, in_memory

CONTROL = -1  # the port of a control input
EXTERNAL_BYTES = 1024  # a constant of this many bytes or more is a weight
NodeDef = Any  # tf.compat.v1.NodeDef; the protobuf classes have no types


class Input(NamedTuple):
    """Where a node's input comes from; `port` is CONTROL for a control input."""

    node: str
    port: int

    def __str__(self) -> str:
        if self.port == CONTROL:
            return f"^{self.node}"
        return f"{self.node}:{self.port}" if self.port else self.node


@lru_cache(maxsize=1 << 18)
def parse_input(text: str) -> Input:
    """The source of an input as a NodeDef spells it: `^a`, `a` and `a:1` all come from node `a`."""
    if text.startswith("^"):
        return Input(text[1:], CONTROL)
    name, colon, port = text.rpartition(":")
    return Input(name, int(port)) if colon and port.isdigit() else Input(text, 0)


def data_inputs(node: NodeDef) -> list[Input]:
    """The node's data inputs, in order."""
    return [parse_input(text) for text in node.input if not text.startswith("^")]


def control_inputs(node: NodeDef) -> list[str]:
    """Names of the nodes that must have run before this one."""
    return [text[1:] for text in node.input if text.startswith("^")]


class Reader(NamedTuple):
    """One use of a node: the reading node's name, its input's position, and the port that it reads."""

    node: str
    position: int
    port: int


class Facts(NamedTuple):
    """What is read off a node once: its inputs, and the dtypes that it takes and gives."""

    inputs: tuple[Input, ...]
    takes: tuple[int, ...]
    gives: tuple[int, ...]


class _Known:
    """What has been worked out of a graph's nodes, for all graphs that have them and differ in the interface alone.

    calls_by_op: whether it holds for one library only, since a function is the op of a node.
    """

    def __init__(self, nodes: Mapping[str, NodeDef] | None = None, rest: Any = None) -> None:
        self.nodes, self.rest = nodes, rest
        self.facts: dict[str, Facts] = {}
        self.calls_by_op = False
        self.by_op: dict[str, list[str]] | None = None
        self.readers: dict[str, list[Reader]] | None = None
        self.order: tuple[str, ...] | None = None


@dataclass(frozen=True)
class Graph:
    """A GraphDef and the interface it must keep.

    nodes: name -> NodeDef, in GraphDef order; a NodeDef is copied, never edited.
    inputs, outputs: tensor names ("x:0") of the signatures and of asset paths. targets: nodes that are run for their
    effect alone (the init op). weights: values of the large constants. rest: a GraphDef with library and versions only.
    bodies: FunctionDefs and their bodies as far as they are at hand; ask `function_bodies.body_of`.
    """

    nodes: Mapping[str, NodeDef]
    inputs: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ()
    targets: tuple[str, ...] = ()
    weights: Mapping[str, Weight] = field(default_factory=dict)
    rest: Any = field(default_factory=tf.compat.v1.GraphDef)
    bodies: dict[str, tuple[Any, Graph | None]] = field(default_factory=dict, repr=False, compare=False)
    _known: _Known = field(default_factory=_Known, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Forget what is known of other nodes, when this graph is a copy with these in their place."""
        known = self._known
        if known.nodes is not self.nodes or (known.calls_by_op and known.rest is not self.rest):
            object.__setattr__(self, "_known", _Known(self.nodes, self.rest))

    @classmethod
    def of(
        cls,
        graph_def: Any,
        inputs: Iterable[str] = (),
        outputs: Iterable[str] = (),
        targets: Iterable[str] = (),
        weights: Mapping[str, Weight] | None = None,
    ) -> Graph:
        """A checked view of a GraphDef; its large constants become weights.

        Raises:
            GraphError: the graph is not valid.
        """
        rest = tf.compat.v1.GraphDef(library=graph_def.library, versions=graph_def.versions)
        return cls.of_nodes(graph_def.node, rest, inputs, outputs, targets, weights)

    @classmethod
    def of_nodes(
        cls,
        nodes: Iterable[NodeDef],
        rest: Any,
        inputs: Iterable[str] = (),
        outputs: Iterable[str] = (),
        targets: Iterable[str] = (),
        weights: Mapping[str, Weight] | None = None,
    ) -> Graph:
        """The same of nodes, and of a GraphDef with a library and versions, which is not copied.

        Raises:
            GraphError: the graph is not valid.
        """
        nodes = list(nodes)
        twice = [name for name, count in Counter(node.name for node in nodes).items() if count > 1]
        if twice:
            raise GraphError(f"{len(twice)} node names are used twice, the first is {twice[0]!r}")
        bare, large = _without_large_values(nodes)
        graph = cls(bare, tuple(inputs), tuple(outputs), tuple(targets), {**(weights or {}), **large}, rest)
        check(graph)
        return graph

    @cached_property
    def functions(self) -> dict[str, Any]:
        """The library: name -> FunctionDef."""
        return {function.signature.name: function for function in self.rest.library.function}

    def facts(self, name: str) -> Facts:
        """The inputs and dtypes of node `name`.

        Raises:
            GraphError: its op is not known, or an attribute that the dtypes hang on is missing.
        """
        return self._known.facts.get(name) or self._find_facts(name)

    def _find_facts(self, name: str) -> Facts:
        node = self.nodes[name]
        inputs = tuple(map(parse_input, node.input))
        found = self._known.facts[name] = Facts(inputs, *ops.dtypes(node, self.functions))
        if self.functions and node.op in self.functions:
            self._known.calls_by_op = True
        return found

    def sources(self, name: str) -> tuple[Input, ...]:
        """Where the inputs of node `name` come from, data and control."""
        return (self._known.facts.get(name) or self._find_facts(name)).inputs

    @property
    def by_op(self) -> Mapping[str, list[str]]:
        """The names of the nodes of each op, in graph order."""
        if self._known.by_op is None:
            found: dict[str, list[str]] = defaultdict(list)
            for name, node in self.nodes.items():
                found[node.op].append(name)
            self._known.by_op = dict(found)
        return self._known.by_op

    def of_ops(self, names: Iterable[str]) -> list[NodeDef]:
        """The nodes of these ops, op by op."""
        return [self.nodes[name] for op in names for name in self.by_op.get(op, ())]

    @property
    def callers(self) -> list[NodeDef]:
        """The nodes that may call functions."""
        return self.of_ops(op for op in self.by_op if op in self.functions or ops.may_call(op))

    @property
    def readers(self) -> dict[str, list[Reader]]:
        """Who reads a node, data and control, in graph order. Names without readers are absent."""
        if self._known.readers is None:
            self._known.readers = _readers(self)
        return self._known.readers

    @property
    def order(self) -> tuple[str, ...]:
        """The node names in execution order; see `execution_order`."""
        if self._known.order is None:
            self._known.order = tuple(_order(self))
        return self._known.order

    @cached_property
    def interface(self) -> frozenset[str]:
        """Names of the nodes that signatures, assets and the init op name: they keep name and meaning."""
        tensors = (*self.inputs, *self.outputs)
        return frozenset(parse_input(tensor).node for tensor in tensors) | frozenset(self.targets)

    @cached_property
    def has_v1_control_flow(self) -> bool:
        """Whether Switch, Merge or Enter decide here what runs."""
        return not ops.V1_CONTROL_FLOW.isdisjoint(self.by_op)

    def readers_of(self, name: str) -> list[Reader]:
        """Who reads node `name`."""
        return self.readers.get(name, [])

    def value(self, name: str) -> Array:
        """The value of the constant `name`.

        Raises:
            GraphError: it is not a constant, or its value is missing.
        """
        if name in self.weights:
            return self.weights[name].read()
        return constant_value(self.nodes[name])

    def constant_shape(self, name: str) -> tuple[int, ...]:
        """The shape of the constant `name`, without reading its value."""
        if name in self.weights:
            return self.weights[name].shape
        return tuple(d.size for d in self.nodes[name].attr["value"].tensor.tensor_shape.dim)

    def replace(
        self,
        new: Iterable[NodeDef] = (),
        drop: Iterable[str] = (),
        *,
        weights: Mapping[str, Weight] | None = None,
        library: Iterable[Any] | None = None,
    ) -> Graph:
        """A new, checked graph: without the nodes `drop`; `new` ones take the place of those of the same name.

        weights: added or put in place of those of the same name; a weight whose node is gone goes with it.
        library: FunctionDefs to put in place of the whole library.

        Raises:
            GraphError: the result is not valid.
        """
        added = {node.name: node for node in new}
        changed = set(added)
        gone = {name for name in drop if name not in added and name in self.nodes}
        nodes = dict(self.nodes)
        nodes.update(added)
        for name in gone:
            del nodes[name]
        if gone:
            nodes = {name: _without_lost_colocations(node, nodes) for name, node in nodes.items()}
        kept = {**self.weights, **(weights or {})}
        rest, bodies = self.rest, self.bodies
        facts = dict(self._known.facts)
        for name in gone | changed:
            facts.pop(name, None)
        if library is not None:
            functions = list(library)
            rest = _library_of(functions, self.rest)
            bodies = {
                new.signature.name: (new, self.bodies[new.signature.name][1])
                for old, new in zip(functions, rest.library.function, strict=True)
                if self.bodies.get(old.signature.name, (None,))[0] is old
            }
            names = {function.signature.name for function in rest.library.function} | self.functions.keys()
            called = {name for name, node in nodes.items() if node.op in names}
            changed |= called
            facts = {name: fact for name, fact in facts.items() if name not in called}
        graph = replace(
            self,
            nodes=nodes,
            weights={name: kept[name] for name in kept if name in nodes and _is_external(nodes[name])},
            rest=rest,
            bodies=bodies,
        )
        graph._known.facts.update(facts)  # of the nodes that stay as they are
        graph._known.calls_by_op = self._known.calls_by_op
        others = {name for name in changed if name in self.nodes and self.facts(name).gives != graph.facts(name).gives}
        moved = gone | others
        if moved:
            changed |= {name for name in nodes if any(source.node in moved for source in graph.sources(name))}
        check(graph, changed | set(weights or ()))
        return graph

    def in_order(self, names: Iterable[str]) -> Graph:
        """The same graph with its nodes in another order, or itself; a name counts where it comes first."""
        nodes = {name: self.nodes[name] for name in names}
        if list(nodes) == list(self.nodes):
            return self
        graph = replace(self, nodes=nodes)
        graph._known.facts.update(self._known.facts)
        graph._known.calls_by_op = self._known.calls_by_op
        return graph

    def to_graph_def(self) -> Any:
        """The GraphDef, weights left out."""
        graph_def = tf.compat.v1.GraphDef()
        graph_def.CopyFrom(self.rest)
        graph_def.node.extend(self.nodes.values())
        return graph_def

    def fresh_names(self) -> NameMaker:
        """A maker of names that no node has yet."""
        return NameMaker(self.nodes)


class NameMaker:
    """Gives out names that are not taken, each once."""

    def __init__(self, taken: Collection[str]) -> None:
        self._taken = taken
        self._given: set[str] = set()

    def __call__(self, wish: str) -> str:
        """`wish`, or the first of `wish_1`, `wish_2` … that is free."""
        name, number = wish, 0
        while name in self._taken or name in self._given:
            number += 1
            name = f"{wish}_{number}"
        self._given.add(name)
        return name


def constant(name: str, value: Array, *, device: str = "") -> tuple[NodeDef, dict[str, Weight]]:
    """A Const node; a large value is left out of it and given as a weight beside it."""
    if value.nbytes >= EXTERNAL_BYTES and value.dtype.name in DTYPES:
        return external_constant(name, in_memory(value), device=device)
    node = tf.compat.v1.NodeDef(name=name, op="Const", device=device)
    tensor = tf.make_tensor_proto(value)
    node.attr["dtype"].type = tensor.dtype
    node.attr["value"].tensor.CopyFrom(tensor)
    return node, {}


def external_constant(name: str, weight: Weight, *, device: str = "") -> tuple[NodeDef, dict[str, Weight]]:
    """A Const node without a value, and its weight."""
    node = tf.compat.v1.NodeDef(name=name, op="Const", device=device)
    node.attr["dtype"].type = tf.as_dtype(weight.dtype).as_datatype_enum
    return node, {name: weight}


def make_node(op: str, name: str, inputs: Iterable[Input | str], *, device: str = "", **attributes: Any) -> NodeDef:
    """A NodeDef. An attribute is a tf.DType, bool, int, float, str or bytes; others are set on the result."""
    node = tf.compat.v1.NodeDef(name=name, op=op, device=device, input=[str(source) for source in inputs])
    for key, value in attributes.items():
        match value:
            case tf.DType():
                node.attr[key].type = value.as_datatype_enum
            case bool():
                node.attr[key].b = value
            case int():
                node.attr[key].i = value
            case float():
                node.attr[key].f = value
            case str():
                node.attr[key].s = value.encode()
            case bytes():
                node.attr[key].s = value
            case _:
                node.attr[key].CopyFrom(value)
    return node


def renamed(node: NodeDef, name: str, inputs: Iterable[Input | str] | None = None) -> NodeDef:
    """A copy under another name and, where given, with other inputs."""
    copy = tf.compat.v1.NodeDef()
    copy.CopyFrom(node)
    copy.name = name
    if inputs is not None:
        del copy.input[:]
        copy.input.extend(str(source) for source in inputs)
    return copy


def rewired(node: NodeDef, sources: Mapping[Input, Input]) -> NodeDef:
    """The node, or a copy that reads from elsewhere; control inputs come once each."""
    new = [str(sources.get(source, source)) for source in map(parse_input, node.input)]
    if new == [str(parse_input(text)) for text in node.input]:
        return node
    data = [text for text in new if not text.startswith("^")]
    control = dict.fromkeys(text for text in new if text.startswith("^"))
    return renamed(node, node.name, [*data, *control])


def needed(graph: Graph, roots: Iterable[str]) -> set[str]:
    """Names of the nodes that the nodes `roots` need, over data and control inputs, themselves included."""
    found: set[str] = set()
    todo = list(roots)
    while todo:
        name = todo.pop()
        if name in found or name not in graph.nodes:
            continue
        found.add(name)
        todo += [source.node for source in graph.sources(name)]
    return found


def with_later(graph: Graph, names: Iterable[str]) -> set[str]:
    """The nodes `names` and all that run after one of them; the back edge of a v1 loop does not count."""
    found = set(names)
    if found:
        for name in graph.order:
            if name not in found and any(source.node in found for source in graph.sources(name)):
                found.add(name)
    return found


def needed_functions(nodes: Iterable[NodeDef], functions: Mapping[str, Any]) -> set[str]:
    """Names of the library functions that the nodes call, directly or through other functions."""
    found: set[str] = set()
    if not functions:
        return found
    todo = [nodes]
    while todo:
        for node in todo.pop():
            op = node.op
            if op not in functions and not ops.may_call(op):
                continue
            for name in (*ops.called_functions(node), op):
                if name in functions and name not in found:
                    found.add(name)
                    todo.append(functions[name].node_def)
    return found


def _library_of(functions: Iterable[Any], rest: Any) -> Any:
    """`rest` with these functions, and with its notes on their gradients: TensorFlow refuses one of a lost function."""
    made = tf.compat.v1.GraphDef(versions=rest.versions)
    made.library.function.extend(functions)
    names = {function.signature.name for function in made.library.function}
    notes = rest.library.gradient
    made.library.gradient.extend(note for note in notes if {note.function_name, note.gradient_func} <= names)
    registered = rest.library.registered_gradients
    made.library.registered_gradients.extend(note for note in registered if note.gradient_func in names)
    return made


def only_needed(graph: Graph) -> Graph:
    """The graph without the nodes and functions that its interface does not need; itself when it needs them all."""
    wanted = needed(graph, graph.interface)
    called = needed_functions((graph.nodes[name] for name in wanted), graph.functions)
    if len(wanted) == len(graph.nodes) and len(called) == len(graph.functions):
        return graph
    library = [function for name, function in graph.functions.items() if name in called]
    return graph.replace(drop=set(graph.nodes) - wanted, library=library)


def execution_order(graph: Graph) -> list[str]:
    """Node names, each after what it reads; among equals in GraphDef order. The back edge of a v1 loop does not count.

    Raises:
        GraphError: there is a cycle other than a v1 loop's.
    """
    return list(graph.order)


def _readers(graph: Graph) -> dict[str, list[Reader]]:
    found: dict[str, list[Reader]] = defaultdict(list)
    for name in graph.nodes:
        for position, (node, port) in enumerate(graph.facts(name).inputs):
            found[node].append(Reader(name, position, port))
    return dict(found)


def _order(graph: Graph) -> list[str]:
    waits: dict[str, int] = {}
    ends = {node.name for node in graph.of_ops(("NextIteration", "RefNextIteration"))}
    merges = {node.name for node in graph.of_ops(("Merge", "RefMerge"))} if ends else set()
    for name in graph.nodes:
        inputs = graph.facts(name).inputs
        if len(inputs) > 1 or name in merges:
            sources = {source.node for source in inputs}
            waits[name] = len(sources - ends) if name in merges else len(sources)
        else:
            waits[name] = len(inputs)
    order = [name for name, count in waits.items() if not count]
    readers = graph.readers
    for name in order:
        found = readers.get(name, ())
        names = {reader.node: None for reader in found} if len(found) > 1 else [reader.node for reader in found]
        for reader in names:
            if name in ends and reader in merges:
                continue
            waits[reader] -= 1
            if not waits[reader]:
                order.append(reader)
    if len(order) < len(graph.nodes):
        stuck = next(name for name, count in waits.items() if count)
        raise GraphError(f"node {stuck!r} waits for its own result: the graph has a cycle")
    return order


def check(graph: Graph, names: Collection[str] | None = None) -> None:
    """Say whether a graph is valid, or whether these nodes and the interface are.

    Raises:
        GraphError: an input does not resolve, a dtype does not fit, or a part of the interface is missing.
    """
    for name in graph.nodes if names is None else names:
        if name in graph.nodes:
            _check_node(graph, name)
    for tensor in (*graph.inputs, *graph.outputs):
        source = parse_input(tensor)
        if source.node not in graph.nodes or source.port >= len(graph.facts(source.node).gives):
            raise GraphError(f"tensor {tensor!r} of the interface does not exist")
    for target in graph.targets:
        if target not in graph.nodes:
            raise GraphError(f"node {target!r} of the interface does not exist")


def _check_node(graph: Graph, name: str) -> None:
    node, facts = graph.nodes[name], graph.facts(name)
    if _is_external(node):
        if name not in graph.weights:
            raise GraphError(f"constant {name!r} has no value")
        if facts.gives != (tf.as_dtype(graph.weights[name].dtype).as_datatype_enum,):
            kind = graph.weights[name].dtype.name
            raise GraphError(f"constant {name!r} is {_dtype_name(facts.gives[0])}, its weight {kind}")
    position = 0
    for source in facts.inputs:
        if source.node not in graph.nodes:
            raise GraphError(f"node {name!r} reads {str(source)!r}, which does not exist")
        if source.port == CONTROL:
            continue
        position += 1
        if position > len(facts.takes):
            continue
        given, wanted = graph.facts(source.node).gives, facts.takes[position - 1]
        if source.port >= len(given):
            raise GraphError(f"node {name!r} reads {str(source)!r}, which has {len(given)} outputs")
        found = given[source.port]
        if found != wanted and (wanted > ops.REF or found - ops.REF != wanted):
            raise GraphError(
                f"node {name!r} ({node.op}) wants {_dtype_name(wanted)}, {str(source)!r} gives {_dtype_name(found)}"
            )
    if position != len(facts.takes):
        raise GraphError(f"node {name!r} ({node.op}) has {position} inputs, the op takes {len(facts.takes)}")


def _is_external(node: NodeDef) -> bool:
    """Whether it is a constant whose value is a weight."""
    return node.op == "Const" and "value" not in node.attr


def _dtype_name(dtype: int) -> str:
    try:
        return str(tf.as_dtype(dtype).name)
    except TypeError:
        return f"dtype {dtype}, which there is not"


def _without_lost_colocations(node: NodeDef, nodes: Collection[str]) -> NodeDef:
    """The node, or a copy that is no longer told to be placed beside nodes that are gone: TensorFlow refuses that."""
    if "_class" not in node.attr:
        return node
    wishes = list(node.attr["_class"].list.s)
    kept = [wish for wish in wishes if not wish.startswith(b"loc:@") or wish[5:].decode() in nodes]
    if kept == wishes:
        return node
    copy = renamed(node, node.name)
    del copy.attr["_class"]
    if kept:
        copy.attr["_class"].list.s.extend(kept)
    return copy


def _without_large_values(nodes: Collection[NodeDef]) -> tuple[dict[str, NodeDef], dict[str, Weight]]:
    """The nodes by name, and the weights that were taken out of the large constants among them."""
    bare: dict[str, NodeDef] = {}
    weights: dict[str, Weight] = {}
    check_claims(
        (node.name, node.attr["value"].tensor) for node in nodes if node.op == "Const" and "value" in node.attr
    )
    for node in nodes:
        bare[node.name] = node
        if node.op != "Const" or not _holds_large_value(node):
            continue
        taken, weight = external_constant(node.name, in_memory(constant_value(node)), device=node.device)
        taken.input.extend(node.input)
        bare[node.name] = taken
        weights |= weight
    return bare, weights


def _holds_large_value(node: NodeDef) -> bool:
    if "value" not in node.attr:
        return False
    tensor = node.attr["value"].tensor
    return claimed_bytes(tensor) >= EXTERNAL_BYTES and tf.as_dtype(tensor.dtype).name in DTYPES


def has_plain_weights(graph: Graph) -> bool:
    """Whether the large constants alone are weights, as they are of a graph that was just read."""
    for node in graph.of_ops(("Const",)):
        weight = graph.weights.get(node.name)
        if weight is None:
            if _holds_large_value(node):
                return False
        elif weight.encoded or weight.nbytes < EXTERNAL_BYTES or len(node.attr) > 1:
            return False
    return True


def constant_value(node: NodeDef) -> Array:
    """The value that a Const node holds itself.

    Raises:
        GraphError: it is not a constant, or its value is missing or damaged.
    """
    if node.op != "Const" or "value" not in node.attr:
        raise GraphError(f"node {node.name!r} ({node.op}) has no constant value")
    check_claims([(node.name, node.attr["value"].tensor)])
    try:
        value: Array = tf.make_ndarray(node.attr["value"].tensor)
    except (TypeError, ValueError) as error:
        raise GraphError(f"constant {node.name!r} cannot be read: {error}") from None
    return value
