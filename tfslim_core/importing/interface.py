"""The inputs and outputs of a graph that has no signature: as they were named, or guessed from its shape.

A guess is shown. Inputs are what requests bring: placeholders, and what iterators and queues of a training pipeline
give. Outputs are what is computed from these and read by nobody. In a training graph losses, metrics and gradients
read the predictions, and labels are placeholders too: a source whose values meet nothing but predictions is a label,
and what depends on one is no output.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import tensorflow as tf

from tfslim_core import ops
from tfslim_core.errors import GraphError, UsageError, nearest
from tfslim_core.graph import Input, NodeDef, data_inputs, parse_input

PLACEHOLDERS = frozenset({"Placeholder", "PlaceholderV2"})
_WITH_DEFAULT = "PlaceholderWithDefault"
_PIPELINES = frozenset(
    """IteratorGetNext IteratorGetNextSync QueueDequeue QueueDequeueV2 QueueDequeueMany QueueDequeueManyV2
    QueueDequeueUpTo QueueDequeueUpToV2 ReaderRead ReaderReadV2 ReaderReadUpTo ReaderReadUpToV2""".split()
)
_SHAPES = frozenset({"Shape", "ShapeN", "Size", "Rank"})  # of an output: what reads it is no step further
_VARIABLES = frozenset({"VariableV2", "Variable", "VarHandleOp"})
_NO_OUTPUT = re.compile(
    r".*Summary.*|Assert|NoOp|Save.*|Restore.*|ShardedFilename|MergeV2Checkpoints|(Resource|Sparse)*Apply.*|Assign.*|"
    r"(Resource|)Scatter.*|InitializeTable.*|Queue.*|VarIsInitializedOp|IsVariableInitialized|ReadVariableOp|"
    r"Lookup.*Import.*|PrintV2|Const|.*Dataset.*|.*Iterator.*"
)
_ASIDE = re.compile(
    r"(^|/)(gradients(_\d+)?|train(_op)?|optimizer|[A-Za-z]*GradientTape|AssertGuard|assert_[a-z_]+(_\d+)?)(/|$)"
)
_SWITCH = re.compile(r"keep_?prob|drop_?out|(is_?)?train|phase|learning_?(rate|phase)|(^|_)lr$", re.IGNORECASE)
_SHOWN = 10


@dataclass(frozen=True)
class Interface:
    """Tensor names ("x:0") by the keys of the signature, and what there is to say of how they were found."""

    inputs: Mapping[str, str]
    outputs: Mapping[str, str]
    notes: tuple[str, ...] = ()


class Nodes:
    """A GraphDef's nodes, unchecked, and who reads whom."""

    def __init__(self, graph_def: Any) -> None:
        self.by_name: dict[str, NodeDef] = {node.name: node for node in graph_def.node}
        self.functions = {function.signature.name: function for function in graph_def.library.function}

    @cached_property
    def readers(self) -> Mapping[str, list[tuple[int, str]]]:
        """For each node, the ports that are read and the names of the nodes that read them."""
        found: dict[str, list[tuple[int, str]]] = defaultdict(list)
        for name, node in self.by_name.items():
            for source in data_inputs(node):
                found[source.node].append((source.port, name))
        return found

    def readers_of(self, name: str) -> Iterator[str]:
        """The nodes that read any of a node's tensors."""
        return (reader for _, reader in self.readers.get(name, ()))

    def outputs_of(self, name: str) -> Sequence[int]:
        """The dtypes of a node's tensors; none where the op is unknown."""
        try:
            return ops.output_dtypes(self.by_name[name], self.functions)
        except GraphError:
            return ()

    def before(self, roots: Iterable[str], stop: Collection[Input] = ()) -> set[str]:
        """The nodes that these need, over data and control inputs; what is behind the tensors `stop` is not needed."""
        found: set[str] = set()
        todo = list(roots)
        while todo:
            name = todo.pop()
            if name in found or name not in self.by_name:
                continue
            found.add(name)
            sources = map(parse_input, self.by_name[name].input)
            todo += [source.node for source in sources if source not in stop]
        return found

    def refuse_dangling(self, names: Iterable[str]) -> None:
        """Refuse nodes that read what is not there.

        Raises:
            GraphError: one does.
        """
        for name in names:
            for text in self.by_name[name].input:
                if parse_input(text).node not in self.by_name:
                    raise GraphError(f"node {name!r} reads {text!r}, which does not exist")

    def after(self, tensors: Iterable[Input]) -> set[str]:
        """The nodes that these tensors reach."""
        found: set[str] = set()
        todo = [reader for one in tensors for port, reader in self.readers.get(one.node, ()) if port == one.port]
        while todo:
            name = todo.pop()
            if name not in found:
                found.add(name)
                todo += self.readers_of(name)
        return found


def find(graph_def: Any, inputs: Sequence[str] | None, outputs: Sequence[str] | None) -> Interface:
    """The inputs and outputs that were named ("x", "x:0" or "key=x:0"), and a guess for what was not.

    Raises:
        GraphError: a name is not in the graph, an output needs an input that was not named, or nothing can be guessed.
        UsageError: two of them have one key.
    """
    nodes = Nodes(graph_def)
    notes: list[str] = []
    found_outputs = _named(nodes, outputs, "output") if outputs else None
    found_inputs = _named(nodes, inputs, "input") if inputs else None
    if found_outputs is None:
        found_outputs = _keyed(_guessed_outputs(nodes, found_inputs, notes))
        notes.insert(0, f"--outputs {_shown(found_outputs)} was guessed")
    if found_inputs is None:
        found_inputs = _keyed(_guessed_inputs(nodes, [parse_input(t).node for t in found_outputs.values()], notes))
        notes.insert(0, f"--inputs {_shown(found_inputs)} was guessed")
    elif missing := _unfed(nodes, found_inputs.values(), found_outputs.values()):
        given = ",".join([*found_inputs.values(), *missing])
        raise GraphError(
            f"the outputs need the placeholder{'s' * (len(missing) > 1)} {', '.join(map(repr, missing))} too, which "
            f"--inputs does not name: give --inputs {given}"
        )
    return Interface(found_inputs, found_outputs, tuple(notes))


def switches(graph_def: Any, inputs: Iterable[str], needed: Collection[str]) -> list[str]:
    """Sentences on what is in training mode, or may be, in the part of a graph that is served."""
    fed = {parse_input(tensor).node for tensor in inputs}
    training, noise, defaults, asked = [], [], [], []
    for node in graph_def.node:
        if node.name not in needed:
            continue
        if node.op.startswith("FusedBatchNorm") and ops.attribute(node, "is_training", {}).b:
            training.append(node.name)
        elif node.op in ("RandomUniform", "RandomStandardNormal", "TruncatedNormal", "StatelessRandomUniformV2"):
            noise.append(node.name)
        elif node.op == _WITH_DEFAULT and node.name not in fed and _is_scalar(node):
            defaults.append(node.name)
        elif node.name in fed and node.op in PLACEHOLDERS and _is_switch(node):
            asked.append(node.name)
    found = []
    if training:
        found.append(f"{_many(training, 'batch norm')} in training mode: answers depend on what else is in the batch")
    if noise:
        found.append(f"{_many(noise, 'node')} drawing random numbers (dropout?): answers may differ each time")
    if defaults:
        found.append(f"left at its default: {', '.join(defaults[:_SHOWN])}")
    if asked:
        found.append(f"a switch that each request has to feed: {', '.join(asked)}")
    return found


def _many(names: Sequence[str], what: str) -> str:
    return f"{len(names)} {what}{'s are' if len(names) > 1 else ' is'}"


def _named(nodes: Nodes, names: Sequence[str], kind: str) -> dict[str, str]:
    found: dict[str, str] = {}
    for text in names:
        key, equals, name = text.rpartition("=")
        source = parse_input(name.strip())
        if source.node not in nodes.by_name:
            raise GraphError(f"no node for the {kind} {name.strip()!r}{nearest(source.node, nodes.by_name)}")
        count = len(nodes.outputs_of(source.node))
        if source.port >= count:
            op = nodes.by_name[source.node].op
            raise GraphError(f"the {kind} {name!r} does not exist: {source.node!r} ({op}) has {count} outputs")
        key = key.strip() if equals else _key(source)
        if key in found:
            raise UsageError(f"two {kind}s have the key {key!r}: {found[key]!r} and {name!r}")
        found[key] = f"{source.node}:{source.port}"
    return found


def _key(source: Input) -> str:
    return f"{source.node}:{source.port}" if source.port else source.node


def _keyed(tensors: Iterable[Input]) -> dict[str, str]:
    return {_key(tensor): f"{tensor.node}:{tensor.port}" for tensor in tensors}


def _shown(tensors: Mapping[str, str]) -> str:
    return ",".join(tensors)


def _unfed(nodes: Nodes, inputs: Iterable[str], outputs: Iterable[str]) -> list[str]:
    """Placeholders without a default that the outputs need beside these inputs."""
    stop = {parse_input(tensor) for tensor in inputs}
    roots = [source.node for source in map(parse_input, outputs) if source not in stop]
    wanted = nodes.before(roots, stop)
    return [name for name in nodes.by_name if name in wanted and nodes.by_name[name].op in PLACEHOLDERS]


def _sources(nodes: Nodes) -> list[Input]:
    """Tensors that requests could feed, in the graph's order."""
    fixed: list[Input] = []
    for name, node in nodes.by_name.items():
        if node.op in PLACEHOLDERS:
            fixed.append(Input(name, 0))
        elif node.op in _PIPELINES:
            fixed += [Input(name, port) for port in sorted({port for port, _ in nodes.readers.get(name, ())})]
    # A default that is computed from an input is a place to look into a model, or to start in its middle.
    computed = nodes.after(fixed)
    return fixed + [
        Input(name, 0)
        for name, node in nodes.by_name.items()
        if node.op == _WITH_DEFAULT and name not in computed and not _is_scalar(node)
    ]


def _guessed_inputs(nodes: Nodes, outputs: Sequence[str], notes: list[str]) -> list[Input]:
    """What the outputs need of what requests could feed."""
    sources = _sources(nodes)
    pipelines = {source for source in sources if nodes.by_name[source.node].op in _PIPELINES}
    # Placeholders behind a pipeline, the arguments of a dataset, are not what requests feed.
    wanted = nodes.before(outputs, pipelines)
    nodes.refuse_dangling(wanted)
    read = {source for name in wanted for source in data_inputs(nodes.by_name[name])}
    found = [s for s in sources if (s in read if s in pipelines else s.node in wanted)]
    if not found:
        raise GraphError(
            f"no placeholder leads to the output{'s' * (len(outputs) > 1)} {', '.join(map(repr, outputs[:_SHOWN]))}: "
            "name the tensors to feed with --inputs"
        )
    if feeding := [str(source) for source in found if source in pipelines]:
        notes.append(f"requests feed {', '.join(feeding)}, which a pipeline fed in training")
    return found


def _guessed_outputs(nodes: Nodes, inputs: Mapping[str, str] | None, notes: list[str]) -> list[Input]:
    sources = [parse_input(tensor) for tensor in inputs.values()] if inputs else _sources(nodes)
    if not sources:
        raise GraphError("there is no placeholder to guess from: name --inputs and --outputs")
    labels = _labels(nodes, sources)
    fed = nodes.after(source for source in sources if source not in labels)
    # Where inputs are named, what needs more than these is no output of theirs.
    judged = nodes.after({*labels, *(s for s in _sources(nodes) if inputs and s not in sources)})
    found: list[Input] = []
    for name, node in nodes.by_name.items():
        if name not in fed or name in judged or not _is_output(nodes, name):
            continue
        readers = (r for r in nodes.readers_of(name) if r in fed and r not in judged)
        if any(_is_step(nodes, r) and nodes.by_name[r].op not in _SHAPES for r in readers):
            continue
        if node.op == "ArgMax" and data_inputs(node):
            found.append(data_inputs(node)[0])  # the class alone would say little
        dtypes = nodes.outputs_of(name)[: 1 if node.op.startswith("FusedBatchNorm") else None]
        found += [Input(name, port) for port, dtype in enumerate(dtypes) if _is_value(dtype)]
    found = [one for one in dict.fromkeys(found) if one not in sources]
    if not found:
        some = ", ".join([name for name in nodes.by_name if name in fed and len(nodes.outputs_of(name))][-5:])
        raise GraphError(f"no output could be guessed: name it with --outputs (computed last: {some or 'nothing'})")
    if labels:
        left = ", ".join(sorted(map(str, labels))[:_SHOWN])
        notes.append(f"taken for a loss's labels or weights, and left out: {left}")
    if len(found) > _SHOWN:
        notes.append(f"{len(found)} outputs are many: --outputs keeps what is needed")
    return found


def _is_step(nodes: Nodes, name: str) -> bool:
    """Whether a node is a part of the computation, rather than bookkeeping or training beside it."""
    return not _NO_OUTPUT.fullmatch(nodes.by_name[name].op) and not _ASIDE.search(name)


def _is_output(nodes: Nodes, name: str) -> bool:
    dtypes = nodes.outputs_of(name)
    if not _is_step(nodes, name) or not any(map(_is_value, dtypes)):
        return False
    # What was asserted: a truth that nothing but an assertion reads.
    return dtypes[0] != tf.bool.as_datatype_enum or not any(nodes.readers_of(name))


def _is_value(dtype: int) -> bool:
    """Whether a client could be given a tensor of this dtype."""
    return dtype < ops.REF and dtype not in (tf.resource.as_datatype_enum, tf.variant.as_datatype_enum)


def _labels(nodes: Nodes, sources: Sequence[Input]) -> set[Input]:
    """Sources whose values meet only predictions: what was computed from another source and variables."""
    variables = [Input(name, 0) for name, node in nodes.by_name.items() if node.op in _VARIABLES]
    if not variables:
        return set()
    learned = {source.node for source in variables} | nodes.after(variables)
    reached = {source: nodes.after([source]) for source in sources}
    found = set()
    for source in sources:
        others = set().union(*(reached[other] for other in sources if other != source))
        if not _is_switch(nodes.by_name[source.node]) and not _meets_weights(nodes, source, learned, others):
            found.add(source)
    return found if len(found) < len(sources) else set()


def _meets_weights(nodes: Nodes, source: Input, learned: Collection[str], others: Collection[str]) -> bool:
    """Whether a source reaches a variable before it reaches what was computed from another source and variables."""
    seen: set[str] = set()
    todo = [reader for port, reader in nodes.readers.get(source.node, ()) if port == source.port]
    while todo:
        name = todo.pop()
        if name in seen or not _is_step(nodes, name):
            continue
        seen.add(name)
        beside = [s for s in data_inputs(nodes.by_name[name]) if s != source and s.node in learned]
        beside = [s for s in beside if s.node not in seen]
        if any(s.node in others for s in beside):
            continue
        if beside:
            return True
        todo += nodes.readers_of(name)
    return False


def _is_switch(node: NodeDef) -> bool:
    """Whether a placeholder steers the model rather than brings an example: a scalar, or named like one."""
    if node.op not in PLACEHOLDERS and node.op != _WITH_DEFAULT:
        return False
    return _is_scalar(node) or bool(_SWITCH.search(node.name) and not _has_rank(node))


def _is_scalar(node: NodeDef) -> bool:
    return "shape" in node.attr and not node.attr["shape"].shape.unknown_rank and not node.attr["shape"].shape.dim


def _has_rank(node: NodeDef) -> bool:
    return "shape" in node.attr and not node.attr["shape"].shape.unknown_rank and bool(node.attr["shape"].shape.dim)
