"""The worst examples, made readable: the input by key, and both answers side by side."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tfslim_core.report import formats
from tfslim_core.report.context import Answer
from tfslim_core.verdict import Verdict, WorstExample

LONGEST = 2000
ROWS = 6


@dataclass(frozen=True, slots=True)
class Example:
    """One example. inputs: (key, text). answers: (position, original, optimized), one of no parts at no position."""

    index: int
    output: str
    error: float | None
    inputs: list[tuple[str, str]]
    answers: list[tuple[str, str, str]]


def examples(verdict: Verdict, answers: Sequence[Answer]) -> dict[str, list[Example]]:
    """The worst examples of each dataset that has any."""
    known = {(answer.dataset, answer.index, answer.output): answer for answer in answers}
    return {
        name: [_example(worst, known.get((name, worst.index, worst.output))) for worst in dataset.worst]
        for name, dataset in verdict.datasets.items()
        if dataset.worst
    }


def side_by_side(original: Any, optimized: Any) -> list[tuple[str, str, str]]:
    """Two answers in rows. Of long rows of numbers: each model's largest, and those that differ most."""
    original, optimized = _plain(original), _plain(optimized)
    old, new = _numbers(original), _numbers(optimized)
    if old is None or new is None or len(old) != len(new) or len(old) < 2:
        return [("", readable(original), readable(optimized))]
    tops = {max(range(len(side)), key=lambda place: _order(side[place])) for side in (old, new)}
    by_difference = sorted(range(len(old)), key=lambda place: -_order(abs(old[place] - new[place])))
    shown = sorted([*tops, *[place for place in by_difference if place not in tops]][:ROWS])
    return [(str(place), formats.number(old[place], 4), formats.number(new[place], 4)) for place in shown]


def readable(value: Any) -> str:
    """A value as text: a string as it is, anything else as JSON, cut where it gets long."""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= LONGEST else f"{text[:LONGEST]} … ({len(text) - LONGEST:,} more characters)"


def _example(worst: WorstExample, answer: Answer | None) -> Example:
    alone = {} if worst.input is None else {"": worst.input}
    given = worst.input if isinstance(worst.input, Mapping) else alone
    inputs = [(str(key), readable(value)) for key, value in given.items()]
    answers = side_by_side(answer.original, answer.optimized) if answer else []
    return Example(worst.index, worst.output, worst.error, inputs, answers)


def _plain(value: Any) -> Any:
    """Lists for arrays, numbers for NumPy's scalars."""
    return value.tolist() if hasattr(value, "tolist") else value


def _numbers(value: Any) -> list[float] | None:
    while isinstance(value, list | tuple) and len(value) == 1 and isinstance(value[0], list | tuple):
        value = value[0]
    if not isinstance(value, list | tuple):
        return None
    numeric = all(isinstance(item, int | float) and not isinstance(item, bool) for item in value)
    return [float(item) for item in value] if numeric else None


def _order(value: float) -> float:
    return -math.inf if math.isnan(value) else value
