"""What each component's task takes, memory and processor time, on a small real model and on one of a gigabyte."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.memory import FamilyPeak
from benchmarks.models import big
from benchmarks.places import GUESSLANG
from benchmarks.subjects import source_files
from components.pages import RESOURCES
from tfslim_core.storage import size

_GIGABYTES = 1.0
_EXAMPLES = 512
HOW = (
    "Each task alone, as `python -m benchmarks components` measures it: the most memory that all its processes had at "
    "once and no file backs, and the processor time of them all. Files of libraries (some 400 MiB a process) and of "
    "the model are mapped besides; the system can drop these when memory is short."
)


def run(told: Callable[[str], None]) -> dict[str, Any]:
    """Run all components one after the other on each model; what components/resources.json holds."""
    found: dict[str, Any] = {"how": HOW, "models": {}, "components": {}}
    with tempfile.TemporaryDirectory(prefix="tfslim-benchmark-") as folder:
        for name, (model, data) in {"small": _small(Path(folder)), "large": _large(Path(folder))}.items():
            words = "guesslang, a real classifier of text" if name == "small" else "a table and layers of float32"
            found["models"][name] = f"{size(model) / 1e6:,.0f} MB: {words}; {_EXAMPLES} examples"
            for component, seen in _tasks(Path(folder) / name, model, data, told).items():
                found["components"].setdefault(component, {})[name] = seen
    return found


def write(found: Mapping[str, Any]) -> None:
    """Put the numbers where the READMEs' tables are made from."""
    RESOURCES.write_text(json.dumps(found, indent=1) + "\n")


def _tasks(folder: Path, model: Path, data: Path, told: Callable[[str], None]) -> dict[str, dict[str, float]]:
    def at(name: str) -> dict[str, str]:
        return {"uri": str(folder / name)}

    original, examples = {"uri": str(model)}, {"uri": str(data)}
    pages = {key: at(key) for key in ("verdict", "report", "classes", "summary")}
    base = str(folder / "base")
    calls: list[tuple[str, dict[str, Any]]] = [
        ("freeze", {"model": original, "bundle": at("frozen")}),
        ("transform", {"bundle": at("frozen"), "transformed": at("transformed")}),
        ("quantize", {"bundle": at("transformed"), "quantized": at("quantized")}),
        ("reexport", {"bundle": at("quantized"), "model": at("slim")}),
        (
            "validate",
            {"original": original, "optimized": at("slim"), "data": examples, "gates": ["size_ratio<=1"], **pages},
        ),
        ("publish", {"model": at("slim"), "verdict": at("verdict"), "base": base}),
        ("publish", {"model": at("slim"), "verdict": at("verdict"), "base": base}),
        ("rollback", {"base": base}),
    ]
    folder.mkdir()
    found = {}
    for name, arguments in calls:
        told(f"{folder.name}: {name}")
        metrics = {} if name in ("publish", "rollback") else {"metrics": at("metrics")}
        found[name] = _measured(name, arguments | metrics)
    return found


def _measured(name: str, arguments: Mapping[str, Any]) -> dict[str, float]:
    before = _processor_seconds()
    command = [sys.executable, "-m", "benchmarks.component_process", name, json.dumps(arguments)]
    environment = os.environ | {"TF_CPP_MIN_LOG_LEVEL": "2", "CUDA_VISIBLE_DEVICES": "-1"}
    process = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)
    with FamilyPeak(process.pid) as peak:
        _, words = process.communicate()
    if process.returncode:
        raise SystemExit(f"benchmarks: {name}: {words.strip().splitlines()[-1]}")
    return {"bytes": peak.bytes, "processor_seconds": round(_processor_seconds() - before, 1)}


def _processor_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _small(folder: Path) -> tuple[Path, Path]:
    data = folder / "source_files.jsonl"
    data.write_text("".join(json.dumps({"inputs": text}) + "\n" for text in source_files()[:_EXAMPLES]))
    return GUESSLANG, data


def _large(folder: Path) -> tuple[Path, Path]:
    big(folder / "large-model", _GIGABYTES)
    data = folder / "words.npz"
    np.savez(data, ids=np.random.default_rng(0).integers(0, 100_000, (_EXAMPLES, 64)))
    return folder / "large-model", data
