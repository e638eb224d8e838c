"""What is sent: a pipeline, compiled, with its arguments."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from graphlib import TopologicalSorter
from typing import Any

from google.protobuf import json_format
from kfp.dsl import base_component


@dataclass(frozen=True)
class Job:
    """A pipeline with arguments. spec: its PipelineSpec as JSON. platform: what only Kubernetes reads, mostly empty."""

    pipeline: str
    spec: Mapping[str, Any]
    platform: Mapping[str, Any]
    values: Mapping[str, Any]

    @property
    def digest(self) -> str:
        """Of all that would run, whatever the compiler called it this time."""
        return digest(_unnamed(self.spec), self.platform, self.values)


@dataclass(frozen=True)
class Task:
    """A task of a compiled pipeline that does work of its own. looks_up: it only looks an artifact up."""

    name: str
    looks_up: bool


def prepare(name: str, pipeline: base_component.BaseComponent, values: Mapping[str, Any], *, cache: bool = True) -> Job:
    """Compile a pipeline for the journey; without the cache every task runs anew."""
    spec = json_format.MessageToDict(pipeline.pipeline_spec)
    platform = json_format.MessageToDict(pipeline.platform_spec)
    if not cache:
        for dag in _dags(spec):
            for task in dag["tasks"].values():
                task["cachingOptions"] = {}
    return Job(name, spec, platform, dict(values))


def tasks(spec: Mapping[str, Any]) -> list[Task]:
    """The tasks of a compiled pipeline in an order in which they can run, those inside of conditions and loops too.

    What is there under one name several times, in graphs of its own, is one: the platforms name it only so.
    """
    return list({task.name: task for task in _tasks(spec, spec.get("root", {}))}.values())


def digest(*parts: Any) -> str:
    """A short name of what is made of plain JSON."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:32]


def _unnamed(spec: Mapping[str, Any]) -> dict[str, Any]:
    """A compiled pipeline with each component in the place of its name: of components that have one name, the compiler
    numbers the names in an order that differs from process to process.
    """
    components, executors = spec.get("components", {}), spec.get("deploymentSpec", {}).get("executors", {})

    def whole(component: Mapping[str, Any]) -> dict[str, Any]:
        found = dict(component)
        if "executorLabel" in found:
            found["executor"] = executors.get(found.pop("executorLabel"))
        if "dag" in found:
            known = found["dag"].get("tasks", {})
            inner = {
                name: {**task, "componentRef": whole(components.get(task["componentRef"]["name"], {}))}
                for name, task in known.items()
            }
            found["dag"] = {**found["dag"], "tasks": inner}
        return found

    rest = {name: part for name, part in spec.items() if name not in ("components", "deploymentSpec", "root")}
    return {**rest, "root": whole(spec.get("root", {}))}


def _dags(spec: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    for component in (spec["root"], *spec.get("components", {}).values()):
        if "tasks" in component.get("dag", {}):
            yield component["dag"]


def _tasks(spec: Mapping[str, Any], component: Mapping[str, Any]) -> Iterator[Task]:
    known = component.get("dag", {}).get("tasks", {})
    needs = {name: task.get("dependentTasks", ()) for name, task in known.items()}
    for name in TopologicalSorter(needs).static_order():
        inner = spec.get("components", {}).get(known[name]["componentRef"]["name"], {})
        if "dag" in inner:
            yield from _tasks(spec, inner)
        else:
            executors = spec.get("deploymentSpec", {}).get("executors", {})
            yield Task(name, "importer" in executors.get(inner.get("executorLabel"), {}))
