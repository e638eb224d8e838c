"""report.html: what it says, and what it never does."""

from __future__ import annotations

import base64
import hashlib
import re
from dataclasses import replace

import pytest

from tests.report import samples
from tests.report.reading import percent, read
from tfslim_core.report import Answer, BadRecords, ReportContext, Skipped, Stage, Weight, write_report
from tfslim_core.report.page import report_html
from tfslim_core.verdict import PositionMetrics, Verdict

HOSTILE = "<script>alert(1)</script>\"'><img src=x onerror=alert(2)>{{ 7*7 }}\u202e\x00\ud800"
SECTIONS = [
    "verdict", "numbers", "checks", "bytes", "stages", "errors", "slices", "latency", "examples", "bad-records",
    "weights", "transforms", "again",
]  # fmt: skip


def page(verdict, context):
    return read(report_html(verdict, context))


def rows(node):
    return [[cell.text() for cell in row.every() if cell.tag in ("th", "td")] for row in node.all("tr")]


@pytest.mark.parametrize(
    ("outcome", "first", "last"),
    [
        ("pass", "✓ Pass", "stayed within every limit on 1,049 examples and may be published."),
        ("fail", "✕ Fail", "broke 2 of 6 limits and must not be published."),
        ("inconclusive", "? Inconclusive", "so the optimized model must not be published yet."),
    ],
)
def test_the_verdict_comes_first_in_words(outcome, first, last):
    verdict = samples.verdict(outcome)
    main = page(verdict, samples.context()).one("content")
    (title,) = main.all("h1")
    assert title.text().startswith(first)
    assert title.text().endswith(last)
    assert main.every()[0].attributes["id"] == "verdict"
    assert [item.text() for item in main.one("verdict").all("li")] == verdict.reasons


def test_the_sections_are_in_order_and_in_the_contents():
    whole = page(samples.verdict(), samples.context())
    content = whole.one("content")
    ids = [node.attributes["id"] for node in content.children if not isinstance(node, str)]
    assert ids == SECTIONS
    assert [link.attributes["href"] for link in whole.all("nav")[0].all("a")] == [f"#{name}" for name in ids]


def test_a_verdict_alone_makes_a_page(tmp_path):
    path = write_report(tmp_path / "new", samples.verdict())
    whole = read(path.read_text())
    ids = [node.attributes["id"] for node in whole.one("content").children if not isinstance(node, str)]
    assert ids == ["verdict", "numbers", "checks", "errors", "slices", "latency", "examples", "again"]
    assert [link.attributes["href"] for link in whole.all("nav")[0].all("a")] == [f"#{name}" for name in ids]
    assert {file.name for file in path.parent.iterdir()} == {"report.html", "report.md"}


def test_an_empty_verdict_makes_a_page():
    costs = {"bytes": 0, "load_seconds": None, "peak_rss_bytes": None, "digest": ""}
    verdict = Verdict.model_validate(
        {
            "verdict": "inconclusive",
            "reasons": ["no data"],
            "checks": [],
            "models": {"original": costs, "optimized": costs},
            "datasets": {},
        }
    )
    text = page(verdict, ReportContext()).one("content").text()
    assert "no data" in text
    assert "None" not in text


def test_every_check_is_there_broken_ones_first():
    verdict = samples.verdict("fail")
    table = rows(page(verdict, samples.context()).one("checks"))[1:]
    assert [row[0] for row in table] == ["✕ broken"] * 2 + ["✓ held"] * 4
    assert {row[1].split()[0] for row in table} == {check.expr for check in verdict.checks}
    assert ["✓ held", "top1_agreement>=0.98 on files, language=perl", "0.9853"] in table
    # Rounded to three digits it would read as if it had held.
    assert table[0][2] == "0.98996"


def test_what_has_no_value_is_a_dash():
    verdict = samples.verdict("inconclusive")
    assert ["? no value", "top1_agreement>=0.99 on files", "–"] in rows(page(verdict, samples.context()).one("checks"))
    errors = rows(page(verdict, samples.context()).one("errors"))
    assert ["classes", "–", "100 %", *["–"] * 9] in errors
    assert ["AUC", "–", "–", "–"] in errors


def test_null_costs_leave_no_tile_and_no_none():
    verdict = samples.verdict()
    for model in (verdict.models.original, verdict.models.optimized):
        model.load_seconds = model.peak_rss_bytes = None
    verdict.models.optimized.load_seconds = 0.5
    numbers = page(verdict, samples.context()).one("numbers")
    tiles = {tile.all("h3")[0].text(): tile for tile in numbers.all("li")}
    assert "Peak memory" not in tiles
    assert tiles["Load time"].all("p")[0].text() == "– → to 500 ms"
    assert not tiles["Load time"].all("svg")
    assert "None" not in numbers.text()


def test_nan_does_not_break_the_page():
    verdict = samples.verdict()
    metrics = verdict.datasets["files"].outputs["scores"]
    metrics.max_abs_error = metrics.p99_abs_error = metrics.rel_l2_error = float("nan")
    metrics.top1_agreement = float("inf")
    verdict.checks[0].value = float("nan")
    text = page(verdict, samples.context()).one("content").text()
    assert "nan " not in text
    assert "inf " not in text


def test_hostile_names_are_text():
    verdict = samples.verdict("fail").model_copy(deep=True)
    verdict.reasons.append(HOSTILE)
    verdict.checks[0].expr = verdict.checks[0].dataset = verdict.checks[1].slice = HOSTILE
    files = verdict.datasets["files"]
    files.outputs[HOSTILE] = files.outputs["scores"]
    files.latency_ms.original[HOSTILE] = files.latency_ms.original["1"]
    files.labels = {HOSTILE: next(iter((files.labels or {}).values()))}
    files.worst[0].input = {HOSTILE: HOSTILE}
    files.worst[0].output = HOSTILE
    files.worst[1].input = HOSTILE
    verdict.datasets = {HOSTILE: files}
    verdict.models.original.digest = HOSTILE
    parts = [(HOSTILE, 10)]
    files.slices = {HOSTILE: next(iter(files.slices.values()))}
    files.slices[HOSTILE].outputs = {HOSTILE: files.outputs[HOSTILE], "a": files.outputs[HOSTILE]}
    files.slices[HOSTILE].labels = files.labels
    files.roc.positive = HOSTILE
    files.confusion.counts = {HOSTILE: {"a": 1, HOSTILE: 1}}
    files.outputs[HOSTILE].positions = PositionMetrics(examples=3, agreement=0.5, first_difference=2)
    verdict.models.original.throughput_per_second[HOSTILE] = 1.0
    context = replace(
        samples.context(),
        bad_records=[BadRecords(HOSTILE, HOSTILE, 1, HOSTILE, 1)], main_output=None,
        title=HOSTILE, original_path=HOSTILE, optimized_path=HOSTILE, command=HOSTILE, created=HOSTILE,
        versions={HOSTILE: HOSTILE}, stages=[Stage(HOSTILE, 1, 1, 1.0, HOSTILE)], bytes_before=parts, bytes_after=parts,
        weights=[Weight(HOSTILE, HOSTILE, 9, 3, HOSTILE, HOSTILE, HOSTILE)],
        skipped=[Skipped(HOSTILE, HOSTILE, HOSTILE)],
        dropped=[HOSTILE], error_histograms={HOSTILE: {HOSTILE: samples.histogram(-3)}},
        answers=[Answer(HOSTILE, 412, HOSTILE, HOSTILE, [HOSTILE])],
    )  # fmt: skip
    html = report_html(verdict, context)
    whole = read(html)
    assert len(whole.all("script")) == 1
    assert not whole.all("img")
    assert "49" not in [cell.text() for cell in whole.all("td")]
    assert not re.search("[\u202e\x00\ud800]", html)
    assert not [name for node in whole.every() for name in node.attributes if name.startswith("on")]
    assert "<script>alert(1)</script>" in whole.one("verdict").text()


def test_nothing_is_fetched_and_only_our_script_may_run():
    html = report_html(samples.verdict(), samples.context(100))
    whole = read(html)
    assert not re.search(r"https?:|//[a-z]|@import|url\((?!#)", html.replace("data-", ""))
    assert not [node for node in whole.every() if node.tag in ("link", "img", "iframe", "object", "base", "form")]
    links = [node.attributes[name] for node in whole.every() for name in ("src", "href") if name in node.attributes]
    assert links
    assert all(link.startswith("#") for link in links)
    (policy,) = (
        node.attributes["content"]
        for node in whole.all("meta")
        if node.attributes.get("http-equiv") == "Content-Security-Policy"
    )
    (script,) = whole.all("script")
    ours = base64.b64encode(hashlib.sha256("".join(script.children).encode()).digest()).decode()
    assert "default-src 'none'" in policy
    assert f"script-src 'sha256-{ours}'" in policy


def test_the_same_facts_make_the_same_bytes(tmp_path):
    first = write_report(tmp_path / "a", samples.verdict(), samples.context()).read_bytes()
    assert first == write_report(tmp_path / "b", samples.verdict(), samples.context()).read_bytes()
    again = write_report(tmp_path / "a", samples.verdict("fail"), samples.context()).read_bytes()
    assert first != again


def test_thousands_of_weights_are_folded():
    section = page(samples.verdict(), samples.context(3000)).one("weights")
    shown, folded = section.all("table")
    assert (len(shown.all("tr")), len(folded.all("tr"))) == (51, 2956)
    (details,) = section.all("details")
    assert details.all("summary")[0].text().startswith("2,955 smaller weights")
    assert "open" not in details.attributes
    assert section.all("p")[0].text() == "3,005 in all, 123 MB before and 31.2 MB after; the 50 largest first."
    assert rows(shown)[1][0] == "embedding/embeddings"


def test_numbers_that_are_sorted_by_carry_their_value():
    section = page(samples.verdict(), samples.context()).one("weights")
    keys = [cell.attributes.get("data-sort") for cell in section.all("tr")[1].all("td", "number")]
    assert keys == ["120000000", "30400000", "0.0008"]


def test_answers_are_side_by_side():
    card = page(samples.verdict(), samples.context()).one("examples").all("li")[0]
    assert ["1", "0.55", "0.419"] in rows(card)
    assert card.all("bdi")[0].text() == samples.PERL


def test_a_reason_that_many_nodes_share_is_told_once():
    text = page(samples.verdict(), samples.context()).one("transforms").text()
    assert text.count("larger than the growth guard allows") == 1
    assert "left 14 nodes" in text
    assert "the training graph" in text


def test_it_can_be_read_without_seeing_it():
    whole = page(samples.verdict(), samples.context())
    for drawing in whole.all("svg", "plot"):
        assert drawing.attributes["role"] == "img"
        assert drawing.all("title")[0].text()
    for table in whole.all("table"):
        assert all(head.attributes.get("scope") for head in table.all("th"))
    ids = [node.attributes["id"] for node in whole.every() if "id" in node.attributes]
    assert len(ids) == len(set(ids))
    labels = [node.attributes["aria-labelledby"] for node in whole.all("section")]
    assert set(labels) <= set(ids)
    levels = [int(node.tag[1]) for node in whole.every() if re.fullmatch("h[1-6]", node.tag)]
    assert levels[0] == 1
    assert all(later - earlier <= 1 for earlier, later in zip(sorted(levels), sorted(levels)[1:], strict=False))


def test_no_bar_leaves_its_plot():
    for drawing in page(samples.verdict(), samples.context()).all("svg", "plot"):
        for bar in drawing.all("rect"):
            if bar.attributes["width"].endswith("%"):
                end = percent(bar.attributes["x"]) + percent(bar.attributes["width"])
                assert -0.001 <= percent(bar.attributes["x"]) <= end <= 100.001


def test_what_an_older_verdict_lacks_is_left_out():
    text = report_html(samples.plain(), samples.context())
    content = read(text).one("content")
    ids = [node.attributes["id"] for node in content.children if not isinstance(node, str)]
    assert ids == [name for name in SECTIONS if name != "slices"]
    assert not content.all("span", "interval")
    assert not content.all("span", "within")
    assert "None" not in content.text()
    assert "Throughput" not in content.text()


def test_slices_are_a_sortable_table_the_worst_first():
    verdict = samples.verdict()
    verdict.checks[3].passed, verdict.checks[3].slice = False, "language=go"
    section = page(verdict, samples.context()).one("slices")
    table = section.all("table", "sortable")[0]
    head, *shown = rows(table)
    assert head == ["Slice", "Checks", "Examples", "Same top class", "Relative error", "Largest", "Accuracy, change"]
    assert [row[0] for row in shown[:3]] == ["language=go", "language=perl", "language=python"]
    assert shown[0][1] == "✕ broken"
    assert shown[1] == ["language=perl", "", "41", "98.53 %93 % – 99.71 %", "0.0513", "0.131", "0"]
    keys = [cell.attributes["data-sort"] for cell in table.all("tr")[2].all("td", "number")]
    assert keys == ["41", "0.9853", "0.0513", "0.1312", "-0.0"]


def test_outputs_of_slices_are_apart_where_none_is_the_main_one():
    context = replace(samples.context(), main_output=None)
    table = rows(page(samples.verdict(), context).one("slices").all("table")[0])
    assert table[0][1] == "Output"
    assert {row[1] for row in table[1:]} == {"scores", "embedding"}


def test_many_slices_are_folded():
    verdict = samples.verdict()
    one = verdict.datasets["files"].slices["language=perl"]
    verdict.datasets["files"].slices = {f"n={number}": one for number in range(100)}
    section = page(verdict, samples.context()).one("slices")
    assert [len(table.all("tr")) - 1 for table in section.all("table")] == [40, 60, 12]
    assert section.all("summary")[0].text() == "60 more, which differ less"


def test_values_have_their_intervals_beside_them():
    verdict = samples.verdict()
    verdict.checks[5].interval = (0.95, 0.99)
    whole = page(verdict, samples.context())
    tiles = {tile.all("h3")[0].text(): tile.all("p", "change")[0].text() for tile in whole.one("numbers").all("li")}
    assert tiles["Latency, batch 1, files"] == "12 % faster 0.883× (0.862× – 0.904×)"
    assert tiles["Latency, batch 32, files"] == "the same 0.996× (0.965× – 1.03×)"
    assert tiles["First request"] == "within the noise 1.06× (0.91× – 1.22×)"
    assert tiles["Throughput, batch 128"] == "4 % more 1.04× (1.03× – 1.05×)"
    assert tiles["Same top class"] == "at its worst: scores, files (98.47 % – 99.59 %)"
    assert "0.970.95 – 0.99" in [row[2] for row in rows(whole.one("checks"))[1:]]
    labels = rows(whole.one("errors").all("table", "narrow")[0])
    assert labels[1] == ["Accuracy", "0.9331", "0.9319", "−0.0012−0.0048 – +0.0024"]
    latency = rows(whole.one("latency").all("table")[0])
    assert latency[1] == ["1", "original", "1.41 ms", "1.72 ms", "2.31 ms", "690 /s"]
    assert latency[3] == ["ratio", "0.883×0.862× – 0.904×", "", "0.893×0.872× – 0.914×", "1.04×1.02× – 1.06×"]


def test_a_check_that_proves_nothing_is_undecided():
    verdict = samples.verdict("inconclusive")
    verdict.checks[5].undecided, verdict.checks[5].interval = True, (0.9, None)
    whole = page(verdict, samples.context())
    assert ["? undecided", "latency_ratio<=1.05 on files", "0.97from 0.9"] in rows(whole.one("checks"))


def test_positions_and_missing_labels_are_told():
    verdict = samples.verdict()
    files = verdict.datasets["files"]
    files.outputs["scores"].positions = PositionMetrics(examples=837, agreement=0.91, first_difference=14)
    files.without_label = 12
    text = page(verdict, samples.context()).one("errors").text()
    assert "91 % of 837 examples agree at every one; the others from position 14 on" in text
    assert "12 examples have no label" in text


def test_the_classes_that_changed_are_counted():
    table = rows(page(samples.verdict(), samples.context()).one("errors").all("table")[2])
    assert table[1:] == [["perl", "python", "4", "9.7 %"], ["python", "java", "1", "0.3 %"]]


def test_bad_records_are_told_by_their_error():
    section = page(samples.verdict(), samples.context()).one("bad-records")
    assert section.all("p")[0].text().startswith("4 in all")
    assert rows(section)[1][0:2] == ["files", "2"]
    assert rows(section)[1][3] == "data/files-03.jsonl record 118"
