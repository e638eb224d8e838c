"""Remove control inputs: nodes no longer wait for nodes whose output they do not read.

    Before: y = Relu(x, ^assert)        After: y = Relu(x)

What ran only because something waited for it does not run any more: asserts, prints, updates of a counter. That is what
is asked for; numbers stay the same. The nodes themselves are dropped by strip_unused_nodes. Function bodies are
rewritten too; there, TensorFlow runs what has an effect even if nothing waits for it.

Left alone, with a reason, where dropping one would change an answer or break the model:

- what the init op waits for, and what that waits for in turn: tables would stay empty. The same goes for a function's
  effects and what they wait for;
- between what changes a state (a variable, a table, a file) and what reads or changes one, directly or over nodes in
  between: the order decides what is found;
- in TensorFlow 1 control flow, a control input from a node behind a Switch, Enter or Merge: it says in which loop and
  on which branch the node runs.

Source: tensorflow/tools/graph_transforms/remove_control_dependencies.cc, same name; unlike it we keep the control
inputs above, and look into functions.
"""

from __future__ import annotations

from collections.abc import Container, Sequence

from tfslim_core import ops
from tfslim_core.graph import CONTROL, Graph, control_inputs, data_inputs, execution_order, renamed
from tfslim_core.registry import Outcome, Skipped, transform

# They stop the run or write a line; what others find is the same.
_ONLY_LOOK = frozenset("Assert Print PrintV2 CheckNumerics CheckNumericsV2".split())


@transform("remove_control_dependencies", enters_functions=True)
def remove_control_dependencies(graph: Graph) -> Outcome:
    """Remove control inputs: nodes no longer wait for nodes whose output they do not read."""
    waiting = {name: controls for name, node in graph.nodes.items() if (controls := control_inputs(node))}
    if not waiting:
        return Outcome(graph)
    order = execution_order(graph)
    flow = [name for name, node in graph.nodes.items() if node.op in ops.V1_CONTROL_FLOW]
    branches = _led_from(graph, order, set(flow))
    awaited = _awaited(graph, waiting)
    changing, touching = _stateful(graph)
    after_change, after_touch = (_led_from(graph, order, names) for names in (changing, touching))
    before_change, before_touch = (_leading_to(graph, order, names) for names in (changing, touching))
    new, skipped = [], []
    for name, controls in waiting.items():
        if name in awaited:
            skipped.append(Skipped(name, "the init op or a function's effect waits for it and its control inputs"))
            continue
        flows = [control for control in controls if control in branches]
        orders = [
            control
            for control in controls
            if (control in after_change and name in before_touch) or (control in after_touch and name in before_change)
        ]
        if flows:
            skipped.append(Skipped(name, "its control inputs say in which loop or on which branch it runs"))
        elif orders:
            skipped.append(Skipped(name, "it keeps the order in which a state is read and changed"))
        kept = [control for control in controls if control in flows or control in orders]
        if len(kept) < len(controls):
            inputs = [*map(str, data_inputs(graph.nodes[name])), *(f"^{control}" for control in kept)]
            new.append(renamed(graph.nodes[name], name, inputs))
    return Outcome(graph.replace(new) if new else graph, len(new), tuple(skipped))


def _awaited(graph: Graph, waiting: dict[str, list[str]]) -> set[str]:
    """The nodes that are run for their effect, and those for which these wait, over control inputs alone."""
    found: set[str] = set()
    todo = list(graph.targets)
    while todo:
        name = todo.pop()
        if name not in found:
            found.add(name)
            todo += waiting.get(name, [])
    return found


def _stateful(graph: Graph) -> tuple[set[str], set[str]]:
    """The nodes that change a state, and those that read or change one."""
    changing: set[str] = set()
    touching: set[str] = set()
    with_effect: dict[str, bool] = {}
    observing: dict[str, bool] = {}
    for name, node in graph.nodes.items():
        if node.op not in _ONLY_LOOK and ops.has_effect(node, graph.functions, with_effect):
            changing.add(name)
        takes_reference = any(
            source.port != CONTROL and graph.facts(source.node).gives[source.port] >= ops.REF
            for source in graph.sources(name)
        )
        if name in changing or takes_reference or ops.observes_state(node, graph.functions, observing):
            touching.add(name)
    return changing, touching


def _led_from(graph: Graph, order: Sequence[str], starts: Container[str]) -> set[str]:
    """`starts`, and all that runs after them."""
    found: set[str] = set()
    for name in order:
        if name in starts or any(source.node in found for source in graph.sources(name)):
            found.add(name)
    return found


def _leading_to(graph: Graph, order: Sequence[str], ends: Container[str]) -> set[str]:
    """`ends`, and all that they wait for."""
    found: set[str] = set()
    for name in reversed(order):
        if name in ends or any(reader.node in found for reader in graph.readers_of(name)):
            found.add(name)
    return found
