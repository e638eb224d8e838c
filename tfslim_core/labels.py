"""Accuracy against labels: what counts as a model's answer, and how often it is right."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tfslim_core.metrics import Kind, kind_of, scores_classes
from tfslim_core.verdict import LabelMetric

Array = NDArray[Any]


@dataclass
class LabelStats:
    """How many examples each model gets right. turned: how many only one of them does."""

    examples: int = 0
    original_right: int = 0
    optimized_right: int = 0
    turned: int = 0

    def add_batch(self, original: Sequence[bool] | Array, optimized: Sequence[bool] | Array) -> None:
        """Add one batch: per example, whether the model's answer is its label; [batch] bool each."""
        self.examples += len(original)
        self.original_right += int(np.sum(original))
        self.optimized_right += int(np.sum(optimized))
        self.turned += int(np.sum(np.not_equal(original, optimized)))

    def merge(self, other: LabelStats) -> None:
        """Add what another saw."""
        self.examples += other.examples
        self.original_right += other.original_right
        self.optimized_right += other.optimized_right
        self.turned += other.turned

    def summary(self) -> dict[str, LabelMetric]:
        """Accuracy of both models, the share of examples whose answer is the label."""
        if not self.examples:
            return {"accuracy": LabelMetric(original=None, optimized=None, difference=None)}
        original, optimized = self.original_right / self.examples, self.optimized_right / self.examples
        # From the counts: 0.92 - 0.9 is not 0.02.
        difference = (self.optimized_right - self.original_right) / self.examples
        return {"accuracy": LabelMetric(original=original, optimized=optimized, difference=difference)}


def predicted_labels(outputs: Mapping[str, Array], main: str | None, labels: Array) -> Array | None:
    """What one model answered, in the labels' terms, [batch]; None where no output can be read as a label.

    outputs: key -> [batch, …]. labels: [batch], integers (class numbers) or bytes (class names).
    A class number is the argmax of the main output, else an integer output with one value per example. A class name is
    the one at the argmax in a string output shaped like the main one (the class list of a classify signature), else a
    string output with one value per example.
    """
    rows = len(labels)
    scores = outputs.get(main) if main is not None else None
    scoring = scores is not None and scores_classes(kind_of(scores.dtype), scores.shape) and scores.ndim == 2
    wanted: Kind = "string" if kind_of(labels.dtype) == "string" else "integer"
    places = scores.astype(np.float64).argmax(1) if scoring and scores is not None else None
    if places is not None and wanted == "integer":
        return np.asarray(places)
    alike = [array for array in outputs.values() if kind_of(array.dtype) == wanted and array.shape[:1] == (rows,)]
    if places is not None and scores is not None:
        for names in alike:
            if names.shape == scores.shape:
                return np.asarray(names[np.arange(rows), places])
    return next((array.reshape(rows) for array in alike if array.size == rows), None)
