"""Compute now what is the same on every request, where that does not grow the graph.

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
what runs on a branch.

Functions are folded too, together with the calls, branches and loops (PartitionedCall, If, Case, While) that run them:

    Before: while(x, W, axes): x = MatMul(x, Transpose(W, axes))
    After:  while(x, W'): x = MatMul(x, W')     with W' = Transpose(W, axes)

A constant argument becomes a constant inside, in a loop when each round passes it on unchanged, and the argument goes;
so work on weights is done once and not in each round. What is smaller than 1 KiB stays inside; larger constants come
out of functions as arguments, since only constants of the main graph can be stored as weights. Who reads what a loop
passes on unchanged reads what went in. A changed function gets a name of its own, one that nobody needs any more goes;
one that several calls have is copied for those whose constants differ, as long as the copies are not more nodes than
the model has. Calls stay as they are beside TensorFlow 1 control flow, and so do those of functions that call
themselves, that leave types to the caller, or that other ops (datasets, maps) use as well: such functions are folded
by themselves. A loop whose output a signature names by number, or whose effects a reader waits for, keeps that output.

Source: tensorflow/tools/graph_transforms/fold_constants_lib.cc, same name and parameters; unlike it a
PlaceholderWithDefault stays one, and nodes keep their names.
"""

from __future__ import annotations

from tfslim_core.constant_nodes import Excluded
from tfslim_core.folding import Folding
from tfslim_core.function_folding import fold_with_functions
from tfslim_core.graph import Graph, parse_input
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
    folding = Folding(excluded, max_constant_size_in_bytes, clear_output_shapes)
    graph, changes, reasons = fold_with_functions(graph, folding)
    return Outcome(graph, changes, tuple(Skipped(name, reason) for name, reason in reasons.items()))
