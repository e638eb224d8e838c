"""submit, schedule and status against a server that checks all by the messages that Google publishes for Vertex AI."""

from __future__ import annotations

import json

import pytest
import yaml

from pipelines.options import PIPELINES, find_pipeline
from pipelines.remote.job import prepare
from pipelines.remote.vertex import Vertex
from tests.pipelines.remote.calling import ARGUMENTS, called, needed
from tests.pipelines.remote.keys import service_account
from tests.pipelines.remote.serving import DROPPED_AFTER, DROPPED_BEFORE, Answer
from tests.pipelines.remote.vertex_server import PARENT, TOKEN, vertex_server

CREATE = r"POST /v1/.*/pipelineJobs$"
ROOT = ("--root", "gs://bucket/runs")
NIGHTLY = ("schedule", *ARGUMENTS, *ROOT, "--name", "nightly", "--timezone", "Europe/Berlin", "--cron")
LOGIN = {"GOOGLE_OAUTH_ACCESS_TOKEN": TOKEN}
WHERE = {"GOOGLE_CLOUD_PROJECT": "team", "GOOGLE_CLOUD_REGION": "europe-west4"}
STAGES = ("freeze", "transform", "quantize", "reexport")


@pytest.fixture
def server():
    with vertex_server() as found:
        yield found


@pytest.fixture
def call(server):
    def asked(*arguments, **environ):
        return called(*arguments, "--to", "vertex", "--endpoint", server.url, **{**WHERE, **LOGIN, **environ})

    return asked


def judged(verdict, published):
    done = dict.fromkeys(STAGES, "SUCCEEDED")
    return {**done, "validate": ("SUCCEEDED", verdict), "publish": "SUCCEEDED" if published else "NOT_TRIGGERED"}


@pytest.mark.parametrize("name", PIPELINES)
def test_every_pipeline_is_one_that_vertex_takes(server, name):
    pipeline = find_pipeline(name)
    values = needed(pipeline)
    platform = Vertex("team", "europe-west4", "gs://bucket/runs", endpoint=server.url, environ=LOGIN)
    run = platform.submit(prepare(name, pipeline, values), "a run")
    assert server.jobs[run.id]["runtimeConfig"]["parameterValues"] == values


def test_submit_starts_one_run_and_says_where_it_is(server, call):
    account = "slim@team.iam.gserviceaccount.com"
    done = call("submit", *ARGUMENTS, *ROOT, "--arg", "batch_size=8", "--name", "mine", "--service-account", account)
    ((run_id, job),) = server.jobs.items()
    assert (done.exit_code, done.err, done.run_id) == (0, "", run_id)
    page = f"https://console.cloud.google.com/vertex-ai/locations/europe-west4/pipelines/runs/{run_id}?project=team"
    assert done.out.splitlines()[1] == page
    assert (job["displayName"], job["serviceAccount"]) == ("mine", account)
    assert job["runtimeConfig"]["gcsOutputDirectory"] == "gs://bucket/runs"
    assert job["runtimeConfig"]["parameterValues"]["batch_size"] == 8
    assert job["labels"] == {"tfslim-pipeline": "slim"}


def test_a_service_account_signs_for_itself(server, call, tmp_path):
    file = service_account(tmp_path / "key.json", f"{server.url}/token")
    environ = {"GOOGLE_OAUTH_ACCESS_TOKEN": "", "GOOGLE_APPLICATION_CREDENTIALS": file}
    assert call("submit", *ARGUMENTS, *ROOT, **environ).exit_code == 0
    assert len(server.jobs) == 1


def test_no_credentials(call, tmp_path):
    environ = {"GOOGLE_OAUTH_ACCESS_TOKEN": "", "GOOGLE_APPLICATION_CREDENTIALS": str(tmp_path / "none.json")}
    done = call("submit", *ARGUMENTS, *ROOT, **environ)
    assert (done.exit_code, done.err.count("\n")) == (1, 1)
    assert "gcloud auth application-default login" in done.err


def test_an_old_token_is_told_and_not_shown(call):
    done = call("status", GOOGLE_OAUTH_ACCESS_TOKEN="hunter2")
    assert (done.exit_code, done.err.count("\n"), "hunter2" in done.err) == (1, 1, False)
    assert "not logged in (401)" in done.err


def test_a_token_that_is_none_is_not_shown(call):
    done = call("status", GOOGLE_OAUTH_ACCESS_TOKEN="hunter2\nhunter3")
    assert (done.exit_code, "hunter" in done.err, "printable ASCII" in done.err) == (2, False, True)


def test_a_dry_run_is_what_is_sent_without_secrets(server, call):
    arguments = ("submit", *ARGUMENTS, *ROOT, "--name", "mine")
    shown = yaml.safe_load(call(*arguments, "--dry-run").out)
    hidden = call(*arguments, "--arg", "beam_options=--password=hunter2", "--dry-run")
    assert (server.seen, "hunter2" in hidden.out, TOKEN in hidden.out) == ([], False, False)
    call(*arguments)
    (sent,) = server.seen
    assert (shown["method"], shown["url"], shown["body"]) == (sent.method, server.url + sent.path, sent.body)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ([], "--root '': Vertex AI needs gs://BUCKET/PATH"),
        (["--root", "s3://bucket/runs"], "needs gs://BUCKET/PATH"),
        ([*ROOT, "--namespace", "team"], "--namespace is not for --to vertex"),
        ([*ROOT, "--location", "Europe"], "not a location"),
        ([*ROOT, "--project", "no/such"], "not the id of a Google Cloud project"),
    ],
)
def test_what_is_wrong_is_told_before_anything_is_sent(server, call, arguments, told):
    done = call("submit", *ARGUMENTS, *arguments)
    assert (done.exit_code, done.err.count("\n"), server.seen) == (2, 1, [])
    assert told in done.err


def test_an_endpoint_holds_no_secret():
    for endpoint in ("https://me:hunter2@vertex.example.com", "https://[", "https://"):
        done = called(
            *("submit", *ARGUMENTS, *ROOT, "--dry-run", "--to", "vertex", "--endpoint", endpoint), **WHERE, **LOGIN
        )
        assert (done.exit_code, done.err.count("\n"), done.out) == (2, 1, "")
        assert "hunter2" not in done.err


def test_a_token_goes_over_no_open_line():
    done = called("status", "--to", "vertex", "--endpoint", "http://vertex.example.com", **WHERE, **LOGIN)
    assert (done.exit_code, "begins with https://" in done.err) == (2, True)


def test_project_and_location_have_to_be_known():
    done = called("submit", *ARGUMENTS, *ROOT, "--to", "vertex")
    assert (done.exit_code, "needs --project and --location" in done.err) == (2, True)


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        (Answer(403, {"error": {"message": "Permission 'aiplatform.pipelineJobs.create' denied"}}), "not allowed"),
        (Answer(404, "<html>"), "no Vertex AI there"),
        (Answer(200, "<html>"), "does not speak the API"),
        (Answer(200, [1]), "does not speak the API"),
        (Answer(302, "", {"Location": "https://login.example.com"}), "refused (302)"),
        (Answer(400, {"error": {"message": "bad\nworse"}}), "refused (400): bad"),
    ],
)
def test_refusals_are_told_in_a_line(server, call, answer, told):
    server.faults.add(CREATE, answer)
    done = call("submit", *ARGUMENTS, *ROOT)
    assert (done.exit_code, done.err.count("\n"), server.jobs) == (1, 1, {})
    assert told in done.err


@pytest.mark.parametrize(
    "faults",
    [
        [DROPPED_BEFORE],
        [DROPPED_AFTER],
        [Answer(503, "busy")],
        [Answer(500, "oh")],
        [DROPPED_BEFORE, Answer(429, "slowly"), DROPPED_AFTER],
    ],
    ids=str,
)
def test_a_broken_submit_is_one_run(server, call, faults):
    server.faults.add(CREATE, *faults)
    server.faults.add(r"GET .*/pipelineJobs/", DROPPED_BEFORE)
    done = call("submit", *ARGUMENTS, *ROOT)
    assert (done.exit_code, done.err) == (0, "")
    assert [done.run_id] == list(server.jobs)


def test_a_request_that_arrives_late_is_still_one_run(server, call):
    late = []

    def keep(request):
        late.append(request)
        return Answer(504, "gateway timeout")

    def both(request):
        server.answer(late[0])
        return server.answer(request)

    server.faults.add(CREATE, keep, both)
    done = call("submit", *ARGUMENTS, *ROOT)
    assert (done.exit_code, [done.run_id]) == (0, list(server.jobs)), done.err


@pytest.mark.parametrize(
    ("end", "exit_code", "told"),
    [
        (("SUCCEEDED", judged("pass", published=True)), 0, "succeeded and published"),
        (("SUCCEEDED", judged("fail", published=False)), 3, "not published: the gate failed"),
        (("SUCCEEDED", judged("inconclusive", published=False)), 4, "not published: nothing was proven"),
        (("SUCCEEDED", judged("pass", published=False)), 1, "the verdict is a pass and yet publish did not run"),
        (("FAILED", {"freeze": "FAILED"}, "exit code 1"), 1, "freeze failed: exit code 1"),
        (("CANCELLED", {"freeze": "CANCELLED"}), 1, "the run canceled"),
    ],
)
def test_following_ends_with_the_exit_code_of_the_verdict(server, call, end, exit_code, told):
    for state in (("RUNNING", {"freeze": "RUNNING"}), end):

        def look(request, state=state):
            server.drive(request.path.rpartition("/")[2], *state)
            return server.answer(request)

        server.faults.add(r"GET .*/pipelineJobs/", look)
    done = call("submit", *ARGUMENTS, *ROOT, "--wait")
    assert (done.exit_code, told in done.err.splitlines()[-1]) == (exit_code, True), done.err
    assert done.err.splitlines()[0].split() == ["freeze", "running"]


def test_status(server, call):
    ids = [call("submit", *ARGUMENTS, *ROOT).run_id for _ in range(5)]
    assert [line.split()[0] for line in call("status", "--limit", "4").out.splitlines()] == ids[:0:-1]
    server.drive(ids[0], "SUCCEEDED", judged("inconclusive", published=False))
    found = json.loads(call("status", ids[0], "--json").out)
    assert (found["state"], found["verdict"], found["exit_code"]) == ("succeeded", "inconclusive", 4)
    assert {one["name"]: one["state"] for one in found["steps"]}["publish"] == "skipped"
    assert "nosuch is not found" in call("status", "nosuch").err
    assert call("status", "../schedules").exit_code == 2


def test_a_schedule_is_made_once_and_changed_in_place(server, call):
    assert call(*NIGHTLY, "0 2 * * *").out.startswith("created: nightly  TZ=Europe/Berlin 0 2 * * *  active")
    ((schedule_id, there),) = server.schedules.items()
    assert call(*NIGHTLY, "0 2 * * *").out.startswith("unchanged")
    call("schedule", "--pause", "nightly")
    changed = call(*NIGHTLY, "0 4 * * *", "--max-concurrency", "2", "--arg", "batch_size=8")
    assert changed.out.startswith("updated: nightly  TZ=Europe/Berlin 0 4 * * *  paused")
    assert list(server.schedules) == [schedule_id]
    job = there["createPipelineJobRequest"]["pipelineJob"]
    assert (there["maxConcurrentRunCount"], job["runtimeConfig"]["parameterValues"]["batch_size"]) == ("2", 8)
    assert job["labels"]["tfslim-revision"] == "2"
    call("schedule", "--resume", "nightly", "--catchup")
    assert (there["state"], there["catchUp"]) == ("ACTIVE", True)
    assert schedule_id in call("schedule", "--list").out
    call("schedule", "--delete", "nightly")
    assert (server.schedules, call("schedule", "--list").out) == ({}, "no schedules\n")


@pytest.mark.parametrize("fault", [DROPPED_BEFORE, DROPPED_AFTER, Answer(503, "busy")], ids=str)
def test_a_broken_schedule_is_one_schedule(server, call, fault):
    server.faults.add(r"POST .*/schedules$", fault)
    assert call(*NIGHTLY, "0 2 * * *").out.startswith("created")
    server.faults.add(r"PATCH ", fault)
    assert call(*NIGHTLY, "0 3 * * *").out.startswith("updated")
    assert len(server.schedules) == 1


def test_a_schedule_that_was_not_made_here_is_left_alone(server, call):
    call(*NIGHTLY, "0 2 * * *")
    (there,) = server.schedules.values()
    there["createPipelineJobRequest"]["pipelineJob"]["labels"] = {}
    done = call(*NIGHTLY, "0 3 * * *")
    assert (done.exit_code, "was not made by this command" in done.err) == (1, True)


def test_catching_up_is_said_with_resume(server, call):
    done = call(*NIGHTLY, "0 2 * * *", "--catchup")
    assert (done.exit_code, "said with --resume" in done.err, server.seen) == (2, True, [])


def test_runs_of_a_schedule(server, call):
    call(*NIGHTLY, "0 2 * * *")
    (schedule_id,) = server.schedules
    one, other = (call("submit", *ARGUMENTS, *ROOT).run_id for _ in range(2))
    server.jobs[one]["scheduleName"] = f"{PARENT}/schedules/{schedule_id}"
    told = call("status", "--name", "nightly").out
    assert (one in told, other in told) == (True, False)
