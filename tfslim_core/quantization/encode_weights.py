"""Store weights encoded: which ones, how, decoded where, and why."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from itertools import chain

import numpy as np

from tfslim_core import encodings
from tfslim_core.bundle import WeightEntry
from tfslim_core.errors import TransformError
from tfslim_core.graph import Graph
from tfslim_core.quantization.placements import Edit, Placement, choose, place, use_of
from tfslim_core.quantization.scales import scales_of
from tfslim_core.weights import Weight


@dataclass(frozen=True)
class Choice:
    """What to encode.

    include, exclude: shell patterns of node names; all are included unless told. minimum_size: elements.
    placement: where to decode every weight that can be decoded there; by its use unless told. compress: where it pays.
    plan: weight -> encoding for those that a search has decided; "" leaves one as it is. Others get `encoding`.
    lossless: what the encoding leaves alone (integers, vectors, what it would harm) is stored in fewer bytes where that
    is possible without loss; what `include` and `exclude` leave out is left as it is.
    """

    encoding: str = "int8"
    include: Sequence[str] = ()
    exclude: Sequence[str] = ()
    minimum_size: int = 1024
    placement: Placement | None = None
    compress: bool = True
    plan: Mapping[str, str] = field(default_factory=dict)
    lossless: bool = True


def candidates(graph: Graph, choice: Choice) -> list[str]:
    """Names of the weights that would be encoded, largest first; ties by name."""
    scales = scales_of(graph)
    names = [
        name
        for name, weight in graph.weights.items()
        if not _left_out(weight, name, choice) and not _objection(graph, name, choice, scales)
    ]
    return sorted(names, key=lambda name: (-graph.weights[name].nbytes, name))


def encode_weights(
    graph: Graph,
    choice: Choice,
    *,
    harm: Mapping[str, float] | None = None,
    instead: Mapping[str, str] | None = None,
    moments: Callable[[str], encodings.Moments | None] | None = None,
    progress: Callable[[str], None] | None = None,
) -> tuple[Graph, list[WeightEntry]]:
    """Encode the graph's weights.

    harm: what encoding a weight alone does to the answers, for the entries. instead: by weight, the encoding that it
    gets for it, "" to leave it alone. moments: of the inputs of a weight, by its name, where they are known.
    One weight's value is in memory at a time.

    Returns:
        The graph, and an entry for every weight that is encoded, and for every float weight that is not.

    Raises:
        TransformError: there is no such encoding, or no weight has a name that `include` asks for.
    """
    encodings.named(choice.encoding)
    for pattern in choice.include:
        if not any(fnmatchcase(name, pattern) for name in graph.weights):
            raise TransformError(f"no weight is called {pattern!r}; tfslim inspect lists them")
    scales = scales_of(graph)
    entries = []
    edits: list[Edit] = []
    names = graph.fresh_names()
    for name in sorted(graph.weights, key=lambda name: (-graph.weights[name].nbytes, name)):
        weight, use = graph.weights[name], use_of(graph, name)
        measured = (harm or {}).get(name)
        left_out = _left_out(weight, name, choice)
        reason = left_out or _objection(graph, name, choice, scales)
        encoding = choice.plan.get(name, choice.encoding)
        harmed = ""
        if not reason and instead is not None and name in instead:
            harmed = f"{encoding} would move the answers by {100 * (measured or 0):.2g} %"
            encoding = instead[name]
            reason = "" if encoding else harmed
        if not reason and not encoding:
            reason = "the search within the budget left it as it is"
        if progress is not None and not reason:
            progress(name)
        stored: Weight | None = None
        heeded = moments is not None and not reason and encodings.heeds_moments(encoding)
        inputs = moments(name) if moments is not None and heeded else None
        if not reason:
            try:
                sharing = encodings.Sharing(use.axes)
                stored = encodings.encoded(weight, encoding, sharing, compress=choice.compress, moments=inputs)
            except encodings.NotEncodableError as error:
                reason = str(error)
        if stored is None and choice.lossless and not left_out:
            stored = encodings.lossless(weight, compress=choice.compress)
        if stored is not None:
            placement, why = choose(use, stored, choice.placement)
            edits.append(place(graph, names, name, stored, use, placement))
            why = f"{reason}; nothing is lost as it is stored" if reason else "; ".join(filter(None, (harmed, why)))
            why += "; rounded by what it is fed in the data" if inputs is not None and not reason else ""
            entries.append(_stored(name, weight, stored, encoding, placement, why, measured))
        elif np.issubdtype(weight.dtype, np.floating):
            entries.append(_left(name, weight, reason, measured))
    changed = graph.replace(
        chain.from_iterable(edit.nodes for edit in edits),
        drop=chain.from_iterable(edit.drop for edit in edits),
        weights=dict(chain.from_iterable(edit.weights.items() for edit in edits)),
    )
    return changed, entries


def with_earlier(graph: Graph, entries: Sequence[WeightEntry], earlier: Sequence[WeightEntry]) -> list[WeightEntry]:
    """The entries, and for what had been stored encoded before the ones of then.

    graph: as it was before these entries' weights were encoded.
    """
    stored = {
        entry.name: entry
        for entry in earlier
        if entry.placement != "none" and _is_stored(graph, entry.name, graph.weights.get(entry.name))
    }
    new = [stored.pop(entry.name, entry) for entry in entries]
    return [*new, *stored.values()]


def _is_stored(graph: Graph, name: str, weight: Weight | None) -> bool:
    """Whether a weight is held as parts, or was replaced by them where it is decoded in the graph."""
    if weight is not None:
        return weight.encoded is not None
    return any(other.startswith(f"{name}/") for other in graph.nodes)


def _left_out(weight: Weight, name: str, choice: Choice) -> str:
    """Why nothing is done to a weight; or nothing."""
    if weight.encoded is not None:
        return f"it is stored as {weight.encoded.encoding} already"
    if choice.include and not any(fnmatchcase(name, pattern) for pattern in choice.include):
        return "not asked for"
    excluded = next((pattern for pattern in choice.exclude if fnmatchcase(name, pattern)), None)
    return f"excluded by {excluded!r}" if excluded is not None else ""


def _objection(graph: Graph, name: str, choice: Choice, scales: Collection[str]) -> str:
    """Why a weight is not encoded, before its value is read; or nothing."""
    weight = graph.weights[name]
    if choice.encoding == encodings.LOSSLESS:
        return ""
    if weight.dtype != np.float32:
        return f"it is {weight.dtype.name}, not float32"
    if name in scales:
        return "it is the scale or the codebook of an encoded weight"
    if math.prod(weight.shape) < choice.minimum_size:
        return f"it has {math.prod(weight.shape):,} elements, fewer than {choice.minimum_size:,}"
    if encodings.is_exact(choice.encoding):
        return ""
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
    name: str, weight: Weight, stored: Weight, asked: str, placement: Placement, reason: str, harm: float | None
) -> WeightEntry:
    """asked: the encoding as a user names it, which also says how scales are shared."""
    assert stored.encoded is not None
    scheme = stored.encoded.encoding
    return WeightEntry(
        name=name,
        dtype=weight.dtype.name,
        shape=list(weight.shape),
        bytes_before=weight.nbytes,
        bytes_after=stored.stored_bytes,
        encoding=asked if asked.partition("/")[0] == scheme else scheme,
        placement=placement,
        reason=reason,
        harm=harm,
    )
