"""report.md: the verdict and the main numbers in a form that fits a pull request or a log."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence

from tfslim_core.report import formats, headline, words
from tfslim_core.report.context import ReportContext
from tfslim_core.report.svg import visible
from tfslim_core.verdict import OutputMetrics, Verdict

# Within a table a bare one ends the cell, even inside of a code span.
BAR = "\\|"
# An output may be unlike its neighbours in what can be measured of it; a dash says so.
_METRICS = (
    ("top-1 agreement", "top1_agreement", formats.share),
    ("relative error", "rel_l2_error", formats.number),
    ("99 % below", "p99_abs_error", formats.number),
    ("largest error", "max_abs_error", formats.number),
    ("exactly equal", "exact_match", formats.share),
)


def report_markdown(verdict: Verdict, context: ReportContext | None = None) -> str:
    """The short report."""
    return "\n\n".join(_blocks(verdict, context or ReportContext())) + "\n"


def _blocks(verdict: Verdict, context: ReportContext) -> Iterator[str]:
    yield f"# {_plain(context.title or 'A slimmed model')}"
    yield f"**{words.NAMES[verdict.verdict]}.** {words.sentence(verdict)}"
    if verdict.reasons:
        yield "\n".join(f"- {_plain(reason)}" for reason in verdict.reasons)
    rows = headline.rows(verdict, context)
    yield _table(
        ("", "before", "after", "change"),
        ((_plain(row.label), row.before_text, row.after_text, row.change or formats.DASH) for row in rows),
        numbers=(1, 2),
    )
    if verdict.checks:
        yield "## Checks"
        yield _table(
            ("check", "found", "dataset", "result"),
            (
                (
                    _code(check.expr),
                    formats.against(check.value, check.bound),
                    _plain(check.dataset if check.slice is None else f"{check.dataset}, {check.slice}"),
                    words.result(check),
                )
                for check in verdict.checks
            ),
            numbers=(1,),
        )
    for name, dataset in verdict.datasets.items():
        yield f"## {_plain(name)}"
        bad = f", {formats.count(dataset.bad_records)} bad" if dataset.bad_records else ""
        yield f"{formats.count(dataset.examples)} examples{bad}"
        if dataset.outputs:
            yield _table(
                ("output", *(label for label, _, _ in _METRICS)),
                ((_code(output), *_figures(metrics)) for output, metrics in dataset.outputs.items()),
                numbers=range(1, len(_METRICS) + 1),
            )
    if context.dropped:
        yield f"Not kept: {_plain('; '.join(context.dropped))}."
    if context.command:
        yield f"Again: {_code(context.command)}"


def _figures(metrics: OutputMetrics) -> Iterator[str]:
    return (form(getattr(metrics, metric)) for _, metric, form in _METRICS)


def _table(head: Sequence[str], rows: Iterable[Sequence[str]], numbers: Iterable[int]) -> str:
    right = set(numbers)
    rule = ["---:" if place in right else "---" for place in range(len(head))]
    return "\n".join(f"| {' | '.join(cell.replace('|', BAR) for cell in cells)} |" for cells in (head, rule, *rows))


def _plain(text: str) -> str:
    """Text that Markdown shows as it is."""
    one_line = " ".join(visible(text).split())
    escaped = re.sub(r"([\\`*_\[\]~#])", r"\\\1", one_line)
    return escaped.replace("&", "&amp;").replace("<", "&lt;")


def _code(text: str) -> str:
    """Text in a code span, fenced longer than any run of backticks in it."""
    one_line = " ".join(visible(text).split())
    fence = "`" * (1 + max((len(run) for run in re.findall("`+", one_line)), default=0))
    space = " " if one_line.startswith("`") or one_line.endswith("`") else ""
    return f"{fence}{space}{one_line}{space}{fence}"
