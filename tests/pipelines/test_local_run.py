"""The local runner, on small tasks that really run."""

import os
import sys

import pytest
from kfp import dsl
from kfp.local import config

from pipelines.local_run import run_locally


@dsl.component(base_image="none", install_kfp_package=False)
def say(word: str, made: dsl.Output[dsl.Artifact]) -> str:
    import logging

    logging.info("tfslim: %s", word)
    made.metadata["word"] = word
    return word


@dsl.component(base_image="none", install_kfp_package=False)
def break_down(how: str):
    import os
    import sys

    sys.stdout.write("before it broke\n")
    sys.stdout.flush()
    if how == "killed":
        os.kill(os.getpid(), 9)
    sys.exit("tfslim: it broke")


@dsl.pipeline(name="try-it")
def gated(word: str) -> str:
    said = say(word=word)
    with dsl.If(said.outputs["Output"] == "go"):
        say(word="went").set_caching_options(False)
    return said.outputs["Output"]


@dsl.pipeline(name="break")
def broken(how: str):
    said = say(word="first")
    break_down(how=how).after(said)
    say(word="never").after(said)


def test_a_gate_that_opens(tmp_path, capsys):
    run = run_locally(gated, {"word": "go"}, tmp_path / "run")
    assert run.failed is None
    assert run.outputs == {"Output": "go"}
    assert [(step.name, step.says) for step in run.steps] == [("say", "go"), ("say-2", "went")]
    assert (run.returned("say"), run.returned("say-2")) == ("go", "went")
    assert run.metadata("say", "made") == {"word": "go"}
    assert capsys.readouterr() == ("", "")
    assert "KFP Executor" in run.log.read_text()


def test_a_gate_that_stays_shut_skips_the_step(tmp_path):
    run = run_locally(gated, {"word": "stay"}, tmp_path / "run")
    assert run.failed is None
    assert run.step("say-2") is None
    assert run.returned("say-2") is None
    assert run.metadata("say-2", "made") == {}


@pytest.mark.parametrize(("how", "last"), [("said", "tfslim: it broke"), ("killed", "before it broke")])
def test_a_step_that_fails_is_named_with_its_log(tmp_path, how, last):
    run = run_locally(broken, {"how": how}, tmp_path / "run")
    assert run.failed.name == "break-down"
    assert last in "\n".join(run.failed.said)
    assert "executor_input" not in "\n".join(run.failed.said)
    assert not run.outputs
    assert "break-down" in run.error


def test_steps_are_told_as_they_go(tmp_path):
    told = []
    run_locally(gated, {"word": "stay"}, tmp_path / "run", lambda step: told.append((step.says, step.failed)))
    assert told[0] == ("", None)
    assert ("stay", None) in told
    assert told[-1] == ("stay", False)


def test_nothing_is_left_behind(tmp_path, monkeypatch):
    monkeypatch.delenv("TF_CPP_MIN_LOG_LEVEL", raising=False)
    before = sys.stdout, sys.stderr, dict(os.environ)
    run_locally(gated, {"word": "stay"}, tmp_path / "run")
    assert (sys.stdout, sys.stderr, dict(os.environ)) == before
    assert config.LocalExecutionConfig.instance is None
