"""Kubeflow Pipelines, through the client of its REST API.

It is the generated client below kfp.Client: that one prints to stdout, keeps settings in the home directory, waits 25
seconds where an address is wrong, and waits for ever where a server does not answer.
"""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from typing import Any, TypeVar
from urllib.parse import urlsplit

import kfp_server_api as api
import urllib3

from pipelines.remote import job as jobs
from pipelines.remote.cron import Cron
from pipelines.remote.endpoint import checked
from pipelines.remote.errors import BusyError, NotFoundError, RemoteError, UnsureError, first_line
from pipelines.remote.job import Job
from pipelines.remote.kubeflow_access import configuration
from pipelines.remote.retrying import again, make_once
from pipelines.remote.runs import Plan, RemoteRun, RemoteStep, Schedule, State, steps
from pipelines.remote.secrets import HIDDEN, header_value, redacted
from tfslim_core.errors import UsageError

T = TypeVar("T")
TIMEOUT = (10, 60)  # seconds to connect, and to answer
PAGE = 100
EXPERIMENT = "tfslim"
_EQUALS = "EQUALS"
_MARK = re.compile(
    r"\[tfslim settings (?P<settings>[0-9a-f]+) revision (?P<revision>[0-9]+) submission (?P<submission>[^]]+)\]"
)
_RETRY = re.compile(r"\([0-9]+\)$")
# What Argo runs around the tasks of a pipeline.
_MACHINERY = re.compile(
    r"^(root|executor|entrypoint|.*-driver|(condition|condition-branches|for-loop|exit-handler)-.*)$"
)


class Kubeflow:
    """One namespace of a Kubeflow Pipelines server. page: where its pages are, the endpoint unless told."""

    def __init__(
        self,
        endpoint: str,
        *,
        namespace: str = "",
        experiment: str = EXPERIMENT,
        root: str = "",
        service_account: str = "",
        environ: Mapping[str, str],
    ) -> None:
        self.endpoint = checked(endpoint, "such as https://kubeflow.example.com/pipeline")
        self.page = environ.get("KF_PIPELINES_UI_ENDPOINT", self.endpoint).rstrip("/")
        self.namespace = namespace
        self.experiment = experiment
        self.root = root
        self.service_account = service_account
        cookie = header_value(environ.get("KFP_COOKIE", ""), "KFP_COOKIE")
        client = api.ApiClient(configuration(self.endpoint, environ), cookie=cookie)
        secrets = {"Authorization": client.configuration.api_key, "Cookie": cookie}
        self._headers = {name: HIDDEN for name, value in secrets.items() if value}
        self._client = client
        self._runs = api.RunServiceApi(client)
        self._recurring = api.RecurringRunServiceApi(client)
        self._experiments = api.ExperimentServiceApi(client)
        self._several: bool | None = None

    def connect(self) -> None:
        """See that a server of the right kind answers, and that it takes the namespace.

        Raises:
            RemoteError: nothing or something else answers there.
            UsageError: the namespace is missing, or there is but one.
        """
        try:
            health = self._ask(lambda: api.HealthzServiceApi(self._client).healthz_service_get_healthz(**_TIMED))
        except NotFoundError as error:
            raise _not_there(redacted(self.endpoint), "404") from error
        self._several = bool(health.multi_user)
        if self._several and not self.namespace:
            raise UsageError(f"{self.endpoint}: this server has a namespace for each team; give yours with --namespace")
        if not self._several and self.namespace:
            raise UsageError(
                f"{self.endpoint}: this server has one namespace for all, and so none can be named; "
                f"leave --namespace {self.namespace} away"
            )

    # Runs

    def submission(self, job: Job, name: str) -> dict[str, Any]:
        """The request that starts a run, with what it would learn of the server left open."""
        run = self._new_run(job, name, f"<of the experiment {self.experiment!r}>", "<one of its own each time>")
        return self._request("/apis/v2beta1/runs", run)

    def submit(self, job: Job, name: str) -> RemoteRun:
        """Start one run, and no second one however often the connection breaks."""
        experiment, submission = self._experiment_id(), uuid.uuid4().hex
        body = self._new_run(job, name, experiment, submission)

        def made() -> list[api.V2beta1Run]:
            found = self._pages(self._runs.run_service_list_runs, "runs", name, experiment_id=experiment)
            return sorted((run for run in found if submission in (run.description or "")), key=lambda run: run.run_id)

        run = make_once(
            lambda: self._call(lambda: self._runs.run_service_create_run(body, **_TIMED)),
            made,
            lambda spare: self._delete_run(spare.run_id),
        )
        return self._run(run)

    def run(self, run_id: str) -> RemoteRun:
        """A run with its steps."""
        run = self._ask(lambda: self._runs.run_service_get_run(run_id, **_TIMED), f"run {run_id!r}")
        return self._run(run, detailed=True)

    def runs(self, limit: int, schedule: Schedule | None = None) -> list[RemoteRun]:
        """The last runs, the youngest first."""
        found: list[RemoteRun] = []
        token = ""
        while len(found) < limit:
            answer = self._ask(
                lambda token=token: self._runs.run_service_list_runs(  # type: ignore[misc]
                    page_token=token, page_size=PAGE, sort_by="created_at desc", **self._where, **_TIMED
                )
            )
            runs = [self._run(run) for run in answer.runs or ()]
            found += [run for run in runs if schedule is None or run.schedule_id == schedule.id]
            token = answer.next_page_token or ""
            if not token:
                break
        return found[:limit]

    def _new_run(self, job: Job, name: str, experiment: str, submission: str) -> api.V2beta1Run:
        return api.V2beta1Run(
            display_name=name,
            description=f"pipeline {job.pipeline} of tfslim [submission {submission}]",
            experiment_id=experiment,
            **self._what(job),
        )

    def _what(self, job: Job) -> dict[str, Any]:
        spec: Mapping[str, Any] = job.spec
        if job.platform:
            spec = {"pipeline_spec": job.spec, "platform_spec": job.platform}
        runtime = api.V2beta1RuntimeConfig(parameters=dict(job.values), pipeline_root=self.root or None)
        return {
            "pipeline_spec": spec,
            "runtime_config": runtime,
            "service_account": self.service_account or None,
        }

    def _delete_run(self, run_id: str) -> None:
        self._ask(lambda: self._runs.run_service_terminate_run(run_id, **_TIMED))
        self._ask(lambda: self._runs.run_service_delete_run(run_id, **_TIMED))

    def _run(self, run: api.V2beta1Run, *, detailed: bool = False) -> RemoteRun:
        state = _state(run.state)
        return RemoteRun(
            id=run.run_id or "",
            name=first_line(run.display_name or ""),
            state=state,
            url=f"{self.page}/#/runs/details/{run.run_id}",
            created=_time(run.created_at),
            ended=_time(run.finished_at) if state.over else None,
            message=first_line(run.error.message if run.error else ""),
            steps=_steps(run, state) if detailed else (),
            schedule_id=run.recurring_run_id or "",
        )

    # Schedules

    def cron(self, cron: Cron) -> str:
        """Six fields, seconds first."""
        return cron.kubeflow

    def scheduling(self, plan: Plan) -> dict[str, Any]:
        """The request that makes a schedule, with what it would learn of the server left open."""
        experiment = f"<of the experiment {self.experiment!r}>"
        body = self._new_schedule(plan, 1, experiment, "<one of its own each time>", paused=False)
        return self._request("/apis/v2beta1/recurringruns", body)

    def schedules(self, name: str | None = None) -> list[Schedule]:
        """All schedules of the namespace, or those of one name."""
        listing = self._recurring.recurring_run_service_list_recurring_runs
        return [
            self._schedule(one) for one in again(lambda: self._pages(listing, "recurring_runs", name, **self._where))
        ]

    def create_schedule(self, plan: Plan, revision: int, *, paused: bool) -> Schedule:
        """Make a schedule, whatever there is of its name, and no second one however often the connection breaks."""
        submission = uuid.uuid4().hex
        body = self._new_schedule(plan, revision, self._experiment_id(), submission, paused=paused)

        def made() -> list[Schedule]:
            ours = [one for one in self.schedules(plan.name) if one.submission == submission]
            return sorted(ours, key=lambda one: one.rank, reverse=True)

        return make_once(
            lambda: self._schedule(
                self._call(lambda: self._recurring.recurring_run_service_create_recurring_run(body, **_TIMED))
            ),
            made,
            self.delete_schedule,
        )

    def change_schedule(self, schedule: Schedule, plan: Plan, revision: int) -> Schedule | None:
        """None: the server can make and delete schedules, and not change them."""
        return None

    def delete_schedule(self, schedule: Schedule) -> None:
        """Delete it; that it is gone already is no error."""
        with suppress(NotFoundError):
            self._ask(lambda: self._recurring.recurring_run_service_delete_recurring_run(schedule.id, **_TIMED))

    def pause(self, schedule: Schedule) -> None:
        """Start no more runs."""
        self._ask(lambda: self._recurring.recurring_run_service_disable_recurring_run(schedule.id, **_TIMED))

    def resume(self, schedule: Schedule, *, catchup: bool) -> None:
        """Start runs again; whether it catches up was said when it was made."""
        if catchup and not schedule.catchup:
            raise UsageError(
                "--catchup with --resume: on Kubeflow this is a setting of the schedule; set it with --cron"
            )
        self._ask(lambda: self._recurring.recurring_run_service_enable_recurring_run(schedule.id, **_TIMED))

    def _new_schedule(
        self, plan: Plan, revision: int, experiment: str, submission: str, *, paused: bool
    ) -> api.V2beta1RecurringRun:
        mark = f"[tfslim settings {plan.digest(plan.cron.kubeflow)} revision {revision} submission {submission}]"
        return api.V2beta1RecurringRun(
            display_name=plan.name,
            description=f"pipeline {plan.job.pipeline} of tfslim {mark}",
            experiment_id=experiment,
            trigger=api.V2beta1Trigger(cron_schedule=api.V2beta1CronSchedule(cron=plan.cron.kubeflow)),
            mode=api.RecurringRunMode.DISABLE if paused else api.RecurringRunMode.ENABLE,
            max_concurrency=str(plan.max_concurrency),
            no_catchup=not plan.catchup,
            **self._what(plan.job),
        )

    def _schedule(self, one: api.V2beta1RecurringRun) -> Schedule:
        mark = _MARK.search(one.description or "")
        trigger = one.trigger
        cron = trigger.cron_schedule.cron if trigger and trigger.cron_schedule else None
        every = trigger.periodic_schedule.interval_second if trigger and trigger.periodic_schedule else None
        return Schedule(
            id=one.recurring_run_id or "",
            name=first_line(one.display_name or ""),
            cron=cron or (f"every {every} s" if every else ""),
            active=one.status != api.V2beta1RecurringRunStatus.DISABLED,
            url=f"{self.page}/#/recurringrun/details/{one.recurring_run_id}",
            created=_time(one.created_at),
            max_concurrency=int(one.max_concurrency or 1),
            catchup=not one.no_catchup,
            settings=mark["settings"] if mark else "",
            revision=int(mark["revision"]) if mark else 0,
            submission=mark["submission"] if mark else "",
        )

    # The server

    @property
    def _where(self) -> dict[str, str]:
        return {"namespace": self.namespace} if self.namespace else {}

    def _experiment_id(self) -> str:
        """The id of the experiment, which is made where there is none; two that make it at once get the same."""
        found = self._experiment()
        if found is None:
            new = api.V2beta1Experiment(display_name=self.experiment, namespace=self.namespace or None)
            try:
                made = self._call(lambda: self._experiments.experiment_service_create_experiment(new, **_TIMED))
                return str(made.experiment_id)
            except RemoteError:
                found = self._experiment()  # made by someone else meanwhile, or by a request whose answer was lost
                if found is None:
                    raise
        return str(found.experiment_id)

    def _experiment(self) -> api.V2beta1Experiment | None:
        listing = self._experiments.experiment_service_list_experiments
        found = again(lambda: self._pages(listing, "experiments", self.experiment, **self._where))
        return found[0] if found else None

    def _pages(self, listing: Callable[..., Any], field: str, name: str | None, **where: str) -> list[Any]:
        """All that a listing has, or what has one name."""
        found: list[Any] = []
        token = ""
        predicate = {"operation": _EQUALS, "key": "display_name", "string_value": name}
        wanted = {"filter": json.dumps({"predicates": [predicate]})} if name is not None else {}
        while True:
            answer = self._call(
                lambda token=token: listing(page_token=token, page_size=PAGE, **wanted, **where, **_TIMED)  # type: ignore[misc]
            )
            found += getattr(answer, field) or ()
            token = answer.next_page_token or ""
            if not token:
                return [one for one in found if name is None or one.display_name == name]

    def _request(self, path: str, body: Any) -> dict[str, Any]:
        sent = self._client.sanitize_for_serialization(body)
        sent["runtime_config"] = redacted(sent["runtime_config"])
        return {"method": "POST", "url": redacted(self.endpoint + path), "headers": self._headers, "body": sent}

    def _ask(self, ask: Callable[[], T], what: str = "") -> T:
        """Call what may be called any number of times."""
        return again(lambda: self._call(ask, what))

    def _call(self, ask: Callable[[], T], what: str = "") -> T:
        """Call the server once; what goes wrong is told in one line."""
        where = redacted(self.endpoint)
        try:
            answer = ask()
            if not isinstance(json.loads(self._client.last_response.data), dict):  # which the client does not mind
                raise ValueError("a JSON object was expected")
            return answer
        except (urllib3.exceptions.NewConnectionError, urllib3.exceptions.ConnectTimeoutError) as error:
            told = f"{where}: {_unreached(error, self.endpoint)}"
            # One that was never there is a wrong address; one that was may come back.
            raise (RemoteError(told) if self._several is None else BusyError(told)) from error
        except urllib3.exceptions.ReadTimeoutError as error:
            raise UnsureError(f"{where}: no answer within {TIMEOUT[1]} s") from error
        except urllib3.exceptions.SSLError as error:
            raise _tls(where, error) from error
        except (urllib3.exceptions.HTTPError, ConnectionError) as error:
            raise UnsureError(f"{where}: the connection broke ({first_line(str(error))})") from error
        except api.ApiException as error:
            raise self._refused(error, where, what) from error
        except (AttributeError, TypeError, ValueError) as error:
            if isinstance(error.__context__, api.ApiException):  # its body is no text, or there is none: TLS
                if not error.__context__.status:
                    raise _tls(where, error.__context__) from error
                raise self._refused(error.__context__, where, what) from error
            raise RemoteError(
                f"{where}: what answers there does not speak the v2beta1 API of Kubeflow Pipelines 2 "
                f"({first_line(str(error))})"
            ) from error

    def _refused(self, error: api.ApiException, where: str, what: str) -> RemoteError:
        said = _said(error.body)
        status = int(error.status or 0)
        if 300 <= status < 400:
            return RemoteError(f"{where}: asks for a login first; set KFP_TOKEN, KFP_TOKEN_FILE or KFP_COOKIE")
        if status == 401:
            return RemoteError(
                f"{where}: not logged in (401); set KFP_TOKEN, KFP_TOKEN_FILE or KFP_COOKIE, or renew it"
            )
        if status == 403:
            return RemoteError(f"{where}: not allowed (403){f': {said}' if said else ''}")
        if status == 404 and said:
            return NotFoundError(f"{where}: no {what or 'such thing'}: {said}" if what else f"{where}: {said}")
        if status in (404, 405):
            return _not_there(where, str(status))
        if status in (429, 503):
            return BusyError(f"{where}: busy ({status}){f': {said}' if said else ''}")
        if status in (502, 504):
            return UnsureError(f"{where}: the server cannot be reached behind its gateway ({status})")
        return RemoteError(f"{where}: refused ({status}): {said or error.reason}")


_TIMED = {"_request_timeout": TIMEOUT}


def _steps(run: api.V2beta1Run, state: State) -> Sequence[RemoteStep]:
    """The tasks of the pipeline, in its order, with what Argo's nodes of these names say.

    The nodes that Argo adds around them are left out; a task without a node was not reached.
    """
    nodes: dict[str, list[api.V2beta1PipelineTaskDetail]] = {}
    for node in (run.run_details.task_details or ()) if run.run_details else ():
        nodes.setdefault(node.display_name or "", []).append(node)
    spec = run.pipeline_spec or {}
    known = jobs.tasks(spec.get("pipeline_spec", spec))
    if not known:
        known = [
            jobs.Task(name, looks_up=False) for name in nodes if not (_MACHINERY.match(name) or _RETRY.search(name))
        ]
    return steps(known, {name: [_step(node) for node in there] for name, there in nodes.items()}, state)


def _step(node: api.V2beta1PipelineTaskDetail) -> RemoteStep:
    return RemoteStep(
        name=node.display_name,
        state=_state(node.state),
        started=_time(node.start_time),
        ended=_time(node.end_time),
        message=first_line(node.error.message if node.error and node.error.message else ""),
    )


def _state(text: str | None) -> State:
    known = {
        None: State.PENDING,
        "RUNTIME_STATE_UNSPECIFIED": State.PENDING,
        "CANCELING": State.RUNNING,
    }
    if text in known:
        return known[text]
    return State[text] if text and text in State.__members__ else State.UNKNOWN


def _time(when: datetime | None) -> datetime | None:
    """None also for the zero hour, which the server gives where there is no time yet."""
    return when if when is not None and when.timestamp() > 0 else None


def _said(body: str | None) -> str:
    """What the server says was wrong, without what it wrapped around that."""
    try:
        answer = json.loads(body or "")
    except ValueError:
        return ""
    if not isinstance(answer, dict):
        return ""
    return first_line(str(answer.get("message") or answer.get("error") or ""))


def _unreached(error: Exception, endpoint: str) -> str:
    """Why there is no connection; urllib3 keeps the system's reason only in its text."""
    if isinstance(error, urllib3.exceptions.NameResolutionError):
        return f"no such host ({urlsplit(endpoint).hostname})"
    if isinstance(error, urllib3.exceptions.NewConnectionError):
        text = first_line(str(error))
        return f"cannot connect: {text.rpartition('Errno')[2].partition(']')[2].strip() or text}"
    return f"nothing answers within {TIMEOUT[0]} s"


def _not_there(where: str, status: str) -> RemoteError:
    return RemoteError(
        f"{where}: no Kubeflow Pipelines 2 there (its v2beta1 API gives {status}): another server, or Kubeflow "
        "Pipelines 1, or another path (on a full Kubeflow it ends in /pipeline)"
    )


def _tls(where: str, error: Exception) -> RemoteError:
    text = first_line(str(getattr(error, "reason", error)).replace("\n", " "))
    return RemoteError(f"{where}: no secure connection ({text}); a CA of your own is named by KFP_CA_FILE")
