"""Put the bodies of called functions in the place of their calls.

    Before: y = StatefulPartitionedCall(x, f=body)        After: the nodes of body, named call/node

Weights, batch norms and constants of TF2 models are inside functions; nothing can be folded across a call. Branches
and loops (If, While, Case) keep their functions.

Unlike the runtime's own inlining, only what has an effect (an assignment, an assert, a table's initialization) keeps
a control edge to those who waited for the call, so that what nobody reads really goes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import chain
from typing import Any

import tensorflow as tf

from tfslim_core import ops
from tfslim_core.errors import ModelError
from tfslim_core.graph import CONTROL, Input, NameMaker, NodeDef, make_node, parse_input

MOST_NODES = 3_000_000  # a small library can unfold into a graph of any size


@dataclass(frozen=True)
class Inlined:
    """The nodes after inlining.

    moved: where each output of a call is to be read now. waits: for each call, the nodes to wait for in its place.
    """

    nodes: dict[str, NodeDef]
    moved: Mapping[Input, Input]
    waits: Mapping[str, list[str]]

    def tensor(self, name: str) -> str:
        """Where the tensor `name` ("call:1") is now."""
        source = parse_input(name)
        new = self.moved.get(source, source)
        return f"{new.node}:{new.port}"


def inline_functions(nodes: Iterable[NodeDef], functions: Mapping[str, Any]) -> Inlined:
    """Inline every call, calls in inlined bodies too.

    A call's own control inputs become those of the body's nodes that have an effect or read nothing. A function that
    calls itself is left as a call.

    Raises:
        ModelError: the graph would become larger than any real model's.
    """
    done: dict[str, NodeDef] = {node.name: node for node in nodes}
    names = NameMaker(done)
    v1 = any(node.op in ops.V1_CONTROL_FLOW for node in done.values())
    moved: dict[Input, Input] = {}
    waits: dict[str, list[str]] = {}
    todo = [(node, frozenset[str]()) for node in done.values() if _callee(node, functions)]
    while todo:
        call, inside = todo.pop()
        callee = _callee(call, functions)
        if callee is None or callee in inside:
            continue
        try:
            body = _body(call, functions[callee], functions, names, every_source_waits=v1)
        except (LookupError, TypeError, ValueError) as error:
            raise ModelError(f"function {callee!r} is damaged: {call.name!r} cannot call it: {error}") from None
        del done[call.name]
        done.update((node.name, node) for node in body.nodes)
        if len(done) > MOST_NODES:
            raise ModelError(f"function {callee!r} unfolds into more than {MOST_NODES:,} nodes")
        moved.update({Input(call.name, port): source for port, source in enumerate(body.outputs)})
        waits[call.name] = body.waits
        todo.extend((node, inside | {callee}) for node in body.nodes if _callee(node, functions))
    return _rewired(done, moved, waits)


@dataclass(frozen=True)
class _Body:
    nodes: list[NodeDef]
    outputs: list[Input]
    waits: list[str]  # nodes that those who waited for the call have to wait for


def _callee(node: NodeDef, functions: Mapping[str, Any]) -> str | None:
    """The function that a node does nothing else than call."""
    if node.op in ops.CALLS and node.attr["f"].func.name in functions:
        return str(node.attr["f"].func.name)
    return str(node.op) if node.op in functions else None


def _body(
    call: NodeDef, function: Any, functions: Mapping[str, Any], names: NameMaker, *, every_source_waits: bool
) -> _Body:
    """The function's nodes as nodes of the graph that calls it."""
    given = [parse_input(text) for text in call.input if not text.startswith("^")]
    before = [text for text in call.input if text.startswith("^")]
    values = call.attr["f"].func.attr if call.op in ops.CALLS else call.attr
    arguments: dict[str, list[Input]] = {}
    position = 0
    for name, dtypes in _arguments(function, values):
        arguments[name] = given[position : position + len(dtypes)]
        position += len(dtypes)
    new_names = {node.name: names(f"{call.name}/{node.name}") for node in function.node_def}
    ports: dict[str, dict[str, int]] = {}
    copies = []
    for node in function.node_def:
        copy = tf.compat.v1.NodeDef()
        copy.CopyFrom(node)
        copy.name = new_names[node.name]
        copy.device = node.device or call.device
        _bind(copy, values)
        copies.append(copy)
        ports[node.name] = ops.output_ports(copy, functions)

    def source(text: str) -> Input:
        if text.startswith("^"):
            inner = text[1:]
            return Input(new_names[inner] if inner in new_names else arguments[inner][0].node, CONTROL)
        name, _, rest = text.partition(":")
        if name in new_names:
            argument, _, index = rest.partition(":")
            return Input(new_names[name], ports[name][argument] + int(index or 0))
        return arguments[name][int(rest or 0)]

    for copy in copies:
        inputs = [str(source(text)) for text in copy.input]
        # In a v1 loop or branch a node without inputs would run outside of it: it has to wait for the call's arguments.
        sourceless = every_source_waits and all(text.startswith("^") for text in inputs)
        if sourceless or ops.has_effect(copy, functions) or ops.observes_state(copy, functions):
            inputs.extend(before)
        if sourceless and not inputs:
            inputs.extend(f"^{argument.node}" for argument in given)
        data = [text for text in inputs if not text.startswith("^")]
        del copy.input[:]
        copy.input.extend([*data, *dict.fromkeys(text for text in inputs if text.startswith("^"))])
    outputs = [source(function.ret[output.name]) for output in function.signature.output_arg]
    effects = [copy.name for copy in copies if ops.has_effect(copy, functions)]
    reads = [copy.name for copy in copies if ops.observes_state(copy, functions)]
    ran = [new_names[name] for name in function.control_ret.values()]
    # What the call itself waited for has to have happened even where nothing happens in there.
    waits = [*effects, *reads, *(ran if effects else [])] + [text[1:] for text in before] + [a.node for a in given]
    # Who fetches an output of a call also gets its effects, or those that it waited for.
    controls = [f"^{name}" for name in effects] or before
    if controls:
        for index, output in enumerate(function.signature.output_arg):
            name = names(f"{call.name}/output_{index}")
            dtype = tf.as_dtype(output.type or values[output.type_attr].type)
            copies.append(make_node("Identity", name, [outputs[index], *controls], T=dtype))
            outputs[index] = Input(name, 0)
    return _Body(copies, outputs, list(dict.fromkeys(waits)))


def _arguments(function: Any, values: Mapping[str, Any]) -> list[tuple[str, list[int]]]:
    """The function's arguments with the dtypes of their tensors."""
    found = []
    for argument in function.signature.input_arg:
        if argument.type_list_attr:
            found.append((argument.name, list(values[argument.type_list_attr].list.type)))
        else:
            dtype = argument.type or values[argument.type_attr].type
            count = values[argument.number_attr].i if argument.number_attr else 1
            if count > ops.MOST_TENSORS:
                raise ValueError(f"argument {argument.name!r} stands for {count:,} tensors")
            found.append((argument.name, [dtype] * count))
    return found


def _bind(node: NodeDef, values: Mapping[str, Any]) -> None:
    """Fill in the attributes that the function's caller decides."""
    for key in [key for key, value in node.attr.items() if value.WhichOneof("value") == "placeholder"]:
        wanted = node.attr[key].placeholder
        if wanted in values:
            node.attr[key].CopyFrom(values[wanted])
        else:
            del node.attr[key]


def _rewired(nodes: dict[str, NodeDef], moved: dict[Input, Input], waits: Mapping[str, list[str]]) -> Inlined:
    """Follow every input to where it comes from now; calls within calls make chains."""
    final = {source: _end(source, moved) for source in moved}
    ends: dict[str, list[str]] = {}

    def waited(name: str) -> list[str]:
        if name not in ends:
            ends[name] = []
            inner = [waited(node) if node in waits else [node] for node in waits[name]]
            ends[name] = list(dict.fromkeys(chain.from_iterable(inner)))
        return ends[name]

    for name, node in nodes.items():
        if not any(parse_input(text).node in waits for text in node.input):
            continue
        data: list[str] = []
        control: list[str] = []
        for text in node.input:
            source = parse_input(text)
            if source.port != CONTROL:
                data.append(str(final.get(source, source)))
            elif source.node in waits:
                control.extend(f"^{w}" for w in waited(source.node))
            else:
                control.append(text)
        copy = tf.compat.v1.NodeDef()
        copy.CopyFrom(node)
        del copy.input[:]
        copy.input.extend([*data, *dict.fromkeys(control)])
        nodes[name] = copy
    return Inlined(nodes, final, {name: waited(name) for name in waits})


def _end(source: Input, moved: Mapping[Input, Input]) -> Input:
    seen = set()
    while source in moved and source not in seen:
        seen.add(source)
        source = moved[source]
    return source
