"""report.html: one file that needs no network and no script, and trusts no name in it; report.md beside it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup

from tfslim_core.report import examples, formats, headline, metrics, words
from tfslim_core.report.context import ReportContext, Stage, Weight
from tfslim_core.report.leftovers import left_alone
from tfslim_core.report.markdown import report_markdown
from tfslim_core.report.plots import histogram, latency, pair, roc, stacked
from tfslim_core.report.shares import shares
from tfslim_core.report.slices import slice_table
from tfslim_core.report.svg import bar, plot
from tfslim_core.report.templating import environment, page_parts
from tfslim_core.verdict import DatasetResult, OutputMetrics, Verdict

FILE_NAME = "report.html"
MARKDOWN_NAME = "report.md"
SHOWN_WEIGHTS = 50
SHOWN_SLICES = 40
SHOWN_MOVES = 10
SHOWN_ERRORS = 20
SHOWN_EXAMPLES = 6
SHOWN_NODES = 200


def write_report(directory: Path, verdict: Verdict, context: ReportContext | None = None) -> Path:
    """Write report.html and report.md into `directory`, each whole or not at all, and give the page's path; the same
    facts give the same bytes.
    """
    directory.mkdir(parents=True, exist_ok=True)
    context = context or ReportContext()
    _write(directory / MARKDOWN_NAME, report_markdown(verdict, context))
    return _write(directory / FILE_NAME, report_html(verdict, context))


def _write(path: Path, text: str) -> Path:
    aside = path.with_name(f".{path.name}.part")
    aside.write_text(text, encoding="utf-8")
    return aside.replace(path)


def report_html(verdict: Verdict, context: ReportContext) -> str:
    """The page as text."""
    return environment().get_template("report.html.j2").render(_view(verdict, context))


def _view(verdict: Verdict, context: ReportContext) -> dict[str, Any]:
    rows = headline.rows(verdict, context)
    told = headline.answers(verdict)
    parts = shares(context.bytes_before, context.bytes_after)
    return {
        "answers": told,
        "bars": stacked.stacked(parts),
        "checks": sorted(verdict.checks, key=lambda check: check.passed),
        "context": context,
        "datasets": {name: _dataset(name, found, verdict, context) for name, found in verdict.datasets.items()},
        "examples": examples.examples(verdict, context.answers),
        "left_alone": left_alone(context.skipped),
        "limits": {
            "weights": SHOWN_WEIGHTS,
            "examples": SHOWN_EXAMPLES,
            "nodes": SHOWN_NODES,
            "slices": SHOWN_SLICES,
            "errors": SHOWN_ERRORS,
        },
        "noted": any([one.interval for one in rows] + [one.interval for one in told]),
        "outcome": words.NAMES[verdict.verdict],
        "parts": parts,
        "rows": [(row, pair.pair(row)) for row in rows],
        "rounds": max((ratio.rounds for ratio in verdict.models.ratios if ratio.batch), default=0),
        **page_parts(),
        "sentence": words.sentence(verdict),
        "stages": _stages(verdict, context),
        "title": context.title or "A slimmed model",
        "verdict": verdict,
        "weights": _by_size(context.weights),
    }


def _dataset(name: str, found: DatasetResult, verdict: Verdict, context: ReportContext) -> dict[str, Any]:
    """What the page shows of one dataset beside the verdict's own numbers: its plots and tables."""
    drawn = {
        output: data
        for output, data in context.error_histograms.get(name, {}).items()
        if not _exact(found.outputs.get(output))
    }
    limits = histogram.span(list(drawn.values()))
    errors = {
        output: histogram.histogram(output, data, limits, found.outputs.get(output))
        for output, data in drawn.items()
        if limits is not None
    }
    pairs = found.latency_ms
    sizes = sorted(pairs.original | pairs.optimized, key=headline.batch_order)
    latencies = [(batch, pairs.original.get(batch), pairs.optimized.get(batch)) for batch in sizes]
    moves = moved(found)
    models = verdict.models
    return {
        "result": found,
        "columns": metrics.columns(found.outputs.values()),
        "roc": roc.roc(found.roc) if found.roc is not None else None,
        "moved": moves[:SHOWN_MOVES],
        "moved_more": sum(count for _, _, count, _ in moves[SHOWN_MOVES:]),
        "slices": slice_table(found.slices, [c for c in verdict.checks if c.dataset == name], context.main_output),
        "paces": models.original.throughput_per_second or models.optimized.throughput_per_second,
        "ratios": {
            batch: {one.metric: one for one in models.ratios if one.batch == batch}
            for batch in {one.batch for one in models.ratios}
        },
        "changes": {
            batch: headline.compare(
                "",
                pairs.original[batch].p50,
                pairs.optimized[batch].p50,
                formats.milliseconds,
                ("faster", "slower"),
                measured=headline.measured(verdict, "latency_ratio", batch),
            ).change
            for batch in pairs.original.keys() & pairs.optimized.keys()
        },
        "errors": {output: drawing for output, drawing in errors.items() if drawing},
        "exact": [output for output, one in found.outputs.items() if _exact(one)],
        "latencies": [(*each, latency.latency(*each)) for each in latencies],
    }


def moved(found: DatasetResult) -> list[tuple[str, str, int, float]]:
    """(top class of the original, of the optimized model, examples, their share of that class), the most first."""
    if found.confusion is None:
        return []
    moves = [
        (first, second, count, count / sum(row.values()))
        for first, row in found.confusion.counts.items()
        for second, count in row.items()
        if first != second
    ]
    return sorted(moves, key=lambda move: (-move[2], move[0], move[1]))


def _exact(found: OutputMetrics | None) -> bool:
    return found is not None and (found.max_abs_error == 0 or found.exact_match == 1)


def _stages(verdict: Verdict, context: ReportContext) -> list[tuple[Stage, Markup]]:
    """The stages with a bar each, the original first."""
    stages = list(context.stages)
    if stages and stages[0].name.lower() != "original":
        stages.insert(0, Stage("original", verdict.models.original.bytes))
    longest = max((stage.bytes_after or 0 for stage in stages), default=0)
    return [(stage, _stage_bar(stage, longest)) for stage in stages]


def _stage_bar(stage: Stage, longest: int) -> Markup:
    if not stage.bytes_after or not longest:
        return Markup("")
    css = "original" if stage.name.lower() == "original" else "optimized"
    shape = bar(0, 100 * stage.bytes_after / longest, 0, 12, css)
    return plot(f"{stage.name}: {formats.size(stage.bytes_after)}", 12, [shape], "stage")


def _by_size(weights: Sequence[Weight]) -> list[Weight]:
    return sorted(weights, key=lambda weight: (-weight.bytes_before, weight.name))
