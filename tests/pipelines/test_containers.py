"""Steps in containers: what they see, how they end, and what is left of them."""

import os
import signal
from pathlib import Path

import pytest

from pipelines import containers
from pipelines.containers import places
from pipelines.local_run import run_locally
from tests.pipelines import container_engine
from tests.pipelines.test_local_run import SLEEPER, _runs, broken, gated, sleeping
from tfslim_core.errors import UsageError


@pytest.fixture
def engine(tmp_path, monkeypatch):
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/engine.sock")
    with container_engine.running(tmp_path / "engine.sock", ["none"]) as engine:
        yield engine
        assert not engine.there


def mounted(asked):
    return {one["Target"]: "ro" if one.get("ReadOnly") else "rw" for one in asked["HostConfig"]["Mounts"]}


def test_what_the_arguments_name_is_seen_and_what_is_only_read_cannot_be_written():
    first = {"model": "/m/a", "data": ["/d/a", "gs://d"], "base": "/b/a"}
    second = {"model": "/b/a/1", "base": "/b/b"}
    others = {"data": ["/both"], "base": "/both", "main_output": "/no/path", "report_to": "", "model": "gs://m"}
    read, written = ["/m/a", "/d/a", "/b/a/1"], ["/b/a", "/b/b", "/both"]
    expected = {Path(path): path in read for path in read + written}
    assert places({"models": [first, second], **others}) == expected


def test_of_a_pattern_the_directory_before_it_is_seen(tmp_path):
    odd = tmp_path / "[1]"
    odd.mkdir()
    found = places({"data": [f"{tmp_path}/d/*/part-?.npz", str(odd)]})
    assert found == {tmp_path / "d": True, odd: True}


def test_a_link_to_what_a_container_does_not_see_is_refused_in_one_line(tmp_path):
    model = tmp_path / "model"
    (model / "variables").mkdir(parents=True)
    (model / "file").touch()
    (model / "variables/here").symlink_to("../file")
    assert places({"model": str(model)}) == {model: True}
    (tmp_path / "blob").touch()
    (model / "saved_model.pb").symlink_to("../blob")
    with pytest.raises(UsageError, match=r"would not see .*/saved_model.pb, a link to .*/blob; copy .*/model without"):
        places({"model": str(model)})
    assert places({"model": str(model), "data": [str(tmp_path)]})
    assert places({"base": str(model)})  # what a server's directory links to is its owner's business


def test_a_pipeline_in_containers(engine, tmp_path, monkeypatch):
    monkeypatch.setenv("HTTPS_PROXY", "http://proxy")
    monkeypatch.delenv("TF_CPP_MIN_LOG_LEVEL", raising=False)
    run = run_locally(gated, {"word": "go"}, tmp_path / "a:run", runner="docker")
    assert run.failed is None
    assert [(step.name, step.says) for step in run.steps] == [("say", "go"), ("say-2", "went")]
    assert (run.returned("say"), run.returned("say-2")) == ("go", "went")
    first = engine.asked[0]
    assert mounted(first)[str(tmp_path / "a:run")] == "rw"
    assert {"HOME=/tmp", "TF_CPP_MIN_LOG_LEVEL=1", "HTTPS_PROXY=http://proxy"} <= set(first["Env"])
    assert first["User"] == f"{os.getuid()}:{os.getgid()}"
    assert first["HostConfig"]["NetworkMode"] == "host"


@pytest.mark.parametrize("said", [{"SecurityOptions": ["name=rootless"]}, {"SecurityOptions": [], "Rootless": True}])
def test_an_engine_without_root_has_its_own_idea_of_it(engine, tmp_path, said):
    engine.info = said  # Docker's and Podman's
    run_locally(gated, {"word": "stay"}, tmp_path / "run", runner="docker")
    assert engine.asked[0]["User"] == "0:0"


@pytest.mark.parametrize(
    ("how", "reason", "last"),
    [
        ("said", "it broke", "tfslim: it broke"),
        ("killed", "its container was killed by signal 9", "before it broke\n"),
    ],
)
def test_a_step_that_fails_is_told_with_its_log(engine, tmp_path, how, reason, last):
    run = run_locally(broken, {"how": how}, tmp_path / "run", runner="docker")
    assert run.failed.name == "break-down"
    assert run.failed.reason == reason
    assert last in "\n".join(run.failed.said)


def test_a_step_that_took_all_memory_says_so(engine, tmp_path):
    engine.out_of_memory = True
    run = run_locally(broken, {"how": "killed"}, tmp_path / "run", runner="docker")
    assert run.failed.reason == "its container ran out of memory"


def test_an_engine_that_fails_is_a_step_that_failed(engine, tmp_path):
    engine.refuses_to_start = "no space left on device"
    run = run_locally(gated, {"word": "go"}, tmp_path / "run", runner="docker")
    assert run.failed.reason == "the container engine failed: no space left on device"


def test_an_engine_that_is_gone_is_a_step_that_failed(engine, tmp_path, monkeypatch):
    gone = f"unix://{tmp_path}/none.sock"
    run = run_locally(
        gated, {"word": "go"}, tmp_path / "run", lambda _: monkeypatch.setenv("DOCKER_HOST", gone), runner="docker"
    )
    assert run.failed.reason.startswith("the container engine failed: Error while fetching server API version")


def test_what_is_missing_is_one_line_and_nothing_is_made(engine, tmp_path, monkeypatch, capsys):
    arguments = {"word": "go", "base": str(tmp_path / "base")}
    engine.images.clear()
    with pytest.raises(UsageError, match=r"no image none here, and none to pull \(pull access denied.*TFSLIM_IMAGE"):
        run_locally(gated, arguments, tmp_path / "run", runner="docker")
    assert capsys.readouterr().err == "pulling none\n"
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/none.sock")
    with pytest.raises(UsageError, match="no engine answers"):
        run_locally(gated, arguments, tmp_path / "run", runner="docker")
    assert not (tmp_path / "run").exists()
    assert not (tmp_path / "base").exists()


def test_where_it_is_published_to_is_there_before_and_gone_after_if_nothing_was(engine, tmp_path):
    arguments = {"base": str(tmp_path / "a/b/base"), "report_to": str(tmp_path / "a/told")}
    spec = gated.pipeline_spec
    with containers.runner(spec, arguments):
        assert (tmp_path / "a/b/base").is_dir()
        (tmp_path / "a/told/report.json").touch()
    assert sorted(path.name for path in (tmp_path / "a").rglob("*")) == ["report.json", "told"]


def test_the_key_of_a_bucket_is_seen(engine, tmp_path, monkeypatch):
    (tmp_path / "key.json").touch()
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(tmp_path / "key.json"))
    run_locally(gated, {"word": "stay"}, tmp_path / "run", runner="docker")
    assert mounted(engine.asked[0])[str(tmp_path / "key.json")] == "ro"
    assert f"GOOGLE_APPLICATION_CREDENTIALS={tmp_path}/key.json" in engine.asked[0]["Env"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_leaves_no_container_behind(engine, tmp_path, number):
    started, _, pids = sleeping(tmp_path, SLEEPER.replace('"run", told)', '"run", told, "docker")'))
    started.send_signal(number)
    assert "KeyboardInterrupt" in started.communicate(timeout=60)[1]
    assert not [pid for pid in pids if _runs(pid)]
    assert len(engine.asked) == 2  # those that waited never began
