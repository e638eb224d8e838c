"""The image in each of its roles, with as little as a cluster may give it.

No network, no capabilities, a file system that cannot be written to, and a user id that the image does not know.
"""

from __future__ import annotations

import json
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from components.image import engine, packages
from tfslim_core import __version__, storage
from tfslim_core.errors import JobError

UID = 54321
_PATIENCE = 15  # minutes; a runner waits for a worker that ended for ever
_BOUND = [
    *("--network", "none", "--read-only", "--tmpfs", "/tmp", "--cap-drop", "all"),
    *("--security-opt", "no-new-privileges", "--user", f"{UID}:0"),
]
_LIST = """
import importlib.metadata, json, platform
found = {one.metadata["Name"]: one.version for one in importlib.metadata.distributions()}
print(json.dumps({"python": platform.python_version(), "packages": found}))
"""


@dataclass(frozen=True)
class Check:
    """What to check, and with what. work: a directory that the container sees as /job and may write to."""

    engine: str
    image: str
    model: Path
    data: Path
    work: Path

    @property
    def mounts(self) -> list[str]:
        """The options that show the container its files."""
        shown = [(self.model, "/model", ",readonly"), (self.data, f"/data/{self.data.name}", ",readonly")]
        places = [*shown, (self.work, "/job", "")]
        return [
            word
            for here, there, mode in places
            for word in ("--mount", f"type=bind,source={here.resolve()},target={there}{mode}")
        ]

    def run(self, what: str, *words: str) -> str:
        """Run a command in a container of its own; gives what it printed."""
        return engine.run([self.engine, "run", "--rm", *_BOUND, *self.mounts, self.image, *words], what)

    @contextmanager
    def running(self, *words: str) -> Iterator[str]:
        """Keep a container running, and give its name."""
        name = f"tfslim-check-{uuid.uuid4().hex[:8]}"
        started = [self.engine, "run", "--detach", "--name", name, *_BOUND, *self.mounts, self.image, *words]
        engine.run(started, "starting a worker")
        try:
            yield name
        finally:
            engine.run([self.engine, "rm", "--force", name], "removing the worker")


def holds_its_lock_file(check: Check) -> str:
    """Every package of the lock file and no other, all fitting each other."""
    found = json.loads(check.run("listing packages", "python", "-c", _LIST))
    installed = packages.named(found["packages"])
    expected = packages.locked(python=found["python"]) | {"tfslim": __version__}
    if wrong := packages.difference(installed, expected):
        raise JobError(f"{check.image} and {packages.LOCK.name} differ: {'; '.join(wrong)}")
    check.run("pip check", "python", "-m", "pip", "check")
    return f"{len(installed)} packages, Python {found['python']}"


def is_the_command(check: Check) -> str:
    """`tfslim slim` with validation."""
    command = ["tfslim", "slim", "/model", "/job/slim", "--data", f"data=/data/{check.data.name}"]
    check.run("tfslim slim", *command, "--report", "/job/report")
    before, after = storage.size(check.model), storage.size(check.work / "slim")
    return f"slimmed {before:,} bytes to {after:,}, verdict {_verdict(check.work / 'report')}"


def is_a_component(check: Check) -> str:
    """The command of a compiled component, with the input that Kubeflow's launcher hands it."""
    from kfp import compiler

    from components.freeze import freeze

    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "component.yaml"
        compiler.Compiler().compile(freeze, str(file))
        compiled = next(yaml.safe_load_all(file.read_text()))
    container = compiled["deploymentSpec"]["executors"]["exec-freeze"]["container"]
    asked = executor_input(compiled["components"]["comp-freeze"], {"model": "/model"}, "/job/component")
    (check.work / "component").mkdir(mode=0o777)
    (check.work / "component").chmod(0o777)
    words = [word.replace("{{$}}", json.dumps(asked)) for word in (*container["command"], *container["args"])]
    check.run("the component freeze", *words)
    written = json.loads((check.work / "component/executor_output.json").read_text())
    note = written["artifacts"]["bundle"]["artifacts"][0]["metadata"]
    return f"freeze wrote a bundle of {note['bytes']:,} bytes"


def is_a_worker(check: Check) -> str:
    """Beam's entrypoint as a pool of workers, and a validation that a runner hands to it."""
    pool = ["--runner=PortableRunner", "--job_endpoint=embed", "--environment_type=EXTERNAL"]
    options = [*pool, "--environment_config=localhost:50000", "--temp_location=/job/temp"]
    command = ["tfslim", "validate", "/model", "/job/slim", "--data", f"data=/data/{check.data.name}", "--no-costs"]
    with check.running("--worker_pool") as name:
        words = [check.engine, "exec", name, *command, "--out", "/job/worker", "--", *options]
        engine.run(words, "validating", minutes=_PATIENCE)
        log = engine.run([check.engine, "logs", name], "reading the worker's log", both=True)
    if "Starting worker with command ['/opt/apache/beam/boot'" not in log:
        raise JobError(f"{check.image}: the validation ended well and yet Beam's entrypoint started no worker")
    if _results(check.work / "report") != _results(check.work / "worker"):
        raise JobError(f"{check.image}: a worker's results differ from those of one process")
    return f"verdict {_verdict(check.work / 'worker')}, the results of one process"


ROLES = (holds_its_lock_file, is_the_command, is_a_component, is_a_worker)


def executor_input(component: dict[str, Any], artifacts: dict[str, str], out: str) -> dict[str, Any]:
    """What Kubeflow's launcher puts in the place of {{$}}: where inputs lie, and where outputs go, below `out`."""
    inputs, outputs = component.get("inputDefinitions", {}), component.get("outputDefinitions", {})

    def listed(name: str, kind: dict[str, Any], uri: str) -> dict[str, Any]:
        return {"artifacts": [{"name": name, "type": kind["artifactType"], "uri": uri, "metadata": {}}]}

    kinds, made = inputs.get("artifacts", {}), outputs.get("artifacts", {})
    defaults = {name: one.get("defaultValue") for name, one in inputs.get("parameters", {}).items()}
    return {
        "inputs": {
            "artifacts": {name: listed(name, kinds[name], uri) for name, uri in artifacts.items()},
            "parameterValues": {name: value for name, value in defaults.items() if value is not None},
        },
        "outputs": {
            "artifacts": {name: listed(name, kind, f"{out}/{name}") for name, kind in made.items()},
            "parameters": {name: {"outputFile": f"{out}/{name}"} for name in outputs.get("parameters", {})},
            "outputFile": f"{out}/executor_output.json",
        },
    }


def _verdict(folder: Path) -> str:
    return str(json.loads((folder / "verdict.json").read_text())["verdict"])


def _results(folder: Path) -> dict[str, Any]:
    """What was compared of each dataset, without how long it took."""
    found = json.loads((folder / "verdict.json").read_text())["datasets"]
    return {name: {key: told for key, told in one.items() if key != "latency_ms"} for name, one in found.items()}
