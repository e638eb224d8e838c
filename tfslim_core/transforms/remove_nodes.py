"""Take out nodes of the given ops; what read them reads their first input.

    Before: y = Relu(Identity(x, ^a))        After: y = Relu(x, ^a)

Taken out are nodes with one to `max_inputs` data inputs, in function bodies too. Their control inputs go to their
readers, so that no assert and no ordering is lost. Exact for ops that pass their input on (Identity, StopGradient,
CheckNumerics, Print); taking out any other op changes what is computed, as asked.

Left alone: a node of the interface; one with an effect of its own other than to look at its input; one whose readers
use another output than the first; one that changes the type; one that pins the moment at which a variable is read; in
TensorFlow 1 control flow, one whose control edges say which branch is live.

Source: tensorflow/tools/graph_transforms/remove_nodes.cc, same name and parameters; unlike it we keep control inputs,
and one sweep over the graph does all.
"""

from __future__ import annotations

from collections.abc import Sequence

from tfslim_core import ops
from tfslim_core.graph import CONTROL, Graph, Input, NodeDef, execution_order, renamed
from tfslim_core.registry import Outcome, Skipped, transform
from tfslim_core.rewriting import Skip

# Stateful to the registry, but all they do is look at what passes through them.
_ONLY_LOOK = frozenset("CheckNumerics CheckNumericsV2 Print DebugIdentity DebugIdentityV2 DebugIdentityV3".split())
_PASS_ON = frozenset("Identity StopGradient PreventGradient Snapshot PlaceholderWithDefault EnsureShape".split())
# Fan-out times control inputs of one removed node; more would make the graph larger rather than smaller.
_MOST_NEW_EDGES = 64


@transform("remove_nodes", enters_functions=True)
def remove_nodes(graph: Graph, *, op: tuple[str, ...], max_inputs: int = 1) -> Outcome:
    """Take out nodes of the given ops; what read them reads their first input."""
    if graph.by_op.keys().isdisjoint(op):
        return Outcome(graph)
    sweep = _Sweep(graph)
    skipped = []
    for name in execution_order(graph):
        node = graph.nodes[name]
        if node.op not in op:
            continue
        inputs = graph.sources(name)
        if not 1 <= sum(source.port != CONTROL for source in inputs) <= max_inputs:
            continue
        try:
            sweep.remove(node, inputs)
        except Skip as reason:
            skipped.append(Skipped(name, str(reason)))
    if not sweep.gone:
        return Outcome(graph, skipped=tuple(skipped))
    readers = dict.fromkeys(reader.node for name in sweep.gone for reader in graph.readers_of(name))
    new = [sweep.rewired(graph.nodes[name]) for name in readers if name not in sweep.gone]
    exact = all(graph.nodes[name].op in _ONLY_LOOK | _PASS_ON for name in sweep.gone)
    return Outcome(graph.replace(new, sweep.gone), len(sweep.gone), tuple(skipped), exact)


class _Sweep:
    """For each node taken out: the tensor to read instead, and the nodes that have to run before."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.gone: dict[str, tuple[Input, tuple[str, ...]]] = {}

    def remove(self, node: NodeDef, inputs: Sequence[Input]) -> None:
        """Take the node out.

        Raises:
            Skip: it has to stay.
        """
        graph = self.graph
        if node.name in graph.interface:
            raise Skip("it is part of the interface")
        if node.op not in _ONLY_LOOK and ops.has_effect(node, graph.functions):
            raise Skip(f"{node.op} has an effect of its own")
        readers = graph.readers_of(node.name)
        if any(reader.port > 0 for reader in readers):
            raise Skip("an output other than the first is read")
        first = next(source for source in inputs if source.port != CONTROL)
        source, before = self.gone.get(first.node, (first, ()))
        dtypes = [graph.facts(name).gives for name in (node.name, source.node)]
        if not dtypes[0] or dtypes[0][0] != dtypes[1][source.port]:
            pins = dtypes[1][source.port] >= ops.REF
            raise Skip("it pins the moment at which a variable is read" if pins else "it changes the type")
        controls = [*before, *(name for i in inputs if i.port == CONTROL for name in self.after(i.node))]
        controls = [name for name in dict.fromkeys(controls) if name != source.node]
        if len(controls) > 1 and len(controls) * len(readers) > _MOST_NEW_EDGES:
            raise Skip(f"each of its {len(readers)} readers would get its {len(controls)} control inputs")
        if graph.has_v1_control_flow:
            # A control edge from a Switch is live on both branches, one from what reads its output on one of them.
            if any(reader.port == CONTROL for reader in readers) and "Switch" in graph.nodes[source.node].op:
                raise Skip("its control edges say which branch of a Switch is live")
            if controls and any(graph.nodes[reader.node].op in ops.V1_CONTROL_FLOW for reader in readers):
                raise Skip("its control inputs cannot go to a node of TensorFlow 1 control flow")
        self.gone[node.name] = (source, tuple(controls))

    def after(self, name: str) -> tuple[str, ...]:
        """What to wait for instead of the node `name`."""
        if name not in self.gone:
            return (name,)
        source, controls = self.gone[name]
        return (source.node, *controls)

    def rewired(self, node: NodeDef) -> NodeDef:
        """A copy that reads past the nodes that are gone."""
        data: list[Input] = []
        controls: list[str] = []
        for source in self.graph.sources(node.name):
            if source.port == CONTROL:
                controls += self.after(source.node)
            elif source.node in self.gone:
                tensor, before = self.gone[source.node]
                data.append(tensor)
                controls += before
            else:
                data.append(source)
        read = {source.node for source in data}
        waits = [Input(name, CONTROL) for name in dict.fromkeys(controls) if name not in read]
        return renamed(node, node.name, [*data, *waits])
