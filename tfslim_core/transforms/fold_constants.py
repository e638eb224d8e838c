"""Compute now what is the same on every request.

    Before: y = MatMul(x, Transpose(W))        After: y = MatMul(x, W')  with W' = Transpose(W)

A node is computed when all its inputs are constants and the op is stateless; so are Shape, ShapeN, Size and Rank of a
tensor whose shape is known from the graph. TensorFlow computes them, so the values are those of the first request.

A constant is not allowed to grow the graph: a result is kept when it is at most 1 KiB larger than the constants that
are needed no more, and above `max_constant_size_in_bytes` only when those are as large as itself. So a transposed or
cast matrix is folded; a Fill, a Tile or a decoded matrix is left to the server, and what it reads is folded instead.

| parameter | |
|---|---|
| clear_output_shapes | forget the `_output_shapes` noted at nodes; false lets them take part in finding shapes |
| exclude_op, exclude_node | ops and nodes that are left alone; repeatable |
| max_constant_size_in_bytes | see above |

Left alone, with a reason: what would grow; what TensorFlow cannot compute; what has to run after an assert or another
effect; what reads an encoded weight; results that no constant can hold (resources, quantized types). In TensorFlow 1
control flow, a control edge says on which branch a node runs, so nothing that has one is folded, nor are the shapes of
what runs on a branch. Function bodies are not entered.

Source: tensorflow/tools/graph_transforms/fold_constants_lib.cc, same name and parameters; unlike it a
PlaceholderWithDefault stays one, and nodes keep their names.
"""

from __future__ import annotations

from tfslim_core.constant_nodes import Excluded
from tfslim_core.folding import Folding
from tfslim_core.graph import Graph, parse_input, renamed
from tfslim_core.registry import Outcome, Skipped, transform


@transform("fold_constants")
def fold_constants(
    graph: Graph,
    *,
    clear_output_shapes: bool = True,
    exclude_op: tuple[str, ...] = (),
    exclude_node: tuple[str, ...] = (),
    max_constant_size_in_bytes: int = 10 << 20,
) -> Outcome:
    """Compute now what is the same on every request, where that does not grow the graph."""
    excluded = Excluded(frozenset(exclude_op), frozenset(parse_input(name).node for name in exclude_node))
    folding = Folding(excluded, max_constant_size_in_bytes)
    reasons: dict[str, str] = {}
    if clear_output_shapes:
        graph = _without_output_shapes(graph)
    graph, changes = folding.fold(graph, reasons)
    skipped = tuple(
        Skipped(name, reason)
        for name, reason in reasons.items()
        if name in graph.nodes and graph.nodes[name].op != "Const"
    )
    return Outcome(graph, changes, skipped)


def _without_output_shapes(graph: Graph) -> Graph:
    noted = [node for node in graph.nodes.values() if "_output_shapes" in node.attr]
    copies = [renamed(node, node.name) for node in noted]
    for copy in copies:
        del copy.attr["_output_shapes"]
    return graph.replace(copies) if copies else graph
