"""What is said of a run, for every way in which it can end."""

from __future__ import annotations

import json

import pytest
from kfp import dsl

from pipelines import demo
from pipelines.local_run import LocalRun
from pipelines.outcome import context, judge, judge_each, worst
from pipelines.steps import Step
from tests.report import samples


def step(folder, name, wrote=None, **more):
    """A step that ended well and wrote that."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "executor_output.json").write_text(json.dumps(wrote or {}))
    return Step(name, folder=folder, failed=False, **more)


def returned(value):
    return {"parameterValues": {"Output": value}}


@pytest.fixture
def run(tmp_path):
    """A run whose validation ended with a verdict; published or not, compared with what is served or not."""

    def made(outcome, published="", served=None, others=()):
        verdict = tmp_path / "choose/verdict"
        verdict.mkdir(parents=True)
        samples.verdict(outcome).write(verdict)
        told = {"candidate": "int8", "verdict": outcome, "others": list(others)}
        steps = [step(tmp_path / "choose", "choose", {"artifacts": {"verdict": {"artifacts": [{"metadata": told}]}}})]
        if served:
            steps.append(step(tmp_path / "join-2", "join", inside=("retraining", "compare-with-served")))
            (tmp_path / "join-2/verdict").mkdir()
            samples.verdict(served).write(tmp_path / "join-2/verdict")
        if published:
            steps.append(step(tmp_path / "publish", "publish", returned(published)))
        worst = max(outcome, served or outcome, key=["pass", "inconclusive", "fail"].index)
        return LocalRun({"validation": dsl.Artifact(uri=str(verdict)), "verdict": worst}, steps, tmp_path)

    return made


def test_published(run):
    found = judge(run("pass", "served/3"))
    assert (found.exit_code, found.message, found.published) == (0, "published: served/3", "served/3")


def test_which_of_several_was_published(run):
    found = judge(run("pass", "served/3", others=["int4 (5 bytes): fail: it flips"]))
    assert found.message == "published: served/3 (int8, the smallest that passed)"


def test_a_pass_that_was_not_published_is_an_error(run):
    found = judge(run("pass"))
    assert (found.exit_code, found.published) == (1, "")
    assert found.message == "the verdict is pass, and yet publish did not run"


def test_a_refusal_that_was_published_is_an_error_too(run):
    found = judge(run("pass", "served/3", served="fail"))
    assert (found.exit_code, found.published) == (1, "served/3")
    assert found.message == "the verdict is fail, and yet publish ran"


@pytest.mark.parametrize(("served", "exit_code"), [("fail", 3), ("inconclusive", 4)])
def test_worse_than_what_is_served(run, served, exit_code, tmp_path):
    found = judge(run("pass", served=served))
    assert found.exit_code == exit_code
    assert ": against the served version: " in found.message
    assert found.message.endswith("; ".join(samples.verdict(served).reasons))
    assert found.report == tmp_path / "join-2/verdict/report.html"


def test_as_good_as_what_is_served(run):
    assert judge(run("pass", "served/3", served="pass")).exit_code == 0


def test_which_came_closest(run):
    found = judge(run("fail", others=["int2 (5 bytes): fail: it flips"]))
    assert found.message.startswith(
        "not published: the gate failed: no candidate passed (int2 (5 bytes): fail: it flips); the closest is int8: "
    )


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
    failed = Step("freeze", lines=["noise", "tfslim: x: no such directory"], failed=True)
    found = judge(LocalRun({}, [Step("importer", failed=False), failed], tmp_path))
    assert (found.exit_code, found.message) == (1, "freeze failed: x: no such directory")


def test_a_step_that_failed_in_a_loop_after_publishing(tmp_path):
    published = step(tmp_path / "publish", "publish", returned("served/3"))
    failed = Step("report", items=("a",), lines=["tfslim: broke"], failed=True)
    found = judge(LocalRun({}, [published, failed], tmp_path))
    assert (found.exit_code, found.message) == (1, "report a failed: broke (after it was published: served/3)")


def test_a_skipped_step_is_no_failure(tmp_path):
    assert judge(LocalRun({}, [Step("publish", skipped=True)], tmp_path, "kfp says so")).message == "kfp says so"


def test_a_step_that_was_killed(tmp_path):
    assert judge(LocalRun({}, [Step("freeze")], tmp_path)).message == "freeze failed"
    assert judge(LocalRun({}, [Step("freeze", lines=["noise", "Killed"])], tmp_path)).message == "freeze failed: Killed"


def test_the_table_starts_with_the_original(tmp_path):
    numbers = {"bytes": 100.0, "nodes": 20.0, "seconds": 1.5}
    frozen = step(tmp_path / "freeze", "freeze", {"artifacts": {"metrics": {"artifacts": [{"metadata": numbers}]}}})
    (tmp_path / "freeze/bundle").mkdir()
    source = {"bytes": 900, "nodes": 50, "live_parameters": 7}
    (tmp_path / "freeze/bundle/manifest.json").write_text(json.dumps({"source": source}))
    found = context(LocalRun({}, [frozen], tmp_path))
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


def test_each_of_several_models_has_an_ending_of_its_own(tmp_path):
    steps = []
    for name, outcome in (("one", "pass"), ("two", "fail")):
        steps.append(step(tmp_path / name / "choose", "choose", returned(outcome), items=(name,)))
        (tmp_path / name / "choose/verdict").mkdir()
        samples.verdict(outcome).write(tmp_path / name / "choose/verdict")
    steps.append(step(tmp_path / "one/publish", "publish", returned("served/3"), items=("one",)))
    steps.append(Step("freeze", items=("three",), lines=["tfslim: broke"], failed=True))
    found = judge_each(LocalRun({}, steps, tmp_path))
    assert {name: ending.exit_code for name, ending in found.items()} == {"one": 0, "two": 3, "three": 1}
    assert found["one"].message == "published: served/3"
    assert found["three"].message == "freeze three failed: broke"
    assert worst(found.values()) == 1
    assert worst([found["one"], found["two"]]) == 3
