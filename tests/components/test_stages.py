"""The four stages: each component's function on a real model."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path

import numpy as np
import pytest
from kfp import dsl

from components.freeze import freeze
from components.quantize import quantize
from components.reexport import reexport
from components.shared import call, history, log_numbers, write
from components.transform import transform
from tests.components.artifacts import artifact
from tfslim_core import __version__, storage
from tfslim_core.saved_model.server_loader import ServedModel


def test_the_stages_make_a_smaller_servable(model, stages):
    feeds = {"x": np.random.default_rng(1).standard_normal((3, 64)).astype(np.float32)}
    answers = []
    for path in (model.path, stages.slim.path):
        with ServedModel(path, ["serve"]) as served:
            answers.append(served.run("serving_default", feeds)["y"])
    assert np.ptp(answers[0]) > 0.1
    np.testing.assert_allclose(*answers, atol=0.1)
    assert stages.slim.metadata["bytes"] < 0.3 * stages.frozen.metadata["bytes"]


def test_artifacts_say_what_they_are(model, stages, folder):
    for made, kind in ((stages.frozen, "tfslim bundle"), (stages.slim, "SavedModel")):
        said = made.metadata
        assert said["kind"] == kind
        assert said["bytes"] == storage.size(folder / made.name)
        assert said["digest"] == storage.digest(folder / made.name)
        assert said["tfslim_version"] == __version__
        assert said["tags"] == ["serve"]
        assert said["source_digest"] == storage.digest(Path(model.path))
        assert said["source_bytes"] == storage.size(Path(model.path))
        assert said["signatures"] == {
            "serving_default": {
                "inputs": {"x": {"dtype": "float32", "shape": [-1, 64]}},
                "outputs": {"y": {"dtype": "float32", "shape": [-1, 64]}},
            }
        }
    assert stages.frozen.metadata["transforms"] == []
    assert "fold_constants" in stages.transformed.metadata["transforms"]
    assert stages.quantized.metadata["encoding"] == "int8"
    assert stages.slim.metadata["format"] == "saved_model"
    assert stages.slim.metadata["encodings"]["int8"] >= 2


def test_what_is_said_of_an_artifact_fits_a_command_line(tmp_path):
    tensor = {"dtype": "DT_STRING", "tensor_shape": {"unknown_rank": True}}
    few = {"one": {"inputs": {"text": tensor}, "outputs": {"n": {"dtype": "DT_INT64", "tensor_shape": {}}}}}
    many = {f"signature_{i:03}": {"inputs": {f"key_{k}": tensor for k in range(20)}} for i in range(200)}
    said = []
    for signatures in (few, many):
        manifest = {"tags": [], "signatures": signatures, "steps": [], "weights": []}
        manifest["source"] = {"digest": "", "bytes": 0}
        (tmp_path / "manifest.json").write_text(json.dumps(manifest))
        said.append(history(str(tmp_path))["signatures"])
    assert said[0]["one"] == {
        "inputs": {"text": {"dtype": "string"}},
        "outputs": {"n": {"dtype": "int64", "shape": []}},
    }
    assert said[1] == sorted(many)


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


def test_data_is_read_without_a_budget_where_that_is_asked_for(stages, data, tmp_path):
    errors = {}
    for calibrate in (False, True):
        metrics = dsl.Metrics()
        made = artifact(dsl.Model, tmp_path / str(calibrate))
        quantize.python_func(stages.transformed, made, metrics, encoding="int4", data=data, calibrate=calibrate)
        errors[calibrate] = metrics.metadata["error/serving_default/y"]
    assert 0 < errors[True] < errors[False]


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


@pytest.mark.parametrize(
    ("wanted", "kind", "file"),
    [
        ("graph_def", "GraphDef", ""),
        ("checkpoint", "checkpoint", "checkpoint"),
    ],
)
def test_a_bundle_is_written_in_other_formats(stages, tmp_path, wanted, kind, file):
    made = artifact(dsl.Model, tmp_path / "out")
    reexport.python_func(stages.transformed, made, dsl.Metrics(), format=wanted)
    assert made.metadata["kind"] == kind
    assert made.metadata["format"] == wanted
    assert (tmp_path / "out" / file).is_file()


def test_warm_up_requests_are_made_of_the_data(stages, data, tmp_path):
    made = artifact(dsl.Model, tmp_path / "out")
    reexport.python_func(stages.quantized, made, dsl.Metrics(), warmup=4, data=data)
    assert (tmp_path / "out/assets.extra/tf_serving_warmup_requests").stat().st_size > 4 * 64


def test_data_that_no_option_asks_for_is_no_error(stages, data, tmp_path):
    made = artifact(dsl.Model, tmp_path / "out")
    reexport.python_func(stages.quantized, made, dsl.Metrics(), data=data, signature="serving_default")
    assert not list(tmp_path.glob("out/assets.extra/tf_serving_warmup_requests"))


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"format": "tfite"}, "format is one of .*; it is 'tfite'; did you mean 'tflite'"),
        ({"format": "tflite", "tflite_quantize": "int4"}, "one of none, float16, dynamic, int8"),
        ({"min_runtime": "two"}, "two"),
        ({"warmup": 3}, "data"),
        ({"tflite_quantize": "int8"}, "--format tflite"),
    ],
    ids=lambda value: "".join(value) if isinstance(value, dict) else "",
)
def test_what_reexport_cannot_do_is_one_line(stages, tmp_path, arguments, says):
    with pytest.raises(SystemExit, match=rf"^tfslim: .*{says}.*$"):
        reexport.python_func(stages.quantized, artifact(dsl.Model, tmp_path / "out"), dsl.Metrics(), **arguments)
    assert not list(tmp_path.iterdir())


def test_a_place_to_decode_that_there_is_not_is_one_line(stages, tmp_path):
    with pytest.raises(SystemExit, match=r"^tfslim: placement is one of rows, load, graph; it is 'init'$"):
        quantize.python_func(stages.transformed, artifact(dsl.Model, tmp_path / "out"), dsl.Metrics(), placement="init")


def test_a_task_that_is_tried_again_replaces_its_output(stages, tmp_path):
    out = artifact(dsl.Model, tmp_path / "again")
    (tmp_path / "again").mkdir()
    (tmp_path / "again/left.over").write_text("by an attempt that was killed")
    reexport.python_func(stages.quantized, out, dsl.Metrics())
    assert out.metadata["digest"] == stages.slim.metadata["digest"]
    assert [path.name for path in tmp_path.iterdir()] == ["again"]


def test_an_output_on_a_mounted_bucket_is_copied_there(stages, tmp_path, monkeypatch):
    """As the file system of Cloud Storage: a directory that holds something cannot be renamed."""
    rename = os.rename

    def refusing(old, new):
        if str(new).startswith(str(tmp_path)) and os.path.isdir(old) and os.listdir(old):
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        rename(old, new)

    monkeypatch.setattr(os, "rename", refusing)
    out = artifact(dsl.Model, tmp_path / "mounted")
    for _ in range(2):
        reexport.python_func(stages.quantized, out, dsl.Metrics())
        assert out.metadata["digest"] == stages.slim.metadata["digest"]
    frozen = artifact(dsl.Model, tmp_path / "frozen.pb")
    reexport.python_func(stages.quantized, frozen, dsl.Metrics(), format="graph_def")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["frozen.pb", "mounted"]


def test_an_output_that_cannot_be_written_is_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(SystemExit, match=r"^tfslim: cannot write .*file/out: File exists$"):
        write(artifact(dsl.Model, tmp_path / "file/out"), lambda path: path)


def test_an_error_is_one_line(tmp_path):
    missing = artifact(dsl.Model, tmp_path / "nothing")
    with pytest.raises(SystemExit, match=r"^tfslim: .*nothing: no such directory, file or checkpoint$"):
        freeze.python_func(missing, artifact(dsl.Model, tmp_path / "out"), dsl.Metrics())
    assert not list(tmp_path.iterdir())


def test_a_bug_keeps_its_traceback(tmp_path):
    with pytest.raises(ZeroDivisionError):
        call(lambda: 1 / 0)
    with pytest.raises(FileNotFoundError):
        write(artifact(dsl.Model, tmp_path / "out"), lambda path: os.stat(path))


def test_an_unknown_transform_suggests_one(stages, tmp_path):
    with pytest.raises(SystemExit, match="did you mean 'fold_constants'"):
        transform.python_func(stages.frozen, artifact(dsl.Model, tmp_path / "out"), dsl.Metrics(), "fold_constant")
