"""The table that `tfslim slim` ends with."""

from __future__ import annotations

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from tfslim_core.report import headline, words
from tfslim_core.report.context import ReportContext
from tfslim_core.report.headline import Tone
from tfslim_core.report.svg import visible
from tfslim_core.verdict import Outcome, Verdict

_STYLES: dict[Tone, str] = {"better": "green", "same": "dim", "worse": "yellow", "unknown": "dim"}
_OUTCOMES: dict[Outcome, str] = {"pass": "bold green", "fail": "bold red", "inconclusive": "bold yellow"}


def before_after_table(verdict: Verdict | None, context: ReportContext | None = None) -> Table:
    """Costs before and after, how alike the answers are, and the verdict; without a verdict, what is known already."""
    context = context or ReportContext()
    table = Table(box=SIMPLE_HEAD, title=Text(visible(context.title)) if context.title else None)
    table.title_justify = "left"
    table.add_column("")
    table.add_column("before", justify="right")
    table.add_column("after", justify="right")
    table.add_column("change")
    for row in headline.rows(verdict, context):
        table.add_row(
            Text(visible(row.label)),
            row.before_text,
            Text(row.after_text, "bold"),
            Text(row.change, _STYLES[row.tone]),
        )
    if verdict is not None:
        table.add_section()
        for answer in headline.answers(verdict):
            table.add_row(answer.label, "", answer.text, Text(visible(answer.where), "dim"))
        name = words.NAMES[verdict.verdict]
        table.add_row("Verdict", "", Text(name, _OUTCOMES[verdict.verdict]), "")
    return table
