"""The gate: what it returns, logs and leaves."""

from __future__ import annotations

import glob
import json
from pathlib import Path

import numpy as np
import pytest
from kfp import dsl

from components.shared import dataset
from tests.components.artifacts import artifact, validation


def test_a_validation_returns_its_verdict_and_the_pages(validated):
    assert validated.returned == "pass"
    assert validated.verdict.metadata["verdict"] == "pass"
    assert validated.metrics.metadata["examples/examples"] == 200
    assert "<html" in Path(validated.report.path).read_text()
    assert Path(validated.summary.path).read_text() == Path(validated.verdict.path, "report.md").read_text()
    assert Path(validated.summary.path).read_text().startswith("# ")
    for page in (validated.report, validated.summary):
        assert page.metadata["verdict"] == "pass"
        assert page.metadata["bytes"] == Path(page.path).stat().st_size


def test_a_verdict_names_both_models(validated, stages):
    verdict = json.loads(Path(validated.verdict.path, "verdict.json").read_text())
    assert validated.verdict.metadata["original_digest"] == verdict["models"]["original"]["digest"]
    assert validated.verdict.metadata["optimized_digest"] == stages.slim.metadata["digest"]


def test_the_artifacts_tell_the_numbers_of_the_verdict(validated):
    verdict = json.loads(Path(validated.verdict.path, "verdict.json").read_text())
    found = verdict["datasets"]["examples"]
    logged = validated.metrics.metadata
    assert logged["examples/y/rel_l2_error"] == found["outputs"]["y"]["rel_l2_error"]
    assert logged["optimized_first_request_ms"] == verdict["models"]["optimized"]["first_request_ms"]
    ratios = {(ratio["metric"], ratio["batch"]): ratio["value"] for ratio in verdict["models"]["ratios"]}
    assert logged["throughput_ratio/batch_8"] == ratios["throughput_ratio", "8"]
    assert found["latency_ms"]["original"].keys() == {"1", "8"}
    assert found["slices"].keys() == {"file=a", "file=b"}
    assert all(np.isfinite(number) for number in logged.values())
    matrix = validated.classes.metadata["confusionMatrix"]
    names = [one["displayName"] for one in matrix["annotationSpecs"]]
    counts = np.array([row["row"] for row in matrix["rows"]])
    assert names == found["confusion"]["classes"]
    assert counts.shape == (len(names), len(names))
    assert counts.sum() == found["examples"] == 200
    assert np.trace(counts) / counts.sum() == found["outputs"]["y"]["top1_agreement"]


def test_a_validation_that_fails_is_no_error(model, stages, data, folder):
    failed = validation(
        folder,
        "failed",
        original=model,
        optimized=stages.slim,
        data=data,
        gates=["size_ratio<=0.001"],
        label="half",
        measure_costs=False,
    )
    assert failed.returned == "fail"
    verdict = json.loads(Path(failed.verdict.path, "verdict.json").read_text())
    assert verdict["verdict"] == "fail"
    assert "optimized_load_seconds" not in failed.metrics.metadata
    curve = failed.classes.metadata["confidenceMetrics"]
    assert curve[0].keys() == {"confidenceThreshold", "falsePositiveRate", "recall"}
    roc = verdict["datasets"]["examples"]["roc"]["optimized"]
    assert [point["recall"] for point in curve] == roc["tpr"]
    assert [point["falsePositiveRate"] for point in curve] == roc["fpr"]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"gates": ["top1_agrement>=0.9"]}, "did you mean 'top1_agreement'"),
        ({"slices": ["nowhere"]}, "nowhere"),
        ({"signature": "other"}, "other"),
        ({"cost_batch_sizes": [0.0]}, "batch"),
        ({"cost_batch_sizes": [1.5]}, "whole numbers"),
        ({"tags": ["train"]}, "train"),
    ],
    ids=lambda value: "".join(value) if isinstance(value, dict) else "",
)
def test_what_cannot_be_validated_is_one_line(model, stages, data, tmp_path, arguments, says):
    with pytest.raises(SystemExit) as ended:
        validation(tmp_path, "out", original=model, optimized=stages.slim, data=data, **arguments)
    text = str(ended.value)
    assert text.startswith("tfslim: ")
    assert says in text
    assert "\n" not in text
    assert not list(tmp_path.glob("out/*"))


def test_a_dataset_is_named_for_what_is_imported(tmp_path):
    (tmp_path / "a b [c].v2").mkdir()
    (tmp_path / "a b [c].v2/part.jsonl").write_text("")
    found = dataset(artifact(dsl.Dataset, tmp_path / "a b [c].v2"))
    assert list(found) == ["a b [c]"]
    assert glob.glob(found["a b [c]"], recursive=True) == [str(tmp_path / "a b [c].v2/part.jsonl")]
    assert dataset(artifact(dsl.Dataset, tmp_path / "rows.jsonl")) == {"rows": str(tmp_path / "rows.jsonl")}
    for uri, path in (
        ("gs://data/held-out/", "gs://data/held-out/*"),
        ("gs://data/held-out.npz", "gs://data/held-out.npz"),
    ):
        assert dataset(dsl.Dataset(uri=uri)) == {"held-out": path}
