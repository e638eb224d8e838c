"""Do two servables answer a few requests alike? Each stage asks this of its own result.

The answers come from TensorFlow's C++ loader in a fresh process, so that the check is also the proof that an
unmodified server takes the result.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from tfslim_core.errors import ModelError
from tfslim_core.saved_model.fresh_process import Conversation, Request, answers
from tfslim_core.saved_model.sample_inputs import runnable_inputs
from tfslim_core.saved_model.served_signatures import Signature, read_signatures
from tfslim_core.weights import Array

TOLERANCE = 1e-4  # relative L2, for what should be equal but for the order of float operations
_SMALL = 1e-4  # root mean square; an answer smaller than that is measured as if it were as large

Feeds = Mapping[str, Array]


class ChangedAnswersError(ModelError):
    """Answers that should be equal are not. error: by how much the first of them is off."""

    def __init__(self, message: str, error: float) -> None:
        super().__init__(message)
        self.error = error


@dataclass(frozen=True)
class Sample:
    """Requests and what a model answered to them.

    unchecked: signature -> why there is no request for it. random: (signature, output) that answers differently when
    asked again, and so cannot be compared. given: whether the requests are the user's data.
    """

    requests: tuple[Request, ...]
    answers: tuple[Mapping[str, Array], ...]
    unchecked: Mapping[str, str] = field(default_factory=dict)
    random: frozenset[tuple[str, str]] = frozenset()
    given: bool = False


def take_sample(
    path: str | Path, tags: Sequence[str], signatures: Sequence[str], given: Mapping[str, Sequence[Feeds]] | None = None
) -> Sample:
    """Ask a model; `given` has requests by signature, others are made up.

    Raises:
        ModelError: the model cannot be loaded.
    """
    specs = read_signatures(path, tags)
    asked: list[tuple[Request, Mapping[str, Array]]] = []
    unchecked: dict[str, str] = {}
    random: set[tuple[str, str]] = set()
    with Conversation(path, tags) as conversation:
        for name in signatures:
            for request, first in _requests(conversation, specs[name], (given or {}).get(name, ()), unchecked):
                again = conversation.ask(request)
                if isinstance(again, ModelError):
                    unchecked.setdefault(name, str(again))
                    continue
                asked.append((request, first))
                random |= {(name, key) for key in first if difference(first[key], again[key]) > TOLERANCE}
    return Sample(
        tuple(request for request, _ in asked),
        tuple(answer for _, answer in asked),
        unchecked,
        frozenset(random),
        given=bool(given),
    )


def _requests(
    conversation: Conversation, signature: Signature, given: Sequence[Feeds], unchecked: dict[str, str]
) -> Iterator[tuple[Request, Mapping[str, Array]]]:
    """The requests that the model answers, and its answers; why there is none goes to `unchecked`."""
    if not given:
        trial = runnable_inputs(conversation, signature)
        if trial.feeds is None:
            unchecked[signature.name] = trial.reason
        else:
            yield Request(signature.name, trial.feeds), trial.answer
    for feeds in given:
        request = Request(signature.name, feeds)
        answer = conversation.ask(request)
        if isinstance(answer, ModelError):
            unchecked.setdefault(signature.name, str(answer))
        else:
            yield request, answer


def differences(sample: Sample, path: str | Path, tags: Sequence[str]) -> dict[tuple[str, str], float]:
    """For each (signature, output): how far the model's answers are from the sample's; see `difference`.

    Raises:
        ModelError: the model cannot be loaded, or fails where the sample's did not.
    """
    found: dict[tuple[str, str], float] = {}
    for request, wanted, answer in zip(sample.requests, sample.answers, _ask(path, sample.requests, tags), strict=True):
        if isinstance(answer, ModelError):
            raise ModelError(f"signature {request.signature!r} answered before, and now fails: {answer}")
        for key, value in wanted.items():
            place = (request.signature, key)
            if place not in sample.random:
                found[place] = max(found.get(place, 0.0), difference(value, answer[key]))
    return found


def check_equal(sample: Sample, path: str | Path, tags: Sequence[str], what: str) -> dict[tuple[str, str], float]:
    """The differences, all within the tolerance.

    Raises:
        ChangedAnswersError: one is not; `what` names the step that should not have changed the answers.
        ModelError: the model cannot be loaded, or fails where the sample's did not.
    """
    found = differences(sample, path, tags)
    for (signature, key), error in found.items():
        if error > TOLERANCE:
            raise ChangedAnswersError(
                f"{what} changed the answers: output {key!r} of signature {signature!r} is off by {error:.2g} "
                f"(relative L2), more than {TOLERANCE:g}",
                error,
            )
    return found


def difference(wanted: Array, found: Array) -> float:
    """||found - wanted|| / ||wanted|| for floats; for others the share of elements that differ.

    Infinite where the shapes or the NaNs do not match. Where `wanted` is next to nothing, rounding alone would make the
    quotient large; its root mean square counts as 1e-4 at least.
    """
    if wanted.shape != found.shape or wanted.dtype != found.dtype:
        return float("inf")
    if wanted.dtype.kind != "f" and wanted.dtype.name != "bfloat16":
        return float(np.mean(wanted != found)) if wanted.size else 0.0
    a, b = wanted.astype(np.float64), found.astype(np.float64)
    same = (a == b) | (np.isnan(a) & np.isnan(b))
    if not np.isfinite(a[~same]).all() or not np.isfinite(b[~same]).all():
        return float("inf")
    error = float(np.linalg.norm(np.subtract(b, a, out=np.zeros_like(a), where=~same)))
    size = float(np.linalg.norm(np.where(np.isfinite(a), a, 0)))
    return error / max(size, _SMALL * float(np.sqrt(max(a.size, 1))))


def _ask(path: str | Path, requests: Sequence[Request], tags: Sequence[str]) -> list[Mapping[str, Array] | ModelError]:
    return list(answers(path, requests, tags)) if requests else []
