"""A Flink cluster on this machine: a job manager, a task manager of two slots, Beam's job server and Python workers."""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
JARS = ROOT / ".cache/flink"
SLOTS = 2
# Flink reaches into packages that Java 17 closes.
_PACKAGES = ["lang", "net", "io", "nio", "text", "time", "util", "util.concurrent", "util.concurrent.atomic"]
OPENED = [
    *(f"--add-opens=java.base/java.{name}=ALL-UNNAMED" for name in _PACKAGES),
    "--add-opens=java.base/sun.nio.ch=ALL-UNNAMED",
]
# Small: a test's data fits, and other work goes on beside it.
MEMORY = {
    "taskmanager.cpu.cores": str(SLOTS),
    "taskmanager.memory.task.heap.size": "192m",
    "taskmanager.memory.task.off-heap.size": "0",
    "taskmanager.memory.managed.size": "64m",
    "taskmanager.memory.network.min": "32m",
    "taskmanager.memory.network.max": "32m",
    "taskmanager.memory.framework.heap.size": "128m",
    "taskmanager.memory.framework.off-heap.size": "64m",
    "taskmanager.memory.jvm-metaspace.size": "192m",
    "taskmanager.memory.jvm-overhead.min": "64m",
    "taskmanager.memory.jvm-overhead.max": "64m",
}
_PR_SET_PDEATHSIG = 1
_LOGGING = """
rootLogger.level = INFO
rootLogger.appenderRef.console.ref = Console
appender.console.name = Console
appender.console.type = CONSOLE
appender.console.layout.type = PatternLayout
appender.console.layout.pattern = %d{HH:mm:ss,SSS} %-5p %c{1} %m%n
"""


@dataclass(frozen=True)
class Cluster:
    """A running cluster. job_endpoint and worker_pool: host:port, as Beam's options take them. logs: a folder."""

    job_endpoint: str
    worker_pool: str
    rest: str
    pool_pid: int
    logs: Path

    def options(self) -> list[str]:
        """Beam's options for a job on it."""
        return [
            "--runner=PortableRunner",
            f"--job_endpoint={self.job_endpoint}",
            "--environment_type=EXTERNAL",
            f"--environment_config={self.worker_pool}",
            f"--parallelism={SLOTS}",
        ]

    def ask(self, path: str) -> dict:
        """What Flink's REST interface answers."""
        with urllib.request.urlopen(f"http://{self.rest}/{path}", timeout=10) as answer:
            return json.load(answer)

    def workers(self) -> list[int]:
        """The processes in which Beam's Python workers run now."""
        return children(self.pool_pid)


def children(pid: int) -> list[int]:
    """The processes that a process started and that live."""
    found = []
    for started_by_thread in Path("/proc", str(pid), "task").glob("*/children"):
        with contextlib.suppress(OSError):
            found += [int(child) for child in started_by_thread.read_text().split()]
    return found


@contextlib.contextmanager
def cluster(folder: Path, settings: dict[str, str] | None = None) -> Iterator[Cluster]:
    """Start all processes on free ports and wait until they serve; end them when the block ends, however it does.

    settings: of Flink, beside those here.
    """
    rpc, rest, blob, job, artifact, expansion, pool = free_ports(7)
    config = {
        "jobmanager.rpc.address": "127.0.0.1",
        "jobmanager.rpc.port": str(rpc),
        "jobmanager.bind-host": "127.0.0.1",
        "rest.address": "127.0.0.1",
        "rest.bind-address": "127.0.0.1",
        "rest.port": str(rest),
        "blob.server.port": str(blob),
        "taskmanager.host": "127.0.0.1",
        "taskmanager.bind-host": "127.0.0.1",
        "taskmanager.numberOfTaskSlots": str(SLOTS),
        "io.tmp.dirs": str(folder / "tmp"),
        # Without a strategy a job fails with the first worker that is lost; Beam's own option for it is not heeded.
        "restart-strategy.type": "fixed-delay",
        "restart-strategy.fixed-delay.attempts": "3",
        "restart-strategy.fixed-delay.delay": "500 ms",
        **MEMORY,
        **(settings or {}),
    }
    for name in ("tmp", "conf", "logs"):
        (folder / name).mkdir(parents=True)
    (folder / "conf/config.yaml").write_text("".join(f"{key}: {json.dumps(value)}\n" for key, value in config.items()))
    (folder / "conf/log4j.properties").write_text(_LOGGING)
    flink, beam = (sorted((JARS / name).glob("*.jar")) for name in ("flink", "beam"))
    manager = "org.apache.flink.runtime.entrypoint.StandaloneSessionClusterEntrypoint"
    tasks = "org.apache.flink.runtime.taskexecutor.TaskManagerRunner"
    server = ["org.apache.beam.runners.flink.FlinkJobServerDriver", f"--flink-master=127.0.0.1:{rest}"]
    server += [f"--flink-conf-dir={folder / 'conf'}", "--job-host=127.0.0.1", f"--artifacts-dir={folder / 'artifacts'}"]
    server += [f"--job-port={job}", f"--artifact-port={artifact}", f"--expansion-port={expansion}"]
    conf = ["-c", str(folder / "conf")]
    with contextlib.ExitStack() as stack:
        started = _Started(stack, folder)
        started.java("job_manager", flink, 256, [manager, *conf])
        started.java("task_manager", flink, 320, [tasks, *conf])
        # All of its jars go to the cluster with each job: Flink's large one is left out, which the cluster has.
        logs = [jar for jar in flink if jar.name.startswith("log4j")]
        started.java("job_server", [*beam, *logs], 192, server)
        python = [sys.executable, "-m", "apache_beam.runners.worker.worker_pool_main", f"--service_port={pool}"]
        pool_pid = started.process("worker_pool", python)
        running = Cluster(f"127.0.0.1:{job}", f"127.0.0.1:{pool}", f"127.0.0.1:{rest}", pool_pid, folder / "logs")
        started.wait(lambda: listening(job) and listening(pool) and running.ask("overview")["slots-total"] == SLOTS)
        yield running


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on now."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


def listening(port: int) -> bool:
    """Whether something accepts connections on a port."""
    with socket.socket() as one:
        return one.connect_ex(("127.0.0.1", port)) == 0


class _Started:
    """Processes that end with the stack, each in a session of its own so that its children end too."""

    def __init__(self, stack: contextlib.ExitStack, folder: Path) -> None:
        self._stack, self._folder = stack, folder
        self._running: dict[str, subprocess.Popen] = {}

    def java(self, name: str, jars: Sequence[Path], heap: int, arguments: Sequence[str]) -> int:
        logging = f"-Dlog4j.configurationFile={self._folder / 'conf/log4j.properties'}"
        bounds = [f"-Xmx{heap}m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-XX:CICompilerCount=1"]
        path = ":".join(map(str, jars))
        return self.process(name, ["java", *bounds, *OPENED, logging, "-cp", path, *arguments])

    def process(self, name: str, command: Sequence[str]) -> int:
        # Beam's boot starts "python", which has to be this one.
        search = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        source = f"{ROOT}:{os.environ.get('PYTHONPATH', '')}".rstrip(":")
        with (self._folder / f"logs/{name}.log").open("wb") as log:
            process = subprocess.Popen(
                command,
                stdout=log,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                start_new_session=True,
                preexec_fn=_end_with_parent,
                env={**os.environ, "PATH": search, "PYTHONPATH": source},
            )
        self._stack.callback(_end, process)
        self._running[name] = process
        return process.pid

    def wait(self, ready, seconds: float = 90) -> None:
        until = time.monotonic() + seconds
        while True:
            for name, process in self._running.items():
                if process.poll() is not None:
                    raise RuntimeError(f"{name} ended with {process.returncode}:\n{self._tail(name)}")
            with contextlib.suppress(OSError):
                if ready():
                    return
            if time.monotonic() > until:
                raise RuntimeError("\n".join(f"{name}: {self._tail(name)}" for name in self._running))
            time.sleep(0.2)

    def _tail(self, name: str) -> str:
        return (self._folder / f"logs/{name}.log").read_text(errors="replace")[-2000:]


def _end_with_parent() -> None:
    """Have the kernel end this process when the one that started it is gone, killed perhaps."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _end(process: subprocess.Popen) -> None:
    """End a process and all that it started."""
    for one in [process.pid, *_descendants(process.pid)]:
        with contextlib.suppress(ProcessLookupError):
            os.kill(one, signal.SIGKILL)
    process.wait(10)


def _descendants(pid: int) -> list[int]:
    return [found for child in children(pid) for found in (child, *_descendants(child))]
