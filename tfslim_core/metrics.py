"""How the answers of two models differ, as statistics that add up: any split of the data, merged in any order.

Counts and maxima are exact. Sums are added without rounding across batches, so the order of merging does not show in
them; quantiles come from a histogram with a relative accuracy of 0.8 %.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from tfslim_core.sketches import ExactSum, LogHistogram
from tfslim_core.verdict import OutputMetrics

Array = NDArray[Any]
Kind = Literal["float", "integer", "bool", "string"]

WORST_KEPT = 10
# Values that are worked on at a time, so that the temporary arrays stay in the cache.
_BLOCK = 1 << 16
SHOWN_VALUES = 16
SHOWN_ANSWERS = 256  # values: of an answer one wants to see those that differ
SHOWN_CHARACTERS = 400
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

    examples: compared. mismatches: examples where shape or dtype of the answers differ. scores_classes: see the
    function. constant: the original answered every example alike. histogram: edges of bins of absolute errors, first 0
    and last infinite, and one count fewer; None for strings.
    """

    metrics: OutputMetrics
    kind: Kind
    examples: int
    mismatches: int
    scores_classes: bool
    constant: bool
    histogram: tuple[list[float], list[int]] | None
    worst: list[WorstCase]


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


def shorten(value: Any, most: int = SHOWN_VALUES) -> Any:
    """A value cut for reading: text of at most 400 characters, so many values of an array; always fit for JSON."""
    if isinstance(value, bytes):
        value = value.decode(errors="replace")
    if isinstance(value, str):
        more = len(value) - SHOWN_CHARACTERS
        return value if more <= 0 else f"{value[:SHOWN_CHARACTERS]} … ({more} more characters)"
    if isinstance(value, Mapping):
        return {str(key): shorten(item) for key, item in value.items()}
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
    """

    kind: Kind | None = None
    examples: int = 0
    mismatches: int = 0
    elements: int = 0
    exact: int = 0
    nan_mismatches: int = 0
    ranked: int = 0
    agreed: int = 0
    finite: int = 0
    scores_classes: bool = True
    max_error: float = 0.0
    errors: ExactSum = field(default_factory=ExactSum)
    errors_squared: ExactSum = field(default_factory=ExactSum)
    original_squared: ExactSum = field(default_factory=ExactSum)
    optimized_squared: ExactSum = field(default_factory=ExactSum)
    products: ExactSum = field(default_factory=ExactSum)
    histogram: LogHistogram | None = None
    only_answer: bytes | None = None
    constant: bool = True
    worst: list[WorstCase] = field(default_factory=list)

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
        self.examples += rows
        if original.shape != optimized.shape or original.dtype != optimized.dtype:
            self.mismatches += rows
            self.scores_classes &= scores_classes(kind, original.shape)
            self._keep_worst(np.full(rows, math.inf), original, optimized, indices, describe)
            return
        if original.ndim == 0 or original.shape[0] != rows:
            original, optimized, indices = original[None], optimized[None], indices[:1]
        self.scores_classes &= scores_classes(kind, original.shape) and original.dtype.kind != "c"
        self._watch_constant(original)
        self.elements += original.size
        if kind in ("float", "integer"):
            row_errors = self._add_numbers(original, optimized)
        if kind != "float":
            same = np.asarray(original == optimized, bool)
            self.exact += int(same.sum())
            if kind != "integer":
                row_errors = 1 - same.reshape(len(same), -1).mean(1) if same.size else np.zeros(len(same))
        if self.scores_classes and original.size:
            self._add_ranks(original, optimized)
        self._keep_worst(row_errors, original, optimized, indices, describe)

    def merge(self, other: ErrorStats) -> None:
        """Add what another saw."""
        self.kind = self.kind or other.kind
        for name in ("examples", "mismatches", "elements", "exact", "nan_mismatches", "ranked", "agreed", "finite"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.scores_classes &= other.scores_classes
        self.max_error = max(self.max_error, other.max_error)
        for name in ("errors", "errors_squared", "original_squared", "optimized_squared", "products"):
            getattr(self, name).merge(getattr(other, name))
        if other.histogram is not None:
            if self.histogram is None:
                self.histogram = LogHistogram()
            self.histogram.merge(other.histogram)
        self.constant &= other.constant
        self._watch_answer(other.only_answer)
        self.worst = _worst_of([*self.worst, *other.worst])

    def summary(self) -> OutputSummary:
        """The metrics of all that was added; what has no meaning for the kind of output, or no data, is None."""
        kind = self.kind or "float"
        scores = bool(self.examples) and self.scores_classes
        return OutputSummary(
            metrics=self._metrics(kind, scores),
            kind=kind,
            examples=self.examples,
            mismatches=self.mismatches,
            scores_classes=scores,
            constant=self.constant and self.only_answer is not None,
            histogram=self.histogram.decades() if self.histogram is not None else None,
            worst=self.worst,
        )

    def _metrics(self, kind: Kind, scores: bool) -> OutputMetrics:
        compared = self.elements > 0
        exact = self.exact / self.elements if compared and kind != "float" else None
        if kind in ("string", "bool") or not compared:
            return OutputMetrics(exact_match=exact)
        error, norm = math.sqrt(self.errors_squared.value), math.sqrt(self.original_squared.value)
        relative = error / norm if norm else (math.inf if error else 0.0)
        product = norm * math.sqrt(self.optimized_squared.value)
        p99 = self.histogram.quantile(0.99) if self.histogram is not None else None
        known = self.finite > 0
        return OutputMetrics(
            max_abs_error=self.max_error if known else None,
            mean_abs_error=_number(self.errors.value / self.finite) if known else None,
            p99_abs_error=min(p99, self.max_error) if p99 is not None else None,
            rel_l2_error=_number(relative) if known else None,
            cosine=_number(max(-1.0, min(1.0, self.products.value / product))) if product else None,
            top1_agreement=self.agreed / self.ranked if scores and self.ranked else None,
            nan_mismatches=self.nan_mismatches if kind == "float" else None,
            exact_match=exact,
        )

    def _add_numbers(self, original: Array, optimized: Array) -> Array:
        """Add to the error sums; returns the largest error of each row, [rows] float64."""
        if self.histogram is None:
            self.histogram = LogHistogram()
        rows = len(original)
        step = max(1, _BLOCK // max(1, original.size // rows))
        blocks = [slice(start, start + step) for start in range(0, rows, step)]
        return np.concatenate([self._add_block(original[block], optimized[block]) for block in blocks])

    def _add_block(self, original: Array, optimized: Array) -> Array:
        rows = len(original)
        a: Array = _as_float64(original).reshape(rows, -1)
        b: Array = _as_float64(optimized).reshape(rows, -1)
        with np.errstate(all="ignore"):
            error: Array = np.abs(b - a)
        if np.isfinite(error).all():
            row_errors = error.max(1, initial=0.0)
            a, b, error = (x.reshape(-1) for x in (a, b, error))
        else:
            usable = np.isfinite(a) & np.isfinite(b)
            equal = (a == b) | (np.isnan(a) & np.isnan(b))
            mismatched = ~usable & ~equal
            self.nan_mismatches += int(mismatched.sum())
            row_errors = np.where(usable, error, np.where(mismatched, math.inf, 0.0)).max(1, initial=0.0)
            a, b, error = a[usable], b[usable], error[usable]
        self.finite += error.size
        self.max_error = max(self.max_error, float(error.max(initial=0.0)))
        with np.errstate(all="ignore"):
            self.errors.add(float(error.sum()))
            for total, x, y in (
                (self.errors_squared, error, error),
                (self.original_squared, a, a),
                (self.optimized_squared, b, b),
                (self.products, a, b),
            ):
                total.add(float(np.einsum("i,i->", x, y)))
        if self.histogram is not None:
            self.histogram.add(error)
        return np.asarray(row_errors)

    def _add_ranks(self, original: Array, optimized: Array) -> None:
        a, b = (x.reshape(-1, original.shape[-1]) for x in (original, optimized))
        agree = a.argmax(1) == b.argmax(1)
        # argmax takes the first NaN for the largest: rows agree only where the same values are NaN.
        nan_a, nan_b = np.isnan(a), np.isnan(b)
        if nan_a.any() or nan_b.any():
            agree &= (nan_a == nan_b).all(1)
        self.ranked += len(agree)
        self.agreed += int(agree.sum())

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
