"""Validation as programs call it: what is written, what is returned, what is refused."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest

from tests.saved_models import GUESSLANG, normal
from tests.validation import tiny_models
from tfslim_core import api, storage
from tfslim_core.costs import Costs
from tfslim_core.errors import DataError, ModelError, OutputExistsError, UsageError
from tfslim_core.verdict import Percentiles, Verdict

W = normal(64, 48, seed=3)


@pytest.fixture
def models(tmp_path, monkeypatch):
    def costs(*_args, **_options):
        times = {1: Percentiles(p50=1, p95=2, p99=3)}
        return (Costs(1, 0.5, None, 10, times), Costs(1, 0.25, None, 5, times))

    monkeypatch.setattr("tfslim_core.validation.job.measure_pair", costs)
    x = normal(400, 64, seed=4)
    np.savez(tmp_path / "x.npz", x=x, label=(x @ W).argmax(-1))
    (tmp_path / "bad.jsonl").write_text(
        "".join(json.dumps({"x": row.tolist() if number % 10 else "no"}) + "\n" for number, row in enumerate(x))
    )
    tiny_models.linear(tmp_path / "model", W)
    tiny_models.linear(tmp_path / "close", W * 1.001)
    tiny_models.linear(tmp_path / "other", W[:, ::-1])
    tiny_models.linear(tmp_path / "narrow", W[:, :3])
    return tmp_path


def validate(models, optimized="close", data="x.npz", **options):
    given = {"test": str(models / data)} if data else {}
    return api.validate(models / "model", models / optimized, data=given, out=models / "out", **options)


def left(models):
    return {path.name for path in models.iterdir()} - {"x.npz", "bad.jsonl", "model", "close", "other", "narrow"}


@pytest.mark.parametrize(
    ("optimized", "data", "outcome"),
    [("close", "x.npz", "pass"), ("other", "x.npz", "fail"), ("close", None, "inconclusive")],
)
def test_the_verdict_and_the_report_are_there_whatever_it_is(models, optimized, data, outcome):
    report = validate(models, optimized, data)
    assert report.outcome == outcome
    assert report.path == models / "out"
    assert Verdict.read(report.path / "verdict.json") == report.verdict
    page = (report.path / "report.html").read_text()
    assert "<script src" not in page
    assert not re.search(r"(src|href)=.?https?:", page)
    assert {path.name for path in report.path.iterdir()} == {"verdict.json", "report.html", "report.md"}
    assert report.verdict.models.optimized.digest == storage.digest(models / optimized)
    assert (report.context.original_path, report.context.optimized_path) == (
        str(models / "model"),
        str(models / optimized),
    )
    assert report.verdict.reasons


def test_metrics_are_finite_numbers(models):
    numbers = validate(models).metrics()
    assert numbers["test/examples"] == 400
    assert numbers["test/y/rel_l2_error"] == pytest.approx(0.001, rel=0.01)
    assert numbers["test/y/top1_agreement"] == 1
    assert numbers["size_ratio"] == pytest.approx(1, abs=0.01)
    assert all(isinstance(number, float) and np.isfinite(number) for number in numbers.values())


def test_the_report_tells_what_the_verdict_does(models):
    report = validate(models, data="bad.jsonl", fail_on_bad_records=0.2)
    found = report.verdict.datasets["test"]
    (answer,) = [one for one in report.context.answers if one.index == found.worst[0].index]
    x = np.load(models / "x.npz")["x"][answer.index]
    np.testing.assert_allclose(answer.original[:8], (x @ W)[:8], rtol=1e-2, atol=1e-2)
    (bad,) = report.context.bad_records
    assert (bad.dataset, bad.count, bad.record) == ("test", found.bad_records, 0)
    assert bad.error in (report.path / "report.md").read_text().replace("\\", "")
    assert report.context.main_output == "y"
    classes, counts = report.confusion()
    assert len(classes) == 48
    assert np.sum(counts) == np.trace(counts) == found.examples
    assert report.roc() is None  # no label was named


def test_costs_can_be_left_out(models):
    report = validate(models, costs=False, gates=["top1_agreement>=0.9"])
    assert report.outcome == "pass"
    assert report.verdict.models.original.load_seconds is None
    with pytest.raises(UsageError, match="--no-costs"):
        validate(models, costs=False, gates=["latency_ratio<=2"], overwrite=True)


def test_every_output_needs_a_value_only_where_it_has_a_meaning(models):
    report = validate(models, data=None)
    costs = {f"{model}_{cost}" for model in ("original", "optimized") for cost in ("load_seconds", "peak_rss_bytes")}
    assert report.metrics().keys() == {"original_bytes", "optimized_bytes", "size_ratio"} | costs
    assert "NaN" not in (models / "out/verdict.json").read_text()


def test_gates_and_labels(models):
    gates = ["top1_agreement>=0.99", "y:rel_l2_error<=0.0001", "label_accuracy_drop<=0", "load_ratio<=0.6"]
    report = validate(models, gates=gates, label="label")
    assert {check.expr: check.passed for check in report.verdict.checks} == {gate: gate != gates[1] for gate in gates}
    assert report.outcome == "fail"
    assert report.verdict.datasets["test"].labels["accuracy"].original == 1
    roc = report.roc()
    assert roc.positive is None
    for curve in (roc.original, roc.optimized):
        assert (curve.fpr[0], curve.tpr[0], curve.fpr[-1], curve.tpr[-1]) == (0, 0, 1, 1)
        assert np.isfinite(curve.threshold).all()
        assert len(curve.fpr) == len(curve.tpr) == len(curve.threshold) < 250
    assert "ROC curves" in (report.path / "report.html").read_text()
    assert Verdict.read(report.path / "verdict.json").datasets["test"].roc == roc


def test_several_datasets(models):
    np.savez(models / "more.npz", x=normal(200, 64, seed=8))
    data = {"test": str(models / "x.npz"), "more": str(models / "more.npz")}
    report = api.validate(models / "model", models / "close", data=data, out=models / "out")
    assert {name: result.examples for name, result in report.verdict.datasets.items()} == {"test": 400, "more": 200}
    assert {check.dataset for check in report.verdict.checks} == {"test", "more"}


def test_bad_records_are_an_error_or_are_listed(models):
    with pytest.raises(DataError, match=r"40 of 400 records are bad, more than --fail-on-bad-records 0.01 allows"):
        validate(models, data="bad.jsonl")
    assert left(models) == set()
    report = validate(models, data="bad.jsonl", fail_on_bad_records=0.1)
    assert report.verdict.datasets["test"].bad_records == 40
    letters = (models / "out/dead_letters.jsonl").read_text().splitlines()
    assert [json.loads(line)["record"] for line in letters] == list(range(0, 400, 10))


def test_what_is_there_is_overwritten_only_when_told(models):
    (models / "out").mkdir()
    (models / "out/old").write_text("old")
    with pytest.raises(OutputExistsError):
        validate(models)
    with pytest.raises(ModelError):
        validate(models, "nothing", overwrite=True)
    assert (models / "out/old").exists()
    validate(models, overwrite=True)
    assert not (models / "out/old").exists()


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"optimized": "nothing"}, ModelError, "nothing"),
        ({"optimized": "narrow", "gates": ["exact_match>=1"]}, None, ""),
        ({"tags": ["gpu"]}, ModelError, "gpu"),
        ({"signature": "serving_defualt"}, ModelError, "did you mean 'serving_default'"),
        ({"gates": ["z:rel_l2_error<=1"]}, UsageError, "z"),
        ({"gates": ["label_accuracy_drop<=1"]}, UsageError, "label"),
        ({"gates": ["size_ratio<=1"], "data": None}, UsageError, "--data NAME=PATH"),
        ({"label": "labl"}, DataError, "did you mean 'label'"),
        ({"main_output": "x"}, UsageError, "no output 'x'"),
    ],
)
def test_what_cannot_be_is_refused_and_leaves_nothing(models, options, error, words):
    if error is None:  # another shape is an answer that differs, and so fails
        assert validate(models, **options).outcome == "fail"
        return
    with pytest.raises(error) as caught:
        validate(models, **options)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)
    assert left(models) == set()


def test_another_interface_is_refused(models):
    with pytest.raises(ModelError, match=r"has the inputs|has no signature"):
        api.validate(GUESSLANG, models / "model", data={}, out=models / "out")
    assert left(models) == set()


@pytest.mark.parametrize("out", ["model", "model/report", "close/report", "."])
def test_a_report_has_a_place_of_its_own(models, out):
    with pytest.raises(UsageError, match="its own place"):
        api.validate(models / "model", models / "close", data={}, out=models / out, overwrite=True)
    assert (models / "model/saved_model.pb").exists()
    assert left(models) == set()


@pytest.mark.parametrize("url", ["s3://bucket/model", "s3:/bucket/model", "https://host/model"])
def test_urls_are_refused(models, url):
    with pytest.raises(UsageError, match="paths are local or gs://") as caught:
        api.validate(url, models / "close", data={}, out=models / "out")
    assert url.partition(":")[0] + "://" in str(caught.value)
    with pytest.raises(UsageError, match="paths are local or gs://"):
        api.validate(models / "model", models / "close", data={}, out=url)
    assert left(models) == set()


def test_names_with_colons_are_paths(models):
    (models / "a:b").symlink_to(models / "model")
    assert api.inspect(models / "a:b").live_parameters == W.size


def test_the_report_tells_what_was_done_where_the_bundle_is_known(models):
    api.freeze(models / "model", models / "bundle")
    api.quantize(models / "bundle", models / "int8")
    api.reexport(models / "int8", models / "slim")
    report = api.validate(
        models / "model",
        models / "slim",
        data={"test": str(models / "x.npz")},
        out=models / "out",
        bundle=models / "int8",
    )
    assert [stage.name for stage in report.context.stages] == ["original", "freeze", "quantize", "reexport"]
    assert [weight.encoding for weight in report.context.weights] == ["int8"]
    assert report.context.stages[-1].bytes_after == storage.size(models / "slim")
