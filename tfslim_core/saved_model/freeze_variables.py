"""Turn variables that are only read into constants, inside the functions of branches and loops as well.

    Before: ReadVariableOp(VarHandleOp v)             After: Identity(Const v)
            ResourceGather(VarHandleOp v, indices)           GatherV2(Const v, indices, 0)
            Identity(VariableV2 v)                           Identity(Const v)
            While(…, v) with a body that reads v             While(…, Const v) with a body that takes its value

A variable that anything reachable may change, or that is used in a way not listed here, stays a variable, with the
reason. The constant is a weight: its value is not read here.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import tensorflow as tf

from tfslim_core import ops
from tfslim_core.graph import (
    CONTROL,
    EXTERNAL_BYTES,
    Graph,
    NodeDef,
    Reader,
    constant,
    data_inputs,
    external_constant,
    make_node,
    renamed,
)
from tfslim_core.ops import BRANCHES, LOOPS, REF_VARIABLES
from tfslim_core.weights import DTYPES, Weight

_PASS_ON = frozenset({"Identity", "Enter", "Switch"})  # a handle goes through these unchanged
# What functions call the output of an op, where its replacement's is called "output".
_RENAMED_OUTPUTS = {"ReadVariableOp": "value", "VarIsInitializedOp": "is_initialized"}
_READS = frozenset({"ReadVariableOp", "ResourceGather", "ResourceGatherNd", "VariableShape", "VarIsInitializedOp"})


@dataclass(frozen=True)
class Frozen:
    """graph: after freezing. kept: the variables that stay variables -> why."""

    graph: Graph
    kept: Mapping[str, str]


def freeze_variables(graph: Graph, values: Mapping[str, Weight]) -> Frozen:
    """Freeze each variable of the graph that has a value in `values` (by node name) and is only read."""
    handles = [n for n in graph.nodes.values() if n.op == "VarHandleOp" or n.op in REF_VARIABLES]
    plan = _Plan(graph)
    kept: dict[str, str] = {}
    for node in handles:
        if node.name not in values:
            kept[node.name] = "the checkpoint has no value for it"
        else:
            aliases, reason = plan.uses(node)
            if reason:
                kept[node.name] = reason
            else:
                plan.freeze(node, values[node.name], aliases)
    return Frozen(plan.applied(), kept)


@dataclass
class _Plan:
    """What to change; nothing is changed before all of it is known."""

    graph: Graph
    new: dict[str, NodeDef] = field(default_factory=dict)
    weights: dict[str, Weight] = field(default_factory=dict)
    arguments: dict[str, dict[int, int]] = field(default_factory=dict)  # node -> input position -> new dtype
    functions: dict[str, Any] = field(default_factory=dict)  # specialised ones, by new name

    def uses(self, variable: NodeDef) -> tuple[list[str], str]:
        """The nodes that pass the variable on, itself included; or why it cannot be frozen."""
        aliases = [variable.name]
        for name in aliases:
            for reader in self.graph.readers_of(name):
                if reader.port == CONTROL:
                    continue
                node = self.graph.nodes[reader.node]
                if node.op in _PASS_ON and (variable.op == "VarHandleOp" or node.op == "Enter"):
                    aliases.append(node.name)
                    continue
                reason = self._objection(node, reader, variable)
                if reason:
                    return [], reason
        return aliases, ""

    def _objection(self, node: NodeDef, reader: Reader, variable: NodeDef) -> str:
        if variable.op in REF_VARIABLES:
            takes_ref = ops.input_dtypes(node, self.graph.functions)[reader.position] > ops.REF
            return f"{node.name!r} ({node.op}) may change it" if takes_ref else ""
        if node.op in _READS:
            return ""
        if node.op in BRANCHES | LOOPS:
            names = list(ops.called_functions(node))
            index = reader.position - (1 if node.op in BRANCHES else 0)
            if node.op in LOOPS and any(r.port == index for r in self.graph.readers_of(node.name)):
                return f"the loop {node.name!r} hands it on"
            for name in names:
                reason = _function_objection(self.graph.functions, name, index, node.op in LOOPS, frozenset())
                if reason:
                    return reason
            return ""
        return f"{node.name!r} ({node.op}) may change it"

    def freeze(self, variable: NodeDef, weight: Weight, aliases: list[str]) -> None:
        """Plan the variable's constant and the change of each node that uses it."""
        dtype = tf.as_dtype(weight.dtype)
        large = weight.nbytes >= EXTERNAL_BYTES and weight.dtype.name in DTYPES
        node, weights = external_constant(variable.name, weight) if large else constant(variable.name, weight.read())
        node.device = variable.device
        self.new[variable.name] = node
        self.weights |= weights
        for name in aliases:
            if name != variable.name:
                alias = renamed(self.graph.nodes[name], name)
                alias.attr["T"].type = dtype.as_datatype_enum
                self.new[name] = alias
            for reader in self.graph.readers_of(name):
                user = self.graph.nodes[reader.node]
                if reader.port == CONTROL or user.op in _PASS_ON:
                    continue
                if user.op in _READS:
                    for made in _read_of_value(user, data_inputs(user), dtype, weight.shape):
                        self.new[made.name] = made
                elif user.op in BRANCHES | LOOPS:
                    self.arguments.setdefault(user.name, {})[reader.position] = dtype.as_datatype_enum

    def applied(self) -> Graph:
        """The graph with everything that was planned."""
        for name, positions in self.arguments.items():
            self.new[name] = self._specialised(self.graph.nodes[name], positions)
        known = [*self.graph.rest.library.function, *self.functions.values()]
        return self.graph.replace(self.new.values(), weights=self.weights, library=known)

    def _specialised(self, node: NodeDef, positions: Mapping[int, int]) -> NodeDef:
        """The branch or loop, with functions that take values instead of handles."""
        copy = renamed(node, node.name)
        offset = 1 if node.op in BRANCHES else 0
        indices = {position - offset: dtype for position, dtype in positions.items()}
        types = copy.attr["Tin" if offset else "T"].list.type
        for index, dtype in indices.items():
            types[index] = dtype
        if not offset:
            _forget_shapes(copy, "output_shapes", indices)
        for value in copy.attr.values():
            functions = [value.func] if value.WhichOneof("value") == "func" else list(value.list.func)
            for function in functions:
                function.name = self._function(function.name, indices)
        copy.attr.pop("_read_only_resource_inputs", None)
        return copy

    def _function(self, name: str, indices: Mapping[int, int]) -> str:
        """The name of a function like `name` whose arguments at `indices` are values of these dtypes."""
        new_name = name + "".join(f"_value{index}" for index in sorted(indices))
        if new_name not in self.functions:
            self.functions[new_name] = _with_values(self.graph.functions[name], new_name, indices, self._function)
        return new_name


def _function_objection(
    functions: Mapping[str, Any], name: str, index: int, in_loop: bool, inside: frozenset[str]
) -> str:
    """Why a function's argument cannot become a value, or nothing. A loop's body may return it for the next turn."""
    if name not in functions or name in inside:
        return f"the function {name!r} cannot be looked into"
    function = functions[name]
    argument = function.signature.input_arg[index].name
    for output, source in function.ret.items():
        if source == argument and not (in_loop and _is_loop_output(function, output, index)):
            return f"the function {name!r} hands it on"
    for node in function.node_def:
        data = [text for text in node.input if not text.startswith("^")]
        for position, text in enumerate(data):
            if text.partition(":")[0] != argument or node.op in _READS:
                continue
            if node.op == "Identity" and in_loop and _only_returned(function, node.name, index):
                continue
            if node.op not in BRANCHES | LOOPS:
                return f"{node.name!r} ({node.op}) in the function {name!r} may change it"
            inner = position - (1 if node.op in BRANCHES else 0)
            for called in ops.called_functions(node):
                reason = _function_objection(functions, called, inner, node.op in LOOPS, inside | {name})
                if reason:
                    return reason
    return ""


def _is_loop_output(function: Any, output: str, index: int) -> bool:
    """Whether `output` is the one that carries argument `index` to a loop's next turn."""
    names = [argument.name for argument in function.signature.output_arg]
    return len(names) > index and names[index] == output


def _only_returned(function: Any, node: str, index: int) -> bool:
    read = any(text.lstrip("^").partition(":")[0] == node for other in function.node_def for text in other.input)
    returned = [output for output, source in function.ret.items() if source.partition(":")[0] == node]
    return not read and all(_is_loop_output(function, output, index) for output in returned)


def _with_values(function: Any, name: str, indices: Mapping[int, int], specialise: Any) -> Any:
    """A copy of a FunctionDef whose arguments at `indices` are values."""
    copy = type(function)()
    copy.CopyFrom(function)
    copy.signature.name = name
    arguments = {copy.signature.input_arg[index].name: (index, dtype) for index, dtype in indices.items()}
    for index, dtype in arguments.values():
        argument = copy.signature.input_arg[index]
        argument.type = dtype
        del argument.handle_data[:]
        copy.arg_attr.pop(index, None)
        copy.resource_arg_unique_id.pop(index, None)
        outputs = copy.signature.output_arg
        if index < len(outputs) and outputs[index].type == tf.resource.as_datatype_enum:
            source = copy.ret[outputs[index].name].partition(":")[0]
            if source in arguments or any(
                n.name == source and n.input and n.input[0].partition(":")[0] in arguments for n in copy.node_def
            ):
                outputs[index].type = dtype
                del outputs[index].handle_data[:]
    _forget_shapes(copy, "_input_shapes", indices)
    nodes = []
    for node in copy.node_def:
        data = [text for text in node.input if not text.startswith("^")]
        hits = {p: arguments[t.partition(":")[0]][1] for p, t in enumerate(data) if t.partition(":")[0] in arguments}
        if not hits:
            nodes.append(node)
        elif node.op in _READS:
            nodes.extend(_read_of_value(node, data, tf.as_dtype(hits[0]), None))
        elif node.op == "Identity":
            node.attr["T"].type = hits[0]
            nodes.append(node)
        else:
            offset = 1 if node.op in BRANCHES else 0
            inner = {position - offset: dtype for position, dtype in hits.items()}
            for index, dtype in inner.items():
                node.attr["Tin" if offset else "T"].list.type[index] = dtype
            if not offset:
                _forget_shapes(node, "output_shapes", inner)
            for value in node.attr.values():
                called = [value.func] if value.WhichOneof("value") == "func" else list(value.list.func)
                for inner_function in called:
                    inner_function.name = specialise(inner_function.name, inner)
            nodes.append(node)
    moved = {
        f"{node.name}:{_RENAMED_OUTPUTS[node.op]}:": f"{node.name}:output:"
        for node in function.node_def
        if node.op in _RENAMED_OUTPUTS and node.input[0].partition(":")[0] in arguments
    }
    made = [renamed(node, node.name, [_moved(text, moved) for text in node.input]) for node in nodes]
    del copy.node_def[:]
    copy.node_def.extend(made)
    for output, source in copy.ret.items():
        copy.ret[output] = _moved(source, moved)
    return copy


def _forget_shapes(holder: Any, attribute: str, indices: Iterable[int]) -> None:
    """Say no longer that what is a value now is a scalar, as a handle is."""
    shapes = holder.attr[attribute].list.shape if attribute in holder.attr else []
    for index in indices:
        if index < len(shapes):
            shapes[index].CopyFrom(tf.TensorShape(None).as_proto())


def _moved(source: str, moved: Mapping[str, str]) -> str:
    """A function's spelling of a tensor, `node:argument:index`, after the node became another op."""
    head, _, index = source.rpartition(":")
    return moved.get(f"{head}:", f"{head}:") + index if head else source


def _read_of_value(node: NodeDef, data: list[Any], dtype: tf.DType, shape: tuple[int, ...] | None) -> list[NodeDef]:
    """What reads a value in the place of a node that reads a variable; under the same name.

    data: the node's data inputs, of a graph (Input) or of a function (text). shape: None where it is not known.
    """
    control = [text for text in node.input if text.startswith("^")]
    in_function = shape is None
    match node.op:
        case "ReadVariableOp":
            return [make_node("Identity", node.name, [data[0], *control], device=node.device, T=dtype)]
        case "VariableShape":
            out_type = tf.as_dtype(node.attr["out_type"].type or tf.int32.as_datatype_enum)
            made = make_node("Shape", node.name, [data[0], *control], device=node.device, T=dtype, out_type=out_type)
            return [made]
        case "VarIsInitializedOp":
            true, _ = constant(node.name, np.array(True))
            true.input.extend(control)
            return [true]
        case "ResourceGatherNd":
            made = make_node("GatherNd", node.name, [*data, *control], device=node.device, Tparams=dtype)
            made.attr["Tindices"].CopyFrom(node.attr["Tindices"])
            return [made]
    batch_dims = node.attr["batch_dims"].i if "batch_dims" in node.attr else 0
    axis, _ = constant(f"{node.name}/axis", np.array(batch_dims, np.int32))
    axis_source = f"{axis.name}:output:0" if in_function else axis.name
    made = make_node(
        "GatherV2",
        node.name,
        [*data, axis_source, *control],
        device=node.device,
        Tparams=dtype,
        Taxis=tf.int32,
        batch_dims=batch_dims,
    )
    made.attr["Tindices"].CopyFrom(node.attr["Tindices"])
    return [axis, made]
