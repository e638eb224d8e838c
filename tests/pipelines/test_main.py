"""`python -m pipelines`, and with it the whole pipeline, gate passed and failed, on a real small model."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from google.protobuf import json_format
from kfp import components as kfp_components
from kfp.pipeline_spec import pipeline_spec_pb2
from typer.testing import CliRunner

from benchmarks.models import dense
from pipelines.__main__ import app
from tfslim_core.saved_model.server_loader import ServedModel

ROOT = Path(__file__).parents[2]
REQUIRED = ("--arg", "model=m", "--arg", "data=/", "--arg", "base=b")
PASSES, FAILS = "size_ratio<=0.5", "size_ratio<=0.001"


def content(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def dags(spec):
    """The tasks of all graphs of a compiled pipeline, by name."""
    graphs = [spec["root"], *(one for one in spec["components"].values() if "dag" in one)]
    return {name: task for graph in graphs for name, task in graph["dag"]["tasks"].items()}


def called(*arguments):
    """Exit code, stdout, stderr."""
    done = CliRunner().invoke(app, [str(one) for one in arguments])
    if done.exception and not isinstance(done.exception, SystemExit):
        raise done.exception
    return done.exit_code, done.stdout, done.stderr


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    path = tmp_path_factory.mktemp("model") / "model"
    dense(path, layers=2, width=64)
    return path


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "numbers.jsonl"
    rows = np.random.default_rng(0).standard_normal((64, 64)).round(4).tolist()
    path.write_text("".join(f"{json.dumps({'x': row})}\n" for row in rows))
    return path


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return tmp_path_factory.mktemp("served") / "base"


@pytest.fixture(scope="module")
def passed(model, data, base, tmp_path_factory):
    work = tmp_path_factory.mktemp("runs") / "passed"
    within = ["budget=rel_l2_error<=0.02", "search_minutes=0.5", "seed=1", "measure_costs=false"]
    arguments = [f"model={model}", f"data={data}", f"base={base}", f"gates={PASSES}", *within]
    return called("run", "--work", work, *(part for one in arguments for part in ("--arg", one))), work


def test_what_passes_is_published_and_served(passed, base):
    (exit_code, out, err), _ = passed
    assert exit_code == 0, err
    assert out.splitlines()[-1] == f"published: {base / '1'}"
    with ServedModel(base / "1", ["serve"]) as served:
        assert np.ptp(served.run("serving_default", {"x": np.eye(64, dtype=np.float32)})["y"]) > 0


def test_every_step_is_told_and_nothing_else(passed):
    (_, out, err), _ = passed
    assert [line.split()[:2] for line in err.splitlines()] == [
        [name, "done"]
        for name in (
            *("prepare", "freeze", "transform", "quantize", "reexport", "validate", "join", "choose", "publish"),
            "report",
        )
    ]
    assert "Size on disk" in out
    assert "Graph nodes" in out
    assert "KFP" not in out + err


def test_the_budget_is_searched_for_on_the_data(passed):
    (exit_code, _, err), work = passed
    assert exit_code == 0, err
    (manifest,) = work.glob("*/**/quantize/quantized/manifest.json")
    told = json.loads(manifest.read_text())
    assert any(note.startswith("budget: rel_l2_error ") for note in told["notes"])
    assert told["steps"][-1]["parameters"] == {"encoding": "by budget"}


def test_the_report_is_where_it_is_said_to_be(passed):
    (_, out, _), work = passed
    path = Path(next(line for line in out.splitlines() if line.startswith("report: ")).removeprefix("report: "))
    assert path.is_relative_to(work)
    assert "<html" in path.read_text()


@pytest.fixture(scope="module")
def failed(model, data, base, passed, tmp_path_factory):
    """Two candidates on two datasets, of which none passes; what was served before it ran."""
    folder = tmp_path_factory.mktemp("failed")
    (folder / "more.jsonl").write_text(data.read_text())
    before = content(base)
    arguments = [
        *(f"model={model}", f"data={data}", f"data={folder / 'more.jsonl'}", f"base={base}", f"gates={FAILS}"),
        *("encodings=float16", "encodings=int8", "measure_costs=false", f"report_to={folder / 'reports'}"),
    ]
    parts = (part for one in arguments for part in ("--arg", one))
    return called("run", "--work", folder / "run", *parts), folder, before


def test_what_fails_is_not_published_and_told_why(failed, base):
    (exit_code, out, err), _, before = failed
    assert exit_code == 3
    last = err.splitlines()[-1]
    assert last.startswith("pipelines: not published: the gate failed: no candidate passed (float16 (")
    assert "the closest is int8: " in last
    assert last.count("size_ratio") == 2
    assert [line.split() for line in err.splitlines() if "publish " in line] == [["publish", "skipped"]]
    assert "report: " in out
    assert content(base) == before


def test_each_candidate_and_dataset_is_told_apart(failed):
    (_, _, err), _, _ = failed
    named = {" ".join(line.split()[:-3]) for line in err.splitlines() if " done " in line}
    assert named == {
        *("prepare", "freeze", "transform", "choose", "report"),
        *(f"{stage} {one}" for stage in ("quantize", "reexport", "join") for one in ("int8", "float16")),
        *(f"validate {one} {data}" for one in ("int8", "float16") for data in ("numbers.jsonl", "more.jsonl")),
    }


def test_one_verdict_has_all_the_datasets_of_its_candidate(failed):
    (_, out, _), folder, _ = failed
    (verdict,) = folder.glob("run/*/choose/verdict/verdict.json")
    found = json.loads(verdict.read_text())
    assert (found["verdict"], sorted(found["datasets"])) == ("fail", ["more", "numbers"])
    assert f"report: {verdict.with_name('report.html')}" in out
    page = verdict.with_name("report.html").read_text()
    assert all(name in page for name in ("more", "numbers"))


def test_the_table_is_of_the_candidate_that_was_chosen(failed):
    (_, out, _), folder, _ = failed
    (page,) = folder.glob("run/*/choose/verdict/report.md")

    def nodes(text):
        return re.findall(r"\d+", next(line for line in text.splitlines() if "Graph nodes" in line))[:2]

    assert nodes(out) == nodes(page.read_text())


def test_the_exit_task_says_what_is_served(failed, base):
    _, folder, _ = failed
    (file,) = (folder / "reports").iterdir()
    found = json.loads(file.read_text())
    assert (found["state"], found["served"]) == ("SUCCEEDED", {"version": 1, "path": str(base / "1")})


def test_a_step_that_fails_is_named_with_its_reason(data, tmp_path):
    arguments = [f"model={tmp_path / 'nothing'}", f"data={data}", f"base={tmp_path / 'base'}"]
    exit_code, out, err = called(
        "run", "--work", tmp_path / "run", *(part for one in arguments for part in ("--arg", one))
    )
    assert (exit_code, out) == (1, "")
    assert err.splitlines()[-1] == (
        f"pipelines: freeze failed: {tmp_path / 'nothing'}: no such directory, file or checkpoint "
        f"(the whole log: {tmp_path / 'run/log.txt'})"
    )
    assert "Traceback" not in err


def test_a_work_directory_that_exists_is_left_alone(data, tmp_path):
    arguments = ("--arg", "model=m", "--arg", f"data={data}", "--arg", "base=b")
    exit_code, _, err = called("run", "--work", tmp_path, *arguments)
    assert exit_code == 1
    assert "already exists" in err


def test_compiles_to_what_kfp_loads(tmp_path):
    file = tmp_path / "slim.yaml"
    assert called("compile", "--out", file)[:2] == (0, f"{file}\n")
    loaded = kfp_components.load_component_from_file(str(file))
    assert {name for name, spec in loaded.component_spec.inputs.items() if not spec.optional} == {
        "model",
        "data",
        "base",
    }
    spec = yaml.safe_load(file.read_text())
    json_format.ParseDict(spec, pipeline_spec_pb2.PipelineSpec())
    condition = dags(spec)["condition-1"]["triggerPolicy"]["condition"]
    assert condition == "inputs.parameter_values['pipelinechannel--candidates-Output'] == 'pass'"
    assert list(spec["components"]["comp-condition-1"]["dag"]["tasks"]) == ["publish"]
    assert dags(spec)["report"]["triggerPolicy"] == {"strategy": "ALL_UPSTREAM_TASKS_COMPLETED"}
    assert set(spec["root"]["outputDefinitions"]["parameters"]) == {"verdict"}


def test_what_can_change_under_its_uri_is_never_cached(tmp_path):
    called("compile", "--out", tmp_path / "slim.yaml")
    spec = yaml.safe_load((tmp_path / "slim.yaml").read_text())
    cached = {name for name, task in dags(spec).items() if task.get("cachingOptions", {}).get("enableCache")}
    assert cached == {"transform", "reexport"}
    importers = [one["importer"] for one in spec["deploymentSpec"]["executors"].values() if "importer" in one]
    assert [importer["reimport"] for importer in importers] == [True, True, True]


def test_each_task_says_what_it_needs_and_no_gate_is_asked_twice(tmp_path):
    called("compile", "--pipeline", "retrain_and_slim", "--out", tmp_path / "it.yaml")
    spec = yaml.safe_load((tmp_path / "it.yaml").read_text())
    containers = {
        name: one["container"] for name, one in spec["deploymentSpec"]["executors"].items() if "container" in one
    }
    for name, container in containers.items():
        needs = container["resources"]
        assert needs["memoryLimit"] >= needs["memoryRequest"] > 0, name
        assert needs["cpuLimit"] >= needs["cpuRequest"] > 0, name
    tried = {name for name, task in dags(spec).items() if "retryPolicy" in task}
    once = {"validate", "join", "choose", "publish", "importer"}
    assert not tried & once
    assert {"freeze", "transform", "quantize", "reexport"} <= tried


def test_arguments_become_defaults_when_compiling(tmp_path):
    file = tmp_path / "slim.yaml"
    called("compile", "--out", file, "--arg", "gates=a>=1", "--arg", "gates=b>=2", "--arg", "model=gs://bucket/model")
    known = yaml.safe_load(file.read_text())["root"]["inputDefinitions"]["parameters"]
    assert known["gates"]["defaultValue"] == ["a>=1", "b>=2"]
    assert known["model"]["defaultValue"] == "gs://bucket/model"


def test_a_file_is_replaced_only_when_told(tmp_path):
    file = tmp_path / "slim.yaml"
    file.write_text("mine")
    exit_code, _, err = called("compile", "--out", file)
    assert exit_code == 1
    assert "give --overwrite" in err
    assert file.read_text() == "mine"
    assert called("compile", "--out", file, "--overwrite")[0] == 0
    assert "tfslim-slim" in file.read_text()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (
            ["compile", "--pipeline", "slin"],
            "no pipeline 'slin'; did you mean 'slim'? (there are: slim, retrain_and_slim, slim_many)",
        ),
        (["run", "--arg", "encodng=int8"], "no argument 'encodng'; did you mean 'encoding'?"),
        (["run", "--arg", "budgt=top1_agreement>=1"], "no argument 'budgt'; did you mean 'budget'?"),
        (["compile", "--arg", "search_minutes=long"], "argument 'search_minutes' takes a number, not 'long'"),
        (["run", "--arg", "data=x"], "missing: --arg model=… --arg base=…"),
        (["compile", "--arg", "batch_size=many"], "argument 'batch_size' takes a whole number, not 'many'"),
        (["run", "--runner", "podman", *REQUIRED], "--runner podman: give subprocess or docker"),
        (["compile", "--trainer", "x.yaml"], "--trainer is of retrain_and_slim; slim trains nothing"),
        (["compile", "--out", "slim.txt"], "--out slim.txt: a compiled pipeline is a .yaml file"),
        (["run", "--arg", "model=m", "--arg", "data=d", "--arg", "base=b"], "/d: no such file or directory"),
        (["run", *REQUIRED, "--arg", "report_to=/dev/null/x"], "argument 'report_to': /dev/null/x: /dev/null is no"),
        (["compile", "--arg", "base=b"], "argument 'base': 'b' is relative to a directory of this machine"),
        (["submit", "--pipeline", "slim", "--arg", "a=b"], "no argument 'a'"),
        (["submit", *REQUIRED, "--dry-run"], "argument 'model': 'm' is relative to a directory of this machine"),
        (["schedule"], "give one of --cron, --list, --pause, --resume, --delete"),
    ],
)
def test_usage_errors_are_one_line(arguments, says):
    exit_code, out, err = called(*arguments)
    assert (exit_code, out) == (2, "")
    assert len(err.splitlines()) == 1
    assert err.startswith("pipelines: ")
    assert says in err


def test_runs_as_a_module():
    done = subprocess.run(
        [sys.executable, "-m", "pipelines", "run", "--pipeline", "slum"],
        cwd=ROOT,
        env=os.environ | {"COLUMNS": "200"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert (
        done.stderr
        == "pipelines: no pipeline 'slum'; did you mean 'slim'? (there are: slim, retrain_and_slim, slim_many)\n"
    )
