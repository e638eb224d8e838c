"""Where the validation job runs: Beam's options, what workers elsewhere can reach, and how a job's failure is told."""

from __future__ import annotations

import contextlib
import io
import re
import uuid
from collections.abc import Iterator, Mapping, Sequence

import grpc
from apache_beam.io.filesystems import FileSystems
from apache_beam.options.pipeline_options import (
    DirectOptions,
    FlinkRunnerOptions,
    GoogleCloudOptions,
    PipelineOptions,
    PortableOptions,
    SetupOptions,
    StandardOptions,
)
from apache_beam.portability.api import beam_job_api_pb2, beam_job_api_pb2_grpc

from tfslim_core import errors
from tfslim_core.errors import JobError, TfslimError, UsageError, nearest
from tfslim_core.redacting import without_secrets

IN_PROCESS = "FnApiRunner"
# DirectRunner of Beam 2.77 first looks for Prism, a program, on the network.
_IN_PROCESS_NAMES = {"direct", "directrunner", "fnapi", "fnapirunner"}
_ASKED_SECONDS = 20
# Flink's own addresses that mean this machine.
_HERE = ("[local]", "[auto]", "[collection]")
_URL = re.compile(r"[a-z][a-z0-9+.-]+://")


def options_of(beam_options: Sequence[str]) -> PipelineOptions:
    """Beam's options; in this process unless they name a runner, in several processes where they ask for workers.

    Raises:
        UsageError: an option is unknown to Beam and to the runner, or has no such value.
    """
    flags = list(beam_options)
    options, found = _parsed(flags)
    unknown = set(found) - set(PipelineOptions([]).get_all_options())
    standard, direct = options.view_as(StandardOptions), options.view_as(DirectOptions)
    if (standard.runner or IN_PROCESS).lower() in _IN_PROCESS_NAMES:
        standard.runner = IN_PROCESS
        if direct.direct_num_workers != 1 and not any(flag.startswith("--direct_running_mode") for flag in flags):
            direct.direct_running_mode = "multi_processing"
    # What the job needs are modules that workers have; the session that starts it is nothing of theirs.
    options.view_as(SetupOptions).save_main_session = "--save_main_session" in flags
    _check_runner(standard.runner)
    _check_known(unknown, options)
    return options


def in_process(options: PipelineOptions) -> bool:
    """Whether the job runs on this machine without a runner of its own."""
    return bool(options.view_as(StandardOptions).runner == IN_PROCESS)


def processes(options: PipelineOptions) -> int:
    """Worker processes that are started on this machine, 0 for one each core; 1 where it is this process alone."""
    direct = options.view_as(DirectOptions)
    several = in_process(options) and direct.direct_running_mode == "multi_processing"
    return int(direct.direct_num_workers) if several else 1


def check_reachable(options: PipelineOptions, paths: Mapping[str, str]) -> None:
    """Refuse, before anything is submitted, paths that the workers cannot open.

    paths: what each one is -> the path.

    Raises:
        UsageError: a path is local and the workers run in containers or in a cloud, or it is a URL.
    """
    for what, path in paths.items():
        if _URL.match(path):
            raise UsageError(
                f"{what}: {without_secrets(path)}: the job reads local paths; copy it to this machine first"
            )
    where = _elsewhere(options)
    if where is None:
        return
    for what, path in paths.items():
        raise UsageError(
            f"{what}: workers cannot see {path}: {where}; models and data are read from this machine's files so far, "
            "gs:// ones copied here first: run in this process, or on workers that share these files "
            "(--environment_type=EXTERNAL)"
        )


def check_copies_seen(options: PipelineOptions, addresses: Mapping[str, str]) -> None:
    """Refuse what would be copied to this machine for workers that may be elsewhere, before it is copied.

    addresses: what each one is -> its address in a bucket.

    Raises:
        UsageError: the job does not run on this machine alone.
    """
    if in_process(options):
        return
    runner = options.view_as(StandardOptions).runner
    where = _elsewhere(options) or f"{runner} may run them on other machines"
    for what, address in addresses.items():
        raise UsageError(
            f"{what}: {address} would be copied to this machine, where workers cannot see it: {where}; copy it to a "
            "folder that workers on EXTERNAL machines share and give that, or run in this process"
        )


def results_folder(options: PipelineOptions) -> str | None:
    """Where workers on other machines can write: a folder of this run below --temp_location, or None without one.

    Raises:
        UsageError: workers in a cloud, and --temp_location is not one of its addresses.
    """
    location = options.view_as(GoogleCloudOptions).temp_location
    where = _elsewhere(options)
    if where is not None and not _URL.match(location or ""):
        found = f"workers cannot write to --temp_location={location}" if location else "there is no --temp_location"
        raise UsageError(f"{found}: {where}; give --temp_location=gs://BUCKET/FOLDER")
    return f"{location.rstrip('/')}/tfslim-{uuid.uuid4().hex}" if location else None


@contextlib.contextmanager
def cleared(folder: str | None, otherwise: str) -> Iterator[str]:
    """The folder for results, deleted at the end; `otherwise` where there is none."""
    if folder is None:
        yield otherwise
        return
    try:
        yield folder
    finally:
        # The job's own failure, if there is one, is the news; and workers may never have made the folder.
        with contextlib.suppress(Exception):
            FileSystems.delete([folder])


@contextlib.contextmanager
def told(options: PipelineOptions) -> Iterator[None]:
    """Turn what a runner raises into the error that happened in a worker, or into a JobError.

    What fails in this process and is no expected error keeps its traceback.
    """
    try:
        yield
    except Exception as raised:
        if (error := _raised_by_us(raised)) is not None:
            raise error from raised
        if in_process(options):
            raise
        runner = options.view_as(StandardOptions).runner
        raise JobError(f"the job failed on {runner}: {_last_words(str(raised))}") from raised


def _parsed(flags: list[str]) -> tuple[PipelineOptions, Mapping[str, object]]:
    """The options, and all that are set or have a default, unknown ones too."""
    complaint = io.StringIO()
    try:
        with contextlib.redirect_stderr(complaint):
            options = PipelineOptions(flags)
            return options, options.get_all_options(retain_unknown_options=True)
    except SystemExit as end:
        said = complaint.getvalue().strip().rpartition("error: ")[2].splitlines()
        raise UsageError(f"Beam: {said[0] if said else 'its options cannot be read'}") from end


def _check_runner(runner: str) -> None:
    known = StandardOptions.KNOWN_RUNNER_NAMES
    names = {name.lower() for name in known} | {name.lower().removesuffix("runner") for name in known}
    if runner != IN_PROCESS and "." not in runner and runner.lower() not in names:
        raise UsageError(f"--runner: no runner {runner!r}{nearest(runner, known)} (there are: {', '.join(known)})")


def _check_known(unknown: set[str], options: PipelineOptions) -> None:
    """Refuse options that neither Beam nor the runner knows, as far as the runner can be asked."""
    runner, endpoint = options.view_as(StandardOptions).runner, options.view_as(PortableOptions).job_endpoint
    known = set(PipelineOptions([]).get_all_options())
    if endpoint and endpoint != "embed":
        # Asked even where there is nothing to check: nobody there is better told now than minutes later.
        known |= _options_of_server(endpoint)
    elif runner not in (IN_PROCESS, "DataflowRunner"):
        return
    for name in sorted(unknown - known):
        hint = nearest(f"--{name}", [f"--{one}" for one in known])
        raise UsageError(f"--{name}: neither Beam nor {runner} has such an option{hint}")


def _options_of_server(endpoint: str) -> set[str]:
    """The options that a job server takes."""
    try:
        with grpc.insecure_channel(endpoint) as channel:
            asked = beam_job_api_pb2_grpc.JobServiceStub(channel).DescribePipelineOptions(
                beam_job_api_pb2.DescribePipelineOptionsRequest(), timeout=_ASKED_SECONDS, wait_for_ready=True
            )
    except grpc.RpcError as error:
        raise JobError(
            f"--job_endpoint={endpoint}: no job server answered within {_ASKED_SECONDS} seconds; is it running there?"
        ) from error
    return {option.name for option in asked.options}


def _elsewhere(options: PipelineOptions) -> str | None:
    """Why workers cannot see this machine's files; None where they can, or where they may.

    Processes that are started on this machine can; an outer pool (EXTERNAL) may run here or share a file system.
    """
    runner = options.view_as(StandardOptions).runner
    if "dataflow" in runner.lower():
        return f"{runner} runs them on Google's machines"
    if "portable" not in runner.lower() and "flink" not in runner.lower() and "spark" not in runner.lower():
        return None
    kind = options.view_as(PortableOptions).environment_type
    if kind is None and "flink" in runner.lower() and options.view_as(FlinkRunnerOptions).flink_master in _HERE:
        return None
    return f"{runner} runs them in containers (--environment_type=DOCKER)" if (kind or "DOCKER") == "DOCKER" else None


def _raised_by_us(raised: Exception) -> TfslimError | None:
    """The error that tfslim raised in a worker, out of what Beam made of it: another message, or a traceback."""
    kind, message = type(raised), str(raised)
    if found := re.search(r"tfslim_core\.errors\.(\w+): (.+)", message):
        kind, message = getattr(errors, found[1], kind), found[2]
    return kind(message.partition(" [while running")[0]) if issubclass(kind, TfslimError) else None


def _last_words(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1][:500] if lines else "it did not say why"
