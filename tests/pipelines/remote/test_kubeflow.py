"""submit, schedule and status against a server that checks all by what Kubeflow Pipelines publishes."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import yaml

from pipelines.options import PIPELINES, find_pipeline
from pipelines.remote import scheduling
from pipelines.remote.cron import parse
from pipelines.remote.errors import RemoteError
from pipelines.remote.job import prepare
from pipelines.remote.kubeflow import Kubeflow
from pipelines.remote.runs import Plan
from tests.pipelines.remote.calling import ARGUMENTS, called, needed
from tests.pipelines.remote.keys import service_account, tls
from tests.pipelines.remote.kubeflow_server import kubeflow_server
from tests.pipelines.remote.serving import DROPPED_AFTER, DROPPED_BEFORE, Answer, Faults, serving

ROOT = Path(__file__).parents[3]
CREATE = r"POST /apis/v2beta1/runs$"
LOOK = r"GET /apis/v2beta1/runs$"
NIGHTLY = ("schedule", *ARGUMENTS, "--name", "nightly", "--cron", "0 2 * * *")
DONE = dict.fromkeys(("importer", "importer-2", "freeze", "transform", "quantize", "reexport", "validate"), "SUCCEEDED")
# What Argo has around the tasks.
AROUND = {"root": "RUNNING", "root-driver": "SUCCEEDED", "freeze-driver": "SUCCEEDED", "executor": "SUCCEEDED"}


@pytest.fixture
def server():
    with kubeflow_server() as found:
        yield found


@pytest.fixture
def call(server):
    return lambda *arguments, **environ: called(*arguments, KFP_ENDPOINT=server.url, **environ)


def requests(server, method):
    return [(one.method, one.path) for one in server.seen if one.method == method]


# submit


@pytest.mark.parametrize("name", PIPELINES)
def test_every_pipeline_is_one_that_a_server_takes(server, name):
    pipeline = find_pipeline(name)
    values = needed(pipeline)
    platform = Kubeflow(server.url, environ={})
    platform.connect()
    run = platform.submit(prepare(name, pipeline, values), "a run")
    assert server.runs[run.id]["runtime_config"]["parameters"] == values


def test_submit_starts_one_run_and_says_where_it_is(server, call):
    done = call("submit", *ARGUMENTS, "--arg", "batch_size=8", "--name", "mine")
    ((run_id, run),) = server.runs.items()
    assert (done.exit_code, done.err) == (0, "")
    assert done.out.splitlines() == [f"run: {run_id}", f"{server.url}/#/runs/details/{run_id}"]
    assert run["display_name"] == "mine"
    assert run["runtime_config"]["parameters"]["batch_size"] == 8
    (experiment,) = server.experiments.values()
    assert experiment["display_name"] == "tfslim"


def test_a_second_run_goes_into_the_same_experiment(server, call):
    runs = [json.loads(call("submit", *ARGUMENTS, "--json").out) for _ in range(2)]
    assert len({run["id"] for run in runs}) == len(server.runs) == 2
    assert len(server.experiments) == 1


def test_a_dry_run_sends_nothing_and_shows_no_secret(server, call):
    secret = {"KFP_TOKEN": "hunter2", "KFP_COOKIE": "authservice_session=hunter2"}
    arguments = ("submit", *ARGUMENTS, "--arg", "beam_options=--password=hunter2", "--dry-run")
    shown = call(*arguments, **secret)
    assert shown.exit_code == 0, shown.err
    assert server.seen == []
    assert "hunter2" not in shown.out
    sent = yaml.safe_load(shown.out)
    assert sent["body"]["pipeline_spec"]["pipelineInfo"]["name"] == "tfslim-slim"
    assert sent == json.loads(call(*arguments, "--name", sent["body"]["display_name"], "--json", **secret).out)


def test_an_image_of_no_registry_is_told(call):
    assert "TFSLIM_IMAGE is not set" in call("submit", *ARGUMENTS, TFSLIM_IMAGE="").err


def test_a_dry_run_is_what_is_sent(server, call):
    shown = yaml.safe_load(call("submit", *ARGUMENTS, "--name", "mine", "--dry-run", "--root", "s3://b/r").out)
    call("submit", *ARGUMENTS, "--name", "mine", "--root", "s3://b/r")
    (sent,) = [one for one in server.seen if (one.method, one.path[-5:]) == ("POST", "/runs")]
    open_till_sent = {"experiment_id", "description"}
    assert {k: v for k, v in shown["body"].items() if k not in open_till_sent} == {
        k: v for k, v in sent.body.items() if k not in open_till_sent
    }


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--pipeline", "slimm", *ARGUMENTS], "did you mean 'slim'"),
        ([*ARGUMENTS, "--arg", "modle=x"], "did you mean 'model'"),
        ([*ARGUMENTS, "--arg", "batch_size=many"], "takes a whole number"),
        ([], "missing: --arg model"),
        ([*ARGUMENTS, "--endpoint", "kubeflow"], "not an address such as"),
        ([*ARGUMENTS, "--endpoint", "http://[::1"], "not an address such as"),
        ([*ARGUMENTS, "--endpoint", "http://me:hunter2@host"], "without user, password"),
        ([*ARGUMENTS, "--name", "two\nlines"], "all printable"),
        ([*ARGUMENTS, "--project", "team"], "--project is not for --to kubeflow"),
    ],
)
def test_what_is_wrong_is_told_before_anything_is_sent(server, call, arguments, told):
    done = call("submit", *arguments)
    assert (done.exit_code, done.err.count("\n"), server.seen) == (2, 1, [])
    assert told in done.err
    assert "hunter2" not in done.err


def test_the_endpoint_has_to_be_known():
    done = called("submit", *ARGUMENTS)
    assert (done.exit_code, done.err) == (
        2,
        "pipelines: --endpoint is missing: the address of Kubeflow Pipelines, or set KFP_ENDPOINT\n",
    )


# What answers there


LOGIN = Answer(302, "", {"Location": "https://login.example.com/dex/auth"})
PAGE = Answer(200, "<html>a page</html>", {"Content-Type": "text/html"})


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        (LOGIN, "asks for a login first"),
        (PAGE, "does not speak the v2beta1 API"),
        (Answer(200, ["a", "list"]), "does not speak the v2beta1 API"),
        (Answer(200, "\xff\xfe"), "does not speak the v2beta1 API"),
        (Answer(404, "<html>gone</html>"), "no Kubeflow Pipelines 2 there"),
        (Answer(404, {"message": "no Route matched"}), "no Kubeflow Pipelines 2 there"),
        (Answer(401, "Jwt is missing"), "not logged in (401)"),
        (Answer(403, "RBAC: access denied"), "not allowed (403)"),
        (Answer(500, {"message": "line one\nline two"}), "refused (500): line one"),
    ],
)
def test_another_server_is_told_in_a_line(server, call, answer, told):
    server.faults.add("healthz", answer)
    done = call("submit", *ARGUMENTS)
    assert (done.exit_code, done.err.count("\n"), server.runs) == (1, 1, {})
    assert told in done.err
    assert server.url in done.err


@pytest.mark.parametrize(
    ("endpoint", "told"),
    [
        ("http://127.0.0.1:1", "Connection refused"),
        ("https://nosuch.invalid/pipeline", "no such host (nosuch.invalid)"),
    ],
)
def test_nobody_there(endpoint, told):
    done = called("status", "--endpoint", endpoint)
    assert (done.exit_code, done.err.count("\n")) == (1, 1)
    assert told in done.err


def test_no_secure_connection(server):
    done = called("status", "--endpoint", server.url.replace("http:", "https:"))
    assert (done.exit_code, done.err.count("\n")) == (1, 1)
    assert "no secure connection" in done.err


def test_a_path_before_the_api():
    with kubeflow_server(prefix="/pipeline") as server:
        assert called("status", "--endpoint", f"{server.url}/").exit_code == 0
        wrong = called("status", "--endpoint", server.url.removesuffix("/pipeline"))
        assert "it ends in /pipeline" in wrong.err


# Who asks


def test_tokens(tmp_path):
    file = tmp_path / "token"
    file.write_text("the-token\n")
    with kubeflow_server(token="the-token") as server:
        for environ in ({"KFP_TOKEN": "the-token"}, {"KFP_TOKEN_FILE": str(file)}):
            assert called("status", KFP_ENDPOINT=server.url, **environ).exit_code == 0
        for environ in ({}, {"KFP_TOKEN": "another"}):
            done = called("status", KFP_ENDPOINT=server.url, **environ)
            assert (done.exit_code, "another" in done.err) == (1, False)
            assert "not logged in (401)" in done.err
    missing = called("status", KFP_ENDPOINT="http://127.0.0.1:1", KFP_TOKEN_FILE=str(tmp_path / "none"))
    assert (missing.exit_code, "cannot be read" in missing.err) == (2, True)


def test_a_token_that_is_renewed_in_its_file_is_read_again(tmp_path):
    file = tmp_path / "token"
    file.write_text("old")
    with kubeflow_server(token="old") as server:
        platform = Kubeflow(server.url, environ={"KFP_TOKEN_FILE": str(file)})
        platform.connect()
        server.token = "new"
        file.write_text("new")
        assert platform.runs(5) == []


def test_a_cookie_is_sent(server, call):
    call("status", KFP_COOKIE="authservice_session=abc")
    assert {one.headers["cookie"] for one in server.seen} == {"authservice_session=abc"}


@pytest.mark.parametrize("name", ["KFP_TOKEN", "KFP_COOKIE"])
def test_a_token_that_is_none_is_not_shown(call, name):
    done = call("status", **{name: "hunter2\nhunter3"})
    assert (done.exit_code, "hunter" in done.err, "printable ASCII" in done.err) == (2, False, True)


def test_a_server_with_a_certificate_of_ones_own(tmp_path):
    context, authority = tls(tmp_path)
    with kubeflow_server(tls=context) as server:
        assert called("status", KFP_ENDPOINT=server.url, KFP_CA_FILE=str(authority)).exit_code == 0
        untrusted = called("status", KFP_ENDPOINT=server.url)
        (tmp_path / "empty.pem").touch()
        empty = called("status", KFP_ENDPOINT=server.url, KFP_CA_FILE=str(tmp_path / "empty.pem"))
        assert [one.exit_code for one in (untrusted, empty)] == [1, 1]
        assert "no secure connection" in untrusted.err
        assert "KFP_CA_FILE" in empty.err
        none = called("status", KFP_ENDPOINT=server.url, KFP_CA_FILE=str(tmp_path / "none.pem"))
        assert (none.exit_code, "no such file" in none.err) == (2, True)


def test_a_server_behind_an_identity_aware_proxy(tmp_path):
    """The service account signs for itself, and Google's server gives a token for the proxy."""
    parts = [{"alg": "RS256"}, {"aud": "the-client", "exp": int(time.time()) + 3600, "iat": int(time.time())}]
    token = ".".join(base64.urlsafe_b64encode(json.dumps(part).encode()).decode().rstrip("=") for part in [*parts, {}])
    asked = []
    with (
        serving(lambda request: Answer(200, {"id_token": token}), Faults(), asked) as google,
        kubeflow_server(token=token) as server,
    ):
        file = service_account(tmp_path / "key.json", f"{google}/token")
        environ = {"KFP_ENDPOINT": server.url, "KFP_IAP_CLIENT_ID": "the-client"}
        assert called("status", **environ, GOOGLE_APPLICATION_CREDENTIALS=file).exit_code == 0
        done = called("status", **environ, GOOGLE_APPLICATION_CREDENTIALS=str(tmp_path / "none.json"))
    assert (done.exit_code, done.err.count("\n"), len(asked)) == (1, 1, 1)
    assert "no token of Google's" in done.err


def test_namespaces():
    with kubeflow_server(several=("team", "other")) as server:
        environ = {"KFP_ENDPOINT": server.url}
        assert "give yours with --namespace" in called("submit", *ARGUMENTS, **environ).err
        unknown = called("submit", *ARGUMENTS, "--namespace", "nosuch", **environ)
        assert (unknown.exit_code, "not allowed (403)" in unknown.err, server.runs) == (1, True, {})
        done = called("submit", *ARGUMENTS, "--namespace", "team", **environ)
        assert done.exit_code == 0, done.err
        assert done.run_id in called("status", "--namespace", "team", **environ).out
        assert called("status", "--namespace", "other", **environ).out == "no runs yet\n"
        assert called(*NIGHTLY, KFP_NAMESPACE="team", **environ).exit_code == 0
        assert called("schedule", "--list", "--namespace", "other", **environ).out == "no schedules\n"


def test_a_namespace_where_there_is_none(call):
    done = call("status", "--namespace", "team")
    assert (done.exit_code, "leave --namespace team away" in done.err) == (2, True)


# Broken connections


@pytest.mark.parametrize(
    "faults",
    [
        [DROPPED_BEFORE],
        [DROPPED_AFTER],
        [Answer(503, "busy")],
        [Answer(502, "bad gateway")],
        [Answer(429, "slowly")],
        [DROPPED_BEFORE, Answer(503, "busy"), DROPPED_AFTER],
    ],
    ids=str,
)
def test_a_broken_submit_is_one_run(server, call, faults):
    server.faults.add(CREATE, *faults)
    server.faults.add(LOOK, Answer(503, "busy"))
    done = call("submit", *ARGUMENTS, "--name", "mine")
    assert (done.exit_code, done.err) == (0, "")
    assert [done.run_id] == list(server.runs) == server.made


def test_a_request_that_arrives_late_is_still_one_run(server, call):
    """The first is carried out only with the second, as from a queue."""
    late = []

    def keep(request):
        late.append(request)
        return Answer(504, "gateway timeout")

    def both(request):
        server.answer(late[0])
        return server.answer(request)

    server.faults.add(CREATE, keep, both)
    done = call("submit", *ARGUMENTS)
    assert done.exit_code == 0, done.err
    assert [done.run_id] == list(server.runs)


def test_a_second_run_that_cannot_be_removed_is_told(server, call):
    def twice(request):
        server.answer(request)
        server.answer(request)
        return Answer(504, "gateway timeout")

    server.faults.add(CREATE, twice)
    server.faults.add(r":terminate$", Answer(403, {"message": "not yours"}))
    done = call("submit", *ARGUMENTS)
    assert (done.exit_code, done.err.count("\n")) == (1, 1)
    assert "made a second one" in done.err
    assert "not yours" in done.err


def test_a_run_of_the_same_name_is_not_taken_for_the_lost_one(server, call):
    first = call("submit", *ARGUMENTS, "--name", "mine").run_id
    server.faults.add(CREATE, DROPPED_BEFORE)
    assert call("submit", *ARGUMENTS, "--name", "mine").run_id != first
    assert len(server.runs) == 2


def test_a_server_that_stays_away_is_told_and_there_is_no_run(server, call):
    server.faults.add(CREATE, *[Answer(503, {"message": "no healthy upstream"})] * 9)
    done = call("submit", *ARGUMENTS)
    assert (done.exit_code, done.err.count("\n"), server.runs) == (1, 1, {})
    assert "busy (503): no healthy upstream" in done.err


def test_what_cannot_be_known_is_told(server, call):
    server.faults.add(CREATE, DROPPED_AFTER)
    server.faults.add(LOOK, *[DROPPED_BEFORE] * 9)
    done = call("submit", *ARGUMENTS)
    assert (done.exit_code, done.err.count("\n"), len(server.runs)) == (1, 1, 1)
    assert "whether it was made is not known" in done.err


def test_an_experiment_that_someone_else_makes_meanwhile_is_used(server, call):
    server.faults.add(r"POST .*/experiments$", lambda request: server.answer(request) and None)
    assert call("submit", *ARGUMENTS).exit_code == 0
    assert len(server.experiments) == 1


# Following


def stages(server, *states):
    """Each look at the run finds the next state."""
    for state in states:

        def look(request, state=state):
            server.drive(request.path.rpartition("/")[2], *state)
            return server.answer(request)

        server.faults.add(r"GET .*/runs/", look)


@pytest.mark.parametrize(
    ("end", "exit_code", "told"),
    [
        (("SUCCEEDED", {**DONE, "condition-1": "SUCCEEDED", "publish": "SUCCEEDED"}), 0, "succeeded and published"),
        (("SUCCEEDED", {**DONE, "condition-1": "SKIPPED"}), 3, "not published: the gate did not pass"),
        (("FAILED", {"freeze": "SUCCEEDED", "transform": "FAILED"}, "OOMKilled"), 1, "transform failed: OOMKilled"),
        (("FAILED", {}, "invalid spec: no such image"), 1, "the run failed: invalid spec: no such image"),
        (("CANCELED", {"freeze": "SUCCEEDED"}), 1, "the run canceled"),
    ],
)
def test_following_ends_with_the_exit_code_of_the_gate(server, call, end, exit_code, told):
    stages(server, ("PENDING", {}), ("RUNNING", {**AROUND, "freeze": "RUNNING"}), end)
    done = call("submit", *ARGUMENTS, "--wait")
    assert done.exit_code == exit_code
    assert told in done.err.splitlines()[-1]
    assert not any(name in done.err for name in ("driver", "executor", "root", "condition", "importer"))


def test_steps_are_told_as_they_begin_and_end(server, call):
    stages(
        server,
        ("RUNNING", {**AROUND, "freeze": "RUNNING"}),
        ("RUNNING", {**AROUND, "freeze": "SUCCEEDED", "transform": "RUNNING"}),
        ("SUCCEEDED", {**DONE, "condition-1": "SKIPPED"}),
    )
    told = [line.split()[:2] for line in call("submit", *ARGUMENTS, "--follow").err.splitlines()[:-1]]
    assert told[:3] == [["freeze", "running"], ["freeze", "done"], ["transform", "running"]]
    assert ["validate", "done"] in told
    assert ["publish", "skipped"] in told


def test_following_survives_a_server_that_is_away_for_a_while(server, call):
    stages(server, ("RUNNING", {"freeze": "RUNNING"}))
    server.faults.add(r"GET .*/runs/", DROPPED_BEFORE, Answer(503, "busy"))
    stages(server, ("SUCCEEDED", {**DONE, "publish": "SUCCEEDED"}))
    assert call("submit", *ARGUMENTS, "--wait").exit_code == 0


def test_following_stops_at_the_timeout_and_says_how_to_go_on(server, call):
    done = call("submit", *ARGUMENTS, "--wait", "--timeout", "0.05")
    assert done.exit_code == 1
    assert f"goes on; ask: python -m pipelines status {done.run_id}" in done.err


def test_json_of_a_followed_run(server, call):
    stages(server, ("SUCCEEDED", {**DONE, "condition-1": "SKIPPED"}))
    done = call("submit", *ARGUMENTS, "--wait", "--json")
    found = json.loads(done.out)
    assert (done.exit_code, found["exit_code"], found["verdict"], found["state"]) == (3, 3, None, "succeeded")
    assert {"name": "publish", "state": "skipped", "seconds": None, "message": ""} in found["steps"]


def test_loops_and_retries_are_one_step_each(server, call):
    run_id = call("submit", *ARGUMENTS).run_id
    server.drive(run_id, "RUNNING", {"freeze": "SUCCEEDED", "freeze(0)": "FAILED", "freeze(1)": "SUCCEEDED"})
    loop = [server._node(run_id, "validate", state, "") for state in ("SUCCEEDED", "RUNNING", "SUCCEEDED")]
    server.runs[run_id]["run_details"]["task_details"] += loop
    steps = {one["name"]: one["state"] for one in json.loads(call("status", run_id, "--json").out)["steps"]}
    assert (steps["freeze"], steps["validate ×3"], steps["publish"]) == ("succeeded", "running", "pending")
    assert not any("(" in name for name in steps)


# status


def test_status_of_a_run(server, call):
    run_id = call("submit", *ARGUMENTS, "--name", "mine").run_id
    server.drive(run_id, "SUCCEEDED", {**DONE, "condition-1": "SKIPPED"})
    lines = call("status", run_id).out.splitlines()
    assert lines[0].startswith("mine: succeeded after ")
    assert ["freeze", "done", "12.0", "s"] in [line.split() for line in lines]
    assert ["publish", "skipped"] in [line.split() for line in lines]
    assert lines[-2].startswith("not published: the gate did not pass")
    assert lines[-1] == f"{server.url}/#/runs/details/{run_id}"


def test_the_zero_hour_is_no_time(server, call):
    run_id = call("submit", *ARGUMENTS, "--name", "mine").run_id
    server.drive(run_id, "CANCELED", {"freeze": "SUCCEEDED"})
    server.runs[run_id]["finished_at"] = "1970-01-01T00:00:00Z"
    assert call("status", run_id).out.splitlines()[0].startswith("mine: canceled, started 2026")


def test_status_lists_the_last_runs_the_youngest_first(server, call):
    ids = [call("submit", *ARGUMENTS).run_id for _ in range(5)]
    assert [line.split()[0] for line in call("status", "--limit", "4").out.splitlines()] == ids[:0:-1]


def test_status_of_a_schedule(server, call):
    schedule = json.loads(call(*NIGHTLY, "--json").out)
    run_id, other = (call("submit", *ARGUMENTS).run_id for _ in range(2))
    server.runs[run_id]["recurring_run_id"] = schedule["id"]
    told = call("status", "--name", "nightly").out
    assert schedule["id"] in told.splitlines()[0]
    assert (run_id in told, other in told) == (True, False)
    assert "no schedule 'nigthly'" in call("status", "--name", "nigthly").err


def test_names_of_others_cannot_drive_the_terminal(server, call):
    run_id = call("submit", *ARGUMENTS).run_id
    server.runs[run_id]["display_name"] = "red\x1b[31m [bold]\nother line"
    assert "\x1b" not in call("status").out + call("status", run_id).out
    assert call("status").out.count("\n") == 1


def test_no_such_run(call):
    done = call("status", "nosuch")
    assert (done.exit_code, "no run 'nosuch'" in done.err, done.err.count("\n")) == (1, True, 1)


# schedule


def test_a_schedule_is_made_once_and_changed_in_place(server, call):
    assert call(*NIGHTLY).out.startswith("created: nightly  0 0 2 * * *  active")
    (first,) = server.recurring
    assert call(*NIGHTLY).out.startswith("unchanged: nightly")
    assert list(server.recurring) == [first]
    changed = ("schedule", *ARGUMENTS, "--name", "nightly", "--cron", "0 4 * * sun", "--max-concurrency", "2")
    assert call(*changed, "--catchup").out.startswith("updated: nightly  0 0 4 * * 0")
    ((second, made),) = server.recurring.items()
    assert second != first
    assert (made["max_concurrency"], made["no_catchup"]) == ("2", False)
    assert call(*changed, "--catchup").out.startswith("unchanged")
    assert call(*NIGHTLY, "--arg", "batch_size=8").out.startswith("updated")
    assert len(server.recurring) == 1


def test_pause_resume_list_delete(server, call):
    call(*NIGHTLY)
    assert "paused" in call("schedule", "--pause", "nightly").out
    assert "paused" in call("schedule", "--list").out
    assert call(*NIGHTLY).out.startswith("unchanged: nightly  0 0 2 * * *  paused")
    updated = call(*NIGHTLY, "--arg", "batch_size=8")
    assert updated.out.startswith("updated: nightly  0 0 2 * * *  paused")  # what was paused stays so
    assert "next run" not in updated.out
    assert "active" in call("schedule", "--resume", "nightly").out
    assert json.loads(call("schedule", "--list", "--json").out)[0]["active"] is True
    assert call("schedule", "--delete", "nightly").out.startswith("deleted")
    assert (server.recurring, call("schedule", "--list").out) == ({}, "no schedules\n")
    for option in ("--pause", "--resume", "--delete"):
        assert "no schedule 'nightly'" in call("schedule", option, "nightly").err


def test_a_schedule_that_was_not_made_here_is_left_alone(server, call):
    call(*NIGHTLY)
    (there,) = server.recurring.values()
    there["description"] = "made in the browser"
    done = call(*NIGHTLY)
    assert (done.exit_code, "was not made by this command" in done.err, len(server.recurring)) == (1, True, 1)


@pytest.mark.parametrize("fault", [DROPPED_BEFORE, DROPPED_AFTER, Answer(503, "busy")], ids=str)
def test_a_broken_schedule_is_one_schedule(server, call, fault):
    server.faults.add(r"POST .*/recurringruns$", fault)
    assert call(*NIGHTLY).out.startswith("created")
    server.faults.add(r"POST .*/recurringruns$", fault)
    server.faults.add(r"DELETE .*/recurringruns/", fault)
    assert call(*NIGHTLY, "--arg", "batch_size=8").out.startswith("updated")
    assert len(server.recurring) == 1


def test_an_update_that_broke_off_is_made_good_by_the_next(server, call):
    call(*NIGHTLY)
    server.faults.add(r"DELETE .*/recurringruns/", *[DROPPED_BEFORE] * 4)
    changed = (*NIGHTLY, "--arg", "batch_size=8")
    assert call(*changed).exit_code == 1
    assert len(server.recurring) == 2
    assert call(*changed).out.startswith("unchanged")
    (stands,) = server.recurring.values()
    assert stands["runtime_config"]["parameters"]["batch_size"] == 8


def test_what_an_update_left_behind_is_deleted_too(server, call):
    call(*NIGHTLY)
    server.faults.add(r"DELETE .*/recurringruns/", *[DROPPED_BEFORE] * 4)
    call(*NIGHTLY, "--arg", "batch_size=8")
    call("schedule", "--delete", "nightly")
    assert server.recurring == {}


def test_other_settings_of_someone_else_at_the_same_moment_are_told(server, call):
    def theirs_comes_later(request):
        answer = server.answer(request)
        theirs = {**answer.body, "recurring_run_id": "theirs", "created_at": server.time(10)}
        theirs["description"] = theirs["description"].replace("settings ", "settings 0")
        server.recurring["theirs"] = theirs
        return answer

    server.faults.add(r"POST .*/recurringruns$", theirs_comes_later)
    done = call(*NIGHTLY)
    assert (done.exit_code, list(server.recurring)) == (1, ["theirs"])
    assert "someone else set it to other settings at the same moment" in done.err


def plan(hour):
    pipeline = find_pipeline("slim")
    return Plan("nightly", prepare("slim", pipeline, needed(pipeline)), parse(f"0 {hour} * * *"))


@pytest.mark.parametrize("hours", [[2] * 6, [0, 1, 2, 3, 4, 5]], ids=["the same", "six others"])
@pytest.mark.parametrize("before", [False, True])
def test_many_at_once_leave_one_schedule(server, hours, before):
    plans = {hour: plan(hour) for hour in {*hours, 9}}
    for _ in range(5):
        server.recurring.clear()
        if before:
            platform = Kubeflow(server.url, environ={})
            platform.connect()
            scheduling.put(platform, plans[9])
        start = threading.Barrier(len(hours))

        def put(hour, start=start):
            platform = Kubeflow(server.url, environ={})
            platform.connect()
            start.wait()
            try:
                return scheduling.put(platform, plans[hour])[0].id
            except RemoteError as error:
                return str(error)

        with ThreadPoolExecutor(len(hours)) as pool:
            told = list(pool.map(put, hours))
        (stands,) = server.recurring
        assert stands in told
        assert not any("someone else" in one for one in told) or len(set(hours)) > 1


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ([], "give one of --cron, --list"),
        (["--list", "--pause", "x"], "give one of"),
        ([*ARGUMENTS, "--cron", "0 2 * * *"], "--cron needs --name"),
        ([*ARGUMENTS, "--name", "n", "--cron", "0 25 * * *"], "the hour 25"),
        ([*ARGUMENTS, "--name", "n", "--cron", "0 2 * * *", "--timezone", "Europe/Berlin"], "no time zone of its own"),
        (["--name", "n", "--cron", "0 2 * * *"], "missing: --arg model"),
        (["--list", "--name", "n"], "takes no"),
    ],
)
def test_a_schedule_that_is_wrong_is_told_before_anything_is_sent(server, call, arguments, told):
    done = call("schedule", *arguments)
    assert (done.exit_code, server.seen) == (2, [])
    assert told in done.err


def test_a_dry_run_of_a_schedule(server, call):
    shown = yaml.safe_load(call(*NIGHTLY, "--dry-run").out)
    assert server.seen == []
    open_till_sent = {"experiment_id": "", "description": ""}
    assert shown["body"]["trigger"] == {"cron_schedule": {"cron": "0 0 2 * * *"}}
    call(*NIGHTLY)
    (sent,) = [one for one in server.seen if (one.method, one.path[-14:]) == ("POST", "/recurringruns")]
    assert {**shown["body"], **open_till_sent} == {**sent.body, **open_till_sent}


def test_interrupted_following_says_that_the_run_goes_on(server, tmp_path):
    """As a user does it: the process gets SIGINT while it follows."""
    looked = threading.Event()

    def look(request):
        looked.set()
        return server.answer(request)

    server.faults.add(r"GET .*/runs/", look)
    environ = {**os.environ, "KFP_ENDPOINT": server.url, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "pipelines", "submit", *ARGUMENTS, "--wait"]
    with subprocess.Popen(command, env=environ, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert looked.wait(60)
        process.send_signal(2)
        out, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert f"the run goes on; ask later: python -m pipelines status {out.split()[1]}" in err
