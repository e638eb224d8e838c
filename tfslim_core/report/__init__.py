"""What a run found, told to people: report.html, report.md and the table on the terminal, from the same numbers."""

from __future__ import annotations

from tfslim_core.report.context import Answer, BadRecords, Change, Histogram, ReportContext, Skipped, Stage, Weight
from tfslim_core.report.markdown import report_markdown
from tfslim_core.report.page import write_report
from tfslim_core.report.terminal import before_after_table

__all__ = [
    "Answer",
    "BadRecords",
    "Change",
    "Histogram",
    "ReportContext",
    "Skipped",
    "Stage",
    "Weight",
    "before_after_table",
    "report_markdown",
    "write_report",
]
