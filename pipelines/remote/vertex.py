"""Vertex AI Pipelines, through its REST API.

Google's own client for it, google-cloud-aiplatform, takes seconds to import and starts, follows and prints in its own
way; what is needed of it are eight requests, which google-auth signs.
"""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

import google.auth
import requests
from google.auth import exceptions as auth_errors
from google.auth.transport.requests import AuthorizedSession
from google.oauth2.credentials import Credentials

from pipelines.remote import job as jobs
from pipelines.remote.cron import Cron
from pipelines.remote.endpoint import checked
from pipelines.remote.errors import BusyError, ExistsError, NotFoundError, RemoteError, UnsureError, first_line
from pipelines.remote.job import Job
from pipelines.remote.retrying import again, make_once
from pipelines.remote.runs import Plan, RemoteRun, RemoteStep, Schedule, State, steps
from pipelines.remote.secrets import HIDDEN, header_value, redacted
from tfslim_core.errors import UsageError

TIMEOUT = (10, 60)  # seconds to connect, and to answer
PAGE = 100
TOKEN = "GOOGLE_OAUTH_ACCESS_TOKEN"
SCOPE = "https://www.googleapis.com/auth/cloud-platform"
_SETTINGS, _REVISION, _SUBMISSION = "tfslim-settings", "tfslim-revision", "tfslim-submission"
_PIPELINE = "tfslim-pipeline"
_STATES = {
    "QUEUED": State.PENDING,
    "CANCELLED": State.CANCELED,
    "CANCELLING": State.RUNNING,
    "CANCEL_PENDING": State.RUNNING,
    "NOT_TRIGGERED": State.SKIPPED,
    "STATE_UNSPECIFIED": State.PENDING,
}


class Vertex:
    """One project and location of Vertex AI. root: gs://bucket/path for what the steps write."""

    def __init__(
        self,
        project: str,
        location: str,
        root: str,
        *,
        service_account: str = "",
        endpoint: str = "",
        environ: Mapping[str, str],
    ) -> None:
        if not re.fullmatch(r"[a-z0-9.:-]{1,100}", project):
            raise UsageError(f"--project {project!r}: not the id of a Google Cloud project")
        if not re.fullmatch(r"[a-z]+(-[a-z]+)+[0-9]+", location):
            raise UsageError(f"--location {location!r}: not a location such as europe-west4")
        self.project, self.location = project, location
        self.root = root
        self.service_account = service_account
        host = endpoint or f"https://{location}-aiplatform.googleapis.com"
        self.host = checked(host, "that begins with https://", secure=True)
        self.parent = f"projects/{project}/locations/{location}"
        self._environ = environ
        self._session: AuthorizedSession | None = None

    def connect(self) -> None:
        """See that there are credentials; Vertex AI itself answers with the first request."""
        if self._session:
            return
        try:
            if token := header_value(self._environ.get(TOKEN, ""), TOKEN):
                credentials: Any = Credentials(token)  # type: ignore[no-untyped-call]
            else:
                credentials, _ = google.auth.default(scopes=[SCOPE])
        except auth_errors.GoogleAuthError as error:
            raise RemoteError(
                f"no credentials for Google Cloud: run `gcloud auth application-default login`, or name a service "
                f"account's key file with GOOGLE_APPLICATION_CREDENTIALS, or set {TOKEN} ({first_line(str(error))})"
            ) from error
        self._session = AuthorizedSession(credentials, max_refresh_attempts=2)  # type: ignore[no-untyped-call]

    # Runs

    def submission(self, job: Job, name: str) -> dict[str, Any]:
        """The request that starts a run."""
        query = {"pipelineJobId": f"tfslim-{_slug(job.pipeline)}-<of its own each time>"}
        return self._request("pipelineJobs", self._new_run(job, name), query)

    def submit(self, job: Job, name: str) -> RemoteRun:
        """Start one run: its id is chosen here, so that the same request twice is still one run."""
        run_id = f"tfslim-{_slug(job.pipeline)}-{datetime.now(UTC):%Y%m%d%H%M%S}-{uuid.uuid4().hex[:8]}"
        body = self._new_run(job, name)

        def made() -> list[Any]:
            try:
                return [self._call("GET", f"{self.parent}/pipelineJobs/{run_id}")]
            except NotFoundError:
                return []

        def make() -> Any:
            try:
                return self._call("POST", f"{self.parent}/pipelineJobs", body, {"pipelineJobId": run_id})
            except ExistsError:
                return self._ask("GET", f"{self.parent}/pipelineJobs/{run_id}")  # an earlier try got through after all

        return self._run(make_once(make, made, lambda spare: None))

    def run(self, run_id: str) -> RemoteRun:
        """A run with its steps."""
        if not re.fullmatch(r"[a-z0-9-]+", run_id):
            raise UsageError(f"run {run_id!r}: an id is made of small letters, digits and '-'")
        return self._run(self._ask("GET", f"{self.parent}/pipelineJobs/{run_id}"), detailed=True)

    def runs(self, limit: int, schedule: Schedule | None = None) -> list[RemoteRun]:
        """The last runs, the youngest first."""
        query = {
            "orderBy": "create_time desc",
            "readMask": "name,displayName,state,createTime,endTime,error,scheduleName",
        }
        if schedule:
            query["filter"] = f"schedule_name={self.parent}/schedules/{schedule.id}"
        return [self._run(one) for one in self._pages("pipelineJobs", query, limit)]

    def _new_run(self, job: Job, name: str, labels: Mapping[str, str] | None = None) -> dict[str, Any]:
        if not re.fullmatch(r"gs://[a-z0-9][a-z0-9._-]{1,220}[a-z0-9](/.*)?", self.root):
            raise UsageError(f"--root {self.root!r}: Vertex AI needs gs://BUCKET/PATH for what the steps write")
        if job.platform:
            raise UsageError(f"pipeline {job.pipeline}: it has settings for Kubernetes, which Vertex AI does not take")
        body = {
            "displayName": name,
            "pipelineSpec": job.spec,
            "labels": {_PIPELINE: _slug(job.pipeline), **(labels or {})},
            "runtimeConfig": {"gcsOutputDirectory": self.root, "parameterValues": job.values},
        }
        return {**body, "serviceAccount": self.service_account} if self.service_account else body

    def _run(self, run: Mapping[str, Any], *, detailed: bool = False) -> RemoteRun:
        run_id = _last(run.get("name", ""))
        state = _state(run.get("state"))
        page = f"https://console.cloud.google.com/vertex-ai/locations/{self.location}/pipelines/runs/{run_id}"
        return RemoteRun(
            id=run_id,
            name=first_line(run.get("displayName", "")),
            state=state,
            url=f"{page}?project={self.project}",
            created=_time(run.get("createTime")),
            ended=_time(run.get("endTime")),
            message=first_line(run.get("error", {}).get("message", "")),
            steps=_steps(run, state) if detailed else (),
            schedule_id=_last(run.get("scheduleName", "")),
        )

    # Schedules

    def cron(self, cron: Cron) -> str:
        """Five fields behind the time zone."""
        return cron.vertex

    def scheduling(self, plan: Plan) -> dict[str, Any]:
        """The request that makes a schedule."""
        return self._request("schedules", self._new_schedule(plan, 1, "<one of its own each time>"))

    def schedules(self, name: str | None = None) -> list[Schedule]:
        """All schedules of pipelines, or those of one name."""
        quoted = "" if name is None else name.replace("\\", "\\\\").replace('"', '\\"')
        query = {} if name is None else {"filter": f'display_name="{quoted}"'}
        found = [one for one in self._pages("schedules", query) if "createPipelineJobRequest" in one]
        return [self._schedule(one) for one in found if name is None or one.get("displayName") == name]

    def create_schedule(self, plan: Plan, revision: int, *, paused: bool) -> Schedule:
        """Make a schedule, whatever there is of its name, and no second one however often the connection breaks."""
        submission = uuid.uuid4().hex
        body = self._new_schedule(plan, revision, submission)

        def made() -> list[Schedule]:
            ours = [one for one in self.schedules(plan.name) if one.submission == submission]
            return sorted(ours, key=lambda one: one.rank, reverse=True)

        done = make_once(
            lambda: self._schedule(self._call("POST", f"{self.parent}/schedules", body)), made, self.delete_schedule
        )
        if paused:
            self.pause(done)
        return done

    def change_schedule(self, schedule: Schedule, plan: Plan, revision: int) -> Schedule | None:
        """Give a schedule other settings, in one request."""
        body = self._new_schedule(plan, revision, schedule.submission)
        mask = {"updateMask": "cron,maxConcurrentRunCount,createPipelineJobRequest"}
        return self._schedule(self._ask("PATCH", f"{self.parent}/schedules/{schedule.id}", body, mask))

    def delete_schedule(self, schedule: Schedule) -> None:
        """Delete it; that it is gone already is no error."""
        with suppress(NotFoundError):
            self._ask("DELETE", f"{self.parent}/schedules/{schedule.id}")

    def pause(self, schedule: Schedule) -> None:
        """Start no more runs."""
        self._ask("POST", f"{self.parent}/schedules/{schedule.id}:pause", {})

    def resume(self, schedule: Schedule, *, catchup: bool) -> None:
        """Start runs again; catchup: also those that it missed."""
        self._ask("POST", f"{self.parent}/schedules/{schedule.id}:resume", {"catchUp": catchup})

    def _new_schedule(self, plan: Plan, revision: int, submission: str) -> dict[str, Any]:
        if plan.catchup:
            raise UsageError("--catchup: on Vertex AI it is said with --resume, when a paused schedule goes on")
        labels = {_SETTINGS: plan.digest(plan.cron.vertex), _REVISION: str(revision), _SUBMISSION: submission}
        request = {"parent": self.parent, "pipelineJob": self._new_run(plan.job, plan.name, labels)}
        return {
            "displayName": plan.name,
            "cron": plan.cron.vertex,
            "maxConcurrentRunCount": str(plan.max_concurrency),
            "createPipelineJobRequest": request,
        }

    def _schedule(self, one: Mapping[str, Any]) -> Schedule:
        job = one.get("createPipelineJobRequest", {}).get("pipelineJob", {})
        labels = job.get("labels", {})
        page = f"https://console.cloud.google.com/vertex-ai/pipelines/schedules?project={self.project}"
        revision = labels.get(_REVISION, "")
        return Schedule(
            id=_last(one.get("name", "")),
            name=first_line(one.get("displayName", "")),
            cron=one.get("cron", ""),
            active=one.get("state", "ACTIVE") == "ACTIVE",
            url=page,
            created=_time(one.get("createTime")),
            max_concurrency=int(one.get("maxConcurrentRunCount", 1)),
            catchup=bool(one.get("catchUp")),
            next_run=_time(one.get("nextRunTime")),
            settings=labels.get(_SETTINGS, "") if revision.isdigit() else "",
            revision=int(revision) if revision.isdigit() else 0,
            submission=labels.get(_SUBMISSION, ""),
        )

    # The server

    def _request(self, what: str, body: Mapping[str, Any], query: Mapping[str, str] | None = None) -> dict[str, Any]:
        sent = json.loads(json.dumps(body))
        holder = sent.get("createPipelineJobRequest", {}).get("pipelineJob", sent)
        holder["runtimeConfig"] = redacted(holder["runtimeConfig"])
        url = f"{self.host}/v1/{self.parent}/{what}"
        return {
            "method": "POST",
            "url": url,
            "query": dict(query or {}),
            "headers": {"Authorization": HIDDEN},
            "body": sent,
        }

    def _pages(self, what: str, query: Mapping[str, str], limit: int | None = None) -> list[Any]:
        found: list[Any] = []
        token = ""
        while limit is None or len(found) < limit:
            asked = {**query, "pageSize": str(PAGE), **({"pageToken": token} if token else {})}
            answer = self._ask("GET", f"{self.parent}/{what}", query=asked)
            found += answer.get(what, ())
            token = answer.get("nextPageToken", "")
            if not token:
                break
        return found[:limit]

    def _ask(self, method: str, path: str, body: Any = None, query: Mapping[str, str] | None = None) -> Any:
        """Send what may be sent any number of times."""
        return again(lambda: self._call(method, path, body, query))

    def _call(self, method: str, path: str, body: Any = None, query: Mapping[str, str] | None = None) -> Any:
        """Send one request; what goes wrong is told in one line."""
        self.connect()
        assert self._session is not None
        try:
            answer = self._session.request(
                method,
                f"{self.host}/v1/{path}",
                json=body,
                params=dict(query or {}),
                timeout=TIMEOUT,
                allow_redirects=False,
            )
        except auth_errors.GoogleAuthError as error:
            if self._environ.get(TOKEN):
                raise RemoteError(f"{self.host}: not logged in (401); {TOKEN} is wrong or too old") from error
            raise RemoteError(f"Google Cloud gives no access token: {first_line(str(error))}") from error
        except requests.exceptions.SSLError as error:
            raise RemoteError(f"{self.host}: no secure connection ({first_line(str(error))})") from error
        except requests.exceptions.ConnectTimeout as error:
            raise BusyError(f"{self.host}: nothing answers within {TIMEOUT[0]} s") from error
        except requests.exceptions.ConnectionError as error:
            raise _broken(self.host, error) from error
        except requests.exceptions.RequestException as error:
            raise UnsureError(f"{self.host}: the connection broke ({first_line(str(error))})") from error
        return self._understood(answer, path)

    def _understood(self, answer: requests.Response, path: str) -> Any:
        status = answer.status_code
        try:
            said = answer.json()
        except ValueError:
            said = None
        if 200 <= status < 300:
            if isinstance(said, dict):
                return said
            raise RemoteError(f"{self.host}: what answers there does not speak the API of Vertex AI")
        error = said.get("error", {}) if isinstance(said, dict) else {}
        why = first_line(str(error.get("message", ""))) if isinstance(error, dict) else ""
        if status == 401:
            raise RemoteError(f"{self.host}: not logged in (401){f': {why}' if why else ''}")
        if status == 403:
            raise RemoteError(f"{self.host}: not allowed in project {self.project} (403): {why}")
        if status == 404:
            if why:
                raise NotFoundError(f"{self.host}: {path}: {why}")
            raise RemoteError(f"{self.host}: no Vertex AI there (404 for {path})")
        if status == 409:
            raise ExistsError(f"{self.host}: {why}")
        if status in (429, 503):
            raise BusyError(f"{self.host}: busy ({status}){f': {why}' if why else ''}")
        if status in (500, 502, 504):
            raise UnsureError(f"{self.host}: the server failed ({status}){f': {why}' if why else ''}")
        raise RemoteError(f"{self.host}: refused ({status}): {why or answer.reason}")


def _broken(host: str, error: requests.exceptions.ConnectionError) -> RemoteError:
    """Told apart by whether a connection was there at all."""
    text = str(error)
    if "NameResolutionError" in text or "Failed to resolve" in text:
        return RemoteError(f"{host}: no such host")
    if "NewConnectionError" in text or "Failed to establish" in text:
        return BusyError(f"{host}: cannot connect")
    return UnsureError(f"{host}: the connection broke ({first_line(text)})")


def _steps(run: Mapping[str, Any], state: State) -> Sequence[RemoteStep]:
    """The tasks of the pipeline, in its order, with what Vertex AI says of those of these names."""
    there: dict[str, list[RemoteStep]] = {}
    for detail in run.get("jobDetail", {}).get("taskDetails", ()):
        there.setdefault(detail.get("taskName", ""), []).append(_step(detail))
    return steps(jobs.tasks(run.get("pipelineSpec", {})), there, state)


def _step(detail: Mapping[str, Any]) -> RemoteStep:
    return RemoteStep(
        name=detail.get("taskName", ""),
        state=_state(detail.get("state")),
        started=_time(detail.get("startTime")),
        ended=_time(detail.get("endTime")),
        message=first_line(detail.get("error", {}).get("message", "")),
        returned=detail.get("execution", {}).get("metadata", {}).get("output:Output"),
    )


def _state(text: str | None) -> State:
    word = (text or "STATE_UNSPECIFIED").removeprefix("PIPELINE_STATE_")
    word = "STATE_UNSPECIFIED" if word == "UNSPECIFIED" else word
    return _STATES.get(word) or (State[word] if word in State.__members__ else State.UNKNOWN)


def _time(text: str | None) -> datetime | None:
    return datetime.fromisoformat(re.sub(r"(\.\d{6})\d+", r"\1", text)) if text else None


def _slug(text: str) -> str:
    """As ids and labels are spelled: small letters, digits and '-', beginning with a letter."""
    slug = re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")[:60].strip("-")
    return slug if slug[:1].isalpha() else f"run-{slug}".strip("-")


def _last(name: str) -> str:
    return name.rpartition("/")[2]
