"""Where a graph calls functions with arguments: loops, branches and calls, and how their slots are taken out or added.

A slot is a data input that is handed to an argument: of a loop's condition and body, of every branch, of what is
called. Slot i of a loop is also its output i, which is what the body returned last.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import tensorflow as tf

from tfslim_core import ops
from tfslim_core.function_bodies import FunctionDef, with_body
from tfslim_core.graph import Graph, Input, NodeDef, control_inputs, data_inputs, parse_input, renamed

_KEYS = {  # attributes that name functions, the list of types, inputs before the first slot
    **dict.fromkeys(ops.LOOPS, (("cond", "body"), "T", 0)),
    **dict.fromkeys(("If", "StatelessIf"), (("then_branch", "else_branch"), "Tin", 1)),
    **dict.fromkeys(("Case", "StatelessCase"), (("branches",), "Tin", 1)),
    **dict.fromkeys(ops.CALLS, (("f",), "Tin", 0)),
}


@dataclass(frozen=True)
class CallSite:
    """A node that runs functions of the library. `functions` of a loop are its condition and its body."""

    node: NodeDef
    functions: tuple[str, ...]
    sources: tuple[Input, ...]  # one per slot
    is_loop: bool

    @property
    def name(self) -> str:
        """The node's name."""
        return str(self.node.name)


def call_site(node: NodeDef) -> CallSite | None:
    """The call that a node is, or None where it is none whose arguments can be told."""
    if node.op not in _KEYS:
        return None
    _, _, first = _KEYS[node.op]
    names = tuple(function.name for function in _called(node))
    return CallSite(node, names, tuple(data_inputs(node)[first:]), node.op in ops.LOOPS)


def other_mentions(node: NodeDef) -> Iterator[str]:
    """Names of the functions that a node uses in another way than a call site does."""
    yield node.op
    names = list(ops.called_functions(node))
    if node.op in _KEYS:
        for function in _called(node):
            names.remove(function.name)
    yield from names


def _called(node: NodeDef) -> list[Any]:
    keys, _, _ = _KEYS[node.op]
    found = []
    for key in keys:
        value = node.attr[key]
        found += list(value.list.func) if value.WhichOneof("value") == "list" else [value.func]
    return found


@dataclass(frozen=True)
class Slots:
    """Which slots a call has after a change: the old ones that are kept, in order, and then new ones.

    dtypes, shapes: of the new ones.
    """

    kept: tuple[int, ...]
    dtypes: tuple[int, ...] = ()
    shapes: tuple[tuple[int, ...], ...] = ()


def changed_call(site: CallSite, slots: Slots, functions: Sequence[str], sources: Sequence[Input] = ()) -> NodeDef:
    """The node with other functions and slots, the new ones reading `sources`."""
    _, types, first = _KEYS[site.node.op]
    before = data_inputs(site.node)[:first]
    kept = [site.sources[index] for index in slots.kept]
    controls = [f"^{name}" for name in control_inputs(site.node)]
    node = renamed(site.node, site.name, [*before, *kept, *sources, *controls])
    for function, name in zip(_called(node), functions, strict=True):
        function.name = name
    dtypes = list(site.node.attr[types].list.type)
    node.attr[types].list.type[:] = [*(dtypes[index] for index in slots.kept), *slots.dtypes]
    numbers = {first + old: first + new for new, old in enumerate(slots.kept)} | {i: i for i in range(first)}
    if "_read_only_resource_inputs" in node.attr:
        read_only = node.attr["_read_only_resource_inputs"].list.i
        read_only[:] = [numbers[index] for index in read_only if index in numbers]
    if site.is_loop:
        _change_outputs(node, site, slots)
    return node


def _change_outputs(node: NodeDef, site: CallSite, slots: Slots) -> None:
    node.attr.pop("_output_shapes", None)
    shapes = list(site.node.attr["output_shapes"].list.shape)
    if shapes:
        del node.attr["output_shapes"].list.shape[:]
        kept = [shapes[index] for index in slots.kept]
        node.attr["output_shapes"].list.shape.extend(kept)
        node.attr["output_shapes"].list.shape.extend(tf.TensorShape(shape).as_proto() for shape in slots.shapes)
    if "_num_original_outputs" in node.attr:
        original = node.attr["_num_original_outputs"].i
        if original == len(site.sources):
            node.attr["_num_original_outputs"].i = len(slots.kept) + len(slots.dtypes)
        else:
            node.attr["_num_original_outputs"].i = sum(index < original for index in slots.kept)


def changed_function(function: FunctionDef, body: Graph, slots: Slots, *, is_loop_body: bool) -> FunctionDef:
    """The function with another body, whose inputs and, in a loop's body, outputs are those of the slots."""
    shell = type(function)(signature=function.signature)
    numbers = {old: new for new, old in enumerate(slots.kept)}
    for field in ("attr", "control_ret"):
        _copy_entries(getattr(function, field), getattr(shell, field))
    for field in ("arg_attr", "resource_arg_unique_id"):
        _copy_entries(getattr(function, field), getattr(shell, field), numbers)
    shell.attr.pop("_input_shapes", None)
    arguments = [parse_input(tensor).node for tensor in body.inputs]
    added = list(zip(arguments[len(slots.kept) :], slots.dtypes, strict=True))
    _change_list(shell.signature.input_arg, slots.kept, added)
    if is_loop_body:
        taken = {argument.name for argument in function.signature.output_arg}
        _change_list(shell.signature.output_arg, slots.kept, [(_free(name, taken), dtype) for name, dtype in added])
    return with_body(shell, body)


def _copy_entries(source: Any, target: Any, numbers: Mapping[int, int] | None = None) -> None:
    """Copy a map; with `numbers` the entries of these keys, to the keys that they have now."""
    for key in source:
        if numbers is not None and key not in numbers:
            continue
        new = key if numbers is None else numbers[key]
        if hasattr(source[key], "CopyFrom"):
            target[new].CopyFrom(source[key])
        else:
            target[new] = source[key]


def _change_list(arguments: Any, kept: Sequence[int], added: Sequence[tuple[str, int]]) -> None:
    """Keep some of a signature's arguments and add others."""
    old = []
    for argument in arguments:
        copy = type(argument)()
        copy.CopyFrom(argument)
        old.append(copy)
    del arguments[:]
    arguments.extend(old[index] for index in kept)
    for name, dtype in added:
        arguments.add(name=name, type=dtype)


def _free(name: str, taken: set[str]) -> str:
    while name in taken:
        name += "_"
    taken.add(name)
    return name
