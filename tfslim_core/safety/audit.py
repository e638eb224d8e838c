"""What a model touches besides its own tensors: files, the network, Python, unknown libraries; and where.

Every MetaGraph is looked at, its main graph and every function of its library, whether anything runs them or not.
Nothing is run, and no TensorFlow graph is built: the protocol buffers alone are read.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

from tfslim_core._tf_private import registered_op
from tfslim_core.graph import parse_input
from tfslim_core.safety.dangerous_ops import DANGEROUS, KINDS, Danger, Kind, is_harmless_value
from tfslim_core.saved_model.read import INIT_SIGNATURE, asset_defs

# What hands a text on as it is.
_PASSES = frozenset(
    """Identity PlaceholderWithDefault StopGradient PreventGradient Snapshot Reshape ExpandDims Squeeze ReadVariableOp
    IdentityN EnsureShape CheckNumerics""".split()
)
_CALLS = frozenset({"PartitionedCall", "StatefulPartitionedCall"})
_VARIABLES = frozenset({"VarHandleOp", "VariableV2", "Variable"})
_ASSIGNS = frozenset(
    """AssignVariableOp Assign ResourceScatterUpdate ResourceScatterNdUpdate ResourceStridedSliceAssign ScatterUpdate
    ScatterNdUpdate StridedSliceAssign""".split()
)
_SAVES = frozenset({"Save", "SaveSlices", "SaveV2", "MergeV2Checkpoints"})
_RESTORES = frozenset({"Restore", "RestoreSlice", "RestoreV2"})
_SAVE, _RESTORE, _INIT = "save op", "restore op", "init op"
_AT_LOAD = frozenset({_RESTORE, _INIT})
_MOST_PLACES = 10_000  # that one path is followed through
_STRING = 7  # the DataType of strings
_SHOWN = 200  # characters of a path

Functions = Mapping[str, Any]


@dataclass(frozen=True)
class Finding:
    """An op that reaches beyond the model.

    function: the library function that holds it, or empty for the main graph. reached_by: "init op", "restore op",
    "save op", "signature NAME"; empty where nothing runs it. at_load: a server runs it while it loads the model.
    paths: the constants that say where, as far as they are in the graph. refused: whether `--untrusted` refuses it.
    """

    kind: Kind
    op: str
    node: str
    function: str
    tags: tuple[str, ...]
    reached_by: tuple[str, ...]
    at_load: bool
    paths: tuple[str, ...]
    refused: bool
    why: str

    @property
    def where(self) -> str:
        """In words: who runs it, and the function that holds it."""
        by = ", ".join(self.reached_by) or "run by nothing"
        return f"{by}; function {self.function}" if self.function else by

    def line(self) -> str:
        """The finding as one sentence."""
        at = f" {', '.join(map(repr, self.paths))}" if self.paths else ""
        return f"{self.op} {self.node!r} ({self.where}) {self.why}{at}"


@dataclass(frozen=True)
class Audit:
    """All findings of a model, the worst first. nodes, functions: how many were looked at."""

    path: str
    nodes: int
    functions: int
    findings: tuple[Finding, ...]

    @property
    def refused(self) -> tuple[Finding, ...]:
        """Those for which `--untrusted` refuses the model."""
        return tuple(finding for finding in self.findings if finding.refused)

    def to_json(self) -> dict[str, Any]:
        """As JSON data."""
        return asdict(self) | {"refused": len(self.refused)}


def audit_meta_graphs(path: Path, meta_graphs: Iterable[Any]) -> Audit:
    """The audit of MetaGraphDefs."""
    parts = [_MetaGraph(meta_graph) for meta_graph in meta_graphs]
    findings = [finding for part in parts for finding in part.findings()]
    findings += _lambdas(path)
    order = {kind: number for number, kind in enumerate(KINDS)}
    findings.sort(key=lambda f: (not f.refused, not f.at_load, not f.reached_by, order[f.kind], f.function, f.node))
    return Audit(
        str(path), sum(part.nodes for part in parts), sum(len(part.functions) for part in parts), tuple(findings)
    )


class _Place(NamedTuple):
    """A tensor of the main graph (function empty) or of a function's body."""

    function: str
    tensor: str


class _Origins(NamedTuple):
    """Where a path comes from. own: from the loader alone, which feeds paths of the model's own files."""

    constants: tuple[bytes, ...]
    own: bool
    told: str


class _MetaGraph:
    def __init__(self, meta_graph: Any) -> None:
        graph_def, saver = meta_graph.graph_def, meta_graph.saver_def
        self.tags = tuple(sorted(meta_graph.meta_info_def.tags))
        self.functions: dict[str, Any] = {f.signature.name: f for f in graph_def.library.function}
        self.bodies: dict[str, dict[str, Any]] = {"": {node.name: node for node in graph_def.node}}
        for name, function in self.functions.items():
            self.bodies[name] = {node.name: node for node in function.node_def}
        self.nodes = len(graph_def.node) + sum(len(function.node_def) for function in self.functions.values())
        self.assets = {parse_input(asset.tensor_info.name).node for asset in asset_defs(meta_graph)}
        self.filename = parse_input(saver.filename_tensor_name).node
        self.called_from = self._call_sites()
        # Of strings: paths among them.
        self.assigns = [
            (function, node)
            for function, body in self.bodies.items()
            for node in body.values()
            if node.op in _ASSIGNS
            and any(node.attr[name].type == _STRING for name in ("dtype", "T") if name in node.attr)
        ]
        self.reached = self._reached(meta_graph)

    def findings(self) -> Iterator[Finding]:
        for function, body in self.bodies.items():
            for node in body.values():
                if (found := self._danger(node)) is not None:
                    yield self._finding(function, node, found)

    def _danger(self, node: Any) -> Danger | None:
        if node.op in DANGEROUS:
            return DANGEROUS[node.op]
        if node.op in self.functions:
            known = registered_op(node.op) is not None
            return Danger("code", "calls a function that takes the name of an op") if known else None
        if registered_op(node.op) is None:
            return Danger("code", "is an op that this TensorFlow does not have; it needs a library of its own")
        return None

    def _finding(self, function: str, node: Any, danger: Danger) -> Finding:
        # Of a function all that has an effect runs; in the main graph, what a root needs.
        reached = self.reached.get(_Place(function, "" if function else node.name), set())
        constants, own, told = self._paths(function, node, danger)
        kind, refused, why = danger.kind, True, danger.does
        if told:
            why = f"{why}, at {told}"
        if danger.paths and constants and all(is_harmless_value(node.op, value) for value in constants) and not told:
            refused, why = False, "touches nothing with this setting"
        elif danger.kind == "reads files" and own:
            refused, why = False, f"{danger.does} of the model's own"
        elif node.op in _SAVES and reached <= {_SAVE}:
            refused, why = False, "saves checkpoints, which nobody who serves the model does"
        elif any(b"://" in value and not value.startswith(b"file://") for value in constants):
            kind = "network"
        shown = tuple(dict.fromkeys(value.decode(errors="backslashreplace")[:_SHOWN] for value in constants if value))
        return Finding(
            kind=kind,
            op=node.op,
            node=node.name,
            function=function,
            tags=self.tags,
            reached_by=tuple(sorted(reached)),
            at_load=bool(reached & _AT_LOAD),
            paths=shown[:10],
            refused=refused,
            why=why,
        )

    def _paths(self, function: str, node: Any, danger: Danger) -> _Origins:
        """Constants in the op's path arguments; whether all come from the loader; in words, what else they are."""
        constants: list[bytes] = []
        own, told = bool(danger.paths), ""
        definition = registered_op(node.op)
        inputs = [argument.name for argument in definition.input_arg] if definition else []
        data = [text for text in node.input if not text.startswith("^")]
        for name in danger.paths:
            if name in inputs:
                # Path arguments come before any that stand for several tensors, or the input is missing.
                position = inputs.index(name)
                if position >= len(data):
                    own = False
                    continue
                found = self._origins(_Place(function, data[position]), node.op in _RESTORES)
                constants += found.constants
                own, told = own and found.own, told or found.told
            else:
                own = False
                constants += _texts(node, name, definition)
        return _Origins(tuple(constants), own, told)

    def _origins(self, start: _Place, restores: bool) -> _Origins:
        """Follow a path back to constants, assets, the checkpoint's prefix, or what computes it."""
        constants: list[bytes] = []
        own, told = True, ""
        todo, seen = [start], {start}
        while todo and len(seen) < _MOST_PLACES:
            function, tensor = todo.pop()
            source = parse_input(tensor).node.split(":")[0]
            if not function and source in ({self.filename} if restores else self.assets) and source:
                continue
            further = []
            if function and source not in self.bodies[function]:
                further = self._given(function, source)
                own, told = own and bool(further), told or ("" if further else "a path that nothing gives")
            else:
                node = self.bodies[function].get(source)
                if node is None:
                    own, told = False, told or "a path that nothing gives"
                elif node.op == "Const":
                    own = False
                    constants += node.attr["value"].tensor.string_val[:10]
                elif node.op in _PASSES and node.input:
                    further = [_Place(function, text) for text in node.input if not text.startswith("^")][:1]
                elif node.op in _VARIABLES:
                    further = self._assigned(node)
                    own, told = own and bool(further), told or ("" if further else "a path that nothing assigns")
                elif node.op == "Placeholder":
                    own, told = False, told or "a path that comes with the request"
                else:
                    # What is computed of constants is not known, but these are worth telling.
                    own, told = False, told or f"a path that {node.op} computes"
                    further = [_Place(function, text) for text in node.input if not text.startswith("^")]
            todo += [place for place in further if place not in seen]
            seen.update(further)
        return _Origins(tuple(constants), own and not todo, told)

    def _assigned(self, variable: Any) -> list[_Place]:
        """What is assigned to a variable of this name anywhere, by whichever of its handles."""
        found = []
        for function, node in self.assigns:
            data = [_Place(function, text) for text in node.input if not text.startswith("^")]
            targets = self._variables(data[0]) if data else [None]
            if any(target is None or _key(target) == _key(variable) for target in targets):
                found += data[1:]
        return found

    def _variables(self, start: _Place) -> list[Any]:
        """The variables that a handle may be of; None for one that is not known."""
        found: list[Any] = []
        todo, seen = [start], {start}
        while todo:
            function, tensor = todo.pop()
            source = parse_input(tensor).node.split(":")[0]
            node = self.bodies[function].get(source)
            if node is None:
                further = self._given(function, source) if function else []
            else:
                further = [_Place(function, text) for text in node.input[:1]] if node.op in _PASSES else []
            if not further:
                found.append(node if node is not None and node.op in _VARIABLES else None)
            todo += [place for place in further if place not in seen]
            seen.update(further)
        return found

    def _given(self, function: str, argument: str) -> list[_Place]:
        """What the callers of a function give for an argument."""
        names = [one.name for one in self.functions[function].signature.input_arg]
        if argument not in names:
            return []
        position = names.index(argument)
        found = []
        for caller, node in self.called_from[function]:
            data = [text for text in node.input if not text.startswith("^")]
            if node.op not in (*_CALLS, function) or position >= len(data):
                return []  # a branch, a loop or a dataset hands arguments on by rules of its own
            found.append(_Place(caller, data[position]))
        return found

    def _call_sites(self) -> dict[str, list[tuple[str, Any]]]:
        found: dict[str, list[tuple[str, Any]]] = defaultdict(list)
        for caller, body in self.bodies.items():
            for node in body.values():
                for callee in self._called(node):
                    found[callee].append((caller, node))
        return found

    def _called(self, node: Any) -> list[str]:
        """The library functions that a node names: as its op, or in any attribute."""
        named = {node.op} if node.op in self.functions else set()
        if self.functions:
            for value in node.attr.values():
                kind = value.WhichOneof("value")
                if kind == "func":
                    named.add(value.func.name)
                elif kind == "list":
                    named.update(one.name for one in value.list.func)
        return [name for name in named if name in self.functions]

    def _reached(self, meta_graph: Any) -> dict[_Place, set[str]]:
        """Who runs each node of the main graph, and each function (its place has no tensor)."""
        found: dict[_Place, set[str]] = defaultdict(set)
        main = self.bodies[""]
        for root, names in _roots(meta_graph):
            todo = [parse_input(name).node for name in names]
            seen: set[str] = set()
            entered: set[str] = set()
            while todo:
                name = todo.pop()
                if name in seen or name not in main:
                    continue
                seen.add(name)
                found[_Place("", name)].add(root)
                entered.update(self._called(main[name]))
                todo += [parse_input(text).node for text in main[name].input]
            todo = list(entered)
            while todo:
                function = todo.pop()
                found[_Place(function, "")].add(root)
                for node in self.bodies[function].values():
                    for callee in self._called(node):
                        if callee not in entered:
                            entered.add(callee)
                            todo.append(callee)
        return found


def _roots(meta_graph: Any) -> Iterator[tuple[str, list[str]]]:
    for name, signature in sorted(meta_graph.signature_def.items()):
        outputs = [text for info in signature.outputs.values() for text in _tensors(info)]
        yield (_INIT if name == INIT_SIGNATURE else f"signature {name}"), outputs
    for key in ("saved_model_main_op", "legacy_init_op"):
        if key in meta_graph.collection_def:
            yield _INIT, list(meta_graph.collection_def[key].node_list.value)
    yield _RESTORE, [meta_graph.saver_def.restore_op_name]
    yield _SAVE, [meta_graph.saver_def.save_tensor_name]


def _tensors(info: Any) -> list[str]:
    sparse = info.coo_sparse
    parts = [sparse.values_tensor_name, sparse.indices_tensor_name, sparse.dense_shape_tensor_name]
    composite = [one.name for one in info.composite_tensor.components]
    return [name for name in (info.name, *parts, *composite) if name]


def _key(variable: Any) -> tuple[bytes, bytes]:
    """What makes two handles name the same variable."""
    return variable.attr["container"].s, variable.attr["shared_name"].s or variable.name.encode()


def _texts(node: Any, attribute: str, definition: Any) -> list[bytes]:
    """The values of a string attribute, or its registered default."""
    value = node.attr.get(attribute)
    if value is None and definition is not None:
        defaults = [one.default_value for one in definition.attr if one.name == attribute]
        value = defaults[0] if defaults else None
    if value is None:
        return []
    return (list(value.list.s) or [b""]) if value.WhichOneof("value") == "list" else [value.s]


def _lambdas(path: Path) -> list[Finding]:
    """Keras keeps the code of Lambda layers beside the graph; worth knowing, although nobody here runs it."""
    file = path / "keras_metadata.pb"
    if not path.is_dir() or not file.is_file() or b'"class_name": "Lambda"' not in file.read_bytes():
        return []
    why = "holds the code of a Lambda layer, which Keras runs when it loads the model; tfslim and servers do not"
    return [Finding("Python", "Lambda", file.name, "", (), (), False, (), False, why)]
