"""report.html: one file that needs no network and no script, and trusts no name in it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup

from tfslim_core.report import examples, formats, headline, words
from tfslim_core.report.context import ReportContext, Stage, Weight
from tfslim_core.report.leftovers import left_alone
from tfslim_core.report.plots import histogram, latency, pair, stacked
from tfslim_core.report.shares import shares
from tfslim_core.report.svg import bar, plot
from tfslim_core.report.templating import environment, page_parts
from tfslim_core.verdict import DatasetResult, OutputMetrics, Verdict

FILE_NAME = "report.html"
SHOWN_WEIGHTS = 50
SHOWN_EXAMPLES = 6
SHOWN_NODES = 200


def write_report(directory: Path, verdict: Verdict, context: ReportContext | None = None) -> Path:
    """Write report.html into `directory`, whole or not at all; the same facts give the same bytes."""
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / FILE_NAME
    aside = directory / f".{FILE_NAME}.part"
    aside.write_text(report_html(verdict, context or ReportContext()), encoding="utf-8")
    return aside.replace(path)


def report_html(verdict: Verdict, context: ReportContext) -> str:
    """The page as text."""
    return environment().get_template("report.html.j2").render(_view(verdict, context))


def _view(verdict: Verdict, context: ReportContext) -> dict[str, Any]:
    parts = shares(context.bytes_before, context.bytes_after)
    return {
        "answers": headline.answers(verdict),
        "bars": stacked.stacked(parts),
        "checks": sorted(verdict.checks, key=lambda check: check.passed),
        "context": context,
        "datasets": {name: _dataset(name, found, context) for name, found in verdict.datasets.items()},
        "examples": examples.examples(verdict, context.answers),
        "left_alone": left_alone(context.skipped),
        "limits": {"weights": SHOWN_WEIGHTS, "examples": SHOWN_EXAMPLES, "nodes": SHOWN_NODES},
        "outcome": words.NAMES[verdict.verdict],
        "parts": parts,
        "rows": [(row, pair.pair(row)) for row in headline.rows(verdict, context)],
        **page_parts(),
        "sentence": words.sentence(verdict),
        "stages": _stages(verdict, context),
        "title": context.title or "A slimmed model",
        "verdict": verdict,
        "weights": _by_size(context.weights),
    }


def _dataset(name: str, found: DatasetResult, context: ReportContext) -> dict[str, Any]:
    """What the page shows of one dataset beside the verdict's own numbers: its plots."""
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
    return {
        "result": found,
        "errors": {output: drawing for output, drawing in errors.items() if drawing},
        "exact": [output for output, metrics in found.outputs.items() if _exact(metrics)],
        "latencies": [(*each, latency.latency(*each)) for each in latencies],
    }


def _exact(metrics: OutputMetrics | None) -> bool:
    return metrics is not None and (metrics.max_abs_error == 0 or metrics.exact_match == 1)


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
