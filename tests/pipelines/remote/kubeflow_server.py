"""A stand-in for the API server of Kubeflow Pipelines: no pod ever runs behind it.

What the real one publishes decides here what is right: a request has to be an operation of the API with its query
parameters and a body of its type, a pipeline has to be a PipelineSpec with the arguments that it declares, and what is
answered is of the published type too. How it behaves beyond that (times in whole seconds, names that may be there
twice, namespaces, the words of errors) follows the source of the real one. How a run goes is told to it by the test, as
the nodes that Argo would have.
"""

from __future__ import annotations

import itertools
import json
import re
import ssl
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from google.protobuf import json_format
from kfp.pipeline_spec import pipeline_spec_pb2

from tests.pipelines.remote import published
from tests.pipelines.remote.serving import Answer, Faults, Request, serving

_ROUTES = published.routes()
_EPOCH = "1970-01-01T00:00:00Z"
_NUMBER = r"(\d+|[A-Za-z]{3})"
_CRON_PART = rf"(\*|\?|{_NUMBER}(-{_NUMBER})?)(/\d+)?"
_CRON_FIELD = rf"{_CRON_PART}(,{_CRON_PART})*"


class RefusedError(Exception):
    def __init__(self, status: int, code: int, message: str) -> None:
        super().__init__(message)
        self.answer = Answer(status, {"code": code, "message": message, "details": []})


def _invalid(message: str) -> RefusedError:
    return RefusedError(400, 3, f"Invalid input error: {message}")


@dataclass
class KubeflowServer:
    """url: where it serves. several: its namespaces. token: what a request has to carry. made: all runs ever."""

    url: str = ""
    several: tuple[str, ...] = ()
    token: str = ""
    prefix: str = ""
    faults: Faults = field(default_factory=Faults)
    seen: list[Request] = field(default_factory=list)
    experiments: dict[str, dict[str, Any]] = field(default_factory=dict)
    runs: dict[str, dict[str, Any]] = field(default_factory=dict)
    made: list[str] = field(default_factory=list)
    recurring: dict[str, dict[str, Any]] = field(default_factory=dict)
    lock: threading.Lock = field(default_factory=threading.Lock)
    clock: Iterator[int] = field(default_factory=lambda: itertools.count())

    def answer(self, request: Request) -> Answer:
        with self.lock:
            try:
                return self._answer(request)
            except RefusedError as refused:
                return refused.answer

    def drive(self, run_id: str, state: str, nodes: dict[str, str], error: str = "") -> None:
        """Let a run be in a state, with Argo's nodes, name -> state."""
        run = self.runs[run_id]
        run["state"] = state
        over = state in ("SUCCEEDED", "FAILED", "CANCELED")
        run["finished_at"] = self.time(90) if over else _EPOCH
        details = [self._node(run_id, name, how, error) for name, how in nodes.items()]
        run["run_details"] = {"task_details": details}
        if error and state == "FAILED":
            run["error"] = {"code": 13, "message": error}

    def time(self, seconds: int = 0) -> str:
        return (datetime(2026, 1, 1, tzinfo=UTC) + timedelta(seconds=seconds)).strftime("%Y-%m-%dT%H:%M:%SZ")

    def _node(self, run_id: str, name: str, state: str, error: str) -> dict[str, Any]:
        node = {"run_id": run_id, "task_id": str(uuid.uuid4()), "display_name": name, "state": state}
        node |= {"create_time": self.time(), "start_time": self.time(5), "pod_name": f"tfslim-{name}"}
        node["end_time"] = self.time(17) if state in ("SUCCEEDED", "FAILED") else _EPOCH
        return node | ({"error": {"code": 13, "message": error}} if error and state == "FAILED" else {})

    def _answer(self, request: Request) -> Answer:
        path = request.path
        if self.prefix:
            if not path.startswith(self.prefix):
                return Answer(404, "<html>nothing here</html>", {"Content-Type": "text/html"})
            path = path.removeprefix(self.prefix)
        fitting = [
            (name, found)
            for name, method, pattern in _ROUTES
            if method == request.method and (found := pattern.match(path))
        ]
        if not fitting:
            return Answer(404, {"code": 5, "message": "Not Found", "details": []})
        operation, found = fitting[0]
        if self.token and request.headers.get("authorization") != f"Bearer {self.token}":
            return Answer(401, "Jwt is missing", {"Content-Type": "text/plain"})
        unknown = set(request.query) - published.parameters(operation)
        if unknown:
            raise _invalid(f"no such query parameters of {operation}: {unknown}")
        kind, body = getattr(self, f"_{operation}")(request, **found.groupdict())
        wrong = published.problems(body, kind)
        assert not wrong, f"the stand-in itself answers {operation} with what is not published: {wrong}"
        return Answer(200, body)

    def _body(self, request: Request, kind: str) -> dict[str, Any]:
        wrong = published.problems(request.body, kind) or published.only_answered(request.body, kind)
        if wrong:
            raise _invalid("; ".join(wrong))
        return json.loads(json.dumps(request.body))

    def _namespace(self, namespace: str) -> None:
        if not self.several:
            if namespace:
                raise _invalid("In single-user mode, the request shouldn't contain a namespace")
        elif not namespace:
            raise _invalid("a namespace cannot be empty in multi-user mode")
        elif namespace not in self.several:
            raise RefusedError(403, 7, f"User 'someone' is not authorized with reason: namespace {namespace!r}")

    def _healthz_service_get_healthz(self, request: Request) -> tuple[str, Any]:
        return "V2beta1GetHealthzResponse", {"multi_user": bool(self.several)}

    # Experiments

    def _experiment_service_list_experiments(self, request: Request) -> tuple[str, Any]:
        self._namespace(request.query.get("namespace", ""))
        there = [one for one in self.experiments.values() if self._in(one, request)]
        return "V2beta1ListExperimentsResponse", self._page(there, "experiments", request)

    def _experiment_service_create_experiment(self, request: Request) -> tuple[str, Any]:
        new = self._body(request, "V2beta1Experiment")
        self._namespace(new.get("namespace", ""))
        for one in self.experiments.values():
            if (one["display_name"], one.get("namespace")) == (new["display_name"], new.get("namespace")):
                raise RefusedError(409, 6, f"Already exist error: an experiment with name {new['display_name']} exists")
        new |= {"experiment_id": str(uuid.uuid4()), "created_at": self.time(next(self.clock))}
        self.experiments[new["experiment_id"]] = new
        return "V2beta1Experiment", new

    # Runs

    def _run_service_create_run(self, request: Request) -> tuple[str, Any]:
        new = self._body(request, "V2beta1Run")
        if not new.get("display_name"):
            raise _invalid("The run name is empty. Please specify a valid name")
        self._known_experiment(new)
        self._runs_as_told(new)
        new |= {"run_id": str(uuid.uuid4()), "state": "PENDING", "storage_state": "AVAILABLE", "finished_at": _EPOCH}
        new["created_at"] = self.time(next(self.clock))
        self.runs[new["run_id"]] = new
        self.made.append(new["run_id"])
        return "V2beta1Run", new

    def _run_service_get_run(self, request: Request, run_id: str) -> tuple[str, Any]:
        return "V2beta1Run", self._there(self.runs, run_id, "Run")

    def _run_service_list_runs(self, request: Request) -> tuple[str, Any]:
        if "experiment_id" not in request.query:
            self._namespace(request.query.get("namespace", ""))
        there = [run for run in self.runs.values() if self._in(self.experiments[run["experiment_id"]], request)]
        if wanted := request.query.get("experiment_id"):
            there = [run for run in there if run["experiment_id"] == wanted]
        return "V2beta1ListRunsResponse", self._page(there, "runs", request)

    def _run_service_terminate_run(self, request: Request, run_id: str) -> tuple[str, Any]:
        self._there(self.runs, run_id, "Run")["state"] = "CANCELED"
        return "object", {}

    def _run_service_delete_run(self, request: Request, run_id: str) -> tuple[str, Any]:
        self._there(self.runs, run_id, "Run")
        del self.runs[run_id]
        return "object", {}

    # Recurring runs

    def _recurring_run_service_create_recurring_run(self, request: Request) -> tuple[str, Any]:
        new = self._body(request, "V2beta1RecurringRun")
        if not 1 <= int(new.get("max_concurrency", 0)) <= 10:
            raise _invalid("The max concurrency of the recurring run is out of range. Support 1-10")
        cron = new.get("trigger", {}).get("cron_schedule", {}).get("cron", "")
        if not re.fullmatch(rf"{_CRON_FIELD}( {_CRON_FIELD}){{5}}", cron) or "7" in cron.split()[5]:
            raise _invalid(f"Schedule cron is not a supported format. Expected exactly 6 fields: {cron}")
        self._known_experiment(new)
        self._runs_as_told(new)
        new |= {"recurring_run_id": str(uuid.uuid4()), "created_at": self.time(next(self.clock))}
        new["status"] = "ENABLED" if new.pop("mode") == "ENABLE" else "DISABLED"
        self.recurring[new["recurring_run_id"]] = new
        return "V2beta1RecurringRun", new

    def _recurring_run_service_list_recurring_runs(self, request: Request) -> tuple[str, Any]:
        self._namespace(request.query.get("namespace", ""))
        there = [one for one in self.recurring.values() if self._in(self.experiments[one["experiment_id"]], request)]
        return "V2beta1ListRecurringRunsResponse", self._page(there, "recurringRuns", request)

    def _recurring_run_service_delete_recurring_run(self, request: Request, recurring_run_id: str) -> tuple[str, Any]:
        self._there(self.recurring, recurring_run_id, "Job")
        del self.recurring[recurring_run_id]
        return "object", {}

    def _recurring_run_service_disable_recurring_run(self, request: Request, recurring_run_id: str) -> tuple[str, Any]:
        self._there(self.recurring, recurring_run_id, "Job")["status"] = "DISABLED"
        return "object", {}

    def _recurring_run_service_enable_recurring_run(self, request: Request, recurring_run_id: str) -> tuple[str, Any]:
        self._there(self.recurring, recurring_run_id, "Job")["status"] = "ENABLED"
        return "object", {}

    # What they share

    def _there(self, known: dict[str, Any], one: str, kind: str) -> Any:
        if one not in known:
            raise RefusedError(404, 5, f"ResourceNotFoundError: {kind} {one} not found")
        return known[one]

    def _in(self, experiment: dict[str, Any], request: Request) -> bool:
        return (
            not self.several
            or "namespace" not in request.query
            or experiment["namespace"] == request.query["namespace"]
        )

    def _known_experiment(self, new: dict[str, Any]) -> None:
        if new.get("experiment_id") not in self.experiments:
            raise RefusedError(404, 5, f"ResourceNotFoundError: Experiment {new.get('experiment_id')} not found")

    def _runs_as_told(self, new: dict[str, Any]) -> None:
        """Refuse what cannot run: no PipelineSpec, or arguments that it does not declare, lacks, or has otherwise."""
        given = new.get("pipeline_spec", {})
        try:
            spec = json_format.ParseDict(given.get("pipeline_spec", given), pipeline_spec_pb2.PipelineSpec())
            json_format.ParseDict(given.get("platform_spec", {}), pipeline_spec_pb2.PlatformSpec())
        except json_format.ParseError as error:
            raise _invalid(f"not a pipeline: {error}") from error
        if not spec.pipeline_info.name or not spec.root.dag.tasks:
            raise _invalid("a pipeline has to have a name and tasks")
        for task in spec.root.dag.tasks.values():
            if task.component_ref.name not in spec.components:
                raise _invalid(f"no component {task.component_ref.name}")
        values = new.get("runtime_config", {}).get("parameters", {})
        declared = spec.root.input_definitions.parameters
        for name in values:
            if name not in declared:
                raise _invalid(f"parameter {name} is not found in the pipeline")
        types = {"STRING": str, "NUMBER_INTEGER": int, "NUMBER_DOUBLE": (int, float), "BOOLEAN": bool, "LIST": list}
        for name, parameter in declared.items():
            optional = parameter.is_optional or parameter.HasField("default_value")
            if name not in values and not optional:
                raise _invalid(f"parameter {name} is required")
            kind = pipeline_spec_pb2.ParameterType.ParameterTypeEnum.Name(parameter.parameter_type)
            if name in values and not isinstance(values[name], types.get(kind, object)):
                raise _invalid(f"parameter {name} is not {kind}")

    def _page(self, there: list[dict[str, Any]], name: str, request: Request) -> dict[str, Any]:
        for predicate in self._predicates(request):
            key, wanted = predicate["key"], predicate["string_value"]
            there = [one for one in there if one.get(key) == wanted]
        if request.query.get("sort_by"):
            key, _, order = request.query["sort_by"].partition(" ")
            there = sorted(there, key=lambda one: one[key], reverse=order == "desc")
        start, size = int(request.query.get("page_token") or 0), min(int(request.query.get("page_size") or 20), 3)
        page = {name: there[start : start + size], "total_size": len(there)}
        return page | ({"next_page_token": str(start + size)} if start + size < len(there) else {})

    def _predicates(self, request: Request) -> list[dict[str, Any]]:
        if not request.query.get("filter"):
            return []
        wanted = json.loads(request.query["filter"])
        wrong = published.problems(wanted, "V2beta1Filter")
        if wrong or any(one["operation"] != "EQUALS" or one["key"] != "display_name" for one in wanted["predicates"]):
            raise _invalid(f"the filter: {wrong or wanted}")
        return list(wanted["predicates"])


@contextmanager
def kubeflow_server(tls: ssl.SSLContext | None = None, **settings: Any) -> Iterator[KubeflowServer]:
    server = KubeflowServer(**settings)
    with serving(server.answer, server.faults, server.seen, tls) as url:
        server.url = url + server.prefix
        yield server
