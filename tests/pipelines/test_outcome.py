"""What is said of a run, for every way in which it can end."""

from __future__ import annotations

import json

import pytest
from kfp import dsl

from pipelines import demo
from pipelines.local_run import LocalRun, Step
from pipelines.outcome import context, judge
from tests.report import samples


@pytest.fixture
def run(tmp_path):
    """A run whose validation ended with a verdict; published or not."""

    def made(outcome, published=""):
        verdict = tmp_path / "slim-1/validate/verdict"
        verdict.mkdir(parents=True)
        samples.verdict(outcome).write(verdict)
        if published:
            (tmp_path / "slim-1/condition-1/publish").mkdir(parents=True)
            file = tmp_path / "slim-1/condition-1/publish/executor_output.json"
            file.write_text(json.dumps({"parameterValues": {"Output": published}}))
        return LocalRun({"validation": dsl.Artifact(uri=str(verdict))}, [], tmp_path)

    return made


def test_published(run):
    found = judge(run("pass", "served/3"))
    assert (found.exit_code, found.message, found.published) == (0, "published: served/3", "served/3")


def test_a_pass_that_was_not_published_is_an_error(run):
    found = judge(run("pass"))
    assert (found.exit_code, found.published) == (1, "")


@pytest.mark.parametrize(
    ("outcome", "exit_code", "says"),
    [
        ("fail", 3, "not published: the gate failed: "),
        ("inconclusive", 4, "not published: nothing was proven: "),
    ],
)
def test_not_published_and_why(run, outcome, exit_code, says):
    found = judge(run(outcome))
    assert found.exit_code == exit_code
    assert found.message == says + "; ".join(samples.verdict(outcome).reasons)
    assert len(found.message) > len(says)
    assert not found.published


def test_a_step_that_failed(tmp_path):
    step = Step("freeze", lines=["noise", "tfslim: x: no such directory"], failed=True)
    found = judge(LocalRun({}, [Step("importer", failed=False), step], tmp_path))
    assert (found.exit_code, found.message) == (1, "freeze failed: x: no such directory")


def test_a_step_that_was_killed(tmp_path):
    assert judge(LocalRun({}, [Step("freeze", lines=["noise"])], tmp_path)).message == "freeze failed"


def test_the_table_starts_with_the_original(tmp_path):
    bundle = tmp_path / "slim-1/freeze/bundle"
    bundle.mkdir(parents=True)
    source = {"bytes": 900, "nodes": 50, "live_parameters": 7}
    (bundle / "manifest.json").write_text(json.dumps({"source": source}))
    numbers = {"bytes": 100.0, "nodes": 20.0, "seconds": 1.5}
    wrote = {"artifacts": {"metrics": {"artifacts": [{"metadata": numbers}]}}}
    (bundle.parent / "executor_output.json").write_text(json.dumps(wrote))
    found = context(LocalRun({}, [], tmp_path))
    assert [(stage.name, stage.bytes_after, stage.nodes_after) for stage in found.stages] == [
        ("original", 900, 50),
        ("freeze", 100, 20),
    ]
    assert found.live_parameters == 7


def test_a_run_without_a_bundle_has_no_table(tmp_path):
    assert not context(LocalRun({}, [], tmp_path)).stages


def test_the_demo_says_what_it_lacks(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(demo, "MODEL", tmp_path / "model")
    monkeypatch.setattr(demo, "OUT", tmp_path / "out")
    assert demo.main() == 1
    assert "no such model; run: make setup" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
