"""Which class each model puts first: counts that add up, for outputs with few enough classes to tell in a table."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tfslim_core.metrics import kind_of, main_output, scores_classes
from tfslim_core.verdict import Confusion

Answer = Mapping[str, NDArray[Any]]

MOST_CLASSES = 64


@dataclass
class ConfusionStats:
    """Counts by output and number of classes: at [a * classes + b] the examples with class a of the original and b of
    the optimized model.

    names: of the classes, by output; None where batches name them differently.
    """

    counts: dict[tuple[str, int], NDArray[np.int64]] = field(default_factory=dict)
    names: dict[str, tuple[str, ...] | None] = field(default_factory=dict)

    def add(self, original: Answer, optimized: Answer, main: str | None) -> None:
        """Add the answers to a batch. main: the named main output; guessed from the answers unless given.

        Nothing is counted where that output does not score few classes for each example, where the models answer in
        different shapes, or, example by example, where a score is NaN: there is no top class.
        """
        kinds = {key: kind_of(array.dtype) for key, array in original.items()}
        key = main or main_output({k: (kind, scores_classes(kind, original[k].shape)) for k, kind in kinds.items()})
        if key is None or key not in original or key not in optimized:
            return
        first, second = original[key], optimized[key]
        if not scores_classes(kinds[key], first.shape) or first.ndim != 2 or first.shape != second.shape:
            return
        rows, classes = np.arange(len(first)), first.shape[1]
        if classes > MOST_CLASSES or first.dtype != second.dtype or first.dtype.kind == "c":
            return
        # NaN counts as the largest, so that where there is one it is the one that is found.
        tops = [side.argmax(1) for side in (first, second)]
        told = ~(np.isnan(first[rows, tops[0]]) | np.isnan(second[rows, tops[1]]))
        counted = np.bincount((tops[0] * classes + tops[1])[told], minlength=classes * classes)
        self._add_counts((key, classes), counted)
        self._add_names(key, _names(original, key))

    def merge(self, other: ConfusionStats) -> None:
        """Add what another worker saw."""
        for key, counted in other.counts.items():
            self._add_counts(key, counted)
        for output, names in other.names.items():
            self._add_names(output, names)

    def summary(self) -> Confusion | None:
        """The counts; None where there are none, or where the output or its number of classes changes."""
        if len(self.counts) != 1:
            return None
        (((output, classes), counted),) = self.counts.items()
        names = self.names.get(output) or tuple(str(number) for number in range(classes))
        counts: dict[str, dict[str, int]] = {}
        for place in np.flatnonzero(counted).tolist():
            counts.setdefault(names[place // classes], {})[names[place % classes]] = int(counted[place])
        return Confusion(output=output, classes=list(names), counts=counts)

    def _add_counts(self, key: tuple[str, int], counted: NDArray[np.int64]) -> None:
        self.counts[key] = self.counts[key] + counted if key in self.counts else counted

    def _add_names(self, key: str, names: tuple[str, ...] | None) -> None:
        if self.names.setdefault(key, names) != names:
            self.names[key] = None


def _names(answer: Answer, key: str) -> tuple[str, ...] | None:
    """The class list that a classify signature repeats for each example: strings, shaped like the scores."""
    for array in answer.values():
        if array.shape == answer[key].shape and kind_of(array.dtype) == "string" and len(array):
            row = [name.decode(errors="replace") if isinstance(name, bytes) else str(name) for name in array[0]]
            return tuple(row) if len(set(row)) == len(row) else None
    return None
