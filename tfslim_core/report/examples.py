"""The worst examples, made readable: the input by key, and both answers side by side."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tfslim_core.report import formats
from tfslim_core.report.context import Answer
from tfslim_core.verdict import Confusion, Verdict, WorstExample

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
        name: [
            _example(worst, known.get((name, worst.index, worst.output)), _classes(dataset.confusion, worst.output))
            for worst in dataset.worst
        ]
        for name, dataset in verdict.datasets.items()
        if dataset.worst
    }


def side_by_side(original: Any, optimized: Any, names: Sequence[str] = ()) -> list[tuple[str, str, str]]:
    """Two answers in rows. Of long rows of numbers: each model's largest, and those that differ most. names: of the
    numbers, where they have some.
    """
    original, optimized = _plain(original), _plain(optimized)
    old, new = _numbers(original), _numbers(optimized)
    if old is None or new is None or len(old) != len(new) or len(old) < 2:
        return [("", readable(original), readable(optimized))]
    tops = {max(range(len(side)), key=lambda place: _order(side[place])) for side in (old, new)}
    by_difference = sorted(range(len(old)), key=lambda place: -_apart(old[place], new[place]))
    shown = sorted([*tops, *[place for place in by_difference if place not in tops]][:ROWS])
    named = names if len(names) == len(old) else [str(place) for place in range(len(old))]
    return [(named[place], formats.number(old[place], 4), formats.number(new[place], 4)) for place in shown]


def readable(value: Any) -> str:
    """A value as text: a string as it is, anything else as JSON, cut where it gets long."""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= LONGEST else f"{text[:LONGEST]} … ({len(text) - LONGEST:,} more characters)"


def _classes(confusion: Confusion | None, output: str) -> Sequence[str]:
    return confusion.classes if confusion is not None and confusion.output == output else ()


def _example(worst: WorstExample, answer: Answer | None, names: Sequence[str]) -> Example:
    alone = {} if worst.input is None else {"": worst.input}
    given = worst.input if isinstance(worst.input, Mapping) else alone
    inputs = [(str(key), readable(value)) for key, value in given.items()]
    answers = side_by_side(answer.original, answer.optimized, names) if answer else []
    return Example(worst.index, worst.output, worst.error, inputs, answers)


def _plain(value: Any) -> Any:
    """Lists for arrays, numbers for NumPy's scalars."""
    return value.tolist() if hasattr(value, "tolist") else value


def _numbers(value: Any) -> list[float] | None:
    """The numbers of a list, or of its start where the rest was cut; None where it holds anything else."""
    while isinstance(value, list | tuple) and len(value) == 1 and isinstance(value[0], list | tuple):
        value = value[0]
    if not isinstance(value, list | tuple):
        return None
    cut = bool(value) and isinstance(value[-1], str) and value[-1].startswith("…")
    found = [_float(item) for item in (value[:-1] if cut else value)]
    return None if None in found else [item for item in found if item is not None]


def _float(item: Any) -> float | None:
    # What JSON has no number for was shortened to its name.
    if isinstance(item, bool) or not (isinstance(item, int | float) or item in ("nan", "inf", "-inf")):
        return None
    return float(item)


def _apart(one: float, other: float) -> float:
    """How far two numbers are apart; without end where only one of them is NaN."""
    if math.isnan(one) or math.isnan(other):
        return 0.0 if math.isnan(one) and math.isnan(other) else math.inf
    return 0.0 if one == other else abs(one - other)


def _order(value: float) -> float:
    return -math.inf if math.isnan(value) else value
