"""A stand-in for Vertex AI Pipelines: nothing ever runs behind it.

What Google publishes decides here what is right: every request and every answer is read as the message of
google-cloud-aiplatform that the API declares for it, where a field that does not exist is an error; a pipeline has
to be a PipelineSpec. It also gives access tokens, as Google does to a service account that signs for itself.
"""

from __future__ import annotations

import itertools
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from google.cloud.aiplatform_v1.types import pipeline_job, pipeline_service, schedule, schedule_service
from google.protobuf import json_format
from kfp.pipeline_spec import pipeline_spec_pb2

from tests.pipelines.remote.serving import Answer, Faults, Request, serving

PARENT = "projects/team/locations/europe-west4"
TOKEN = "an-access-token"
_PATH = re.compile(rf"/v1/{PARENT}/(?P<what>pipelineJobs|schedules)(/(?P<id>[a-z0-9-]+))?(:(?P<verb>\w+))?$")
_LISTS = {
    "pipelineJobs": (pipeline_service.ListPipelineJobsRequest, pipeline_service.ListPipelineJobsResponse),
    "schedules": (schedule_service.ListSchedulesRequest, schedule_service.ListSchedulesResponse),
}


class RefusedError(Exception):
    def __init__(self, status: int, word: str, message: str) -> None:
        super().__init__(message)
        self.answer = Answer(status, {"error": {"code": status, "message": message, "status": word}})


def _checked(value: dict[str, Any], kind: Any) -> dict[str, Any]:
    """The value as the published message has it."""
    try:
        message = json_format.ParseDict(value, kind.pb()())
    except json_format.ParseError as error:
        raise RefusedError(400, "INVALID_ARGUMENT", f"Invalid JSON payload received. {error}") from error
    return json_format.MessageToDict(message)


@dataclass
class VertexServer:
    url: str = ""
    faults: Faults = field(default_factory=Faults)
    seen: list[Request] = field(default_factory=list)
    jobs: dict[str, dict[str, Any]] = field(default_factory=dict)
    schedules: dict[str, dict[str, Any]] = field(default_factory=dict)
    lock: threading.Lock = field(default_factory=threading.Lock)
    clock: Iterator[int] = field(default_factory=lambda: itertools.count(1))

    def answer(self, request: Request) -> Answer:
        with self.lock:
            try:
                return Answer(200, self._answer(request))
            except RefusedError as refused:
                return refused.answer

    def drive(self, job_id: str, state: str, tasks: dict[str, Any], error: str = "") -> None:
        """Let a run be in a state, with tasks: name -> state, or (state, what it returned)."""
        job = self.jobs[job_id]
        details = []
        for number, (name, how) in enumerate(tasks.items()):
            state_of, returned = how if isinstance(how, tuple) else (how, None)
            detail = {"taskName": name, "taskId": str(number), "state": state_of, "startTime": self.time(number * 10)}
            if state_of in ("SUCCEEDED", "FAILED"):
                detail["endTime"] = self.time(number * 10 + 10)
            if returned is not None:
                detail["execution"] = {"metadata": {"output:Output": returned}}
            if state_of == "FAILED":
                detail["error"] = {"code": 9, "message": error}
            details.append(detail)
        job |= {"state": f"PIPELINE_STATE_{state}", "jobDetail": {"taskDetails": details}}
        if state in ("SUCCEEDED", "FAILED"):
            job["endTime"] = self.time(500)
        if error:
            job["error"] = {"code": 9, "message": f"The DAG failed because some tasks failed: {error}"}
        _checked(job, pipeline_job.PipelineJob)

    def time(self, seconds: int) -> str:
        return (datetime(2026, 1, 1, tzinfo=UTC) + timedelta(seconds=seconds)).strftime("%Y-%m-%dT%H:%M:%S.123456789Z")

    def _answer(self, request: Request) -> Any:
        if request.path == "/token":
            if "assertion=" not in request.body:
                raise RefusedError(400, "INVALID_ARGUMENT", "no assertion")
            return {"access_token": TOKEN, "expires_in": 3600, "token_type": "Bearer"}
        if request.headers.get("authorization") != f"Bearer {TOKEN}":
            raise RefusedError(401, "UNAUTHENTICATED", "Request had invalid authentication credentials.")
        found = _PATH.match(request.path)
        if not found:
            raise RefusedError(403, "PERMISSION_DENIED", f"Permission denied on resource {request.path}")
        what, one, verb = found["what"], found["id"], found["verb"]
        known = self.jobs if what == "pipelineJobs" else self.schedules
        if one and one not in known and not (request.method == "POST" and verb is None):
            raise RefusedError(404, "NOT_FOUND", f"{one} is not found.")
        if request.method == "GET":
            return known[one] if one else self._list(what, known, request.query)
        if what == "pipelineJobs":
            return self._create_job(request)
        return self._schedule(request, one, verb)

    def _create_job(self, request: Request) -> Any:
        wanted = {"parent": PARENT, "pipelineJob": request.body, **request.query}
        made = _checked(wanted, pipeline_service.CreatePipelineJobRequest)
        job_id, job = made["pipelineJobId"], made["pipelineJob"]
        if not re.fullmatch(r"[a-z][a-z0-9-]{0,126}", job_id):
            raise RefusedError(400, "INVALID_ARGUMENT", f"pipeline_job_id {job_id!r}")
        if job_id in self.jobs:
            raise RefusedError(409, "ALREADY_EXISTS", f"PipelineJob {job_id} already exists.")
        self._runs(job)
        job |= {"name": f"{PARENT}/pipelineJobs/{job_id}", "state": "PIPELINE_STATE_PENDING"}
        job["createTime"] = self.time(next(self.clock))
        self.jobs[job_id] = job
        return job

    def _schedule(self, request: Request, one: str | None, verb: str | None) -> Any:
        if request.method == "DELETE":
            del self.schedules[one]
            return {"name": f"{PARENT}/operations/1", "done": True}
        if verb == "pause":
            _checked({"name": one, **request.body}, schedule_service.PauseScheduleRequest)
            self.schedules[one]["state"] = "PAUSED"
            return {}
        if verb == "resume":
            asked = _checked({"name": one, **request.body}, schedule_service.ResumeScheduleRequest)
            self.schedules[one] |= {"state": "ACTIVE", "catchUp": asked.get("catchUp", False)}
            return {}
        new = _checked(request.body, schedule.Schedule)
        asked = new["createPipelineJobRequest"]
        if asked["parent"] != PARENT or not new.get("maxConcurrentRunCount"):
            raise RefusedError(400, "INVALID_ARGUMENT", "parent and maxConcurrentRunCount are required")
        if not re.fullmatch(r"(CRON_)?TZ=\S+( [0-9*/,-]+){5}", new["cron"]):
            raise RefusedError(400, "INVALID_ARGUMENT", f"cron {new['cron']!r}")
        self._runs(asked["pipelineJob"])
        if request.method == "PATCH":
            fields = request.query["updateMask"].split(",")
            _checked({"schedule": request.body, **request.query}, schedule_service.UpdateScheduleRequest)
            self.schedules[one] |= {name: new[name] for name in fields}
            return self.schedules[one]
        number = next(self.clock)
        new |= {"name": f"{PARENT}/schedules/{1000 + number}", "state": "ACTIVE", "createTime": self.time(number)}
        new["nextRunTime"] = self.time(86400)
        self.schedules[str(1000 + number)] = new
        return new

    def _runs(self, job: dict[str, Any]) -> None:
        """Refuse what cannot run: no PipelineSpec, arguments that it does not declare or lacks, no bucket."""
        try:
            spec = json_format.ParseDict(job["pipelineSpec"], pipeline_spec_pb2.PipelineSpec())
        except json_format.ParseError as error:
            raise RefusedError(400, "INVALID_ARGUMENT", f"pipeline_spec: {error}") from error
        if not job["runtimeConfig"]["gcsOutputDirectory"].startswith("gs://"):
            raise RefusedError(400, "INVALID_ARGUMENT", "gcs_output_directory")
        for key, value in job["labels"].items():
            if not re.fullmatch(r"[a-z][a-z0-9_-]{0,62}", key) or not re.fullmatch(r"[a-z0-9_-]{0,63}", value):
                raise RefusedError(400, "INVALID_ARGUMENT", f"label {key}={value}")
        declared = spec.root.input_definitions.parameters
        given = job["runtimeConfig"]["parameterValues"]
        lacking = [
            n for n, p in declared.items() if n not in given and not (p.is_optional or p.HasField("default_value"))
        ]
        unknown = set(given) - set(declared)
        if lacking or unknown:
            raise RefusedError(400, "INVALID_ARGUMENT", f"parameters: {lacking} are required, {unknown} unknown")

    def _list(self, what: str, known: dict[str, Any], query: dict[str, str]) -> Any:
        asks, answers = _LISTS[what]
        _checked({"parent": PARENT, **query}, asks)
        there = list(known.values())
        if wanted := re.fullmatch(r'display_name="(.*)"', query.get("filter", "")):
            there = [one for one in there if one["displayName"] == wanted[1]]
        elif wanted := re.fullmatch(r"schedule_name=(.*)", query.get("filter", "")):
            there = [one for one in there if one.get("scheduleName") == wanted[1]]
        elif query.get("filter"):
            raise RefusedError(400, "INVALID_ARGUMENT", f"filter {query['filter']}")
        if query.get("orderBy") == "create_time desc":
            there.sort(key=lambda one: one["createTime"], reverse=True)
        start, size = int(query.get("pageToken") or 0), 3
        page = {what: there[start : start + size]}
        page |= {"nextPageToken": str(start + size)} if start + size < len(there) else {}
        return json.loads(json.dumps(_checked(page, answers)))


@contextmanager
def vertex_server() -> Iterator[VertexServer]:
    server = VertexServer()
    with serving(server.answer, server.faults, server.seen) as url:
        server.url = url
        yield server
