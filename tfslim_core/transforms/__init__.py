"""The transforms, the order in which they run unless told otherwise, and `apply`, which runs them.

One file each, named after the transform; importing this package registers them all.
"""

from __future__ import annotations

import gc
import importlib
import pkgutil
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

from tfslim_core import ops, registry
from tfslim_core.errors import TfslimError, TransformError
from tfslim_core.graph import Graph, parse_input
from tfslim_core.origins import Fate, fate
from tfslim_core.registry import Call, Outcome, Skipped, Value

__all__ = ["DEFAULT", "Step", "apply"]

for _module in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_module.name}")

DEFAULT = (
    # First, so that the others look only at what is needed.
    "strip_unused_nodes",
    # What a constant predicate never takes: gone before anything else looks at it.
    "fold_constant_switches",
    # An Identity between a layer and its weights or its batch norm would hide the pattern.
    "remove_nodes(op=Identity, op=StopGradient, op=PreventGradient, op=Snapshot)",
    # Scales and offsets that are computed from constants become constants, which the next one looks for.
    "fold_constants",
    # Permutations are constants now; a transpose between a layer and its batch norm may go.
    "fuse_transposes_and_reshapes",
    # After folding, and before anything is quantized: rounding a variance to zero costs accuracy.
    "fold_batch_norms",
    # After batch norms: equal weights (all zero, say) that two layers share could not be folded.
    "merge_duplicate_nodes",
    # What the others left behind.
    "strip_unused_nodes",
)


@dataclass(frozen=True)
class Step:
    """A transform that ran: what it changed, and what it left alone.

    bytes_before, bytes_after: of the graph with its weights as they are stored. seconds: wall clock.
    exact: whether answers stay the same. error: why the graph was kept as it was, when an error was ignored.
    fate: of the constants.
    """

    name: str
    parameters: Mapping[str, Value]
    changes: int
    nodes_before: int
    nodes_after: int
    bytes_before: int
    bytes_after: int
    skipped: tuple[Skipped, ...]
    seconds: float
    exact: bool = True
    error: str = ""
    fate: Fate = field(default_factory=Fate)


# Called before each transform with how many have run, how many there are, and its name.
Progress = Callable[[int, int, str], None]


def apply(
    graph: Graph, calls: str | Iterable[str | Call] | None = None, *, progress: Progress | None = None
) -> tuple[Graph, list[Step]]:
    """Run transforms, one after the other; `DEFAULT` unless told otherwise.

    Raises:
        TransformError: a call is wrong, or a transform failed; the message names it and those that ran before.
    """
    with _garbage_collected_later():
        return _apply(graph, _calls(DEFAULT if calls is None else calls), progress)


@contextmanager
def _garbage_collected_later() -> Iterator[None]:
    """Without the cyclic collector, which walks through all nodes again and again: a third of the time otherwise."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _apply(graph: Graph, asked: list[Call], progress: Progress | None) -> tuple[Graph, list[Step]]:
    steps: list[Step] = []
    nodes, size = len(graph.nodes), stored_bytes(graph)
    for number, call in enumerate(asked):
        name = call.transform.name
        if progress:
            progress(number, len(asked), name)
        start = time.monotonic()
        error = ""
        try:
            outcome = call.transform.function(graph, **call.arguments)
            _check_interface(graph, outcome.graph)
        except TfslimError as failure:
            earlier = f" (before it ran: {', '.join(step.name for step in steps)})" if steps else ""
            message = str(failure).removeprefix(f"{name}: ")
            if not call.ignore_errors:
                raise TransformError(f"{name}: {message}{earlier}") from failure
            outcome, error = Outcome(graph), message
        unchanged = outcome.graph is graph
        before, graph = graph, outcome.graph
        nodes_before, bytes_before = nodes, size
        if not unchanged:
            nodes, size = len(graph.nodes), size + stored_bytes(graph, before) - stored_bytes(before, graph)
        seconds = time.monotonic() - start
        steps.append(
            Step(
                name=name,
                parameters=dict(call.arguments),
                changes=outcome.changes,
                nodes_before=nodes_before,
                nodes_after=nodes,
                bytes_before=bytes_before,
                bytes_after=size,
                skipped=outcome.skipped,
                seconds=seconds,
                exact=unchanged or (call.transform.exact and outcome.exact),
                error=error,
                fate=Fate() if unchanged else fate(before, graph),
            )
        )
    return graph, steps


def stored_bytes(graph: Graph, besides: Graph | None = None) -> int:
    """Bytes of the graph and of its weights as they are stored. besides: a graph whose own parts do not count."""
    other = Graph({}) if besides is None else besides
    nodes: int = sum(node.ByteSize() for name, node in graph.nodes.items() if other.nodes.get(name) is not node)
    library: int = 0 if graph.rest is other.rest else graph.rest.ByteSize()
    weights = (weight for name, weight in graph.weights.items() if other.weights.get(name) is not weight)
    return nodes + library + sum(weight.stored_bytes for weight in weights)


def _calls(calls: str | Iterable[str | Call]) -> list[Call]:
    if isinstance(calls, str):
        return registry.parse(calls)
    return [one for call in calls for one in ([call] if isinstance(call, Call) else registry.parse(call))]


def _check_interface(before: Graph, after: Graph) -> None:
    """Say whether inputs and outputs are the same, and of the same types, and all targets are there.

    Raises:
        TransformError: they are not.
    """
    if (before.inputs, before.outputs) != (after.inputs, after.outputs) or not set(before.targets) <= set(
        after.targets
    ):
        raise TransformError("it changed the interface")
    for tensor in (*before.inputs, *before.outputs):
        source = parse_input(tensor)
        was, now = (ops.output_dtypes(g.nodes[source.node], g.functions)[source.port] for g in (before, after))
        if was != now:
            raise TransformError(f"it changed the type of {tensor!r} of the interface")
