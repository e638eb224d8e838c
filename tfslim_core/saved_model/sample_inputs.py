"""Made-up requests for a signature, for when the user gives no data.

They show that a model runs and what it costs, and nothing about the quality of its answers.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from tfslim_core.errors import ModelError
from tfslim_core.saved_model.composite_inputs import composites
from tfslim_core.saved_model.fresh_process import Conversation, Request
from tfslim_core.saved_model.served_signatures import Signature, TensorSpec

MOST_CANDIDATES = 12
_MOST_ELEMENTS = 4_000_000  # of a guess; what a signature itself demands may be larger
_MOST_DEMANDED = 1 << 28  # elements of a request that is made up at all
_TEXTS = (
    b"def add(a, b):\n    return a + b\n",
    b"The quick brown fox jumps over the lazy dog.",
    b"",
    b"SELECT name, price FROM products WHERE price > 10 ORDER BY price;",
)


@dataclass(frozen=True)
class _Style:
    """How one candidate fills in what a signature leaves open.

    size: of unknown dimensions other than the batch. rank: of inputs with an unknown rank, the batch counted; 0 for a
    scalar. values: "likely", "zeros", or "examples" (strings are empty serialized tf.Examples). optional: whether
    inputs with a default are fed. composite: whether inputs that look like the parts of a sparse or ragged tensor are
    made to fit each other.
    """

    size: int = 8
    rank: int = 1
    values: str = "likely"
    optional: bool = False
    composite: bool = False


@dataclass(frozen=True)
class Trial:
    """Feeds with which a model runs and what it answered, or None and the reason why there are none (one line)."""

    feeds: Mapping[str, np.ndarray] | None
    reason: str = ""
    answer: Mapping[str, np.ndarray] = field(default_factory=dict)


def made_up_inputs(signature: Signature, batch: int = 2, seed: int = 0) -> list[Mapping[str, np.ndarray]]:
    """At most 12 different sets of feeds by input key, the most plausible first; the same for the same arguments.

    Floats are uniform in [0, 1), the range of images and audio; integers 0 to 9, which most vocabularies have; strings
    are short texts. The first dimension, where it is unknown, is the batch; other unknown dimensions and ranks are
    guessed, another way in each candidate. Inputs that have a default are left to it first. A signature with an input
    that numpy cannot hold gives [].
    """
    if any(spec.dtype == np.void for spec in signature.inputs.values()):
        return []
    candidates: list[Mapping[str, np.ndarray]] = []
    seen: set[tuple[Any, ...]] = set()
    for style in _styles(signature.inputs):
        rng = np.random.default_rng(seed)
        fed = {key: spec for key, spec in signature.inputs.items() if style.optional or not spec.optional}
        shapes = {key: _shape(spec, batch, style) for key, spec in fed.items()}
        if sum(map(math.prod, shapes.values())) > _MOST_DEMANDED:
            continue
        if candidates and sum(map(math.prod, shapes.values())) > _MOST_ELEMENTS:
            continue
        feeds = {key: _values(spec, shapes[key], style, rng) for key, spec in fed.items()}
        if style.composite:
            for one in composites(fed):
                feeds |= one.feeds(fed, batch, style.size, rng)
        looks = tuple((key, _look(array)) for key, array in feeds.items())
        if looks not in seen:
            seen.add(looks)
            candidates.append(feeds)
    return candidates


def runnable_inputs(conversation: Conversation, signature: Signature, *, batch: int = 2, seed: int = 0) -> Trial:
    """The first made-up feeds that the model answers.

    Raises:
        ModelError: the model cannot be loaded.
    """
    candidates = made_up_inputs(signature, batch, seed)
    if not candidates:
        return Trial(None, f"signature {signature.name!r} takes an input that cannot be made up")
    reason = ""
    for feeds in candidates:
        answer = conversation.ask(Request(signature.name, feeds))
        if not isinstance(answer, ModelError):
            return Trial(feeds, answer=answer)
        reason = reason or str(answer)
    return Trial(None, f"none of {len(candidates)} made-up requests was answered; the first: {reason}")


def _styles(inputs: Mapping[str, TensorSpec]) -> list[_Style]:
    """The styles that can differ for these inputs, the most plausible first."""
    plain = _plain_styles(list(inputs.values()))
    if not composites(inputs):
        return plain
    return [*(replace(style, composite=True) for style in plain[: MOST_CANDIDATES - 1]), plain[0]]


def _plain_styles(specs: Sequence[TensorSpec]) -> list[_Style]:
    sizes = (8, 32, 224, 1, 16, 128) if any(None in (spec.shape or ())[1:] for spec in specs) else (8,)
    ranks = (1, 2, 0) if any(spec.shape is None for spec in specs) else (1,)
    values = ["likely", "examples", "zeros"] if any(spec.dtype == object for spec in specs) else ["likely", "zeros"]
    optional = [False, True] if any(spec.optional for spec in specs) else [False]
    shapes = [_Style(size, rank) for rank in ranks for size in sizes]
    fillings = [replace(shapes[0], values=v, optional=o) for v in values for o in optional][1:]
    # Likely values in every shape come before unlikely values in any.
    return shapes[: MOST_CANDIDATES - len(fillings)] + fillings


def _shape(spec: TensorSpec, batch: int, style: _Style) -> tuple[int, ...]:
    if spec.shape is None:
        return ((), (batch,), (batch, style.size))[style.rank]
    return tuple(
        size if size is not None else batch if axis == 0 else style.size for axis, size in enumerate(spec.shape)
    )


def _values(spec: TensorSpec, shape: tuple[int, ...], style: _Style, rng: np.random.Generator) -> np.ndarray:
    dtype = spec.dtype
    if dtype.kind == "O":
        texts = itertools.cycle([b""] if style.values == "examples" else _TEXTS)
        array = np.empty(shape, object)
        array.reshape(-1)[:] = list(itertools.islice(texts, array.size))
        return array
    if style.values == "zeros":
        return np.zeros(shape, dtype)
    if dtype.kind in "iu":
        return rng.integers(0, 10, shape).astype(dtype)
    # Booleans, and integers of 2 to 4 bits, whose kind says nothing.
    if dtype.kind == "b" or dtype.name.lstrip("u").startswith("int"):
        return rng.integers(0, 2, shape).astype(dtype)
    return rng.random(shape).astype(dtype)


def _look(array: np.ndarray) -> tuple[Any, ...]:
    return array.shape, tuple(array.reshape(-1).tolist()) if array.dtype == object else array.tobytes()
