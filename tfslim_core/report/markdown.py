"""report.md: the verdict and the main numbers in a form that fits a pull request or a log."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence

from tfslim_core.report import formats, headline, words
from tfslim_core.report.context import ReportContext
from tfslim_core.report.metrics import Cell, between, check_interval, few_columns, label_name
from tfslim_core.report.slices import slice_table
from tfslim_core.report.svg import visible
from tfslim_core.verdict import DatasetResult, Verdict

# Within a table a bare one ends the cell, even inside of a code span.
BAR = "\\|"
_SLICES = 20


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
        ((_plain(row.label), row.before_text, row.after_text, _change(row)) for row in rows),
        numbers=(1, 2),
    )
    if verdict.checks:
        yield "## Checks"
        yield _table(
            ("check", "found", "dataset", "result"),
            (
                (
                    _code(check.expr),
                    _with(formats.against(check.value, check.bound), check_interval(check)),
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
        yield from _dataset(name, dataset, verdict, context)
    if context.dropped:
        yield f"Not kept: {_plain('; '.join(context.dropped))}."
    yield "## How to reproduce"
    if context.command:
        yield f"Again: {_code(context.command)}"
    models = (("original", verdict.models.original), ("optimized", verdict.models.optimized))
    yield "\n".join(f"- {name}: {model.bytes:,} bytes, sha256 {_code(model.digest)}" for name, model in models)
    if context.versions:
        yield ", ".join(_plain(f"{program} {version}") for program, version in context.versions.items())


def _dataset(name: str, dataset: DatasetResult, verdict: Verdict, context: ReportContext) -> Iterator[str]:
    """Tables of outputs, labels, slices and bad records."""
    if dataset.outputs:
        shown = few_columns(dataset.outputs.values())
        yield _table(
            ("output", *(column.label for column in shown)),
            (
                (_code(output), *(_cell(column.cell(metrics)) for column in shown))
                for output, metrics in dataset.outputs.items()
            ),
            numbers=range(1, len(shown) + 1),
        )
    if dataset.labels:
        yield _table(
            ("against labels", "original", "optimized", "difference"),
            (
                (
                    _plain(label_name(metric)),
                    formats.number(one.original, 4),
                    formats.number(one.optimized, 4),
                    _with(formats.signed(one.difference), between(one.interval, formats.signed)),
                )
                for metric, one in dataset.labels.items()
            ),
            numbers=(1, 2, 3),
        )
    slices = slice_table(dataset.slices, [c for c in verdict.checks if c.dataset == name], context.main_output)
    if slices is not None:
        head = [column.label for column in slices.columns] + [f"{metric}, change" for metric in slices.labels]
        yield _table(
            (
                "slice",
                *(["output"] if slices.several else []),
                *(["checks"] if slices.checked else []),
                "examples",
                *head,
            ),
            (
                (
                    _plain(row.name),
                    *([_code(row.output)] if slices.several else []),
                    *([row.result or formats.DASH] if slices.checked else []),
                    formats.count(row.examples),
                    *map(_cell, row.cells + row.labels),
                )
                for row in slices.rows[:_SLICES]
            ),
            numbers=range(1 + slices.several + slices.checked, 2 + slices.several + slices.checked + len(head)),
        )
        if len(slices.rows) > _SLICES:
            yield f"{len(slices.rows) - _SLICES:,} more, which differ less."
    bad = [one for one in context.bad_records if one.dataset == name]
    if bad:
        yield "Bad records:"
        yield "\n".join(
            f"- {one.count:,} × {_plain(one.error)} (the first: {_code(one.file)}, record {one.record:,})"
            for one in bad[:_SLICES]
        )


def _change(row: headline.Row) -> str:
    return _with(row.change or formats.DASH, row.interval)


def _cell(cell: Cell) -> str:
    return _with(cell.text, cell.interval)


def _with(text: str, interval: str) -> str:
    return f"{text} ({interval})" if interval else text


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
