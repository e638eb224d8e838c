"""Compute now what is the same on every request.

    Before: y = MatMul(x, Transpose(W))        After: y = MatMul(x, W')  with W' = Transpose(W)

A node is computed when all its inputs are constants and the op is stateless; so are Shape, ShapeN, Size and Rank of a
tensor whose shape is known from the graph. TensorFlow computes them, so the values are those of the first request.

A constant is not allowed to grow the graph: a result is kept when it is at most 1 KiB larger than the constants that
are needed no more, and above `max_constant_size_in_bytes` only when those are as large as itself. So a transposed or
cast matrix is folded; a Fill, a Tile or a decoded matrix is left to the server, and what it reads is folded instead.

| parameter | |
|---|---|
| clear_output_shapes | forget the `_output_shapes` noted at nodes; false lets them take part in finding shapes |
| exclude_op, exclude_node | ops and nodes that are left alone; repeatable |
| max_constant_size_in_bytes | see above |

Left alone, with a reason: what would grow; what TensorFlow cannot compute; what has to run after an assert or another
effect; what reads an encoded weight; results that no constant can hold (resources, quantized types). In TensorFlow 1
control flow, a control edge says on which branch a node runs, so nothing that has one is folded, nor are the shapes of
what runs on a branch. Function bodies are not entered.

Source: tensorflow/tools/graph_transforms/fold_constants_lib.cc, same name and parameters; unlike it a
PlaceholderWithDefault stays one, and nodes keep their names.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing, contextmanager
from typing import Any

import numpy as np
import tensorflow as tf

from tfslim_core import ops
from tfslim_core.errors import GraphError
from tfslim_core.graph import (
    CONTROL,
    Graph,
    Input,
    NodeDef,
    constant,
    control_inputs,
    data_inputs,
    execution_order,
    external_constant,
    make_node,
    needed,
    needed_functions,
    parse_input,
    renamed,
    rewired,
)
from tfslim_core.registry import Outcome, Skipped, transform
from tfslim_core.weights import Array, Weight

_ALLOWANCE = 1024  # bytes that a fold may add: the node that goes, its name and attributes weigh about as much
_AT_ONCE = 64 << 20  # bytes of weights and results held while computing
_LAZY_BYTES = 1 << 20  # a larger result is computed anew whenever it is read, rather than held
_ROUNDS = 20  # when something turns out too large or impossible, the rest is planned anew, at most so often
_SHAPE_OPS = frozenset({"Shape", "ShapeN", "Size", "Rank"})
# Stateless to the registry, yet their result comes from outside of the graph.
_OUTSIDE = frozenset(
    """Placeholder PlaceholderV2 PlaceholderWithDefault ReadFile MatchingFiles ImmutableConst PyFuncStateless HostConst
    _Arg _Retval _HostRecv _Recv""".split()
)
_HOLDABLE = frozenset(
    tf.as_dtype(name).as_datatype_enum
    for name in """bool string half bfloat16 float double int8 int16 int32 int64 uint8 uint16 uint32 uint64
    complex64 complex128""".split()
)


@transform("fold_constants")
def fold_constants(
    graph: Graph,
    *,
    clear_output_shapes: bool = True,
    exclude_op: tuple[str, ...] = (),
    exclude_node: tuple[str, ...] = (),
    max_constant_size_in_bytes: int = 10 << 20,
) -> Outcome:
    """Compute now what is the same on every request, where that does not grow the graph."""
    excluded = _Excluded(frozenset(exclude_op), frozenset(parse_input(name).node for name in exclude_node))
    reasons: dict[str, str] = {}
    if clear_output_shapes:
        graph = _without_output_shapes(graph)
    graph, shapes = _fold_shapes(graph, excluded, reasons)
    changes = shapes
    for _ in range(_ROUNDS):
        # What was too large beside the constants that it read may not be beside what they have become.
        graph, folds = _fold_values(graph, excluded, max_constant_size_in_bytes, reasons)
        changes += folds
        if not folds:
            break
    skipped = tuple(
        Skipped(name, reason)
        for name, reason in reasons.items()
        if name in graph.nodes and graph.nodes[name].op != "Const"
    )
    return Outcome(graph, changes, skipped)


class _Excluded:
    def __init__(self, op_names: frozenset[str], names: frozenset[str]) -> None:
        self.op_names, self.names = op_names, names

    def __contains__(self, node: NodeDef) -> bool:
        return node.op in self.op_names or node.name in self.names


def _without_output_shapes(graph: Graph) -> Graph:
    noted = [node for node in graph.nodes.values() if "_output_shapes" in node.attr]
    copies = [renamed(node, node.name) for node in noted]
    for copy in copies:
        del copy.attr["_output_shapes"]
    return graph.replace(copies) if copies else graph


def _fed(graph: Graph) -> set[str]:
    return {parse_input(tensor).node for tensor in graph.inputs}


def _with_effects_before(graph: Graph, order: Sequence[str]) -> set[str]:
    """Nodes that have an effect or run after one."""
    found: set[str] = set()
    for name in order:
        node = graph.nodes[name]
        if ops.has_effect(node, graph.functions) or any(parse_input(text).node in found for text in node.input):
            found.add(name)
    return found


# Shapes


def _fold_shapes(graph: Graph, excluded: _Excluded, reasons: dict[str, str]) -> tuple[Graph, int]:
    """Put constants in the place of shapes that are known from the graph."""
    fed = _fed(graph)
    asking = [
        node for node in graph.nodes.values() if node.op in _SHAPE_OPS and node not in excluded and node.name not in fed
    ]
    if not asking:
        return graph, 0
    order = execution_order(graph)
    effects = _with_effects_before(graph, order)
    branches = _in_control_flow(graph, order)
    wanted = []
    for node in asking:
        sources = {parse_input(text).node for text in node.input}
        if sources & effects:
            reasons[node.name] = "it runs after an effect, which would be lost"
        elif node.name in branches or (graph.has_v1_control_flow and control_inputs(node)):
            reasons[node.name] = "it runs on a branch of TensorFlow 1 control flow"
        else:
            wanted.append(node)
    try:
        shapes = _shapes(graph, [source for node in wanted for source in data_inputs(node)], fed)
    except (ValueError, TypeError, GraphError, tf.errors.OpError) as error:
        reasons.update({node.name: f"shapes cannot be inferred: {_first_line(error)}" for node in wanted})
        return graph, 0
    results = {}
    for node in wanted:
        values = [_shape_value(node, shapes[source]) for source in data_inputs(node)]
        if all(value is not None for value in values):
            results[node.name] = {port: _Result(value) for port, value in enumerate(values) if value is not None}
    return _put(graph, results, (), reasons)


def _in_control_flow(graph: Graph, order: Sequence[str]) -> set[str]:
    """Nodes behind a Switch, Merge or Enter of TensorFlow 1."""
    if not graph.has_v1_control_flow:
        return set()
    found: set[str] = set()
    for name in order:
        node = graph.nodes[name]
        if node.op in ops.V1_CONTROL_FLOW or any(parse_input(text).node in found for text in node.input):
            found.add(name)
    return found


def _shape_value(node: NodeDef, shape: tf.TensorShape) -> Array | None:
    if shape.rank is None or (node.op != "Rank" and not shape.is_fully_defined()):
        return None
    dtype = np.int64 if node.attr["out_type"].type == tf.int64.as_datatype_enum else np.int32
    if node.op == "Rank":
        return np.array(shape.rank, np.int32)
    dimensions: list[int] = shape.as_list()
    value: Array = np.array(math.prod(dimensions) if node.op == "Size" else dimensions, dtype)
    return value


def _shapes(graph: Graph, tensors: Iterable[Input], fed: set[str]) -> dict[Input, tf.TensorShape]:
    """What TensorFlow infers of the tensors' shapes.

    Raises:
        GraphError: a tensor that is fed cannot be stood in for.
        ValueError: the graph's own shapes contradict each other.
    """
    found: dict[Input, tf.TensorShape] = {}
    ask = []
    for tensor in tensors:
        if graph.nodes[tensor.node].op == "Const" and tensor.node not in fed:
            found[tensor] = tf.TensorShape(graph.constant_shape(tensor.node))
        else:
            ask.append(tensor)
    if not ask:
        return found
    names = needed(graph, [tensor.node for tensor in ask])
    nodes = []
    for name, node in graph.nodes.items():
        if name not in names:
            continue
        if name in fed and node.op not in ("Placeholder", "PlaceholderWithDefault"):
            dtypes = ops.output_dtypes(node, graph.functions)
            if len(dtypes) != 1:
                raise GraphError(f"{name!r} is fed and has {len(dtypes)} outputs")
            node = make_node("Placeholder", name, [], dtype=tf.as_dtype(dtypes[0] % ops.REF))
        nodes.append(node)
    with _imported(nodes, graph.weights, graph.functions, graph.rest.versions) as imported:
        for tensor in ask:
            found[tensor] = imported.get_tensor_by_name(f"{tensor.node}:{tensor.port}").shape
    return found


# Values


class _Result:
    """What a node's output is; `weight` is set when it is computed anew whenever it is read."""

    def __init__(self, value: Array, weight: Weight | None = None) -> None:
        self.weight = weight
        self.value = None if weight else value


def _fold_values(graph: Graph, excluded: _Excluded, most: int, reasons: dict[str, str]) -> tuple[Graph, int]:
    """Put constants in the place of nodes that read only constants."""
    order = execution_order(graph)
    candidates = _candidates(graph, order, excluded, reasons)
    refused: set[str] = set()
    while candidates:
        nodes = [graph.nodes[name] for name in _with_leaves(graph, candidates)]
        try:
            with _imported(nodes, graph.weights, graph.functions, graph.rest.versions) as imported:
                computed: dict[str, dict[int, _Result]] = {}
                for rounds_left in reversed(range(_ROUNDS)):
                    plan = _Plan(graph, order, candidates, refused, most, imported, reasons, guess=rounds_left > 0)
                    results, failed = _compute(plan, computed)
                    failed |= plan.too_large(results)
                    if not failed:
                        return _put(graph, results, plan.unread(), reasons)
                    reasons.update(failed)
                    refused |= set(failed)
            return graph, 0
        except ValueError as error:
            # TensorFlow refuses the graph because of one node; without it, the others may do.
            culprit = re.search(r"\{\{node ([^}]+)\}\}", str(error))
            name = culprit[1] if culprit else ""
            if name not in candidates:
                reasons.update({name: f"TensorFlow refuses it: {_first_line(error)}" for name in candidates})
                return graph, 0
            reasons[name] = f"TensorFlow refuses it: {_first_line(error)}"
            candidates = _candidates(graph, order, _Excluded(excluded.op_names, excluded.names | {name}), reasons)
            excluded = _Excluded(excluded.op_names, excluded.names | {name})
    return graph, 0


def _candidates(graph: Graph, order: Sequence[str], excluded: _Excluded, reasons: dict[str, str]) -> dict[str, NodeDef]:
    """The nodes that read constants alone and could be computed."""
    fed = _fed(graph)
    effects: set[str] | None = None
    constants: set[str] = set()
    candidates: dict[str, NodeDef] = {}
    for name in order:
        node = graph.nodes[name]
        if name in fed:
            continue
        if node.op != "Const":
            sources = data_inputs(node)
            if not sources or any(source.node not in constants for source in sources):
                continue
            if node in excluded or node.op in _OUTSIDE or node.op in ops.V1_CONTROL_FLOW:
                continue
            if ops.is_stateful(node, graph.functions):
                continue
        if controls := control_inputs(node):
            if graph.has_v1_control_flow:
                continue
            effects = _with_effects_before(graph, order) if effects is None else effects
            before = next((control for control in controls if control in effects), None)
            if before is not None:
                if node.op != "Const":
                    reasons[name] = f"it runs after {before!r}, which has an effect"
                continue
        if node.op == "Const":
            constants.add(name)
            continue
        encoded = [s.node for s in sources if (w := graph.weights.get(s.node)) is not None and w.encoded is not None]
        if encoded:
            reasons[name] = f"{encoded[0]!r} is stored encoded"
        elif node.op in graph.functions or next(ops.called_functions(node), None) is not None:
            reasons[name] = "it calls a function"
        elif not _HOLDABLE.issuperset(dtypes := ops.output_dtypes(node, graph.functions)):
            kind = next(tf.as_dtype(dtype).name for dtype in dtypes if dtype not in _HOLDABLE)
            reasons[name] = f"no constant can hold its result, a {kind}"
        elif dtypes:
            constants.add(name)
            candidates[name] = node
    return candidates


def _with_leaves(graph: Graph, names: Iterable[str]) -> dict[str, None]:
    """The nodes and the constants that they read."""
    found: dict[str, None] = {}
    for name in names:
        found.update(dict.fromkeys(source.node for source in data_inputs(graph.nodes[name])))
        found[name] = None
    return found


class _Plan:
    """Which candidates are replaced by their value, decided from the readers down to what is read.

    live: how many inputs of nodes that remain read a node. guess: also take nodes whose size has to be computed first.
    """

    def __init__(
        self,
        graph: Graph,
        order: Sequence[str],
        candidates: Mapping[str, NodeDef],
        refused: set[str],
        most: int,
        imported: tf.Graph,
        reasons: dict[str, str],
        *,
        guess: bool,
    ) -> None:
        self.guess = guess
        self.graph, self.candidates, self.most, self.imported = graph, candidates, most, imported
        self.live = {name: len(readers) for name, readers in graph.readers.items()}
        self.freed: dict[str, int] = {}  # node to replace -> bytes of constants that are needed no more
        self.dead: dict[str, None] = {}  # read only by what is replaced
        self.ports: dict[str, tuple[int, ...]] = {}
        for name in reversed(order):
            if name not in candidates:
                continue
            if name not in graph.interface and not self.live.get(name):
                if graph.readers_of(name):
                    self.dead[name] = None
                    self._leave(name)
                continue
            if name in refused:
                continue
            ports = self._ports(name)
            reason, freed = self._verdict(name, ports)
            if reason:
                reasons[name] = reason
                continue
            reasons.pop(name, None)
            self.freed[name] = freed
            self.ports[name] = ports
            self._leave(name)

    def _leave(self, name: str) -> None:
        for text in self.graph.nodes[name].input:
            self.live[parse_input(text).node] -= 1

    def _ports(self, name: str) -> tuple[int, ...]:
        """The outputs that are read by nodes that remain or by a signature."""
        readers = self.graph.readers_of(name)
        found = {r.port for r in readers if r.node not in self.ports and r.node not in self.dead}
        found |= {s.port for s in map(parse_input, self.graph.outputs) if s.node == name}
        found.discard(CONTROL)
        return tuple(sorted(found)) or (0,)

    def _verdict(self, name: str, ports: tuple[int, ...]) -> tuple[str, int]:
        """Why the node stays, if it does, and the bytes of constants that only it needs."""
        if name in self.graph.interface and any(port for port in ports):
            return "a signature reads another of its outputs than the first", 0
        freed = self._freed(name)
        size = self.size(name, ports)
        if size is None:
            return "" if self.guess else "its size shows only when it is computed", freed
        return self.grows(size, freed), freed

    def grows(self, size: int, freed: int) -> str:
        """Why a result of that size is not kept, if it is not."""
        if size > freed + _ALLOWANCE:
            return f"its value of {size:,} bytes would replace {freed:,} bytes of constants"
        if size > max(self.most, freed):
            return f"its value of {size:,} bytes is larger than max_constant_size_in_bytes"
        return ""

    def size(self, name: str, ports: tuple[int, ...]) -> int | None:
        """Bytes of the node's outputs, or None when that shows only when they are computed."""
        total = 0
        for port in ports:
            tensor = self.imported.get_tensor_by_name(f"{name}:{port}")
            if tensor.dtype == tf.string or not tensor.shape.is_fully_defined():
                return None
            total += tensor.shape.num_elements() * tensor.dtype.size
        return total

    def _freed(self, name: str) -> int:
        """Bytes of the constants that nobody reads once `name` is replaced."""
        left: dict[str, int] = {}
        freed = 0
        todo = [name]
        while todo:
            for text in self.graph.nodes[todo.pop()].input:
                source = parse_input(text).node
                left[source] = left.get(source, self.live[source]) - 1
                if left[source] or source in self.graph.interface:
                    continue
                if self.graph.nodes[source].op == "Const":
                    freed += _constant_bytes(self.graph, source)
                elif source in self.candidates:
                    todo.append(source)
        return freed

    def too_large(self, results: Mapping[str, Mapping[int, _Result]]) -> dict[str, str]:
        """Reasons for results whose size was not known before and that turn out to grow the graph."""
        found = {}
        for name, by_port in results.items():
            size = sum(_value_bytes(result.value) for result in by_port.values() if result.value is not None)
            if self.size(name, self.ports[name]) is None and (reason := self.grows(size, self.freed[name])):
                found[name] = reason
        return found

    def unread(self) -> list[str]:
        """Nodes that nobody reads any more."""
        graph = self.graph
        constants = (
            name
            for name, left in self.live.items()
            if not left and graph.nodes[name].op == "Const" and name not in graph.interface
        )
        return [*self.dead, *constants]


def _constant_bytes(graph: Graph, name: str) -> int:
    if name in graph.weights:
        return graph.weights[name].stored_bytes
    tensor = graph.nodes[name].attr["value"].tensor
    dtype = tf.as_dtype(tensor.dtype)
    if dtype == tf.string:
        return sum(map(len, tensor.string_val))
    elements: int = math.prod(d.size for d in tensor.tensor_shape.dim)
    return elements * int(dtype.size)


def _value_bytes(value: Array) -> int:
    return sum(map(len, value.ravel().tolist())) if value.dtype.hasobject else value.nbytes


def _compute(
    plan: _Plan, computed: dict[str, dict[int, _Result]]
) -> tuple[dict[str, dict[int, _Result]], dict[str, str]]:
    """The values of the nodes to replace, and the reasons of those that cannot be computed.

    computed: values known from before, to which the new ones are added.
    """
    graph = plan.graph
    under = _weights_under(graph, plan.candidates)
    failed: dict[str, str] = {}
    config = _config()
    with closing(tf.compat.v1.Session(graph=plan.imported, config=config)) as session:

        def run(names: list[str]) -> None:
            fetches = {name: [f"{name}:{port}" for port in plan.ports[name]] for name in names}
            feeds = {f"{weight}:0": graph.weights[weight].read() for name in names for weight in under[name]}
            try:
                found = session.run(fetches, feeds)
            except tf.errors.OpError as error:
                if len(names) == 1:
                    failed[names[0]] = f"TensorFlow cannot compute it: {_first_line(error)}"
                    return
                run(names[: len(names) // 2])
                run(names[len(names) // 2 :])
                return
            for name in names:
                computed[name] = {
                    port: _result(plan, name, port, value)
                    for port, value in zip(plan.ports[name], found[name], strict=True)
                }

        batch: list[str] = []
        held: set[str] = set()
        size = 0
        for name in reversed(list(plan.freed)):
            if name in computed and set(plan.ports[name]) <= set(computed[name]):
                continue
            batch.append(name)
            size += (plan.size(name, plan.ports[name]) or 0) + sum(
                graph.weights[weight].nbytes for weight in under[name] - held
            )
            held |= under[name]
            if size > _AT_ONCE:
                run(batch)
                batch, held, size = [], set(), 0
        if batch:
            run(batch)
    results = {
        name: {port: computed[name][port] for port in plan.ports[name]} for name in plan.freed if name not in failed
    }
    return results, failed


def _weights_under(graph: Graph, candidates: Mapping[str, NodeDef]) -> dict[str, frozenset[str]]:
    """For each candidate the weights that have to be fed to compute it."""
    under: dict[str, frozenset[str]] = {}
    for name, node in candidates.items():
        found: frozenset[str] = frozenset()
        for source in data_inputs(node):
            own = frozenset({source.node}) if source.node in graph.weights else frozenset()
            more = under.get(source.node, own)
            found = more if found <= more else found if more <= found else found | more
        under[name] = found
    return under


def _result(plan: _Plan, name: str, port: int, found: Any) -> _Result:
    dtype = plan.imported.get_tensor_by_name(f"{name}:{port}").dtype
    value: Array = np.asarray(found, object if dtype == tf.string else None)
    if value.nbytes < _LAZY_BYTES or value.dtype.hasobject:
        return _Result(value)
    graph = plan.graph
    cone: dict[str, None] = {}
    todo = [name]
    while todo:
        one = todo.pop()
        if one not in cone:
            cone[one] = None
            todo += [source.node for source in data_inputs(graph.nodes[one])]
    nodes = [graph.nodes[one] for one in cone]
    weights = {one: graph.weights[one] for one in cone if one in graph.weights}

    def read() -> Array:
        feeds = {f"{one}:0": weight.read() for one, weight in weights.items()}
        with (
            _imported(nodes, weights, {}, graph.rest.versions) as imported,
            closing(tf.compat.v1.Session(graph=imported, config=_config())) as session,
        ):
            again: Array = session.run(f"{name}:{port}", feeds)
        return again

    return _Result(value, Weight(value.dtype, value.shape, read))


def _put(
    graph: Graph, results: Mapping[str, Mapping[int, _Result]], drop: Iterable[str], reasons: dict[str, str]
) -> tuple[Graph, int]:
    """The graph with constants in the place of nodes, and how many."""
    if not results:
        return graph, 0
    fresh = graph.fresh_names()
    new: dict[str, NodeDef] = {}
    weights: dict[str, Weight] = {}
    sources: dict[Input, Input] = {}
    gone = set(drop)
    for name, by_port in results.items():
        ports = list(by_port)
        if name in graph.interface and ports != [0]:
            reasons[name] = "a signature reads another of its outputs than the first"
            continue
        for port, result in by_port.items():
            put = name if port == ports[0] else fresh(f"{name}/output_{port}")
            device = graph.nodes[name].device
            if result.weight is not None:
                node, large = external_constant(put, result.weight, device=device)
            else:
                assert result.value is not None
                node, large = constant(put, result.value, device=device)
            new[put] = node
            weights |= large
            if (put, 0) != (name, port):
                sources[Input(name, port)] = Input(put, 0)
    if sources:
        # An old port may have the name of a new constant: only readers of the old nodes are rewired.
        for reader in {reader.node for source in sources for reader in graph.readers_of(source.node)}:
            if reader not in new and reader not in gone:
                new[reader] = rewired(graph.nodes[reader], sources)
    return graph.replace(new.values(), gone, weights=weights), len(results)


@contextmanager
def _imported(
    nodes: Iterable[NodeDef], weights: Mapping[str, Weight], functions: Mapping[str, Any], versions: Any
) -> Any:
    """A TensorFlow graph of these nodes, with placeholders of known shape for the weights and no devices."""
    graph_def = tf.compat.v1.GraphDef(versions=versions)
    nodes = list(nodes)
    present = {node.name for node in nodes}
    called = needed_functions(nodes, functions)
    graph_def.library.function.extend(function for name, function in functions.items() if name in called)
    for node in nodes:
        if node.op == "Const" and node.name in weights:
            weight = weights[node.name]
            stand_in = make_node("Placeholder", node.name, [], dtype=tf.as_dtype(weight.dtype))
            stand_in.attr["shape"].shape.CopyFrom(tf.TensorShape(weight.shape).as_proto())
            graph_def.node.append(stand_in)
            continue
        graph_def.node.append(node)
        copy = graph_def.node[-1]
        copy.device = ""
        if "_class" in copy.attr:
            del copy.attr["_class"]
        if any(text.startswith("^") and text[1:] not in present for text in node.input):
            kept = [text for text in node.input if not text.startswith("^") or text[1:] in present]
            del copy.input[:]
            copy.input.extend(kept)
    with tf.Graph().as_default() as imported:
        tf.import_graph_def(graph_def, name="")
    # Not the default graph from here on, nor is a session: the weights that are fed are read eagerly.
    yield imported


def _config() -> Any:
    """A session that computes what it is asked and optimizes nothing."""
    config = tf.compat.v1.ConfigProto(allow_soft_placement=True, device_count={"GPU": 0})
    config.graph_options.optimizer_options.opt_level = tf.compat.v1.OptimizerOptions.L0
    config.graph_options.rewrite_options.disable_meta_optimizer = True
    return config


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0]
