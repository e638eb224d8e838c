"""The embeddings of a graph: tables of floats that are read by row number, and nothing else."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np

from tfslim_core import ops
from tfslim_core.bundle import Skip
from tfslim_core.graph import Graph, Input, data_inputs, needed, parse_input
from tfslim_core.quantization.gathered_rows import rows_read
from tfslim_core.quantization.placements import use_of

FEWEST_ROWS = 16  # a smaller table has nothing to drop


@dataclass(frozen=True)
class Lookup:
    """A node that reads rows of an embedding. ids: the row numbers. counted: the tensor in which each use is one."""

    node: str
    ids: Input
    counted: Input


@dataclass(frozen=True)
class Embedding:
    """A weight of which only rows are read, by numbers that can be counted. aliases: Identity nodes on the way."""

    name: str
    rows: int
    lookups: tuple[Lookup, ...]
    aliases: tuple[str, ...]


def find_embeddings(graph: Graph, fed: Collection[str]) -> tuple[list[Embedding], list[Skip]]:
    """The embeddings, largest first, and the other weights that rows are read of, with the reasons.

    fed: names of the nodes that the corpus feeds.
    """
    found: list[Embedding] = []
    left: list[Skip] = []
    for name in sorted(graph.weights, key=lambda name: (-graph.weights[name].nbytes, name)):
        weight = graph.weights[name]
        if not (np.issubdtype(weight.dtype, np.floating) or weight.dtype.name == "bfloat16"):
            continue
        use = use_of(graph, name)
        if not weight.shape or weight.shape[0] < FEWEST_ROWS:
            continue
        reads = [rows_read(graph, reader, len(weight.shape)) for reader in use.readers]
        lookups = [_lookup(graph, read.node) for read in reads if read is not None]
        if not lookups:
            continue
        reason = ""
        if weight.encoded is not None:
            reason = f"it is stored as {weight.encoded.encoding} already; prune before quantizing"
        elif not use.gathered:
            reason = f"rows of it are looked up, and it is used otherwise too: {use.reason}"
        elif any(read is not None and read.depth > 1 for read in reads):
            reason = "single numbers of it are looked up, not rows"
        else:
            problems = (_objection(graph, lookup, fed) for lookup in lookups)
            reason = next((problem for problem in problems if problem), "")
        if reason:
            left.append(Skip(node=name, reason=reason))
        else:
            found.append(Embedding(name, weight.shape[0], tuple(lookups), use.aliases))
    return found, left


def _lookup(graph: Graph, name: str) -> Lookup:
    ids = counted = data_inputs(graph.nodes[name])[1]
    # embedding_lookup_sparse looks each row up once; how often it is used is known before.
    while graph.nodes[counted.node].op in ("Unique", "Identity") and counted.port == 0:
        if any(parse_input(tensor).node == counted.node for tensor in graph.inputs):
            break
        counted = data_inputs(graph.nodes[counted.node])[0]
    return Lookup(name, ids, counted)


def _objection(graph: Graph, lookup: Lookup, fed: Collection[str]) -> str:
    """Why the row numbers of a lookup cannot be counted, or nothing."""
    if graph.nodes[lookup.node].op == "StridedSlice":
        return f"one row of it is read by its number ({lookup.node})"
    cone = needed(graph, [lookup.ids.node])
    inputs = {parse_input(tensor).node for tensor in graph.inputs}
    others = sorted(name for name in cone & inputs if name not in fed and _is_placeholder(graph, name))
    if others:
        return f"rows of it are also looked up for what the corpus does not feed ({others[0]})"
    if not ops.V1_CONTROL_FLOW.isdisjoint(graph.nodes[name].op for name in cone):
        return f"its row numbers are made in a loop or a branch of TensorFlow 1 ({lookup.node})"
    return ""


def _is_placeholder(graph: Graph, name: str) -> bool:
    """Whether a node has to be fed by a request; an asset's path is fed by the loader."""
    return bool(graph.nodes[name].op == "Placeholder")
