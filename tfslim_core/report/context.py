"""What a report can tell beyond the verdict: where the bytes went, what was changed, how to do it again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

Histogram: TypeAlias = tuple[Sequence[float], Sequence[int]]
"""Bin edges, ascending and log-spaced (the first may be 0, the last infinite), and one count fewer than edges."""


@dataclass(frozen=True, slots=True)
class Stage:
    """One step from the original to the optimized model, and the model's size after it; `seconds` is its time."""

    name: str
    bytes_after: int | None = None
    nodes_after: int | None = None
    seconds: float | None = None
    notes: str = ""


@dataclass(frozen=True, slots=True)
class Weight:
    """How one weight is stored now. `spec` is its dtype and shape in words; `harm` the relative L2 error of the answers
    that it makes alone.
    """

    name: str
    spec: str
    bytes_before: int
    bytes_after: int
    encoding: str = ""
    placement: str = ""
    reason: str = ""
    harm: float | None = None


@dataclass(frozen=True, slots=True)
class Change:
    """What one transform did to the graph."""

    name: str
    matches: int | None = None
    nodes_before: int | None = None
    nodes_after: int | None = None


@dataclass(frozen=True, slots=True)
class Skipped:
    """One match that a transform left alone."""

    transform: str
    node: str
    reason: str


@dataclass(frozen=True, slots=True)
class Answer:
    """What both models answered to one example; put beside the worst example of the same dataset, index and output."""

    dataset: str
    index: int
    output: str
    original: Any
    optimized: Any


@dataclass(frozen=True, slots=True)
class BadRecords:
    """Records of a dataset that one error kept out of the comparison; file and record tell where the first is."""

    dataset: str
    error: str
    count: int
    file: str
    record: int


@dataclass(frozen=True, slots=True)
class ReportContext:
    """Everything is optional: what is missing is left out of the report.

    title: heads the page. created: an ISO time; it is given, so that the same facts make the same bytes.
    command: the line that does it again. versions: program -> version.
    stages: in the order they ran, the original as a first row if its nodes are known.
    bytes_before, bytes_after: (label, bytes) over the whole directory; the same label means the same thing in both.
    live_parameters: numbers that the served signatures read.
    error_histograms: dataset -> output -> histogram of absolute errors.
    bad_records: of each dataset, by error. main_output: the output that checks without a name mean.
    dropped: what the optimized model lacks on purpose, such as optimizer state.
    """

    title: str = ""
    original_path: str = ""
    optimized_path: str = ""
    command: str = ""
    versions: Mapping[str, str] = field(default_factory=dict)
    created: str = ""
    stages: Sequence[Stage] = ()
    bytes_before: Sequence[tuple[str, int]] = ()
    bytes_after: Sequence[tuple[str, int]] = ()
    live_parameters: int | None = None
    weights: Sequence[Weight] = ()
    changes: Sequence[Change] = ()
    skipped: Sequence[Skipped] = ()
    error_histograms: Mapping[str, Mapping[str, Histogram]] = field(default_factory=dict)
    answers: Sequence[Answer] = ()
    dropped: Sequence[str] = ()
    bad_records: Sequence[BadRecords] = ()
    main_output: str | None = None
