"""The slices of a dataset in rows: each one's examples, checks and figures, the worst first."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tfslim_core.report import formats, words
from tfslim_core.report.metrics import Cell, Column, between, few_columns, label_name, sortable
from tfslim_core.verdict import Check, LabelMetric, OutputMetrics, SliceResult

_WORSE = {"broken": 0, "undecided": 1, "no value": 2, "held": 3, "": 4}


@dataclass(frozen=True, slots=True)
class SliceRow:
    """One output on one slice. result: of the slice's checks together, empty without any. labels: by label metric,
    what the optimized model has more than the original.
    """

    name: str
    examples: int
    output: str
    result: str
    cells: list[Cell]
    labels: list[Cell]


@dataclass(frozen=True, slots=True)
class SliceTable:
    """All slices of a dataset, one row each.

    labels: names of the label metrics. several: whether rows differ by output too.
    checked: whether there is a check on a slice.
    """

    columns: list[Column]
    labels: list[str]
    several: bool
    checked: bool
    rows: list[SliceRow]


def slice_table(slices: Mapping[str, SliceResult], checks: Sequence[Check], main: str | None) -> SliceTable | None:
    """The table; None without slices. checks: those of the same dataset. main: where it is named, the only output."""
    pairs = [(name, key, metrics) for name, one in slices.items() for key, metrics in _shown(one.outputs, main)]
    if not slices:
        return None
    columns = few_columns(metrics for _, _, metrics in pairs if metrics is not None)
    labels = sorted({metric for one in slices.values() for metric in one.labels or {}})
    rows = [
        SliceRow(
            name,
            slices[name].examples,
            key,
            _result([check for check in checks if check.slice == name]),
            [column.cell(metrics or OutputMetrics()) for column in columns],
            [_label((slices[name].labels or {}).get(metric)) for metric in labels],
        )
        for name, key, metrics in pairs
    ]
    rows.sort(key=lambda row: (_WORSE.get(row.result, 4), *(_badness(columns, row)), row.name, row.output))
    return SliceTable(
        columns=columns,
        labels=[label_name(metric) for metric in labels],
        several=len({row.output for row in rows}) > 1,
        checked=any(row.result for row in rows),
        rows=rows,
    )


def _shown(
    outputs: Mapping[str, OutputMetrics], main: str | None
) -> list[tuple[str, OutputMetrics]] | list[tuple[str, None]]:
    if main is not None and main in outputs:
        return [(main, outputs[main])]
    return list(outputs.items()) or [("", None)]


def _result(checks: Sequence[Check]) -> str:
    return min(map(words.result, checks), key=lambda result: _WORSE[result], default="")


def _label(metric: LabelMetric | None) -> Cell:
    if metric is None:
        return Cell(formats.DASH, "", "")
    return Cell(
        formats.signed(metric.difference), between(metric.interval, formats.signed), sortable(metric.difference)
    )


def _badness(columns: Sequence[Column], row: SliceRow) -> tuple[float, ...]:
    """Ascending from the worst: agreement as it is, errors from the largest down."""
    found = {column.metric: float(cell.key) for column, cell in zip(columns, row.cells, strict=True) if cell.key}
    return (found.get("top1_agreement", found.get("exact_match", 1.0)), -found.get("rel_l2_error", 0.0))
