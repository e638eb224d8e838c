"""The commands that talk to a server: submit, schedule and status."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pipelines.options import ArgOption, PipelineOption, TrainerOption, find_pipeline
from tfslim_core.errors import UsageError

if TYPE_CHECKING:
    from pipelines.remote.job import Job
    from pipelines.remote.runs import Platform, RemoteRun, Schedule

DAY = 24 * 3600.0


class To(StrEnum):
    """The platforms."""

    KUBEFLOW = "kubeflow"
    VERTEX = "vertex"


ToOption = Annotated[To, typer.Option("--to", help="Kubeflow Pipelines, or Vertex AI Pipelines.")]
EndpointOption = Annotated[
    str, typer.Option("--endpoint", metavar="URL", help="The server; from KFP_ENDPOINT unless told. Vertex: its own.")
]
NamespaceOption = Annotated[
    str, typer.Option("--namespace", metavar="NS", help="Kubeflow: where a server has one for each team.")
]
ExperimentOption = Annotated[
    str, typer.Option("--experiment", metavar="NAME", help="Kubeflow: what the run is listed under; made if need be.")
]
ProjectOption = Annotated[str, typer.Option("--project", help="Vertex: from GOOGLE_CLOUD_PROJECT unless told.")]
LocationOption = Annotated[
    str, typer.Option("--location", help="Vertex: such as europe-west4; from GOOGLE_CLOUD_REGION unless told.")
]
RootOption = Annotated[
    str, typer.Option("--root", metavar="URI", help="Where the steps write; Vertex needs gs://BUCKET/PATH.")
]
AccountOption = Annotated[str, typer.Option("--service-account", help="What the steps run as.")]
NoCacheOption = Annotated[bool, typer.Option("--no-cache", help="Run every step anew.")]
DryRunOption = Annotated[bool, typer.Option("--dry-run", help="Print what would be sent, and send nothing.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def register(app: typer.Typer, one_line: Callable[[], AbstractContextManager[None]]) -> None:
    """Add the commands to an app. one_line: tells an expected error in one line."""
    commands = _Commands(one_line)
    for command in (commands.submit, commands.schedule, commands.status):
        app.command()(command)


@dataclass(frozen=True)
class _Commands:
    one_line: Callable[[], AbstractContextManager[None]]

    def submit(
        self,
        pipeline: PipelineOption = "slim",
        arg: ArgOption = None,
        trainer: TrainerOption = None,
        to: ToOption = To.KUBEFLOW,
        endpoint: EndpointOption = "",
        namespace: NamespaceOption = "",
        experiment: ExperimentOption = "tfslim",
        name: Annotated[
            str, typer.Option("--name", metavar="RUN", help="The run's name; one with the time unless told.")
        ] = "",
        wait: Annotated[bool, typer.Option("--wait", "--follow", help="Follow it to its end.")] = False,
        timeout: Annotated[
            float, typer.Option("--timeout", metavar="SECONDS", min=0, help="How long to follow.")
        ] = DAY,
        project: ProjectOption = "",
        location: LocationOption = "",
        root: RootOption = "",
        service_account: AccountOption = "",
        no_cache: NoCacheOption = False,
        dry_run: DryRunOption = False,
        as_json: JsonOption = False,
    ) -> None:
        """Start a run on Kubeflow Pipelines or Vertex AI; --wait ends as `run` does: 0 passed, 1, 3 or 4."""
        with self.one_line():
            job = _job(pipeline, arg, trainer, no_cache)
            platform = _platform(to, endpoint, namespace, experiment, project, location, root, service_account)
            _tell_image()
            name = _named(name or f"{pipeline} {time.strftime('%Y-%m-%d %H:%M:%S')}")
            if dry_run:
                _show(platform.submission(job, name), as_json)
                return
            platform.connect()
            run = platform.submit(job, name)
            if not as_json:
                print(f"run: {run.id}\n{run.url}", flush=True)
            exit_code, message = 0, ""
            if wait:
                run, exit_code, message = _wait(platform, run, timeout)
            if as_json:
                print(json.dumps(_run_json(run), indent=2))
        _end(exit_code, message)

    def schedule(
        self,
        pipeline: PipelineOption = "slim",
        arg: ArgOption = None,
        trainer: TrainerOption = None,
        name: Annotated[
            str, typer.Option("--name", metavar="NAME", help="Of the schedule: there is one of a name.")
        ] = "",
        cron: Annotated[
            str, typer.Option("--cron", metavar="'0 2 * * *'", help="Minute, hour, day of month, month, day of week.")
        ] = "",
        timezone: Annotated[
            str, typer.Option("--timezone", metavar="ZONE", help="Vertex: such as Europe/Berlin; UTC unless told.")
        ] = "",
        max_concurrency: Annotated[
            int, typer.Option("--max-concurrency", min=1, max=10, help="Runs of it at the same time.")
        ] = 1,
        catchup: Annotated[
            bool,
            typer.Option(
                "--catchup/--no-catchup", help="Whether missed runs are made up for; on Vertex with --resume."
            ),
        ] = False,
        list_all: Annotated[bool, typer.Option("--list", help="Show the schedules.")] = False,
        pause: Annotated[str, typer.Option("--pause", metavar="NAME", help="Start no more runs.")] = "",
        resume: Annotated[str, typer.Option("--resume", metavar="NAME", help="Start runs again.")] = "",
        delete: Annotated[str, typer.Option("--delete", metavar="NAME", help="Delete it; its runs stay.")] = "",
        to: ToOption = To.KUBEFLOW,
        endpoint: EndpointOption = "",
        namespace: NamespaceOption = "",
        experiment: ExperimentOption = "tfslim",
        project: ProjectOption = "",
        location: LocationOption = "",
        root: RootOption = "",
        service_account: AccountOption = "",
        no_cache: NoCacheOption = False,
        dry_run: DryRunOption = False,
        as_json: JsonOption = False,
    ) -> None:
        """Run a pipeline on a schedule: create or change the one of this name, or list, pause, resume, delete."""
        with self.one_line():
            from pipelines.remote import scheduling
            from pipelines.remote.cron import parse
            from pipelines.remote.runs import Plan

            given = {"--cron": cron, "--list": list_all, "--pause": pause, "--resume": resume, "--delete": delete}
            chosen = [option for option, value in given.items() if value]
            if len(chosen) != 1:
                raise UsageError(f"give one of {', '.join(given)}{f', not {chr(32).join(chosen)}' if chosen else ''}")
            platform = _platform(to, endpoint, namespace, experiment, project, location, root, service_account)
            if cron:
                if not name:
                    raise UsageError("--cron needs --name, the schedule's")
                _tell_image()
                options = (("namespace", namespace), ("root", root), ("service account", service_account))
                plan = Plan(
                    name=_named(name),
                    job=_job(pipeline, arg, trainer, no_cache),
                    cron=parse(cron, timezone),
                    max_concurrency=max_concurrency,
                    catchup=catchup,
                    options=options,
                )
                request = platform.scheduling(plan)  # also refuses what the platform cannot do
                if dry_run:
                    _show(request, as_json)
                    return
                platform.connect()
                found, what = scheduling.put(platform, plan)
                coming = found.next_run or plan.cron.next_times(datetime.now(UTC), 1)[0]
                _told(found, what, as_json, coming)
                return
            if dry_run or name or arg or trainer:
                raise UsageError(f"{chosen[0]} takes no --dry-run, --name, --arg or --trainer")
            platform.connect()
            if list_all:
                _list(platform.schedules(), as_json)
            elif pause:
                _told(scheduling.pause(platform, pause), "paused", as_json)
            elif resume:
                _told(scheduling.resume(platform, resume, catchup=catchup), "resumed", as_json)
            else:
                _told(scheduling.delete(platform, delete), "deleted", as_json)

    def status(
        self,
        run_id: Annotated[str, typer.Argument(metavar="[RUN_ID]", help="A run; the last runs unless told.")] = "",
        name: Annotated[str, typer.Option("--name", metavar="SCHEDULE", help="The last runs of a schedule.")] = "",
        limit: Annotated[int, typer.Option("--limit", min=1, max=1000, help="How many runs to list.")] = 10,
        to: ToOption = To.KUBEFLOW,
        endpoint: EndpointOption = "",
        namespace: NamespaceOption = "",
        project: ProjectOption = "",
        location: LocationOption = "",
        as_json: JsonOption = False,
    ) -> None:
        """How a run went, step by step; or the last runs, of all or of a schedule."""
        with self.one_line():
            from pipelines.remote import scheduling

            if run_id and name:
                raise UsageError("give a run's id or a schedule's --name, not both")
            platform = _platform(to, endpoint, namespace, "tfslim", project, location, "", "")
            platform.connect()
            if run_id:
                _show_run(platform.run(run_id), as_json)
                return
            schedule = scheduling.find(platform, name) if name else None
            runs = platform.runs(limit, schedule)
            if as_json:
                listed = [_run_json(run) for run in runs]
                print(
                    json.dumps(
                        {**({"schedule": _schedule_json(schedule)} if schedule else {}), "runs": listed}, indent=2
                    )
                )
                return
            if schedule:
                print(_schedule_line(schedule))
            for run in runs:
                print(f"{run.id}  {run.state.value:<9}  {_moment(run.created)}  {run.name}")
            if not runs:
                print("no runs yet")


def _job(name: str, arg: Sequence[str] | None, trainer: str | None, no_cache: bool) -> Job:
    from pipelines.arguments import check_elsewhere, parameters, parse
    from pipelines.remote.job import prepare

    wanted = find_pipeline(name, trainer)
    values = parse(arg or (), parameters(wanted), complete=True)
    check_elsewhere(values)
    return prepare(name, wanted, values, cache=not no_cache)


def _platform(
    to: To, endpoint: str, namespace: str, experiment: str, project: str, location: str, root: str, service_account: str
) -> Platform:
    environ = os.environ
    strange = {"--namespace": namespace} if to is To.VERTEX else {"--project": project, "--location": location}
    for option, value in strange.items():
        if value:
            raise UsageError(f"{option} is not for --to {to.value}")
    if to is To.VERTEX:
        from pipelines.remote.vertex import Vertex

        project = project or environ.get("GOOGLE_CLOUD_PROJECT", "")
        location = location or environ.get("GOOGLE_CLOUD_REGION", "")
        if not (project and location):
            raise UsageError(
                "--to vertex needs --project and --location (or GOOGLE_CLOUD_PROJECT, GOOGLE_CLOUD_REGION)"
            )
        return Vertex(project, location, root, service_account=service_account, endpoint=endpoint, environ=environ)

    from pipelines.remote.kubeflow import Kubeflow
    from pipelines.remote.kubeflow_access import ENDPOINT

    endpoint = endpoint or next((environ[name] for name in ENDPOINT if environ.get(name)), "")
    if not endpoint:
        raise UsageError("--endpoint is missing: the address of Kubeflow Pipelines, or set KFP_ENDPOINT")
    return Kubeflow(
        endpoint,
        namespace=namespace or environ.get("KFP_NAMESPACE", ""),
        experiment=experiment,
        root=root,
        service_account=service_account,
        environ=environ,
    )


def _tell_image() -> None:
    if not os.environ.get("TFSLIM_IMAGE"):
        from components.image import IMAGE

        print(f"note: TFSLIM_IMAGE is not set; the steps will run in {IMAGE}, of no registry", file=sys.stderr)


def _named(name: str) -> str:
    if not name.isprintable() or name != name.strip() or len(name) > 128:
        raise UsageError(
            f"--name {name[:40]!r}: a name has at most 128 characters, all printable, no space at its ends"
        )
    return name


def _wait(platform: Platform, run: RemoteRun, timeout: float) -> tuple[RemoteRun, int, str]:
    from rich.console import Console

    from pipelines.remote.following import follow, reminding, teller

    with reminding(run):
        done = follow(platform, run.id, timeout, teller(Console(stderr=True)))
    return (done, *done.judge())


def _end(exit_code: int, message: str) -> None:
    if exit_code:
        print(f"pipelines: {message}", file=sys.stderr)
        raise typer.Exit(exit_code)
    if message:
        print(message, file=sys.stderr)


def _show(request: dict[str, Any], as_json: bool) -> None:
    import yaml

    print(
        json.dumps(request, indent=2) if as_json else yaml.safe_dump(request, sort_keys=False, allow_unicode=True),
        end="",
    )
    if as_json:
        print()


def _show_run(run: RemoteRun, as_json: bool) -> None:
    if as_json:
        print(json.dumps(_run_json(run), indent=2))
        return
    from rich.console import Console

    from pipelines.remote.following import line

    console = Console(highlight=False, soft_wrap=True)
    took = f" after {(run.ended - run.created).total_seconds():.0f} s" if run.ended and run.created else ""
    console.print(f"{run.name}: {run.state.value}{took}, started {_moment(run.created)}", markup=False)
    for step in run.steps:
        if not step.looks_up or step.state.value == "failed":
            console.print(line(step))
    if run.state.over:
        console.print(run.judge()[1], markup=False)
    console.print(run.url, markup=False)


def _list(schedules: Sequence[Schedule], as_json: bool) -> None:
    if as_json:
        print(json.dumps([_schedule_json(one) for one in schedules], indent=2))
        return
    for one in schedules:
        print(_schedule_line(one))
    if not schedules:
        print("no schedules")


def _told(schedule: Schedule, what: str, as_json: bool, coming: datetime | None = None) -> None:
    if as_json:
        print(json.dumps({"done": what, **_schedule_json(schedule)}, indent=2))
        return
    print(f"{what}: {_schedule_line(schedule)}")
    if coming and schedule.active:
        print(f"next run: {_moment(coming)}")
    if what != "deleted":
        print(schedule.url)


def _schedule_line(schedule: Schedule) -> str:
    return f"{schedule.name}  {schedule.cron}  {'active' if schedule.active else 'paused'}  {schedule.id}"


def _schedule_json(schedule: Schedule) -> dict[str, Any]:
    return {
        "id": schedule.id,
        "name": schedule.name,
        "cron": schedule.cron,
        "active": schedule.active,
        "max_concurrency": schedule.max_concurrency,
        "catchup": schedule.catchup,
        "created": _iso(schedule.created),
        "url": schedule.url,
    }


def _run_json(run: RemoteRun) -> dict[str, Any]:
    found = {
        "id": run.id,
        "name": run.name,
        "state": run.state.value,
        "url": run.url,
        "created": _iso(run.created),
        "ended": _iso(run.ended),
    }
    if not run.steps:
        return found
    steps = [
        {
            "name": step.name,
            "state": step.state.value,
            "seconds": round(step.seconds, 1) if step.seconds is not None else None,
            "message": step.message,
        }
        for step in run.steps
    ]
    code, message = run.judge() if run.state.over else (None, "")
    return {**found, "verdict": run.verdict, "exit_code": code, "message": message, "steps": steps}


def _moment(when: datetime | None) -> str:
    return f"{when:%Y-%m-%d %H:%M:%S %Z}".strip() if when else "-"


def _iso(when: datetime | None) -> str | None:
    return when.isoformat() if when else None
