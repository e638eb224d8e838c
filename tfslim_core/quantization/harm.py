"""Which weights an encoding harms, found by trying each in a live session.

An int8 weight moves the outputs of an ordinary model by about as much as it is itself rounded, about a percent. A
weight that moves an output by more is one whose error is amplified (the filters of a spectral front end, say); what
it saves is not worth it, and it is left as it is.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from tfslim_core import encodings
from tfslim_core.bundle import Bundle
from tfslim_core.graph import Graph
from tfslim_core.quantization.encode_weights import Choice, candidates
from tfslim_core.quantization.live_model import Answer, LiveModel
from tfslim_core.quantization.placements import use_of
from tfslim_core.saved_model.fresh_process import Request
from tfslim_core.saved_model.sample_check import difference
from tfslim_core.weights import Array

ALONE = 0.02  # relative L2 by which one weight may move any output
TOGETHER = 0.02  # by which all of them may, and
TOGETHER_SCORES = 0.05  # an output that scores classes, whose order matters more than its size


@dataclass(frozen=True)
class Harm:
    """alone: by weight, the largest relative L2 error of any output when only that one is encoded. leave: those that
    are better left alone. together: the same error with all others encoded.
    """

    alone: Mapping[str, float]
    leave: frozenset[str]
    together: float


def measure_harm(
    bundle: Bundle,
    choice: Choice,
    requests: Sequence[Request],
    random: Collection[tuple[str, str]] = (),
    progress: Callable[[int, int], None] | None = None,
) -> Harm:
    """Try each weight that `choice` would encode on the requests.

    random: (signature, output) pairs that answer differently each time, and so tell nothing.
    """
    names = candidates(bundle.graph, choice)
    if not names or not requests:
        return Harm({}, frozenset(), 0.0)
    with LiveModel(bundle, names) as live:
        trial = _Trial(live, requests, frozenset(random))
        alone: dict[str, float] = {}
        for number, name in enumerate(names):
            if progress is not None:
                progress(number, len(names))
            rounded = _rounded(bundle.graph, name, choice)
            if rounded is not None:
                live.set(name, rounded)
                alone[name] = max(trial.errors().values(), default=0.0)
                live.set(name, bundle.graph.weights[name].read())
        leave = {name for name, error in alone.items() if not error <= ALONE}
        # What is left together may still be too much: give up the most harmful first.
        rest = sorted((name for name in alone if name not in leave), key=lambda name: (alone[name], name))
        for name in rest:
            rounded = _rounded(bundle.graph, name, choice)
            if rounded is not None:
                live.set(name, rounded)
        errors = trial.errors()
        while rest and any(not errors[place] <= trial.bound(place) for place in errors):
            name = rest.pop()
            leave.add(name)
            live.set(name, bundle.graph.weights[name].read())
            errors = trial.errors()
    return Harm(alone, frozenset(leave), max(errors.values(), default=0.0))


class _Trial:
    """The answers before anything was changed, and how far those of now are from them."""

    def __init__(self, live: LiveModel, requests: Sequence[Request], random: frozenset[tuple[str, str]]) -> None:
        self._live, self._requests, self._random = live, requests, random
        self._wanted = self._answers()

    def errors(self) -> dict[tuple[str, str], float]:
        """Relative L2 error of each float output, the largest over all requests."""
        found: dict[tuple[str, str], float] = {}
        for request, wanted, answer in zip(self._requests, self._wanted, self._answers(), strict=True):
            for key, value in wanted.items():
                place = (request.signature, key)
                if np.asarray(value).dtype.kind == "f" and place not in self._random:
                    error = difference(np.asarray(value), np.asarray(answer[key]))
                    found[place] = max(found.get(place, 0.0), error)
        return found

    def bound(self, place: tuple[str, str]) -> float:
        """What all weights together may do to an output."""
        pairs = zip(self._requests, self._wanted, strict=True)
        shape = next(np.shape(wanted[place[1]]) for request, wanted in pairs if request.signature == place[0])
        return TOGETHER_SCORES if len(shape) > 1 and shape[-1] > 1 else TOGETHER

    def _answers(self) -> list[Answer]:
        return [self._live.run(request.signature, request.feeds) for request in self._requests]


def _rounded(graph: Graph, name: str, choice: Choice) -> Array | None:
    """The weight as it would be read back, or None where it cannot be encoded."""
    try:
        stored = encodings.encoded(graph.weights[name], choice.encoding, use_of(graph, name).axes)
    except encodings.NotEncodableError:
        return None
    return stored.read()
