"""Store weights encoded: which ones, how, decoded where, and why."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from itertools import chain

import numpy as np

from tfslim_core import encodings
from tfslim_core.bundle import WeightEntry
from tfslim_core.errors import TransformError
from tfslim_core.graph import Graph
from tfslim_core.quantization.placements import Edit, Placement, choose, place, use_of
from tfslim_core.weights import Weight


@dataclass(frozen=True)
class Choice:
    """What to encode.

    include, exclude: shell patterns of node names; all are included unless told. minimum_size: elements.
    placement: where to decode every weight that can be decoded there; by its use unless told. compress: where it pays.
    """

    encoding: str = "int8"
    include: Sequence[str] = ()
    exclude: Sequence[str] = ()
    minimum_size: int = 1024
    placement: Placement | None = None
    compress: bool = True


def candidates(graph: Graph, choice: Choice) -> list[str]:
    """Names of the weights that would be encoded, largest first; ties by name."""
    names = [name for name in graph.weights if not _objection(graph, name, choice)]
    return sorted(names, key=lambda name: (-graph.weights[name].nbytes, name))


def encode_weights(
    graph: Graph,
    choice: Choice,
    *,
    harm: Mapping[str, float] | None = None,
    leave: Collection[str] = (),
    progress: Callable[[str], None] | None = None,
) -> tuple[Graph, list[WeightEntry]]:
    """Encode the graph's weights.

    harm: what encoding a weight alone does to the answers, for the entries. leave: names that are left alone for it.
    One weight's value is in memory at a time.

    Returns:
        The graph, and an entry for every float weight, encoded or not.

    Raises:
        TransformError: there is no such encoding, or no weight has a name that `include` asks for.
    """
    encodings.named(choice.encoding)
    for pattern in choice.include:
        if not any(fnmatchcase(name, pattern) for name in graph.weights):
            raise TransformError(f"no weight is called {pattern!r}; tfslim inspect lists them")
    entries = []
    edits: list[Edit] = []
    names = graph.fresh_names()
    for name in sorted(graph.weights, key=lambda name: (-graph.weights[name].nbytes, name)):
        weight = graph.weights[name]
        if not np.issubdtype(weight.dtype, np.floating):
            continue
        reason = _objection(graph, name, choice)
        measured = (harm or {}).get(name)
        if not reason and name in leave:
            reason = f"{choice.encoding} would move the answers by {100 * (measured or 0):.2g} %"
        if reason:
            entries.append(_left(name, weight, reason, measured))
            continue
        if progress is not None:
            progress(name)
        use = use_of(graph, name)
        try:
            stored = encodings.encoded(weight, choice.encoding, encodings.Sharing(use.axes), compress=choice.compress)
        except encodings.NotEncodableError as error:
            entries.append(_left(name, weight, str(error), measured))
            continue
        placement, why = choose(use, stored, choice.placement)
        edits.append(place(graph, names, name, stored, use, placement))
        entries.append(_stored(name, weight, stored, placement, why, measured))
    changed = graph.replace(
        chain.from_iterable(edit.nodes for edit in edits),
        drop=chain.from_iterable(edit.drop for edit in edits),
        weights=dict(chain.from_iterable(edit.weights.items() for edit in edits)),
    )
    return changed, entries


def _objection(graph: Graph, name: str, choice: Choice) -> str:
    """Why a weight is left alone, before its value is read; or nothing."""
    weight = graph.weights[name]
    if weight.encoded is not None:
        return f"it is stored as {weight.encoded.encoding} already"
    if weight.dtype != np.float32:
        return f"it is {weight.dtype.name}, not float32"
    if choice.include and not any(fnmatchcase(name, pattern) for pattern in choice.include):
        return "not asked for"
    excluded = next((pattern for pattern in choice.exclude if fnmatchcase(name, pattern)), None)
    if excluded is not None:
        return f"excluded by {excluded!r}"
    if math.prod(weight.shape) < choice.minimum_size:
        return f"it has {math.prod(weight.shape):,} elements, fewer than {choice.minimum_size:,}"
    if name in graph.interface:
        return "it is an output"
    if len(weight.shape) < 2 and not use_of(graph, name).gathered:
        return "it is a vector (a bias, a scale): there is little to save, and all to lose"
    return ""


def _left(name: str, weight: Weight, reason: str, harm: float | None) -> WeightEntry:
    return WeightEntry(
        name=name,
        dtype=weight.dtype.name,
        shape=list(weight.shape),
        bytes_before=weight.nbytes,
        bytes_after=weight.stored_bytes,
        encoding=weight.encoded.encoding if weight.encoded else weight.dtype.name,
        placement="load" if weight.encoded else "none",
        reason=reason,
        harm=harm,
    )


def _stored(
    name: str, weight: Weight, stored: Weight, placement: Placement, reason: str, harm: float | None
) -> WeightEntry:
    assert stored.encoded is not None
    return WeightEntry(
        name=name,
        dtype=weight.dtype.name,
        shape=list(weight.shape),
        bytes_before=weight.nbytes,
        bytes_after=stored.stored_bytes,
        encoding=stored.encoded.encoding,
        placement=placement,
        reason=reason,
        harm=harm,
    )
