"""Each component alone: compiled and loaded by kfp, and its function called on a real model."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import yaml
from kfp import compiler, dsl
from kfp import components as kfp_components

import components.image
from benchmarks.models import dense
from components.freeze import freeze
from components.publish import publish
from components.quantize import quantize
from components.reexport import reexport
from components.shared import call, log_confusion, log_numbers
from components.transform import transform
from components.validate import validate
from tfslim_core import __version__, storage
from tfslim_core.saved_model.server_loader import ServedModel

ALL = (freeze, transform, quantize, reexport, validate, publish)
BUNDLE_KEYS = {"kind", "bytes", "digest", "signatures", "tfslim_version"}


def artifact(kind, path):
    return kind(name=path.name, uri=str(path), metadata={})


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("components")


@pytest.fixture(scope="module")
def model(folder):
    dense(folder / "model", layers=2, width=64)
    return artifact(dsl.Model, folder / "model")


@pytest.fixture(scope="module")
def data(folder):
    """Two files of 100 examples."""
    (folder / "examples").mkdir()
    random = np.random.default_rng(0)
    for name in ("a", "b"):
        rows = random.standard_normal((100, 64)).round(4).tolist()
        (folder / f"examples/{name}.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return artifact(dsl.Dataset, folder / "examples")


@pytest.fixture(scope="module")
def stages(folder, model):
    """What the four stages made of the model."""
    made = SimpleNamespace(
        **{name: artifact(dsl.Model, folder / name) for name in ("frozen", "transformed", "quantized", "slim")},
        **{f"{name}_metrics": artifact(dsl.Metrics, folder / name) for name in ("frozen", "quantized", "slim")},
    )
    freeze.python_func(model, made.frozen, made.frozen_metrics)
    transform.python_func(made.frozen, made.transformed, artifact(dsl.Metrics, folder))
    quantize.python_func(made.transformed, made.quantized, made.quantized_metrics)
    reexport.python_func(made.quantized, made.slim, made.slim_metrics)
    return made


@pytest.fixture(scope="module")
def validated(folder, model, stages, data):
    """A validation that passes."""
    made = SimpleNamespace(
        verdict=artifact(dsl.Artifact, folder / "verdict"),
        report=artifact(dsl.HTML, folder / "page"),
        metrics=artifact(dsl.Metrics, folder / "numbers"),
        classes=artifact(dsl.ClassificationMetrics, folder / "classes"),
    )
    made.returned = validate.python_func(
        model, stages.slim, data, made.verdict, made.report, made.metrics, made.classes, gates=["size_ratio<=0.5"]
    )
    return made


@pytest.mark.parametrize("component", ALL, ids=lambda component: component.name)
def test_compiles_to_what_kfp_loads(component, tmp_path):
    file = str(tmp_path / "component.yaml")
    compiler.Compiler().compile(component, file)
    loaded = kfp_components.load_component_from_file(file)
    assert loaded.component_spec.inputs.keys() == component.component_spec.inputs.keys()
    assert loaded.description


@pytest.mark.parametrize("component", ALL, ids=lambda component: component.name)
def test_runs_wherever_the_core_and_kfp_are_installed(component):
    container = component.component_spec.implementation.container
    source = container.command[-1]
    assert container.image == components.image.IMAGE
    assert "from components" not in source
    assert "pip install" not in " ".join(container.command)
    defined = {}
    exec(source, defined)
    for shared in ("call", "dataset", "describe", "log_confusion", "log_numbers", "progress"):
        assert f"{shared}(" not in source or callable(defined[shared])


def test_the_image_can_be_named_when_compiling(monkeypatch):
    monkeypatch.setenv("TFSLIM_IMAGE", "images.example/tfslim@sha256:0")
    assert importlib.reload(components.image).IMAGE == "images.example/tfslim@sha256:0"
    monkeypatch.delenv("TFSLIM_IMAGE")
    assert f"tfslim:{__version__}" == importlib.reload(components.image).IMAGE


def test_the_stages_make_a_smaller_servable(model, stages):
    feeds = {"x": np.random.default_rng(1).standard_normal((3, 64)).astype(np.float32)}
    answers = []
    for path in (model.path, stages.slim.path):
        with ServedModel(path, ["serve"]) as served:
            answers.append(served.run("serving_default", feeds)["y"])
    assert np.ptp(answers[0]) > 0.1
    np.testing.assert_allclose(*answers, atol=0.1)
    assert stages.slim.metadata["bytes"] < 0.3 * stages.frozen.metadata["bytes"]


def test_artifacts_say_what_they_are(stages, folder):
    for made, kind in ((stages.frozen, "tfslim bundle"), (stages.slim, "SavedModel")):
        assert made.metadata.keys() == BUNDLE_KEYS
        assert made.metadata["kind"] == kind
        assert made.metadata["digest"] == storage.digest(folder / made.name)
        assert made.metadata["signatures"] == ["serving_default"]
        assert made.metadata["tfslim_version"] == __version__
    assert "fold_constants" in stages.transformed.metadata["transforms"]
    assert stages.quantized.metadata["encoding"] == "int8"


def test_a_budget_chooses_the_encodings(stages, data, folder, caplog):
    made = artifact(dsl.Model, folder / "within")
    with caplog.at_level("INFO"):
        quantize.python_func(
            stages.transformed,
            made,
            dsl.Metrics(),
            budget=["rel_l2_error<=0.05"],
            data=data,
            main_output="y",
            search_minutes=0.5,
            seed=3,
        )
    assert made.metadata["encoding"] == "by budget"
    assert made.metadata["bytes"] < stages.quantized.metadata["bytes"]
    assert "tfslim: budget: rel_l2_error " in caplog.text
    assert not (folder / "within.search").exists()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"encoding": "int4"}, "leave out --encoding"),
        ({"data": None}, "--budget needs data"),
        ({"budget": ["top1_agrement>=0.9"]}, "did you mean 'top1_agreement'"),
        ({"label": "clas"}, "'clas'"),
    ],
    ids=lambda value: "".join(value) if isinstance(value, dict) else "",
)
def test_a_budget_that_cannot_be_searched_for_is_one_line(stages, data, tmp_path, arguments, says):
    asked = {"budget": ["rel_l2_error<=0.05"], "data": data} | arguments
    with pytest.raises(SystemExit) as ended:
        quantize.python_func(stages.transformed, artifact(dsl.Model, tmp_path / "out"), dsl.Metrics(), **asked)
    text = str(ended.value)
    assert text.startswith("tfslim: ")
    assert says in text
    assert "\n" not in text
    assert not list(tmp_path.iterdir())


def test_metrics_are_numbers(stages):
    assert stages.frozen_metrics.metadata["nodes"] > 0
    assert 0 < stages.quantized_metrics.metadata["error/serving_default/y"] < 0.1


def test_only_finite_numbers_are_logged():
    metrics = dsl.Metrics()
    log_numbers(metrics, {"good": 1.0, "nan": float("nan"), "inf": float("inf"), "zero": 0.0})
    assert metrics.metadata == {"good": 1.0, "zero": 0.0}


def test_a_validation_returns_its_verdict_and_the_page(validated):
    assert validated.returned == "pass"
    assert validated.verdict.metadata["verdict"] == "pass"
    assert validated.metrics.metadata["examples/examples"] == 200
    with open(validated.report.path) as page:
        assert "<html" in page.read()


def test_the_artifacts_tell_the_numbers_of_the_verdict(validated):
    verdict = json.loads((Path(validated.verdict.path) / "verdict.json").read_text())
    found = verdict["datasets"]["examples"]
    logged = validated.metrics.metadata
    assert logged["examples/y/rel_l2_error"] == found["outputs"]["y"]["rel_l2_error"]
    assert logged["optimized_first_request_ms"] == verdict["models"]["optimized"]["first_request_ms"]
    ratios = {(ratio["metric"], ratio["batch"]): ratio["value"] for ratio in verdict["models"]["ratios"]}
    assert logged["throughput_ratio/batch_32"] == ratios["throughput_ratio", "32"]
    assert all(np.isfinite(number) for number in logged.values())
    matrix = validated.classes.metadata["confusionMatrix"]
    names = [one["displayName"] for one in matrix["annotationSpecs"]]
    counts = np.array([row["row"] for row in matrix["rows"]])
    assert names == found["confusion"]["classes"]
    assert counts.shape == (len(names), len(names))
    assert counts.sum() == found["examples"] == 200
    assert np.trace(counts) / counts.sum() == found["outputs"]["y"]["top1_agreement"]
    assert "# " in (Path(validated.verdict.path) / "report.md").read_text()


def test_without_classes_no_matrix_is_logged():
    classes = dsl.ClassificationMetrics()
    log_confusion(classes, None)
    assert "confusionMatrix" not in classes.metadata


def test_a_validation_that_fails_is_no_error(model, stages, data, folder):
    returned = validate.python_func(
        model,
        stages.slim,
        data,
        artifact(dsl.Artifact, folder / "failed"),
        artifact(dsl.HTML, folder / "failed_page"),
        dsl.Metrics(),
        dsl.ClassificationMetrics(),
        gates=["size_ratio<=0.001"],
    )
    assert returned == "fail"
    assert json.loads((folder / "failed/verdict.json").read_text())["verdict"] == "fail"


def test_what_passed_is_published(stages, validated, tmp_path):
    assert publish.python_func(stages.slim, validated.verdict, str(tmp_path / "base")) == str(tmp_path / "base/1")
    assert publish.python_func(stages.slim, validated.verdict, str(tmp_path / "base")) == str(tmp_path / "base/2")


def test_what_was_not_validated_is_not_published(stages, model, validated, tmp_path):
    with pytest.raises(SystemExit, match=r"^tfslim: .*is not the model that was validated"):
        publish.python_func(model, validated.verdict, str(tmp_path / "base"))
    assert not (tmp_path / "base").exists()


def test_a_task_that_is_tried_again_replaces_its_output(stages, tmp_path):
    out = artifact(dsl.Model, tmp_path / "again")
    for _ in range(2):
        reexport.python_func(stages.quantized, out, dsl.Metrics())
    assert out.metadata["digest"] == stages.slim.metadata["digest"]


def test_an_error_is_one_line(tmp_path):
    missing = artifact(dsl.Model, tmp_path / "nothing")
    with pytest.raises(SystemExit, match=r"^tfslim: .*nothing: no such directory, file or checkpoint$"):
        freeze.python_func(missing, artifact(dsl.Model, tmp_path / "out"), dsl.Metrics())
    assert not list(tmp_path.iterdir())


def test_a_bug_keeps_its_traceback():
    with pytest.raises(ZeroDivisionError):
        call(lambda: 1 / 0)


def test_an_unknown_transform_suggests_one(stages, tmp_path):
    with pytest.raises(SystemExit, match="did you mean 'fold_constants'"):
        transform.python_func(stages.frozen, artifact(dsl.Model, tmp_path / "out"), dsl.Metrics(), "fold_constant")


def test_the_compiled_text_is_the_same_each_time(tmp_path):
    texts = []
    for name in ("a.yaml", "b.yaml"):
        compiler.Compiler().compile(freeze, str(tmp_path / name))
        texts.append((tmp_path / name).read_text())
    assert texts[0] == texts[1]
    assert yaml.safe_load(texts[0])["deploymentSpec"]["executors"]["exec-freeze"]["container"]["image"]
