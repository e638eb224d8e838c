"""The local runner, on small tasks that really run."""

import builtins
import json
import logging
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import List, NamedTuple  # noqa: UP035  # kfp knows this spelling

import pytest
import yaml
from kfp import compiler, dsl
from kfp.local import config
from kfp.local.orchestrator import task_executor

from pipelines.local_run import run_locally
from tfslim_core.errors import UsageError

ROOT = Path(__file__).parents[2]


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
    sys.stderr.write("I0000 00:00:1795323246.882334   30395 port.cc:153] oneDNN custom operations are on.\n")
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


@dsl.component(base_image="none", install_kfp_package=False)
def try_word(word: str, made: dsl.Output[dsl.Artifact]) -> str:
    import logging
    import sys
    import time

    for part in range(3):  # those beside it print between these lines
        logging.info("tfslim: %s %d", word, part)
        time.sleep(0.05)
    if word == "break":
        sys.exit(f"tfslim: {word} broke")
    made.metadata["word"] = word
    return "pass" if len(word) < 3 else "fail"


@dsl.component(base_image="none", install_kfp_package=False)
def pick(made: dsl.Input[List[dsl.Artifact]], found: list[str]) -> str:  # noqa: UP006
    import logging

    logging.info("tfslim: %s", [one.metadata["word"] for one in made])
    return "pass" if "pass" in found else "fail"


@dsl.component(base_image="none", install_kfp_package=False)
def bye(status: dsl.PipelineTaskFinalStatus, base: str) -> str:
    import json

    told = [status.state, status.pipeline_task_name, status.error_message or ""]
    return json.dumps(told)


class Ends(NamedTuple):
    verdict: str


@dsl.pipeline(name="inner")
def inner(words: list[str]) -> Ends:
    with dsl.ParallelFor(words) as word:
        tried = try_word(word=word).set_retry(3, backoff_duration="60s")
    picked = pick(made=dsl.Collected(tried.outputs["made"]), found=dsl.Collected(tried.outputs["Output"]))
    with dsl.If(picked.output == "pass"):
        say(word="went")
    return Ends(picked.output)


@dsl.pipeline(name="whole")
def whole(words: list[str], base: str) -> Ends:
    done = inner(words=words)
    bye(base=base).after(done).ignore_upstream_failure()
    return Ends(done.outputs["verdict"])


@dsl.pipeline(name="whole")
def handled(words: list[str], base: str):
    with dsl.ExitHandler(bye(base=base)):
        inner(words=words)


@dsl.pipeline(name="several")
def several(models: list[dict]):
    with dsl.ParallelFor(models) as one:
        say(word=one.base)


def test_turns_of_a_loop_whose_items_end_alike_are_told_apart(tmp_path):
    for bases, titles in [(["/a/x", "/a/y"], ["x", "y"]), (["/a/serving", "/b/serving"], ["/a/serving", "/b/serving"])]:
        models = [{"model": "m", "base": base} for base in bases]
        run = run_locally(several, {"models": models}, tmp_path / titles[0].strip("/"))
        assert sorted(step.title for step in run.all("say")) == [f"say {title}" for title in titles]


def told(run):
    return json.loads(run.returned("bye"))


@pytest.mark.parametrize("pipeline", [whole, handled], ids=["ignoring", "ExitHandler"])
def test_a_loop_a_gate_and_an_exit_task(pipeline, tmp_path):
    run = run_locally(pipeline, {"words": ["a", "long", "b"], "base": "b"}, tmp_path / "run")
    assert run.failed is None
    assert sorted(step.title for step in run.all("try-word")) == ["try-word a", "try-word b", "try-word long"]
    for step in run.all("try-word"):  # no line of one beside it
        says = [line.partition("tfslim: ")[2] for line in step.lines if "tfslim: " in line]
        assert says == [f"{step.items[0]} {part}" for part in range(3)]
    assert "['a', 'long', 'b']" in run.step("pick").says
    assert run.step("say") is not None
    assert told(run)[0] == "SUCCEEDED"


def test_an_exit_task_runs_where_the_gate_stays_shut(tmp_path):
    run = run_locally(whole, {"words": ["long"], "base": "b"}, tmp_path / "run")
    assert run.outputs == {"verdict": "fail"}
    assert [step.title for step in run.steps if step.skipped] == ["say"]
    assert run.step("try-word").title == "try-word"
    assert told(run)[0] == "SUCCEEDED"


@pytest.mark.parametrize("pipeline", [whole, handled], ids=["ignoring", "ExitHandler"])
def test_an_exit_task_is_told_which_of_several_bodies_failed_and_why(pipeline, tmp_path):
    started = time.monotonic()
    run = run_locally(pipeline, {"words": ["a", "break", "b"], "base": "b"}, tmp_path / "run")
    assert run.failed.title == "try-word break"
    assert run.failed.reason == "break broke"
    assert len(run.all("try-word")) == 2
    assert {step.title for step in run.steps if step.skipped} == {"pick", "say"}
    assert told(run) == ["FAILED", "try-word break", "break broke"]
    assert not run.outputs
    assert len([step for step in run.steps if step.title == "try-word break"]) == 1
    assert time.monotonic() - started < 60  # it was not tried again, a minute later


def test_an_exit_task_that_gives_outputs_a_way_compiles_to_what_an_exit_handler_does(tmp_path):
    tasks = []
    for name, pipeline in (("whole", whole), ("handled", handled)):
        compiler.Compiler().compile(pipeline, str(tmp_path / f"{name}.yaml"))
        task = yaml.safe_load((tmp_path / f"{name}.yaml").read_text())["root"]["dag"]["tasks"]["bye"]
        (around,) = task.pop("dependentTasks")
        assert task["inputs"]["parameters"]["status"] == {"taskFinalStatus": {"producerTask": around}}
        task["inputs"]["parameters"].pop("status")
        tasks.append(task)
    assert tasks[0] == tasks[1]
    assert tasks[0]["triggerPolicy"] == {"strategy": "ALL_UPSTREAM_TASKS_COMPLETED"}


def test_a_task_without_a_result_failed_whatever_the_runner_says(tmp_path, monkeypatch):
    """What kfp says of a container that is gone."""
    monkeypatch.setattr("pipelines.watched_runner.Watch._process", lambda *_args, **_more: 0)
    run = run_locally(gated, {"word": "go"}, tmp_path / "run")
    assert run.failed.name == "say"
    assert run.failed.reason == "the task ended without a result; its container or process died"


def test_another_version_of_kfp_without_what_is_replaced_is_told(tmp_path, monkeypatch):
    monkeypatch.delattr("kfp.local.subprocess_task_handler.run_local_subprocess")
    before = task_executor.execute_single_task
    with pytest.raises(UsageError, match=r"has no kfp\.local\.subprocess_task_handler\.run_local_subprocess.*install"):
        run_locally(gated, {"word": "go"}, tmp_path / "run")
    assert task_executor.execute_single_task is before


SLEEPER = """
import sys, time
from pathlib import Path
from kfp import dsl
from pipelines.local_run import run_locally

@dsl.component(base_image="none", install_kfp_package=False)
def sleep(name: str, folder: str):
    import os, subprocess, sys, time
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    with open(os.path.join(folder, name), "w") as file:
        file.write(f"{os.getpid()} {child.pid}")
    time.sleep(600)

@dsl.pipeline(name="sleeping")
def sleeping(folder: str, names: list[str]):
    with dsl.ParallelFor(names) as name:
        sleep(name=name, folder=folder)

def told(step):
    if step.stopped:
        print("stopped:", step.title, file=sys.__stderr__)

run_locally(sleeping, {"folder": sys.argv[1], "names": ["a", "b", "c", "d"]}, Path(sys.argv[1]) / "run", told)
"""


def _runs(pid):
    """Whether a process is there and more than the entry of one that nobody has asked about since it ended."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def sleeping(tmp_path, program=SLEEPER):
    """A run of which two tasks sleep, the folder that they write to, and the four processes of the tasks."""
    file, folder = tmp_path / "sleeper.py", tmp_path / "tasks"
    file.write_text(program)  # kfp reads the source of a component
    folder.mkdir()
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])}
    started = subprocess.Popen([sys.executable, file, folder], env=environment, stderr=subprocess.PIPE, text=True)
    for _ in range(600):
        files = [file for file in folder.iterdir() if file.is_file() and file.read_text()]
        if len(files) == 2 or started.poll() is not None:
            break
        time.sleep(0.1)
    pids = [int(pid) for file in files for pid in file.read_text().split()]
    assert len(pids) == 4
    return started, folder, pids


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGKILL])
def test_an_interrupted_run_leaves_no_process_behind(tmp_path, number):
    started, folder, pids = sleeping(tmp_path)
    started.send_signal(number)
    said = started.communicate(timeout=60)[1]
    if number in (signal.SIGINT, signal.SIGTERM):
        assert "KeyboardInterrupt" in said
        assert said.count("stopped: sleep") == 2
    for _ in range(600):  # who was killed leaves that to another, which may take a moment
        if not any(_runs(pid) for pid in pids):
            break
        time.sleep(0.1)
    assert not [pid for pid in pids if _runs(pid)]
    assert len([file for file in folder.iterdir() if file.is_file()]) == 2  # those that waited never began


def test_containers_ask_for_an_engine_in_one_line(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "docker", None)
    with pytest.raises(UsageError, match="needs the Python package docker"):
        run_locally(gated, {"word": "go"}, tmp_path / "run", runner="docker")


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
    assert [(step.name, step.skipped, step.failed) for step in run.steps] == [
        ("say", False, False),
        ("say-2", True, None),
    ]
    assert run.step("say-2") is None
    assert run.returned("say-2") is None
    assert run.metadata("say-2", "made") == {}


@pytest.mark.parametrize(("how", "last"), [("said", "tfslim: it broke"), ("killed", "Killed")])
def test_a_step_that_fails_is_named_with_its_log(tmp_path, how, last):
    run = run_locally(broken, {"how": how}, tmp_path / "run")
    assert run.failed.name == "break-down"
    assert run.failed.said[-1] == last
    assert run.failed.reason == last.removeprefix("tfslim: ")
    assert "before it broke" in run.failed.said
    assert "oneDNN" not in "\n".join(run.failed.said)
    assert "executor_input" not in "\n".join(run.failed.said)
    assert not run.outputs
    assert "break-down" in run.error


@dsl.container_component
def contained():
    return dsl.ContainerSpec(image="image", command=["true"])


@dsl.pipeline(name="containers")
def of_a_container():
    contained()


def test_a_task_that_the_runner_cannot_run_says_so(tmp_path):
    run = run_locally(of_a_container, {}, tmp_path / "run")
    assert run.failed.name == "contained"
    assert "only supports running Lightweight Python Components" in run.failed.reason
    assert run.failed.said == [f"tfslim: {run.failed.reason}"]


def test_steps_are_told_as_they_go(tmp_path):
    told = []
    run_locally(gated, {"word": "stay"}, tmp_path / "run", lambda step: told.append((step.says, step.failed)))
    assert told[0] == ("", None)
    assert ("stay", None) in told
    assert told[-2:] == [("stay", False), ("", None)]  # the last one is skipped


def test_nothing_is_left_behind(tmp_path, monkeypatch):
    monkeypatch.delenv("TF_CPP_MIN_LOG_LEVEL", raising=False)
    root = logging.getLogger()

    def common():
        return sys.stdout, sys.stderr, dict(os.environ), builtins.print, root.handlers[:], root.level

    before = common()
    run_locally(whole, {"words": ["a", "b", "c"], "base": "b"}, tmp_path / "run")
    assert common() == before
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert config.LocalExecutionConfig.instance is None
