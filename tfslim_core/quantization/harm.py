"""Which weights an encoding harms, found by trying each in a live session.

An int8 weight moves the outputs of an ordinary model by about as much as it is itself rounded, about a percent. A
weight that moves an output by much more is one whose error is amplified (the filters of a spectral front end, say). It
is stored in more bits where these do little harm, and left as it is where they do too. Where an output scores classes,
the order of the scores counts more than their size.
"""

from __future__ import annotations

import time
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

MOST_ERROR = 0.02  # relative L2 by which encoded weights may move an output
MOST_ERROR_OF_SCORES = 0.05  # the same, of an output that scores classes
MOST_FLIPS = 0.01  # share of examples whose top class may change
FINER = ("int12/tensor", "float16")  # what is tried instead, fewest bytes first
_FINER_SHARE = 0.25  # of what an encoding may do is what a finer one may: what is amplified once may be again
_FINER = 16  # times less harm by a finer encoding, about
_AT_ONCE = 32  # of so many weights one more is given up at a time
_FEW_FLIPS = 2  # so many prove nothing
SECONDS = 60.0  # for trying all weights; fewer requests are used where these would take longer


@dataclass(frozen=True)
class Harm:
    """alone: by weight, the largest relative L2 error of any output when only that one is encoded. instead: by weight,
    the encoding that is better for it, "" to leave it alone.
    """

    alone: Mapping[str, float]
    instead: Mapping[str, str]


@dataclass(frozen=True)
class _Move:
    """How far an output is from what it was. flips: of `rows` examples, those whose top class changed; 0 of 0 where the
    output scores no classes.
    """

    error: float
    flips: int = 0
    rows: int = 0

    def __add__(self, other: _Move) -> _Move:
        return _Move(max(self.error, other.error), self.flips + other.flips, self.rows + other.rows)

    def too_far(self, share: float = 1) -> bool:
        """Whether it is more than a share of what may be."""
        if not self.rows:
            return not self.error <= share * MOST_ERROR
        flipped = self.flips > max(_FEW_FLIPS, share * MOST_FLIPS * self.rows)
        return flipped or not self.error <= share * MOST_ERROR_OF_SCORES


NO_HARM = Harm({}, {})


def measure_harm(
    bundle: Bundle,
    choice: Choice,
    requests: Sequence[Request],
    random: Collection[tuple[str, str]] = (),
    progress: Callable[[int, int], None] | None = None,
    seconds: float = SECONDS,
) -> Harm:
    """Try each weight that `choice` would encode on the requests, alone, and then all that did no harm together.

    random: (signature, output) pairs that answer differently each time, and so tell nothing.
    """
    if encodings.is_exact(choice.encoding):
        return NO_HARM
    graph = bundle.graph
    names = candidates(graph, choice)
    if not names or not requests:
        return NO_HARM
    steps = (choice.encoding, *(one for one in FINER if encodings.bits(one) > encodings.bits(choice.encoding)), "")
    with LiveModel(bundle, names) as live:
        trial = _Trial(live, requests, frozenset(random), seconds / (2 * len(names) + 2))

        def store(name: str, encoding: str) -> bool:
            """Whether it can be."""
            done = []

            def value() -> Array:
                rounded = _rounded(graph, name, encoding) if encoding else None
                done.append(rounded is not None)
                return graph.weights[name].read() if rounded is None else rounded

            live.set(name, value)
            return done[0] or not encoding

        alone: dict[str, float] = {}
        expected: dict[str, float] = {}
        at: dict[str, int] = {}
        for number, name in enumerate(names):
            if progress is not None:
                progress(number, len(names))
            if not store(name, steps[0]):
                continue
            moves = trial.moves()
            alone[name] = expected[name] = max((move.error for move in moves), default=0.0)
            at[name] = 0
            while any(move.too_far(_FINER_SHARE if at[name] else 1) for move in moves) and steps[at[name]]:
                at[name] += 1
                if steps[at[name]] and store(name, steps[at[name]]):
                    moves = trial.moves()
                    expected[name] = max(move.error for move in moves)
            store(name, "")
        # What does little harm alone may still be too much together: give up the most harmful first.
        for name in at:
            store(name, steps[at[name]])
        while any(move.too_far() for move in trial.moves()):
            rest = sorted((name for name in at if steps[at[name]]), key=lambda name: (-expected[name], name))
            if not rest:
                break
            for name in rest[: max(1, len(rest) // _AT_ONCE)]:
                at[name] += 1
                expected[name] /= _FINER
                store(name, steps[at[name]])
    return Harm(alone, {name: steps[step] for name, step in at.items() if step})


class _Trial:
    """The answers before anything was changed, and how far those of now are from them.

    seconds: what asking all requests once may take; those that would take longer are left out, but for the first.
    """

    def __init__(
        self, live: LiveModel, requests: Sequence[Request], random: frozenset[tuple[str, str]], seconds: float
    ) -> None:
        self._live, self._random = live, random
        self._asked: list[tuple[Request, Answer]] = []
        start = time.monotonic()
        for request in requests:
            if self._asked and time.monotonic() - start > seconds:
                break
            self._asked.append((request, live.run(request.signature, request.feeds)))

    def moves(self) -> list[_Move]:
        """Of each float output."""
        found: dict[tuple[str, str], _Move] = {}
        for request, wanted in self._asked:
            answer = self._live.run(request.signature, request.feeds)
            for key in wanted:
                place = (request.signature, key)
                if np.asarray(wanted[key]).dtype.kind == "f" and place not in self._random:
                    move = _moved(np.asarray(wanted[key]), np.asarray(answer[key]))
                    found[place] = found[place] + move if place in found else move
        return list(found.values())


def _moved(wanted: Array, found: Array) -> _Move:
    error = difference(wanted, found)
    if wanted.ndim < 2 or wanted.shape[-1] < 2 or wanted.shape != found.shape:
        return _Move(error)
    flips = np.count_nonzero(wanted.argmax(axis=-1) != found.argmax(axis=-1))
    return _Move(error, int(flips), wanted[..., 0].size)


def _rounded(graph: Graph, name: str, encoding: str) -> Array | None:
    """The weight as it would be read back, or None where it cannot be encoded."""
    try:
        sharing = encodings.Sharing(use_of(graph, name).axes)
        stored = encodings.encoded(graph.weights[name], encoding, sharing, compress=False)
    except encodings.NotEncodableError:
        return None
    return stored.read()
