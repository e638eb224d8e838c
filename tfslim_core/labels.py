"""Both models against labels: what counts as a model's answer, how good it is, and how the two differ."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tfslim_core.intervals import Interval, Replicates, groups, of_groups, of_replicates, wilson
from tfslim_core.metrics import Kind, kind_of, scores_classes
from tfslim_core.roc import roc_curve
from tfslim_core.score_sketch import MOST_CLASSES, ScoreSketch
from tfslim_core.sketches import ExactSums
from tfslim_core.verdict import LabelMetric, Roc

Array = NDArray[Any]
Outputs = Mapping[str, Array]

BINS = 15
TOP = 5
_LEAST = 1e-15  # a probability below counts as this, so that no log is infinite
_SUM_TOLERANCE = 1e-3
# What an example adds to the sums: a count, what the original gives, and what the optimized one gives more.
_RIGHT, _FIVE, _LOSS, _ABSOLUTE, _SQUARED, _BINNED = 0, 3, 6, 9, 12, 15
_COLUMNS = _BINNED + 2 * BINS


@dataclass
class LabelStats:
    """How both models do against labels: add batches, merge with others, then ask for the summary.

    examples: with a label and an answer. missing: without a label, or with a name where no model answers names.
    of_no_class: with a label that is none of the classes. turned, turned_fives: how many only one of the models gets
    right, or has among its top five. halved: a lone probability was held against 0.5 for its class.
    """

    resampled: bool = True
    examples: int = 0
    missing: int = 0
    of_no_class: int = 0
    turned: int = 0
    turned_fives: int = 0
    sums: ExactSums = field(default_factory=lambda: ExactSums(_COLUMNS))
    replicates: Replicates | None = None
    sketches: dict[int, tuple[ScoreSketch, ScoreSketch]] = field(default_factory=dict)
    # What must be so on all examples for a metric to have a meaning.
    distributions: bool = True
    one_value: bool = False
    binary: bool = True
    halved: bool = False
    class_list: bytes | None = None
    one_class_list: bool = True

    def add(self, labels: Array, original: Outputs, optimized: Outputs, main: str | None, places: Array) -> None:
        """Add the answers to one batch.

        labels: [rows], each a number, bytes, or None where there is none. original, optimized: output key -> [rows, …].
        main: the main output. places: [rows], where the examples are.
        """
        labels = _numbers_where_no_names(labels, original)
        named = np.array([isinstance(label, bytes) for label in labels], bool)
        absent = np.array([label is None for label in labels], bool)
        self.missing += int(absent.sum())
        for rows in (named, ~named & ~absent):
            if rows.any():
                outputs = [
                    {key: array[rows] for key, array in one.items() if array.shape[:1] == rows.shape}
                    for one in (original, optimized)
                ]
                self._add(labels[rows], outputs[0], outputs[1], main, np.asarray(places)[rows])

    def merge(self, other: LabelStats) -> None:
        """Add what another saw."""
        self.examples += other.examples
        self.missing += other.missing
        self.of_no_class += other.of_no_class
        self.turned += other.turned
        self.turned_fives += other.turned_fives
        self.sums.merge(other.sums)
        if other.replicates is not None:
            self.replicates = self.replicates or Replicates(_COLUMNS)
            self.replicates.merge(other.replicates)
        for classes, pair in other.sketches.items():
            mine = self.sketches.setdefault(classes, (ScoreSketch(classes), ScoreSketch(classes)))
            for sketch, seen in zip(mine, pair, strict=True):
                sketch.merge(seen)
        self.distributions &= other.distributions
        self.one_value |= other.one_value
        self.halved |= other.halved
        self.binary &= other.binary
        self.one_class_list &= other.one_class_list
        self._watch_classes(other.class_list)

    def summary(self) -> dict[str, LabelMetric]:
        """Each metric that has a meaning here, by name, and accuracy in any case."""
        found = {"accuracy": LabelMetric(original=None, optimized=None, difference=None)}
        sums = self.sums.values
        resampled = self.replicates.sums if self.replicates is not None else None
        # A lone number per example is a probability where all of them and the labels could be, and else an estimate.
        estimates = self.one_value and not self.binary
        if not (estimates and self.halved):
            found |= self._shares("accuracy", _RIGHT, sums, resampled, self.turned)
        if not estimates:
            found |= self._shares("top5_accuracy", _FIVE, sums, resampled, self.turned_fives)
            found |= self._areas()
        if not estimates and self.distributions:
            found |= _metric("log_loss", sums, resampled, _LOSS)
            found |= _calibration(sums, resampled)
        if estimates:
            found |= _metric("mae", sums, resampled, _ABSOLUTE)
            found |= _metric("rmse", sums, resampled, _SQUARED, np.sqrt)
        return found

    def roc(self, names: Sequence[str]) -> Roc | None:
        """The ROC curves; None where `auc` has no meaning either. names: of the classes, empty where nobody knows."""
        if (self.one_value and not self.binary) or len(self.sketches) != 1 or not self.one_class_list:
            return None
        ((columns, pair),) = self.sketches.items()
        told = [
            roc_curve(sketch, differences=self.distributions and not self.one_value and columns == 1) for sketch in pair
        ]
        if told[0] is None or told[1] is None:
            return None
        second = names[1] if len(names) == 2 else "1"
        return Roc(positive=second if columns == 1 else None, original=told[0], optimized=told[1])

    def _add(self, labels: Array, original: Outputs, optimized: Outputs, main: str | None, places: Array) -> None:
        outputs = (original, optimized)
        labels = labels if isinstance(labels[0], bytes) else _numbers(labels)
        predicted = [predicted_labels(one, main, labels) for one in outputs]
        scores = [one[main] for one in outputs if main is not None and main in one]
        columns = np.zeros((_COLUMNS, len(labels)))
        rights = None
        if predicted[0] is not None and predicted[1] is not None:
            rights = [
                np.asarray(answer == labels, bool) & _answered(one, main, len(labels))
                for answer, one in zip(predicted, outputs, strict=True)
            ]
        if len(scores) == 2 and scores[0].shape == scores[1].shape:
            floats = [array.astype(np.float64) for array in scores if kind_of(array.dtype) == "float"]
            if len(floats) == 2 and floats[0].ndim == 2 and floats[0].shape[1] > 1:
                truth = self._truth(labels, original, floats[0].shape)
                if truth is not None:
                    self.of_no_class += int((truth < 0).sum())
                    self._add_scores(columns, floats, truth, places)
            elif len(floats) == 2 and floats[0].size == len(labels) and labels.dtype.kind != "O":
                values = [array.reshape(-1) for array in floats]
                self._add_values(columns, values, labels.astype(np.float64), places)
                if rights is None:
                    self.halved = True
                    rights = [(value >= 0.5) == (labels == 1) for value in values]
        if rights is None and not columns.any():
            return
        self.examples += len(labels)
        if rights is not None:
            self.turned += int(np.sum(rights[0] != rights[1]))
            _fill(columns, _RIGHT, rights[0], rights[1])
        self.sums.add(columns)
        if self.resampled:
            self.replicates = self.replicates or Replicates(_COLUMNS)
            self.replicates.add(columns, places)

    def _truth(self, labels: Array, original: Outputs, shape: tuple[int, ...]) -> NDArray[np.int64] | None:
        """The class number of each label, -1 where it is none of the classes; None where classes have no names."""
        if labels.dtype.kind != "O":
            whole = (labels == np.floor(labels)) & (labels >= 0) & (labels < shape[1])
            return np.where(whole, labels, -1).astype(np.int64)
        names = next((a for a in original.values() if a.shape == shape and kind_of(a.dtype) == "string"), None)
        if names is None:
            return None
        listed = b"".join(b"%d:%b" % (len(name), name) for name in names[0])
        self.one_class_list &= bool((names == names[:1]).all())
        self._watch_classes(hashlib.blake2b(listed, digest_size=16).digest())
        match = np.asarray(names == labels[:, None], bool)
        return np.where(match.any(1), match.argmax(1), -1)

    def _watch_classes(self, listed: bytes | None) -> None:
        if listed is not None:
            self.one_class_list &= self.class_list in (None, listed)
            self.class_list = min(listed, self.class_list or listed)

    def _add_scores(self, columns: Array, scores: list[Array], truth: Array, places: Array) -> None:
        """Metrics of scores by class, [rows, classes] float64 of both models."""
        known = truth >= 0
        classes = scores[0].shape[1]
        at = np.arange(len(truth)), np.maximum(truth, 0)
        if classes > TOP:
            # By how many classes score higher; of equal scores the first counts, as with argmax.
            higher = [
                ((one > one[at][:, None]) | ((one == one[at][:, None]) & (np.arange(classes) < at[1][:, None]))).sum(1)
                for one in scores
            ]
            fives = [known & (many < TOP) & ~np.isnan(one[at]) for many, one in zip(higher, scores, strict=True)]
            self.turned_fives += int(np.sum(fives[0] != fives[1]))
            _fill(columns, _FIVE, fives[0], fives[1])
        self.distributions = self.distributions and all(_are_distributions(one) for one in scores)
        if self.distributions:
            likely = [one[at] for one in scores]
            tops = [(one.max(1), one.argmax(1) == truth) for one in scores]
            _add_probabilities(columns, likely, tops, known)
        if classes == 2:
            # What grows with the second class's probability, for probabilities and logits alike.
            scores = [one[:, 1:] - one[:, :1] for one in scores]
            self._add_areas(scores, (truth == 1)[:, None], known, places)
        elif classes <= MOST_CLASSES:
            self._add_areas(scores, truth[:, None] == np.arange(classes), known, places)

    def _add_values(self, columns: Array, values: list[Array], labels: Array, places: Array) -> None:
        """Metrics of one number per example, [rows] float64 of both models."""
        self.one_value = True
        with np.errstate(all="ignore"):
            errors = [value - labels for value in values]
            _fill(columns, _ABSOLUTE, *(np.abs(error) for error in errors))
            _fill(columns, _SQUARED, *(np.square(error) for error in errors))
            in_range = all(((value >= 0) & (value <= 1)).all() for value in values)
        self.binary = self.binary and in_range and bool(((labels == 0) | (labels == 1)).all())
        if self.binary:
            likely = [np.where(labels == 1, value, 1 - value) for value in values]
            tops = [(np.maximum(value, 1 - value), (value >= 0.5) == (labels == 1)) for value in values]
            every = np.ones(len(labels), bool)
            _add_probabilities(columns, likely, tops, every)
            self._add_areas([value[:, None] for value in values], (labels == 1)[:, None], every, places)

    def _add_areas(self, scores: list[Array], positive: Array, known: Array, places: Array) -> None:
        known = known & ~np.isnan(scores[0]).any(1) & ~np.isnan(scores[1]).any(1)
        classes = positive.shape[1]
        pair = self.sketches.setdefault(classes, (ScoreSketch(classes), ScoreSketch(classes)))
        for sketch, one in zip(pair, scores, strict=True):
            sketch.add(one[known], positive[known], groups(places[known]))

    def _areas(self) -> dict[str, LabelMetric]:
        if len(self.sketches) != 1 or not self.one_class_list:
            return {}
        original, optimized = (sketch.areas() for sketch in next(iter(self.sketches.values())))
        if original is None or optimized is None:
            return {}
        difference = optimized[0] - original[0]
        interval = of_groups(difference, optimized[1] - original[1]) if self.resampled else None
        return {
            "auc": LabelMetric(original=original[0], optimized=optimized[0], difference=difference, interval=interval)
        }

    def _shares(
        self, name: str, column: int, sums: list[float], resampled: Array | None, turned: int
    ) -> dict[str, LabelMetric]:
        """A share of examples; where none turned, resampling cannot tell how many others might."""
        found = _metric(name, sums, resampled, column)
        if name not in found:
            return {}
        metric, many = found[name], int(sums[column])
        unseen = 1 - (wilson(1.0, many)[0] or 0.0)
        interval = metric.interval if turned else (-unseen, unseen)
        ends = {f"{model}_interval": wilson(getattr(metric, model), many) for model in ("original", "optimized")}
        return {name: metric.model_copy(update={"interval": interval, **ends})}


def predicted_labels(outputs: Outputs, main: str | None, labels: Array) -> Array | None:
    """What one model answered, in the labels' terms, [batch]; None where no output can be read as a label.

    outputs: key -> [batch, …]. labels: [batch], numbers (class numbers) or bytes (class names).
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


def _answered(outputs: Outputs, main: str | None, rows: int) -> Array:
    """Which examples have a top class, [rows]: argmax takes a NaN for the largest score."""
    scores = outputs.get(main) if main is not None else None
    if scores is None or scores.ndim != 2 or kind_of(scores.dtype) != "float":
        return np.ones(rows, bool)
    return np.asarray(~np.isnan(scores.astype(np.float64)).any(1))


def _numbers_where_no_names(labels: Array, outputs: Outputs) -> Array:
    """Labels without text where no output is text: it is a number then, as CSV has it, or no label at all."""
    if any(kind_of(array.dtype) == "string" for array in outputs.values()):
        return labels
    found = np.empty(len(labels), object)
    found[:] = [_number(label) if isinstance(label, bytes) else label for label in labels]
    return found


def _number(text: bytes) -> float | None:
    try:
        number = float(text)
    except ValueError:
        return None
    return None if math.isnan(number) else number


def _numbers(labels: Array) -> Array:
    """As an array of numbers, those beyond 64 bits as floats."""
    numbers = np.asarray(labels.tolist())
    return numbers.astype(np.float64) if numbers.dtype.kind == "O" else numbers


def _fill(columns: Array, first: int, original: Array, optimized: Array) -> None:
    """A count of one, the original's value, and how much more the optimized one's is."""
    columns[first], columns[first + 1] = 1, original
    columns[first + 2] = optimized.astype(np.float64) - original


def _add_probabilities(columns: Array, likely: list[Array], tops: list[tuple[Array, Array]], known: Array) -> None:
    """Log loss from the label's probability, and by bins of the top one how far it is from being right."""
    losses = [-np.log(np.clip(one, _LEAST, 1)) for one in likely]
    _fill(columns, _LOSS, losses[0], losses[1])
    rows = np.arange(len(known))
    gaps = []
    for confidence, right in tops:
        gap = np.zeros((BINS, len(known)))
        gap[np.clip((confidence * BINS).astype(int), 0, BINS - 1), rows] = confidence - right
        gaps.append(gap)
    columns[_BINNED : _BINNED + BINS] = gaps[0]
    columns[_BINNED + BINS :] = gaps[1] - gaps[0]
    columns[_LOSS : _LOSS + 3, ~known] = 0
    columns[_BINNED:, ~known] = 0


def _are_distributions(scores: Array) -> bool:
    with np.errstate(all="ignore"):
        return bool((scores >= 0).all() and (np.abs(scores.sum(1) - 1) <= _SUM_TOLERANCE).all())


def _same(value: Any) -> Any:
    return value


def _metric(
    name: str, sums: list[float], resampled: Array | None, column: int, form: Callable[[Any], Any] = _same
) -> dict[str, LabelMetric]:
    """A mean of both models, or what is formed of it; nothing where no example counts or the mean is not finite."""
    many, total, more = sums[column : column + 3]
    if not many or not math.isfinite(total) or not math.isfinite(more):
        return {}
    original, optimized = (float(form(value / many)) for value in (total, total + more))
    # From the sums: 0.92 - 0.9 is not 0.02.
    difference = more / many if form is _same else optimized - original
    interval: Interval | None = None
    if resampled is not None:
        many_of, total_of, more_of = resampled[column : column + 3]
        with np.errstate(all="ignore"):
            changes = more_of / many_of
            if form is not _same:
                changes = form(np.maximum((total_of + more_of) / many_of, 0)) - form(total_of / many_of)
        interval = of_replicates(changes)
    return {name: LabelMetric(original=original, optimized=optimized, difference=difference, interval=interval)}


def _calibration(sums: list[float], resampled: Array | None) -> dict[str, LabelMetric]:
    """The expected calibration error: the mean gap between the top probability and being right, by bins."""

    def errors(gaps: Array, many: Any) -> list[Array]:
        before, more = gaps.reshape(2, BINS, -1)
        with np.errstate(all="ignore"):
            return [np.abs(one).sum(0) / many for one in (before, before + more)]

    many = sums[_LOSS]
    if not many or not all(map(math.isfinite, sums[_BINNED:])):
        return {}
    original, optimized = (float(value[0]) for value in errors(np.array(sums[_BINNED:]), many))
    interval = None
    if resampled is not None:
        before, after = errors(resampled[_BINNED:], resampled[_LOSS])
        interval = of_replicates(after - before)
    return {
        "calibration_error": LabelMetric(
            original=original, optimized=optimized, difference=optimized - original, interval=interval
        )
    }
