"""Which metrics a table of outputs shows, under which names, and how their values read."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from tfslim_core.report import formats
from tfslim_core.verdict import Check, Interval, OutputMetrics


@dataclass(frozen=True, slots=True)
class Column:
    """A metric in a table. always: it is there even where no output has it."""

    label: str
    metric: str
    form: Callable[[float | None], str]
    always: bool = False

    def cell(self, metrics: OutputMetrics) -> Cell:
        """What the table shows of one output."""
        value = getattr(metrics, self.metric)
        return Cell(self.form(value), between(metrics.intervals.get(self.metric), self.form), sortable(value))


@dataclass(frozen=True, slots=True)
class Cell:
    """A value as text, its interval as text or empty, and what it is sorted by."""

    text: str
    interval: str
    key: str


COLUMNS = (
    Column("Same top class", "top1_agreement", formats.share, always=True),
    Column("Exactly equal", "exact_match", formats.share),
    Column("Same top 5", "top5_agreement", formats.share),
    Column("Relative error", "rel_l2_error", formats.number, always=True),
    Column("KL divergence", "kl_divergence", formats.number),
    Column("Mean error", "mean_abs_error", formats.number, always=True),
    Column("99 % below", "p99_abs_error", formats.number, always=True),
    Column("Largest", "max_abs_error", formats.number, always=True),
    Column("NaN differs", "nan_mismatches", formats.count, always=True),
    Column("Cosine", "cosine", lambda value: formats.number(value, 6), always=True),
    Column("50 % below", "p50_abs_error", formats.number),
    Column("99.9 % below", "p999_abs_error", formats.number),
)
# In a table with one row a slice, and in Markdown, where width is dear.
FEW = ("top1_agreement", "kl_divergence", "rel_l2_error", "p99_abs_error", "max_abs_error", "exact_match")
_LABELS = {
    "accuracy": "Accuracy",
    "top5_accuracy": "Top-5 accuracy",
    "auc": "AUC",
    "log_loss": "Log loss",
    "mae": "Mean absolute error",
    "rmse": "Root mean square error",
    "calibration_error": "Calibration error",
}


def columns(outputs: Iterable[OutputMetrics]) -> list[Column]:
    """The columns for these outputs."""
    found = list(outputs)
    return [column for column in COLUMNS if column.always or _any(column, found)]


def few_columns(outputs: Iterable[OutputMetrics]) -> list[Column]:
    """The columns that matter most, of those that have a value for any of these outputs."""
    found = list(outputs)
    return [column for column in COLUMNS if column.metric in FEW and _any(column, found)]


def label_name(metric: str) -> str:
    """A label metric for people; one that is not known by its own name."""
    return _LABELS.get(metric, metric)


def between(interval: Interval | None, form: Callable[[float | None], str]) -> str:
    """An interval in words, empty where there is none: 98.4 % – 99.7 %, or from 0.012 where it has no upper end."""
    low, high = interval or (None, None)
    ends = [form(end) if formats.known(end) else "" for end in (low, high)]
    if all(ends):
        return ends[0] if low == high else " – ".join(ends)
    return f"from {ends[0]}" if ends[0] else f"up to {ends[1]}" if ends[1] else ""


def check_interval(check: Check) -> str:
    """The interval of a check's value, with as many digits as it takes to tell its ends from the bound."""
    return between(check.interval, lambda end: formats.against(end, check.bound))


def sortable(value: float | None) -> str:
    """What a cell is sorted by; empty comes last."""
    return repr(float(value)) if value is not None and formats.known(value) else ""


def _any(column: Column, outputs: Sequence[OutputMetrics]) -> bool:
    return any(formats.known(getattr(metrics, column.metric)) for metrics in outputs)
