"""Take out what only training and debugging need.

    Before: y = Mul(RealDiv(StopGradient(x), 1.0), Floor(RandomUniform + 1.0)), after Assert(x > 0)
    After:  y = x

Taken out are:

- nodes that pass a tensor on and look at it at most: StopGradient, PreventGradient, CheckNumerics, Print, Snapshot, the
  DebugIdentity ops, Copy and CopyHost;
- nodes that are run only to complain, to print or to write a summary: Assert, PrintV2, WriteSummary and its like, and
  what computed their arguments and is read by nobody else; branches that did nothing besides;
- dropouts that drop nothing: x * scale * floor(uniform + keep) with keep = 1, x * scale * cast(uniform >= rate) and
  select(uniform >= rate, x * scale, 0) with rate = 0, where scale is 1. Rates may be computed from constants, as
  TensorFlow 1 does; the draw may have the shape of x, or a constant one that x covers.

What waited for them waits for what they waited for, as far as that has an effect or reads state. In function bodies the
same.

| parameter | |
|---|---|
| freeze_defaults | a PlaceholderWithDefault that is no listed input always gives its default (`keras_learning_phase`) |
| keep_asserts | leave Assert and CheckNumerics in place |

Exact, bit by bit, for requests that passed every check. A request that an Assert or a CheckNumerics would have refused
is answered; this is what it says to take them out.

Left alone, with a reason: nodes of the interface, listed inputs among them; dropouts that drop values, at a rate other
than 0 or one that is no constant; those whose draw may have another shape than what it masks; what `remove_nodes`
leaves alone. Identity nodes are left to `remove_nodes`.

Source: none in the Graph Transform Tool, whose users named such ops one by one to `remove_nodes`, and lost what the
nodes waited for.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from inspect import unwrap
from typing import Any

import tensorflow as tf

from tfslim_core import ops
from tfslim_core.dropouts import check_idle, dropouts, waits
from tfslim_core.errors import GraphError
from tfslim_core.function_bodies import rewrite_bodies
from tfslim_core.graph import (
    CONTROL,
    Graph,
    Input,
    NodeDef,
    control_inputs,
    data_inputs,
    execution_order,
    make_node,
    parse_input,
    renamed,
)
from tfslim_core.idle_controls import busy_nodes
from tfslim_core.registry import Outcome, Skipped, transform
from tfslim_core.rewriting import Skip
from tfslim_core.transforms.remove_nodes import remove_nodes
from tfslim_core.unread import without_unread

_CHECKS = ("CheckNumerics", "CheckNumericsV2")
_PASS_ON = (
    "StopGradient PreventGradient Snapshot Print DebugIdentity DebugIdentityV2 DebugIdentityV3 DebugGradientIdentity "
    "Copy CopyHost"
).split()
_ENDS = (
    "PrintV2 WriteSummary WriteScalarSummary WriteHistogramSummary WriteImageSummary WriteAudioSummary "
    "WriteRawProtoSummary WriteGraphSummary FlushSummaryWriter"
).split()
_CALLING = ops.BRANCHES | ops.CALLS | ops.LOOPS
_MOST_INPUTS = 1 << 30


@transform("remove_training_nodes")
def remove_training_nodes(graph: Graph, *, freeze_defaults: bool = False, keep_asserts: bool = False) -> Outcome:
    """Take out what only training and debugging need."""
    pass_on = frozenset(_PASS_ON) | ({"PlaceholderWithDefault"} if freeze_defaults else set())
    ends = frozenset(_ENDS)
    if not keep_asserts:
        pass_on, ends = pass_on.union(_CHECKS), ends | {"Assert"}
    before = graph.functions
    changes, skipped = 0, dict[str, str]()

    def rewrite(name: str, body: Graph) -> Graph:
        nonlocal changes
        # What a body runs for the effect alone is a target of its; a check or a print no longer is.
        idle = _ends(body, ends, before) | {n for n, node in body.nodes.items() if node.op in pass_on}
        free = replace(body, targets=tuple(target for target in body.targets if target not in idle))
        done = _without(free, pass_on, ends, before)
        changes += done.changes
        skipped.update({f"{name}/{one.node}": one.reason for one in done.skipped})
        return done.graph if done.changes else body

    # A branch of which nothing is left may have been all that there was to another one.
    while (rewritten := rewrite_bodies(graph, rewrite)) is not graph:
        graph = rewritten
    main = _without(graph, pass_on, ends, before)
    everything = (*main.skipped, *(Skipped(name, reason) for name, reason in skipped.items()))
    return Outcome(main.graph, main.changes + changes, everything)


def _ends(graph: Graph, ops_run: frozenset[str], before: Mapping[str, Any]) -> set[str]:
    """The nodes that are only run, and those that call what did something and no longer does, and give nothing."""
    order = execution_order(graph)
    spent: set[str] = set()
    for name in order:
        node = graph.nodes[name]
        result = node.op == "Identity" and graph.sources(name)[0].node in spent
        if result or (node.op in _CALLING and _did(node, before) and not ops.has_effect(node, graph.functions)):
            spent.add(name)
    ends = {name for name in order if graph.nodes[name].op in ops_run}
    returned = {parse_input(tensor).node for tensor in graph.outputs}
    for name in reversed(order if spent else ()):
        if name in spent and name not in returned:
            read = (reader.node for reader in graph.readers_of(name) if reader.port != CONTROL)
            if all(reader in ends for reader in read):
                ends.add(name)
    return ends


def _did(node: NodeDef, before: Mapping[str, Any]) -> bool:
    return all(name in before for name in ops.called_functions(node)) and ops.has_effect(node, before)


def _without(graph: Graph, pass_on: Iterable[str], ends: frozenset[str], before: Mapping[str, Any]) -> Outcome:
    """One graph without those nodes; bodies are left as they are."""
    take_out = unwrap(remove_nodes)
    passed = take_out(graph, op=tuple(sorted(pass_on)), max_inputs=_MOST_INPUTS)
    dropped = _without_dropouts(passed.graph)
    # The dropouts have become StopGradients.
    clear = take_out(dropped.graph, op=("StopGradient",)) if dropped.changes else passed
    ended = _without_ends(clear.graph, _ends(clear.graph, ends, before))
    outcomes = (passed, dropped, ended)
    return Outcome(
        ended.graph, sum(one.changes for one in outcomes), tuple(skip for one in outcomes for skip in one.skipped)
    )


def _without_dropouts(graph: Graph) -> Outcome:
    """The graph with the dropouts that drop nothing as StopGradients, or Identities where the interface names them."""
    new: list[NodeDef] = []
    skipped: list[Skipped] = []
    unread: list[str] = []
    for dropout in dropouts(graph):
        try:
            check_idle(graph, dropout)
        except Skip as reason:
            skipped.append(Skipped(dropout.root, str(reason)))
            continue
        except (ValueError, GraphError, tf.errors.OpError) as error:
            skipped.append(Skipped(dropout.root, f"shapes cannot be inferred: {error}"))
            continue
        root = graph.nodes[dropout.root]
        controls = dict.fromkeys([*control_inputs(root), *waits(graph, dropout)])
        node = renamed(root, root.name, [dropout.kept, *(f"^{name}" for name in controls)])
        node.op = "Identity" if root.name in graph.interface else "StopGradient"
        new.append(node)
        unread += [source.node for source in data_inputs(root)]
    if not new:
        return Outcome(graph, skipped=tuple(skipped))
    return Outcome(without_unread(graph.replace(new), unread), len(new), tuple(skipped))


def _without_ends(graph: Graph, found: set[str]) -> Outcome:
    """The graph without the nodes that are only run; one that stands between others in time becomes a NoOp."""
    ends = [name for name in execution_order(graph) if name in found] if found else []
    skipped = [Skipped(name, "it is part of the interface") for name in ends if name in graph.interface]
    ends = [name for name in ends if name not in graph.interface]
    if not ends:
        return Outcome(graph, skipped=tuple(skipped))
    busy = busy_nodes(graph, besides=set(ends))
    fresh = graph.fresh_names()
    new: dict[str, NodeDef] = {}
    gone: set[str] = set()
    for name in ends:
        if not graph.readers_of(name):
            gone.add(name)
            continue
        before = []
        for source in graph.sources(name):
            if source.node not in busy or source.node in gone:
                continue
            if source.port != CONTROL and graph.nodes[source.node].op in ops.V1_CONTROL_FLOW:
                # Which branch is live is said by what the node gives, not by that it ran.
                dtype = tf.as_dtype(graph.facts(source.node).gives[source.port] % ops.REF)
                live = make_node("Identity", fresh(f"{name}/live"), [source], T=dtype)
                new[live.name] = live
                source = Input(live.name, CONTROL)
            before.append(f"^{source.node}")
        if before:
            new[name] = make_node("NoOp", name, dict.fromkeys(before), device=graph.nodes[name].device)
        else:
            gone.add(name)
    readers = dict.fromkeys(reader.node for name in gone for reader in graph.readers_of(name))
    for reader in readers:
        if reader not in gone:
            node = new[reader] if reader in new else graph.nodes[reader]
            kept = [text for text in node.input if not (text.startswith("^") and text[1:] in gone)]
            new[reader] = renamed(node, reader, kept)
    sources = [source.node for name in ends for source in graph.sources(name)]
    slim = without_unread(graph.replace(new.values(), gone), sources)
    return Outcome(slim, len(ends), tuple(skipped))
