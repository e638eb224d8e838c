import json
import re
from dataclasses import replace

from google.protobuf import json_format
from kfp import dsl
from kfp.pipeline_spec import pipeline_spec_pb2

from pipelines.remote.job import Task, prepare, tasks
from pipelines.remote.secrets import redacted
from pipelines.slim import slim

VALUES = {"model": "gs://m/model"}


def test_tasks_are_in_an_order_in_which_they_can_run():
    found = tasks(prepare("slim", slim, VALUES).spec)
    names = [task.name for task in found if not task.looks_up]
    assert names.index("freeze") < names.index("validate") < names.index("publish")
    assert {task.looks_up for task in found if task.name.startswith("importer")} == {True}


def test_without_the_cache_no_task_takes_an_old_result():
    spec = prepare("slim", slim, VALUES, cache=False).spec
    assert "enableCache" in json.dumps(prepare("slim", slim, VALUES).spec)
    assert "enableCache" not in json.dumps(spec)
    json_format.ParseDict(spec, pipeline_spec_pb2.PipelineSpec())


def test_the_digest_is_of_what_runs():
    one, two = prepare("slim", slim, VALUES), prepare("slim", slim, {"model": "gs://m/other"})
    assert one.digest == prepare("slim", slim, VALUES).digest != two.digest


def test_the_digest_is_not_of_names_that_the_compiler_gives():
    """It numbers components and executors of one name in another order in each process."""
    job = prepare("slim", slim, VALUES)
    text = json.dumps(job.spec)
    renamed = json.loads(re.sub(r'"(comp|exec)-([\w-]+)"', r'"\1-other-\2"', text))
    assert replace(job, spec=renamed).digest == job.digest
    other = json.loads(text.replace("api.freeze", "api.thaw"))
    assert replace(job, spec=other).digest != job.digest


def test_secrets_are_hidden():
    given = {
        "model": "https://me:hunter2@host/model?X-Goog-Signature=abc&x=1",
        "beam_options": ["--password=hunter2", "--runner=FlinkRunner", "--api-key: hunter2"],
        "access_token": "hunter2",
        "data": ["https://account.example.com/d?sv=1&sig=hunter2"],
        "signature": "serving_default",
        "batch_size": 32,
    }
    shown = redacted(given)
    assert "hunter2" not in json.dumps(shown)
    assert "abc" not in shown["model"]
    assert shown["signature"] == "serving_default"
    assert shown["beam_options"][1] == "--runner=FlinkRunner"
    assert (shown["model"][:8], shown["model"][-4:], shown["batch_size"]) == ("https://", "&x=1", 32)


def test_what_is_there_twice_under_one_name_is_one_task():
    @dsl.component(base_image="image", install_kfp_package=False)
    def check(what: str) -> str:
        return what

    @dsl.pipeline(name="inner")
    def inner(what: str):
        check(what=what)

    @dsl.pipeline(name="outer")
    def outer():
        check(what="first")
        inner(what="second")
        with dsl.ParallelFor(["a", "b"]) as one:
            inner(what=one)

    assert tasks(prepare("outer", outer, {}).spec) == [Task("check", looks_up=False)]
