"""Print the values of nodes while the model runs.

    Before: z = Relu(y)        After: z = Relu(y__print__), y__print__ = Print(y, [y])

After each node that is wanted comes a `Print`, which writes the values of the node's outputs that are read to stderr.
What read the node's first output (or, where nobody does, the first that is read), or waited for it, reads the Print
instead, so that it runs. A node of the interface keeps its name; its other readers read the Print. Function bodies are
entered: branches, loops and calls print too, each time they run. Exact: the numbers that pass through are the same.

| parameter | |
|---|---|
| op, prefix | only nodes of these ops, and whose names start with one of these; all unless given; both repeatable |
| show_op, show_name | start each line with `;OP;` or `;NAME__print__;` |
| message | what the line says before the values |
| first_n | print only so many times, -1 for always |
| summarize | how many elements of each value, -1 for all |

Left alone, with a reason: nodes that nobody reads; those that give a resource, a variant or a reference to a variable,
which cannot be printed; TensorFlow 1's Switch, Merge, Enter and the like, which decide what runs; a fed node, of which
the output to print is not the one that is fed.

Source: tensorflow/tools/graph_transforms/insert_logging.cc, same name, parameters and format of the lines; unlike it we
leave alone what cannot be printed, and enter functions.
"""

from __future__ import annotations

import tensorflow as tf

from tfslim_core import ops
from tfslim_core.graph import CONTROL, Graph, Input, NodeDef, make_node, parse_input, rewired
from tfslim_core.registry import Outcome, Skipped, transform
from tfslim_core.rewriting import Skip

_UNPRINTABLE = frozenset({tf.resource.as_datatype_enum, tf.variant.as_datatype_enum})


@transform("insert_logging", enters_functions=True)
def insert_logging(
    graph: Graph,
    *,
    op: tuple[str, ...] = (),
    prefix: tuple[str, ...] = (),
    show_op: bool = False,
    show_name: bool = False,
    message: str = "",
    first_n: int = -1,
    summarize: int = 1024,
) -> Outcome:
    """Print the values of nodes while the model runs."""
    fresh = graph.fresh_names()
    fed = {parse_input(tensor) for tensor in graph.inputs}
    prints: list[NodeDef] = []
    instead: dict[Input, Input] = {}
    skipped: list[Skipped] = []
    for name, node in graph.nodes.items():
        if (op and node.op not in op) or (prefix and not name.startswith(prefix)):
            continue
        try:
            ports = _ports(graph, node, fed)
        except Skip as reason:
            skipped.append(Skipped(name, str(reason)))
            continue
        shown = fresh(f"{name}__print__")
        text = f";{node.op};" * show_op + f";{shown};" * show_name + message
        prints.append(_print(graph, shown, [Input(name, port) for port in ports], text, first_n, summarize))
        instead[Input(name, ports[0])] = Input(shown, 0)
        instead[Input(name, CONTROL)] = Input(shown, CONTROL)
    if not prints:
        return Outcome(graph, skipped=tuple(skipped))
    readers = dict.fromkeys(reader.node for source in instead for reader in graph.readers_of(source.node))
    nodes = (graph.nodes[name] for name in readers)
    changed = [new for node in nodes if (new := rewired(node, instead)) is not node]
    return Outcome(graph.replace([*changed, *prints]), len(prints), tuple(skipped))


def _ports(graph: Graph, node: NodeDef, fed: set[Input]) -> list[int]:
    """The outputs to print; the first of them is the one to pass on.

    Raises:
        Skip: there is none.
    """
    readers = graph.readers_of(node.name)
    if not readers:
        raise Skip("nobody reads it")
    if node.op in ops.V1_CONTROL_FLOW:
        raise Skip("it decides what runs in a loop or on a branch")
    gives = graph.facts(node.name).gives
    if not gives:
        raise Skip("it has no output to print")
    ports = sorted({reader.port for reader in readers} - {CONTROL}) or [0]
    if gives[ports[0]] in _UNPRINTABLE or gives[ports[0]] >= ops.REF:
        raise Skip(f"a value of type {tf.as_dtype(gives[ports[0]]).name} cannot be printed")
    ports = [port for port in ports if gives[port] not in _UNPRINTABLE and gives[port] < ops.REF]
    own = {source.port for source in fed if source.node == node.name}
    if own:
        # To print another output would be to run a node whose own inputs may be missing.
        ports = [port for port in ports if port in own]
        if not ports:
            raise Skip("it is fed, but not the output that is read")
    return ports


def _print(graph: Graph, name: str, sources: list[Input], message: str, first_n: int, summarize: int) -> NodeDef:
    dtypes = [graph.facts(source.node).gives[source.port] for source in sources]
    made = make_node("Print", name, [sources[0], *sources], message=message, first_n=first_n, summarize=summarize)
    made.attr["T"].type = dtypes[0]
    made.attr["U"].list.type.extend(dtypes)
    return made
