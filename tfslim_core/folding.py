"""Constants in the place of the shapes and values of a graph that are the same on every request."""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import tensorflow as tf

from tfslim_core.c_graph import CGraph
from tfslim_core.claims import MOST_CLAIMED
from tfslim_core.constant_nodes import (
    Excluded,
    constant_nodes,
    fed_nodes,
    nodes_after_effects,
    nodes_in_control_flow,
)
from tfslim_core.constant_values import Result, compute
from tfslim_core.errors import GraphError
from tfslim_core.folding_plan import Plan
from tfslim_core.graph import (
    Graph,
    Input,
    NodeDef,
    constant,
    control_inputs,
    data_inputs,
    external_constant,
    renamed,
    rewired,
)
from tfslim_core.static_shapes import Shape, static_shapes
from tfslim_core.weights import Array, Weight

_ROUNDS = 20  # when something turns out too large or impossible, the rest is planned anew, at most so often
_SHAPE_OPS = frozenset({"Shape", "ShapeN", "Size", "Rank"})


@dataclass(frozen=True)
class Folding:
    """How to fold: what is left alone, and the bytes that a result may have when it does not replace as many.

    clear_output_shapes: forget the shapes noted at nodes, rather than to let them take part in finding shapes.
    """

    excluded: Excluded
    most: int
    clear_output_shapes: bool = True

    def fold(
        self, graph: Graph, reasons: dict[str, str], borrowed: Collection[str] = (), *, shapes: bool = True
    ) -> tuple[Graph, int]:
        """The graph with constants in the place of what is the same on every request; itself when there is nothing.

        reasons: gets why nodes that read constants alone stay. borrowed: constants that others hold too, so that
        nothing is gained when the graph reads them no more. shapes: false where no more of them is known than before.
        """
        if self.clear_output_shapes:
            graph = _without_output_shapes(graph)
        graph, changes = _fold_shapes(graph, self.excluded, reasons) if shapes else (graph, 0)
        for _ in range(_ROUNDS):
            # What was too large beside the constants that it read may not be beside what they have become.
            graph, folds, more = self._fold_values(graph, reasons, borrowed)
            changes += folds
            if not more:
                break
        return graph, changes

    def _fold_values(self, graph: Graph, reasons: dict[str, str], borrowed: Collection[str]) -> tuple[Graph, int, bool]:
        """The graph, how many nodes are constants now, and whether another look may find more."""
        excluded = self.excluded
        for _ in range(_ROUNDS):
            candidates = constant_nodes(graph, excluded, reasons)
            if not candidates:
                break
            nodes = [graph.nodes[name] for name in _with_leaves(graph, candidates)]
            try:
                imported = CGraph(nodes, graph.weights, graph.functions, graph.rest.versions)
            except GraphError as error:
                # TensorFlow refuses the graph because of one node; without it, the others may do.
                culprit = re.search(r"\{\{node ([^}]+)\}\}", str(error))
                name = culprit[1] if culprit else ""
                if name not in candidates:
                    reasons.update(dict.fromkeys(candidates, f"TensorFlow refuses it: {error}"))
                    break
                reasons[name] = f"TensorFlow refuses it: {error}"
                excluded |= name
                continue
            with imported:
                # Values on the way may be larger than any that is kept.
                most = max(MOST_CLAIMED, 2 * sum(weight.nbytes for weight in graph.weights.values()))
                huge = [name for name in candidates if _is_larger(graph, imported, name, most)]
                if huge:
                    for name in huge:
                        reasons[name] = f"its value would have {most >> 20:,} MiB or more"
                        excluded |= name
                    continue
                return self._planned(graph, candidates, imported, reasons, borrowed)
        return graph, 0, False

    def _planned(
        self,
        graph: Graph,
        candidates: Mapping[str, NodeDef],
        imported: CGraph,
        reasons: dict[str, str],
        borrowed: Collection[str],
    ) -> tuple[Graph, int, bool]:
        refused: set[str] = set()
        computed: dict[str, dict[int, Result]] = {}
        for rounds_left in reversed(range(_ROUNDS)):
            plan = Plan(
                graph,
                candidates,
                imported,
                most=self.most,
                refused=refused,
                borrowed=borrowed,
                guess=rounds_left > 0,
            )
            for name in plan.ports:
                reasons.pop(name, None)
            reasons.update(plan.reasons)
            missing = {
                name: plan.ports[name]
                for name in reversed(plan.ports)
                if not set(plan.ports[name]) <= computed.get(name, {}).keys()
            }
            found, failed = compute(graph, missing)
            for name, by_port in found.items():
                computed.setdefault(name, {}).update(by_port)
            results = {
                name: {port: computed[name][port] for port in ports}
                for name, ports in plan.ports.items()
                if name not in failed
            }
            failed |= plan.too_large(results)
            if not failed:
                graph, folds = _put(graph, results, plan.unread(), reasons)
                return graph, folds, bool(folds) and len(results) + len(plan.dead) < len(candidates)
            reasons.update(failed)
            refused |= failed.keys()
        return graph, 0, False


def _is_larger(graph: Graph, imported: CGraph, name: str, most: int) -> bool:
    """Whether an output of a node is known to take more bytes."""
    for port, dtype in enumerate(graph.facts(name).gives):
        shape = imported.shape(Input(name, port))
        sizes = [size for size in shape or () if size is not None]
        known = shape is not None and len(sizes) == len(shape)
        if known and math.prod(sizes) * (tf.as_dtype(dtype).size or 1) > most:
            return True
    return False


def _without_output_shapes(graph: Graph) -> Graph:
    noted = [node for node in graph.nodes.values() if "_output_shapes" in node.attr]
    copies = [renamed(node, node.name) for node in noted]
    for copy in copies:
        del copy.attr["_output_shapes"]
    return graph.replace(copies) if copies else graph


def _fold_shapes(graph: Graph, excluded: Excluded, reasons: dict[str, str]) -> tuple[Graph, int]:
    """Put constants in the place of shapes that are known from the graph."""
    if _SHAPE_OPS.isdisjoint(graph.by_op):
        return graph, 0
    asking = [node for node in graph.nodes.values() if node.op in _SHAPE_OPS and node not in excluded]
    fed = fed_nodes(graph)
    effects = nodes_after_effects(graph)
    branches = nodes_in_control_flow(graph)
    wanted = []
    for node in asking:
        if node.name in fed:
            continue
        if any(source.node in effects for source in graph.sources(node.name)):
            reasons[node.name] = "it runs after an effect, which would be lost"
        elif node.name in branches or (graph.has_v1_control_flow and control_inputs(node)):
            reasons[node.name] = "it runs on a branch of TensorFlow 1 control flow"
        else:
            wanted.append(node)
    try:
        shapes = static_shapes(graph, [source for node in wanted for source in data_inputs(node)])
    except GraphError as error:
        reasons.update({node.name: f"shapes cannot be inferred: {error}" for node in wanted})
        return graph, 0
    results = {}
    for node in wanted:
        values = [_shape_value(node, shapes[source]) for source in data_inputs(node)]
        if all(value is not None for value in values):
            results[node.name] = {port: Result(value) for port, value in enumerate(values)}
    return _put(graph, results, (), reasons)


def _shape_value(node: NodeDef, shape: Shape) -> Array | None:
    if shape is None:
        return None
    if node.op == "Rank":
        return np.array(len(shape), np.int32)
    sizes = [size for size in shape if size is not None]
    if len(sizes) < len(shape):
        return None
    dtype = np.int64 if node.attr["out_type"].type == tf.int64.as_datatype_enum else np.int32
    value: Array = np.array(math.prod(sizes) if node.op == "Size" else sizes, dtype)
    return value


def _with_leaves(graph: Graph, names: Iterable[str]) -> dict[str, None]:
    """The nodes and the constants that they read."""
    found: dict[str, None] = {}
    for name in names:
        found.update(dict.fromkeys(source.node for source in data_inputs(graph.nodes[name])))
        found[name] = None
    return found


def _put(
    graph: Graph, results: Mapping[str, Mapping[int, Result]], drop: Iterable[str], reasons: dict[str, str]
) -> tuple[Graph, int]:
    """The graph with constants in the place of nodes, and how many."""
    if not results:
        return graph, 0
    fresh = graph.fresh_names()
    new: dict[str, NodeDef] = {}
    weights: dict[str, Weight] = {}
    sources: dict[Input, Input] = {}
    gone = set(drop)
    for name, by_port in results.items():
        ports = list(by_port)
        if name in graph.interface and ports != [0]:
            reasons[name] = "a signature reads another of its outputs than the first"
            continue
        for port, result in by_port.items():
            put = name if port == ports[0] else fresh(f"{name}/output_{port}")
            device = graph.nodes[name].device
            if result.weight is not None:
                node, large = external_constant(put, result.weight, device=device)
            else:
                assert result.value is not None
                node, large = constant(put, result.value, device=device)
            new[put] = node
            weights |= large
            if (put, 0) != (name, port):
                sources[Input(name, port)] = Input(put, 0)
    if sources:
        # An old port may have the name of a new constant: only readers of the old nodes are rewired.
        for reader in {reader.node for source in sources for reader in graph.readers_of(source.node)}:
            if reader not in new and reader not in gone:
                new[reader] = rewired(graph.nodes[reader], sources)
    return graph.replace(new.values(), gone, weights=weights), len(results)
