"""The numbers before and after, and how the terminal and Markdown show them."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from tests.report import samples
from tfslim_core.report import ReportContext, before_after_table, report_markdown
from tfslim_core.report.headline import answers, change, compare, rows
from tfslim_core.report.words import sentence


def printed(table):
    console = Console(file=io.StringIO(), width=100)
    console.print(table)
    return console.file.getvalue()


@pytest.mark.parametrize(
    ("ratio", "words"),
    [
        (None, ""),
        (1.0, "the same"),
        (0.997, "the same"),
        (0.9, "10 % smaller"),
        (1.12, "12 % larger"),
        (0.0655, "15.3× smaller"),
        (3, "3× larger"),
        (0, "gone"),
    ],
)
def test_a_ratio_in_words(ratio, words):
    assert change(ratio) == words


def test_noise_is_neither_better_nor_worse():
    tones = [compare("x", 100, after, str).tone for after in (80, 97, 104, 106, None)]
    assert tones == ["better", "same", "same", "worse", "unknown"]


def test_sizes_are_set_against_the_parameters_that_are_used():
    found = {row.label: (row.before_text, row.after_text) for row in rows(samples.verdict(), samples.context())}
    assert found["Size on disk"] == ("487 MB", "31.9 MB")
    assert found["Bytes per live parameter (30.5 M)"] == ("16", "1.05")
    assert found["Graph nodes"] == ("4,812", "911")


def test_batches_are_in_order_and_the_worst_dataset_counts():
    labels = [row.label for row in rows(samples.verdict(), ReportContext()) if "Latency" in row.label]
    assert labels == [f"Latency, batch {batch}, files" for batch in (1, 32, 128)]


def test_the_worst_answer_over_datasets_counts():
    verdict = samples.verdict()
    verdict.datasets["snippets"].outputs["scores"].top1_agreement = 0.5
    found = {answer.label: (answer.text, answer.where) for answer in answers(verdict)}
    assert found["Same top class"] == ("50 %", "scores, snippets")


def test_a_check_without_a_value_is_not_called_broken():
    verdict = samples.verdict("fail")
    verdict.checks[1].value = None
    assert "broke 1 of 6 limits" in sentence(verdict)


def test_the_terminal_shows_costs_answers_and_verdict():
    text = printed(before_after_table(samples.verdict("fail"), samples.context()))
    costs = ("Size on disk", "487 MB", "31.9 MB", "15.3× smaller", "Peak memory", "Latency, batch 32")
    assert [words for words in (*costs, "Same top class", "98.99 %", "Verdict", "Fail") if words not in text] == []


def test_the_terminal_does_without_a_verdict_and_without_anything():
    text = printed(before_after_table(None, samples.context()))
    assert "31.9 MB" in text
    assert "Verdict" not in text
    assert printed(before_after_table(None))


def test_the_terminal_takes_no_markup_from_names():
    verdict = samples.verdict()
    verdict.datasets = {"[red]files[/nonsense]\x1b[2J": verdict.datasets["files"]}
    verdict.datasets["other"] = verdict.datasets["[red]files[/nonsense]\x1b[2J"]
    text = printed(before_after_table(verdict, ReportContext(title="[bold]x")))
    assert "[red]files[/nonsense]\\x1b" in text
    assert "[bold]x" in text
    assert "\x1b" not in text


@pytest.mark.parametrize("outcome", ["pass", "fail", "inconclusive"])
def test_markdown_says_the_same(outcome):
    verdict = samples.verdict(outcome)
    text = report_markdown(verdict, samples.context())
    assert sentence(verdict) in text
    assert "| Size on disk | 487 MB | 31.9 MB | 15.3× smaller |" in text
    for check in verdict.checks:
        assert f"`{check.expr}`" in text
    tables = [line for line in text.splitlines() if line.startswith("|")]
    for block in text.split("\n\n"):
        if block.startswith("|"):
            assert len({line.count("|") - line.count("\\|") for line in block.splitlines()}) == 1
    assert "| language=perl | held | 41 | " in text or outcome != "pass"
    assert "| Throughput, batch 128 | 2,580 /s | 2,680 /s | 4 % more (1.03× – 1.05×) |" in text
    assert "- 2 × 'text': expected a string, found a number (the first: `data/files-03.jsonl`, record 118)" in text
    assert f"sha256 `{verdict.models.optimized.digest}`" in text
    assert tables
    assert text == report_markdown(verdict, samples.context())


def test_markdown_of_a_verdict_alone():
    assert "None" not in report_markdown(samples.verdict("inconclusive"))


def test_markdown_takes_no_markup_from_names():
    verdict = samples.verdict()
    verdict.reasons = ["<img src=x> [a](b) | *bold*\n# heading"]
    verdict.checks[0].expr = "a|b``c"
    verdict.datasets["files"].outputs = {"`": verdict.datasets["files"].outputs["scores"]}
    text = report_markdown(verdict, ReportContext(command="echo `x`\n| y"))
    assert r"- &lt;img src=x> \[a\](b) | \*bold\* \# heading" in text
    assert r"```a\|b``c```" in text
    assert "| `` ` `` |" in text
    assert "Again: ``echo `x` | y``" in text
