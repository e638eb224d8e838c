"""What TensorFlow's op registry says of a node: its arguments, dtypes, defaults and side effects.

Dtypes here are `DataType` enum numbers as a NodeDef holds them; a ref dtype is the base dtype plus 100.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from itertools import accumulate, chain
from typing import Any, NamedTuple

from tfslim_core._tf_private import registered_op
from tfslim_core.errors import GraphError

REF = 100
MOST_TENSORS = 1_000_000  # that one argument stands for

# Stateful to the registry because they hold or read state, or draw random numbers; leaving one out changes nothing
# for anybody who does not read its output.
_READ_ONLY = frozenset(
    """
    VarHandleOp VariableV2 Variable ReadVariableOp ResourceGather ResourceGatherNd VarIsInitializedOp VariableShape
    IsVariableInitialized HashTableV2 HashTable MutableHashTableV2 MutableHashTable MutableHashTableOfTensorsV2
    MutableDenseHashTableV2 AnonymousHashTable AnonymousMutableHashTable AnonymousMutableHashTableOfTensors
    AnonymousMutableDenseHashTable LookupTableFindV2 LookupTableFind LookupTableSizeV2 LookupTableSize
    LookupTableExportV2 Placeholder PlaceholderV2 PlaceholderWithDefault
    RandomUniform RandomUniformInt RandomStandardNormal RandomGamma RandomPoisson RandomPoissonV2 RandomShuffle
    TruncatedNormal Multinomial ParameterizedTruncatedNormal StatefulUniform StatefulStandardNormalV2
    TensorArrayV3 TensorArraySizeV3 TensorArrayReadV3 TensorArrayGatherV3 TensorArrayConcatV3 StackV2
    RefIdentity RefSwitch RefMerge RefEnter RefExit RefNextIteration RefSelect
    RestoreV2 Restore RestoreSlice OptionalFromValue OptionalNone OptionalGetValue OptionalHasValue
    """.split()
)
# What these give depends on whether an effect came before or comes after.
_OBSERVERS = frozenset(
    """
    ReadVariableOp ResourceGather ResourceGatherNd VarIsInitializedOp IsVariableInitialized
    LookupTableFindV2 LookupTableFind LookupTableSizeV2 LookupTableSize LookupTableExportV2 LookupTableExport
    """.split()
)
# Ops through which v1 control flow decides what runs: a control edge from one of these carries "this branch is live".
V1_CONTROL_FLOW = frozenset(
    "Switch RefSwitch Merge RefMerge Enter RefEnter Exit RefExit NextIteration RefNextIteration LoopCond".split()
)
CALLS = frozenset({"PartitionedCall", "StatefulPartitionedCall"})
BRANCHES = frozenset({"If", "StatelessIf", "Case", "StatelessCase"})
LOOPS = frozenset({"While", "StatelessWhile"})
_CALLERS = CALLS | BRANCHES | LOOPS
REF_VARIABLES = frozenset({"VariableV2", "Variable"})

Functions = Mapping[str, Any]  # name -> FunctionDef


def op_def(op: str, functions: Functions) -> Any:
    """The OpDef of an op or of a library function.

    Raises:
        GraphError: neither the registry nor the library knows it.
    """
    found = functions[op].signature if op in functions else registered_op(op)
    if found is None:
        raise GraphError(f"op {op!r} is not known to this TensorFlow; a custom op's library has to be loaded first")
    return found


def attribute(node: Any, name: str, functions: Functions) -> Any:
    """An attribute's AttrValue, or its registered default when it was stripped for being equal to it.

    Raises:
        GraphError: the attribute is missing and has no default.
    """
    attributes = node.attr
    if name in attributes:
        return attributes[name]
    for declared in op_def(node.op, functions).attr:
        if declared.name == name and declared.HasField("default_value"):
            return declared.default_value
    raise GraphError(f"node {node.name!r} ({node.op}) lacks the attribute {name!r}")


class Dtypes(NamedTuple):
    """The dtypes of a node's data inputs and of its outputs, in order."""

    takes: tuple[int, ...]
    gives: tuple[int, ...]


class _Arguments(NamedTuple):
    """A node's dtypes, those of each output argument, and the port where each starts."""

    dtypes: Dtypes
    outputs: tuple[tuple[str, tuple[int, ...]], ...]
    ports: dict[str, int]


class _Signature:
    """How dtypes follow from attributes, for one op. Its nodes differ little, so that each kind is worked out once.

    An OpDef is slow to ask for each node.
    """

    def __init__(self, definition: Any) -> None:
        self.definition = definition
        arguments = (*definition.input_arg, *definition.output_arg)
        # The attributes that matter, each with how to read it off an AttrValue.
        self.reads = dict.fromkeys(
            (attribute, kind)
            for a in arguments
            for attribute, kind in ((a.type_attr, "type"), (a.number_attr, "i"), (a.type_list_attr, "list"))
            if attribute
        )
        self.known: dict[Any, _Arguments] = {}

    def of(self, node: Any, functions: Functions) -> _Arguments:
        attributes, key = node.attr, []
        for name, kind in self.reads:
            value = attributes[name] if name in attributes else attribute(node, name, functions)
            key.append(tuple(value.list.type) if kind == "list" else getattr(value, kind))
        found = self.known.get(tuple(key))
        if found is None:
            values = {name: value for (name, _), value in zip(self.reads, key, strict=True)}
            takes, gives = (
                tuple((argument.name, tuple(_argument_dtypes(argument, values))) for argument in arguments)
                for arguments in (self.definition.input_arg, self.definition.output_arg)
            )
            dtypes = Dtypes(*(tuple(chain.from_iterable(own for _, own in each)) for each in (takes, gives)))
            starts = accumulate((len(own) for _, own in gives), initial=0)
            ports = {name: start for (name, _), start in zip(gives, starts, strict=False)}
            found = self.known[tuple(key)] = _Arguments(dtypes, gives, ports)
        return found


def _argument_dtypes(argument: Any, values: Mapping[str, Any]) -> list[int]:
    if argument.type_list_attr:
        dtypes = list(values[argument.type_list_attr])
    else:
        dtype = argument.type or values[argument.type_attr]
        count = values[argument.number_attr] if argument.number_attr else 1
        if count > MOST_TENSORS:
            raise GraphError(f"the attribute {argument.number_attr!r} says {count:,} tensors; no op takes so many")
        dtypes = [dtype] * count
    return [d + REF for d in dtypes] if argument.is_ref else dtypes


@lru_cache(maxsize=4096)
def _registered_signature(op: str) -> _Signature:
    return _Signature(op_def(op, {}))


def dtypes(node: Any, functions: Functions) -> Dtypes:
    """What a node takes and gives.

    Raises:
        GraphError: the op is unknown, or an attribute that the dtypes hang on is missing.
    """
    return _arguments(node, functions).dtypes


def _arguments(node: Any, functions: Functions) -> _Arguments:
    op = node.op
    signature = _Signature(functions[op].signature) if op in functions else _registered_signature(op)
    return signature.of(node, functions)


def input_dtypes(node: Any, functions: Functions) -> list[int]:
    """The dtypes of a node's data inputs, in order."""
    return list(dtypes(node, functions).takes)


def output_dtypes(node: Any, functions: Functions) -> list[int]:
    """The dtypes of a node's outputs, in order."""
    return list(dtypes(node, functions).gives)


def output_arguments(node: Any, functions: Functions) -> Sequence[tuple[str, Sequence[int]]]:
    """Per output argument of the op: its name and the dtypes of its tensors.

    Raises:
        GraphError: the op is unknown, or an attribute that the dtypes hang on is missing.
    """
    return _arguments(node, functions).outputs


def output_ports(node: Any, functions: Functions) -> dict[str, int]:
    """For each output argument, the port of its first tensor: what `node:argument:index` of a function counts from."""
    return _arguments(node, functions).ports


def called_functions(node: Any) -> Iterator[str]:
    """Names of the library functions that a node's attributes name."""
    if not may_call(node.op):
        return
    for value in node.attr.values():
        kind = value.WhichOneof("value")
        if kind == "func":
            yield value.func.name
            yield from _nested_names(value.func)
        elif kind == "list":
            for function in value.list.func:
                yield function.name
                yield from _nested_names(function)


@lru_cache(maxsize=4096)
def may_call(op: str) -> bool:
    """Whether nodes of the op may have attributes that name functions; of an op that is not registered nobody knows."""
    definition = registered_op(op)
    return definition is None or any(declared.type in ("func", "list(func)") for declared in definition.attr)


def _nested_names(function: Any) -> Iterator[str]:
    for value in function.attr.values():
        if value.WhichOneof("value") == "func":
            yield value.func.name
            yield from _nested_names(value.func)


def is_stateful(node: Any, functions: Functions) -> bool:
    """Whether the op may not be merged, folded or run twice.

    The registry says so of most; not of those that take a TensorFlow 1 variable by reference (Assign, ScatterAdd).
    """
    op = node.op
    return _holds_state(functions[op].signature) if op in functions else _registered_holds_state(op)


@lru_cache(maxsize=4096)
def _registered_holds_state(op: str) -> bool:
    return _holds_state(op_def(op, {}))


def _holds_state(definition: Any) -> bool:
    return bool(definition.is_stateful) or any(argument.is_ref for argument in definition.input_arg)


def has_effect(node: Any, functions: Functions, _known: dict[str, bool] | None = None) -> bool:
    """Whether running the node does something besides giving its outputs: an assignment, an assert, a print, a file.

    A call or a branch has an effect when a node of its functions has one; so is taken one that calls itself.
    """
    if node.op in _READ_ONLY or not is_stateful(node, functions):
        return False
    bodies = _bodies(node, functions)
    if bodies is None:
        return True
    known = {} if _known is None else _known  # a library whose functions call each other twice is deep, not large
    for name in bodies:
        if name not in known:
            known[name] = True
            known[name] = name not in functions or any(
                has_effect(n, functions, known) for n in functions[name].node_def
            )
    return any(known[name] for name in bodies)


def observes_state(node: Any, functions: Functions, _known: dict[str, bool] | None = None) -> bool:
    """Whether what the node gives depends on the effects that came before it: it reads a variable or a table.

    A call or a branch does when a node of its functions does.
    """
    op = node.op
    if op in _OBSERVERS:
        return True
    if op not in _CALLERS and op not in functions:
        return False
    bodies = _bodies(node, functions) or []
    known = {} if _known is None else _known
    for name in bodies:
        if name not in known:
            known[name] = False
            known[name] = name in functions and any(
                observes_state(inner, functions, known) for inner in functions[name].node_def
            )
    return any(known[name] for name in bodies)


def _bodies(node: Any, functions: Functions) -> list[str] | None:
    """The functions that a node does nothing else than run, or None for any other op."""
    op = node.op
    if op in _CALLERS or op in functions:
        return [*called_functions(node), *([op] if op in functions else [])]
    return None
