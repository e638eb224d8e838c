"""How far a model's answers are from the original's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks import tflite
from benchmarks.subjects import Subject
from tfslim_core.errors import ModelError
from tfslim_core.metrics import ErrorStats, main_output
from tfslim_core.saved_model.fresh_process import Request, answers

Answers = Sequence[Mapping[str, np.ndarray]]


@dataclass(frozen=True)
class Agreement:
    """top1: share of examples with the same top class, None where there are no classes. rel_l2: of the worst float
    output. equal: share of equal elements of the worst other output (strings, integers), None where there is none.
    accuracy: share of examples whose top class is their label, None where there are no labels.
    """

    top1: float | None
    rel_l2: float
    equal: float | None
    accuracy: float | None = None


def ask(subject: Subject, path: Path) -> Answers:
    """The answers to all of a subject's examples.

    Raises:
        ModelError: the model cannot be loaded or cannot answer.
    """
    requests = [Request(subject.signature, feeds) for feeds in subject.batches()]
    if path.suffix == tflite.SUFFIX:
        with tflite.Process(path) as process:
            return [process.ask(request) for request in requests]
    found = answers(path, requests)
    for answer in found:
        if isinstance(answer, ModelError):
            raise answer
    return [answer for answer in found if not isinstance(answer, ModelError)]


def compare(subject: Subject, original: Answers, other: Answers) -> Agreement:
    """The agreement of two models' answers."""
    rows = [len(next(iter(feeds.values()))) for feeds in subject.batches()]
    summaries = {}
    for key in original[0]:
        stats = ErrorStats()
        for count, before, after in zip(rows, original, other, strict=True):
            stats.add_batch(before[key], after[key], range(count))
        summaries[key] = stats.summary()
    main = main_output({key: (s.kind, s.scores_classes) for key, s in summaries.items()})
    relative = [s.metrics.rel_l2_error for s in summaries.values() if s.kind == "float"]
    equal = [s.metrics.exact_match for s in summaries.values() if s.metrics.exact_match is not None]
    return Agreement(
        summaries[main].metrics.top1_agreement if main and subject.classifies else None,
        max((np.inf if error is None else error for error in relative), default=0.0),
        min(equal, default=None),
        _accuracy(subject, other, main),
    )


def _accuracy(subject: Subject, answers: Answers, main: str | None) -> float | None:
    if subject.labels is None or main is None:
        return None
    top = np.concatenate([answer[main].argmax(-1) for answer in answers])
    return float((top == subject.labels).mean())
