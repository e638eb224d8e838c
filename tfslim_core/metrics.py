"""How the answers of two models differ, as statistics that add up: any split of the data, merged in any order.

Counts and maxima are exact. Sums are added without rounding across batches, so the order of merging does not show in
them; quantiles come from a histogram with a relative accuracy of 0.8 %. Intervals are those of `intervals`; they are of
examples, however many values an example has.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from tfslim_core.class_scores import ClassStats, PositionStats
from tfslim_core.intervals import Interval, Replicates, of_replicates, quantile_shares, wilson
from tfslim_core.sketches import ExactSums, LogHistogram
from tfslim_core.verdict import OutputMetrics

Array = NDArray[Any]
Kind = Literal["float", "integer", "bool", "string"]

WORST_KEPT = 10
# Values that are worked on at a time, so that the temporary arrays stay in the cache.
_BLOCK = 1 << 16
SHOWN_VALUES = 16
SHOWN_ANSWERS = 256  # values: of an answer one wants to see those that differ
SHOWN_CHARACTERS = 400
# What an example adds to the sums that are resampled.
_FINITE, _ERROR, _SQUARED, _ORIGINAL, _OPTIMIZED, _PRODUCT, _EXACT, _ELEMENTS = range(8)
_AGREED, _RANKED, _FIVES, _DIVERGENCE = range(8, 12)
_COLUMNS = 12
_QUANTILES = {"p50_abs_error": 0.5, "p99_abs_error": 0.99, "p999_abs_error": 0.999}
# Main outputs by name, where more than one output scores classes.
_USUAL_NAMES = ("scores", "probabilities", "probability", "logits")


@dataclass(frozen=True)
class WorstCase:
    """An example that the models answer differently.

    index: where the example is in its dataset; any number that orders examples. error: the largest absolute error of
    the example's values, infinite where only one model gave NaN or infinity or the shapes differ; for strings and
    booleans the share of values that differ. input, original, optimized: shortened for reading.
    """

    index: int
    error: float
    input: Any
    original: Any
    optimized: Any


@dataclass(frozen=True)
class OutputSummary:
    """What is known of one output after all data was seen.

    examples: compared; of answers without a batch axis each counts as one. mismatches: examples where shape or dtype of
    the answers differ. scores_classes: see the function. constant: the original answered every example alike.
    histogram: edges of bins of absolute errors, first 0 and last infinite, and one count fewer; None for strings.
    identical: no value differs. no_flip_possible: see ClassStats.
    """

    metrics: OutputMetrics
    kind: Kind
    examples: int
    mismatches: int
    scores_classes: bool
    constant: bool
    histogram: tuple[list[float], list[int]] | None
    worst: list[WorstCase]
    identical: bool = False
    no_flip_possible: bool = False


def kind_of(dtype: np.dtype[Any]) -> Kind:
    """What sort of values a dtype holds; bfloat16 and the 8 bit floats are floats, complex numbers too."""
    if dtype.kind in "OSU":
        return "string"
    if dtype.kind == "b":
        return "bool"
    if dtype.kind in "fc":
        return "float"
    # bfloat16 and the dtypes below 8 bits have a kind of their own.
    if dtype.kind in "iu" or dtype.name.startswith(("int", "uint")):
        return "integer"
    return "float"


def scores_classes(kind: Kind, shape: Sequence[int | None]) -> bool:
    """Whether an output of this shape, batch axis included, holds scores per class: float, last axis of 2 or more."""
    return kind == "float" and len(shape) >= 2 and (shape[-1] or 0) >= 2


def main_output(outputs: Mapping[str, tuple[Kind, bool]]) -> str | None:
    """The output that a gate means when it names none; None where there are no outputs.

    outputs: key -> (kind, whether it scores classes), in the signature's order. The first that scores classes, one
    with a usual name (scores, probabilities, logits) before others; else the first float; else the first.
    """
    scoring = [key for key, (_, scores) in outputs.items() if scores]
    for name in _USUAL_NAMES:
        for key in scoring:
            if name in key.lower():
                return key
    floats = [key for key, (kind, _) in outputs.items() if kind == "float"]
    return next(iter([*scoring, *floats, *outputs]), None)


def readable(text: str) -> str:
    """Text with halves of characters (lone surrogates, which JSON can name) written as escapes: no file takes them."""
    return text.encode(errors="backslashreplace").decode()


def shorten(value: Any, most: int = SHOWN_VALUES) -> Any:
    """A value cut for reading: text of at most 400 characters, so many values of an array; always fit for JSON."""
    if isinstance(value, bytes):
        value = value.decode(errors="replace")
    if isinstance(value, str):
        value = readable(value)
        more = len(value) - SHOWN_CHARACTERS
        return value if more <= 0 else f"{value[:SHOWN_CHARACTERS]} … ({more} more characters)"
    if isinstance(value, Mapping):
        return {readable(str(key)): shorten(item) for key, item in value.items()}
    if value is None:
        return None
    try:
        array = np.asarray(value)
    except ValueError:  # lists of unequal length
        return shorten(str(value))
    if array.ndim == 0:
        item = array.item()
        if isinstance(item, bytes | str):
            return shorten(item)
        if isinstance(item, float) and not math.isfinite(item):
            return str(item)
        return item if isinstance(item, bool | int | float) else str(item)
    first = array.reshape(-1)[:most]
    plain = first.dtype.kind in "iuf" and bool(np.isfinite(first).all())
    shown = first.tolist() if plain else [shorten(item) for item in first]
    return shown if array.size <= most else [*shown, f"… ({array.size:,} values of shape {list(array.shape)})"]


@dataclass
class ErrorStats:
    """How one output differs between the models: add batches, merge with others, then ask for the summary.

    All errors are optimized - original in float64. A NaN or an infinity that both gave is equal and takes no part in
    the errors; one that only one of them gave is a NaN mismatch, and takes no part either.
    resampled: whether intervals are wanted that take resampling.
    """

    resampled: bool = True

    kind: Kind | None = None
    mismatches: int = 0
    elements: int = 0
    exact: int = 0
    nan_mismatches: int = 0
    compared: int = 0
    finite: int = 0
    scores_classes: bool = True
    max_error: float = 0.0
    sums: ExactSums = field(default_factory=lambda: ExactSums(_PRODUCT + 1 - _ERROR))
    histogram: LogHistogram | None = None
    only_answer: bytes | None = None
    constant: bool = True
    worst: list[WorstCase] = field(default_factory=list)
    classes: ClassStats = field(default_factory=ClassStats)
    positions: PositionStats = field(default_factory=PositionStats)
    replicates: Replicates | None = None

    def add_batch(
        self,
        original: Array,
        optimized: Array,
        indices: Sequence[int],
        describe: Callable[[int], Any] = lambda row: None,
    ) -> None:
        """Add the answers to one batch.

        original, optimized: [batch, …], any dtype; an answer without a batch axis belongs to the first example.
        indices: [batch]. describe: row of the batch -> its input, shortened; asked only for the worst.
        """
        rows = len(indices)
        if not rows:
            return
        kind = kind_of(original.dtype)
        self.kind = self.kind or kind
        if original.shape != optimized.shape or original.dtype != optimized.dtype:
            self.mismatches += rows
            self.scores_classes &= scores_classes(kind, original.shape)
            self._keep_worst(np.full(rows, math.inf), original, optimized, indices, describe)
            return
        if original.ndim == 0 or original.shape[0] != rows:
            original, optimized, indices = original[None], optimized[None], indices[:1]
        self.scores_classes &= scores_classes(kind, original.shape) and original.dtype.kind != "c"
        self._watch_constant(original)
        self.compared += len(original)
        self.elements += original.size
        columns = np.zeros((_COLUMNS, len(original)))
        columns[_ELEMENTS] = original.size // len(original)
        if kind in ("float", "integer"):
            row_errors = self._add_numbers(original, optimized, columns)
            self.sums.add(columns[_ERROR : _PRODUCT + 1])
        if kind != "float":
            same = np.asarray(original == optimized, bool).reshape(len(original), -1)
            columns[_EXACT] = same.sum(1)
            self.exact += int(same.sum())
            if original.ndim == 2:
                self.positions.add(same)
            if kind != "integer":
                row_errors = 1 - same.mean(1) if same.size else np.zeros(len(same))
        if self.scores_classes and original.size:
            columns[_AGREED:] = self.classes.add(original, optimized, row_errors)
        if self.resampled:
            self.replicates = self.replicates or Replicates(_COLUMNS)
            self.replicates.add(columns, np.asarray(indices, np.int64))
        self._keep_worst(row_errors, original, optimized, indices, describe)

    def merge(self, other: ErrorStats) -> None:
        """Add what another saw."""
        self.kind = self.kind or other.kind
        for name in ("mismatches", "elements", "exact", "nan_mismatches", "compared", "finite"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.scores_classes &= other.scores_classes
        self.max_error = max(self.max_error, other.max_error)
        self.sums.merge(other.sums)
        if other.histogram is not None:
            if self.histogram is None:
                self.histogram = LogHistogram()
            self.histogram.merge(other.histogram)
        if other.replicates is not None:
            self.replicates = self.replicates or Replicates(_COLUMNS)
            self.replicates.merge(other.replicates)
        self.classes.merge(other.classes)
        self.positions.merge(other.positions)
        self.constant &= other.constant
        self._watch_answer(other.only_answer)
        self.worst = _worst_of([*self.worst, *other.worst])

    def summary(self) -> OutputSummary:
        """The metrics of all that was added; what has no meaning for the kind of output, or no data, is None."""
        kind = self.kind or "float"
        examples = self.compared + self.mismatches
        scores = bool(examples) and self.scores_classes
        return OutputSummary(
            metrics=self._metrics(kind, scores),
            kind=kind,
            examples=examples,
            mismatches=self.mismatches,
            scores_classes=scores,
            constant=self.constant and self.only_answer is not None,
            histogram=self.histogram.decades() if self.histogram is not None else None,
            worst=self.worst,
            identical=self.compared > 0
            and not self.mismatches
            and (self.exact == self.elements if kind != "float" else not (self.max_error or self.nan_mismatches)),
            no_flip_possible=scores and self.classes.no_flip_possible,
        )

    def _metrics(self, kind: Kind, scores: bool) -> OutputMetrics:
        compared = self.elements > 0
        exact = self.exact / self.elements if compared and kind != "float" else None
        positions = self.classes.positions if kind == "float" else self.positions
        told = positions.metrics() if scores or kind != "float" else None
        intervals = self._intervals(kind, scores) if compared else {}
        if kind in ("string", "bool") or not compared:
            return OutputMetrics(exact_match=exact, positions=told, intervals=intervals)
        errors, squared, original_squared, optimized_squared, product_sum = self.sums.values
        error, norm = math.sqrt(squared), math.sqrt(original_squared)
        relative = error / norm if norm else (math.inf if error else 0.0)
        product = norm * math.sqrt(optimized_squared)
        known = self.finite > 0
        ranks = self.classes
        top1 = ranks.agreed / ranks.ranked if scores and ranks.ranked else None
        quantiles = {name: self._quantile(share) for name, share in _QUANTILES.items()}
        return OutputMetrics(
            **quantiles,
            max_abs_error=self.max_error if known else None,
            mean_abs_error=_number(errors / self.finite) if known else None,
            rel_l2_error=_number(relative) if known else None,
            cosine=_number(max(-1.0, min(1.0, product_sum / product))) if product else None,
            kl_divergence=ranks.kl_divergence if scores else None,
            top1_agreement=top1,
            top5_agreement=ranks.agreed_fives / ranks.fives if scores and ranks.fives else None,
            flip_rate=(ranks.ranked - ranks.agreed) / ranks.ranked if top1 is not None else None,
            nan_mismatches=self.nan_mismatches if kind == "float" else None,
            exact_match=exact,
            positions=told,
            intervals=intervals,
        )

    def _quantile(self, share: float) -> float | None:
        found = self.histogram.quantile(share) if self.histogram is not None else None
        return None if found is None else min(found, self.max_error)

    def _intervals(self, kind: Kind, scores: bool) -> dict[str, Interval]:
        """By metric; what has no value, or needs resampling that was not asked for, is left out."""
        found: dict[str, Interval | None] = {}
        ranks = self.classes
        if kind != "float":
            found["exact_match"] = self._share(self.exact, self.elements, _EXACT, _ELEMENTS)
        if scores and ranks.ranked:
            top1 = self._share(ranks.agreed, ranks.ranked, _AGREED, _RANKED)
            found["top1_agreement"] = top1
            found["flip_rate"] = None if top1 is None else tuple(1 - (end or 0.0) for end in reversed(top1))  # type: ignore[assignment]
        if scores and ranks.fives:
            found["top5_agreement"] = wilson(ranks.agreed_fives / ranks.fives, ranks.fives)
        if self.finite:
            found |= {name: self._between(share) for name, share in _QUANTILES.items()}
            if self.replicates is not None:
                found |= _resampled_errors(self.replicates.sums)
        if self.replicates is not None and scores and ranks.kl_divergence is not None:
            sums = self.replicates.sums
            with np.errstate(all="ignore"):
                found["kl_divergence"] = of_replicates(sums[_DIVERGENCE] / sums[_RANKED])
        return {name: interval for name, interval in found.items() if interval is not None}

    def _share(self, hits: int, total: int, hit: int, of: int) -> Interval | None:
        """Wilson's where each example has one value, or all of them agree; else by examples as clusters of values."""
        if total == self.compared or hits in (0, total):
            return wilson(hits / total, self.compared)
        if self.replicates is None:
            return None
        sums = self.replicates.sums
        with np.errstate(all="ignore"):
            return of_replicates(sums[hit] / sums[of], below=1.0)

    def _between(self, share: float) -> Interval:
        low, high = quantile_shares(share, self.compared)
        return self._quantile(low), None if high is None else self._quantile(high)

    def _add_numbers(self, original: Array, optimized: Array, columns: Array) -> Array:
        """Add to the error sums; returns the largest error of each row, [rows] float64, and fills in the columns."""
        if self.histogram is None:
            self.histogram = LogHistogram()
        rows = len(original)
        step = max(1, _BLOCK // max(1, original.size // rows))
        blocks = [slice(start, start + step) for start in range(0, rows, step)]
        found = [self._add_block(original[block], optimized[block], columns[:, block]) for block in blocks]
        return found[0] if len(found) == 1 else np.concatenate(found)

    def _add_block(self, original: Array, optimized: Array, columns: Array) -> Array:
        rows = len(original)
        a: Array = _as_float64(original).reshape(rows, -1)
        b: Array = _as_float64(optimized).reshape(rows, -1)
        with np.errstate(all="ignore"):
            error: Array = b - a
            np.abs(error, out=error)
            row_errors: Array = error.max(1, initial=0.0)
        # A NaN or an infinity anywhere in a row is its maximum.
        largest = float(row_errors.max(initial=0.0))
        if math.isfinite(largest):
            columns[_FINITE] = error.size // rows
            finite = error
        else:
            usable = np.isfinite(a) & np.isfinite(b)
            equal = (a == b) | (np.isnan(a) & np.isnan(b))
            mismatched = ~usable & ~equal
            self.nan_mismatches += int(mismatched.sum())
            row_errors = np.where(usable, error, np.where(mismatched, math.inf, 0.0)).max(1, initial=0.0)
            columns[_FINITE] = usable.sum(1)
            finite = error[usable]
            largest = float(finite.max(initial=0.0))
            a, b, error = (np.where(usable, x, 0.0) for x in (a, b, error))
        self.finite += finite.size
        self.max_error = max(self.max_error, largest)
        with np.errstate(all="ignore"):
            columns[_ERROR] = error.sum(1)
            for column, x, y in ((_SQUARED, error, error), (_ORIGINAL, a, a), (_OPTIMIZED, b, b), (_PRODUCT, a, b)):
                columns[column] = np.einsum("ij,ij->i", x, y)
        if self.histogram is not None:
            self.histogram.add(finite)
        return row_errors

    def _watch_constant(self, original: Array) -> None:
        if not self.constant:
            return
        # Most outputs vary, and show it in the second row already.
        for rows in (original[:2], original):
            same = rows[1:] == rows[:1]
            if kind_of(original.dtype) == "float":
                same |= np.isnan(rows[1:]) & np.isnan(rows[:1])
            self.constant &= bool(np.all(same))
            if not self.constant:
                break
        self._watch_answer(_digest(original[0]))

    def _watch_answer(self, answer: bytes | None) -> None:
        if answer is not None:
            self.constant &= self.only_answer in (None, answer)
            self.only_answer = min(answer, self.only_answer or answer)

    def _keep_worst(
        self,
        errors: Array,
        original: Array,
        optimized: Array,
        indices: Sequence[int],
        describe: Callable[[int], Any],
    ) -> None:
        least = self.worst[-1].error if len(self.worst) == WORST_KEPT else 0.0
        rows: list[int] = np.flatnonzero((errors > 0) & (errors >= least)).tolist()
        cases = [
            WorstCase(
                int(indices[row]),
                float(errors[row]),
                describe(row),
                shorten(_row(original, row, len(errors)), SHOWN_ANSWERS),
                shorten(_row(optimized, row, len(errors)), SHOWN_ANSWERS),
            )
            for row in sorted(rows, key=lambda row: (-errors[row], indices[row]))[:WORST_KEPT]
        ]
        self.worst = _worst_of([*self.worst, *cases])


def _resampled_errors(sums: Array) -> dict[str, Interval | None]:
    with np.errstate(all="ignore"):
        ratio = np.where(sums[_SQUARED] == 0, 0.0, sums[_SQUARED] / sums[_ORIGINAL])
        product = np.sqrt(sums[_ORIGINAL]) * np.sqrt(sums[_OPTIMIZED])
        return {
            "mean_abs_error": of_replicates(sums[_ERROR] / sums[_FINITE]),
            "rel_l2_error": of_replicates(np.sqrt(ratio)),
            "cosine": of_replicates(np.clip(sums[_PRODUCT] / product, -1, 1), below=1.0),
        }


def _as_float64(array: Array) -> Array:
    if array.dtype.kind == "c":
        array = np.ascontiguousarray(array)
        return array.view(array.real.dtype).astype(np.float64)
    return array.astype(np.float64, copy=False)


def _number(value: float) -> float | None:
    return None if math.isnan(value) else value


def _row(array: Array, row: int, rows: int) -> Array:
    return np.asarray(array[row] if array.ndim and array.shape[0] == rows else array)


def _digest(answer: Any) -> bytes:
    array = np.asarray(answer)
    if array.dtype.kind == "O":
        content = b"".join(b"%d:%b" % (len(item), item) for item in map(_bytes, array.reshape(-1).tolist()))
    elif kind_of(array.dtype) == "float":
        values = _as_float64(array) + 0.0  # -0.0 becomes 0.0
        content = np.where(np.isnan(values), np.nan, values).tobytes()
    else:
        content = array.tobytes()
    return hashlib.blake2b(repr(array.shape).encode() + content, digest_size=16).digest()


def _bytes(item: Any) -> bytes:
    return item if isinstance(item, bytes) else str(item).encode()


def _worst_of(cases: list[WorstCase]) -> list[WorstCase]:
    return sorted(cases, key=lambda case: (-case.error, case.index))[:WORST_KEPT]
