"""Steps in containers: what an engine has to be told so that they see what the arguments name, and the run of one.

kfp starts containers that remove themselves, and with them how they ended and what they said last; `run` takes the
place of what its handler of tasks does. The Python package docker is an extra, and so imported only where it is used.
"""

from __future__ import annotations

import glob
import os
import resource
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kfp import local
from kfp.pipeline_spec import pipeline_spec_pb2

from pipelines.arguments import WRITTEN, paths
from tfslim_core.errors import UsageError

if TYPE_CHECKING:
    import docker
    from docker.models.containers import Container
    from kfp.local import docker_task_handler

# What a container needs of the world outside to reach a bucket.
_PASSED_ON = ("STORAGE_EMULATOR_HOST", "GOOGLE_CLOUD_PROJECT", "TF_CPP_MIN_LOG_LEVEL")
_PROXIES = ("HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "no_proxy")
_KEY_FILE = "GOOGLE_APPLICATION_CREDENTIALS"


@contextmanager
def runner(spec: pipeline_spec_pb2.PipelineSpec, arguments: Mapping[str, Any]) -> Iterator[local.DockerRunner]:
    """Containers that see what the arguments name, at the same paths, and write as who runs this.

    What the pipeline will write to is there before, since nothing else can be mounted, and gone after if still empty.

    Raises:
        UsageError: docker is not installed, no engine answers, an image is missing, or a path cannot be shown.
    """
    try:
        import docker
    except ImportError:
        raise UsageError("--runner docker needs the Python package docker; call: pip install docker") from None
    try:
        client = docker.from_env()
        told = client.info()
    except docker.errors.DockerException as error:
        raise UsageError(
            "--runner docker: no engine answers; start Docker, or Podman's service and name its socket in DOCKER_HOST "
            f"({_first_line(error)})"
        ) from None
    seen = places(arguments)
    for image in _images(spec):
        _have(client, image)
    client.close()
    if key := os.environ.get(_KEY_FILE):
        seen.setdefault(Path(key).absolute(), True)
    environment = {name: os.environ[name] for name in (*_PASSED_ON, *_PROXIES) if name in os.environ}
    # An engine that runs without root takes root in a container for who started it. Docker says so, and Podman so.
    rootless = "name=rootless" in told.get("SecurityOptions", []) or told.get("Rootless")
    user = "0:0" if rootless else f"{os.getuid()}:{os.getgid()}"
    with _made(path for path, read_only in seen.items() if not read_only):
        yield local.DockerRunner(
            mounts=[
                docker.types.Mount(str(path), str(path), type="bind", read_only=read_only)
                for path, read_only in seen.items()
                if path.exists()
            ],
            user=user,
            environment={"HOME": "/tmp", **environment, **({_KEY_FILE: str(Path(key).absolute())} if key else {})},
            network_mode="host",  # as for a process: a proxy, an emulator or a Beam runner on this machine
            security_opt=["label=disable"],  # or SELinux hides what is mounted
            ulimits=_limits(),
        )


def places(arguments: Mapping[str, Any]) -> dict[Path, bool]:
    """Path here that the arguments name -> whether it is only read.

    Raises:
        UsageError: there is a link in one that is read to what a container would not see.
    """
    found: dict[Path, bool] = {}
    for name, text in paths(arguments):
        path = _before_pattern(Path(text))
        found[path] = found.get(path, True) and name not in WRITTEN
    for path in (one for one, read_only in found.items() if read_only):
        for link in _links(path):
            target = Path(os.path.normpath(link.parent / link.readlink()))
            if not any(target.is_relative_to(shown) for shown in found):
                raise UsageError(
                    f"--runner docker: containers would not see {link}, a link to {target}; copy {path} without links "
                    "(cp -rL) and give the copy"
                )
    return found


def _before_pattern(path: Path) -> Path:
    """The path, or the directory before the first wildcard of a pattern."""
    if path.exists():
        return path
    return next(one for one in (path, *path.parents) if not glob.has_magic(str(one)))


def run(
    handler: docker_task_handler.DockerTaskHandler, *, start: Callable[[Container], bool], said: Callable[[str], None]
) -> int:
    """Run a task in a container and give its exit code; 1 where the engine failed.

    start: called with the container; starts it and says whether it did. said: takes a line of its log.
    """
    import docker
    import requests

    # As text, `source:target`, a path with a colon could not be mounted.
    asked = dict(handler.runner.container_run_args)
    for source, shown in handler.get_volumes_to_mount().items():
        asked["mounts"] = [*asked["mounts"], docker.types.Mount(shown["bind"], source, type="bind")]
    try:
        with closing(docker.from_env()) as client:
            container = client.containers.create(
                handler.image, handler.full_command, environment=handler.env_vars, **asked
            )
            try:
                return _followed(container, said) if start(container) else 1
            finally:
                with suppress(docker.errors.DockerException, requests.RequestException):
                    container.remove(force=True)
    except (docker.errors.DockerException, requests.RequestException) as error:
        said(f"tfslim: the container engine failed: {_first_line(error)}")
        return 1


def _followed(container: Container, said: Callable[[str], None]) -> int:
    """Tell what a container says until it ends; gives its exit code."""
    rest = b""
    for part in container.logs(stream=True, follow=True):
        *lines, rest = (rest + part).split(b"\n")
        for line in lines:
            said(line.decode(errors="replace"))
    if rest:
        said(rest.decode(errors="replace"))
    code = int(container.wait()["StatusCode"])
    container.reload()
    if container.attrs["State"].get("OOMKilled"):
        said("tfslim: its container ran out of memory")
    elif code > 128:
        said(f"tfslim: its container was killed by signal {code - 128}")
    return code


def kill(container: Container) -> None:
    """End a container at once, if it still runs."""
    import docker
    import requests

    with suppress(docker.errors.DockerException, requests.RequestException):
        container.kill()


def _limits() -> list[docker.types.Ulimit]:
    """The limits of this process: an engine in a container or a sandbox may not give what its own defaults say."""
    import docker

    pids = int(Path("/proc/sys/kernel/pid_max").read_text())  # Podman gives itself no more processes than that
    kinds = (("nofile", resource.RLIMIT_NOFILE, sys.maxsize), ("nproc", resource.RLIMIT_NPROC, pids))
    limits = [(name, *resource.getrlimit(kind), most) for name, kind, most in kinds]
    return [
        docker.types.Ulimit(name=name, soft=min(soft, most), hard=min(hard, most))
        for name, soft, hard, most in limits
        if resource.RLIM_INFINITY not in (soft, hard)
    ]


def _images(spec: pipeline_spec_pb2.PipelineSpec) -> list[str]:
    """The images of all steps."""
    executors = spec.deployment_spec["executors"]
    return sorted({executors[name]["container"]["image"] for name in executors if "container" in executors[name]})


def _have(client: docker.DockerClient, image: str) -> None:
    """Have an image here, pulled if need be."""
    import docker

    with suppress(docker.errors.ImageNotFound):
        client.images.get(image)
        return
    print(f"pulling {image}", file=sys.stderr)
    try:
        client.images.pull(image)
    except docker.errors.DockerException as error:
        raise UsageError(
            f"--runner docker: there is no image {image} here, and none to pull ({_first_line(error)}); build it with "
            "python -m components.image build, or name yours in TFSLIM_IMAGE"
        ) from None


def _links(path: Path) -> Iterator[Path]:
    """The links below a directory."""
    for folder, folders, files in os.walk(path):
        yield from (link for name in (*folders, *files) if (link := Path(folder, name)).is_symlink())


@contextmanager
def _made(folders: Iterable[Path]) -> Iterator[None]:
    """Have directories; those that were not there and are still empty in the end are removed again."""
    made: list[Path] = []
    try:
        for folder in folders:
            for missing in [*(one for one in reversed(folder.parents) if not one.exists()), folder]:
                if not missing.exists():
                    missing.mkdir()
                    made.append(missing)
    except OSError as error:
        raise UsageError(f"--runner docker: cannot make {error.filename}: {error.strerror}") from None
    try:
        yield
    finally:
        for folder in reversed(made):
            with suppress(OSError):
                folder.rmdir()


def _first_line(error: Exception) -> str:
    """What the engine says in its own words, where it says something, or else the first line of the error."""
    text = str(getattr(error, "explanation", "") or error)
    return (text.strip().splitlines() or [type(error).__name__])[0]
