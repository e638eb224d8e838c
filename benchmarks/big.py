"""A model of more than 2 GiB from export to servable: what each command takes, and what the servables answer."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.sheets import Sheet
from benchmarks.stages import run_process
from tfslim_core.saved_model.fresh_process import Request, answers
from tfslim_core.saved_model.sample_check import difference
from tfslim_core.storage import size

_MOST_MEMORY = 1.5  # of the model's bytes
_DISK = 3.5  # of the model's bytes, for it and what the commands write
ENCODINGS = ("int8", "int4")


@dataclass(frozen=True)
class Command:
    """One command in a process of its own. peak_bytes: its own, beyond TensorFlow's import; hungriest: the part of it
    that took these. family_bytes: with the processes that it starts, libraries aside. bytes: of what it wrote. error:
    of a servable's scores, relative L2.
    """

    name: str
    seconds: float
    peak_bytes: int
    hungriest: str
    family_bytes: int
    bytes: int
    error: float | None = None


@dataclass(frozen=True)
class Big:
    """All commands. bytes: of the model."""

    bytes: int
    commands: list[Command]


def run(gigabytes: float, folder: Path | None, told: Callable[[str], None]) -> Big:
    """Make the model, slim it by stages and in one call; everything is removed again."""
    free = shutil.disk_usage(folder or tempfile.gettempdir()).free
    if free < _DISK * gigabytes * 1e9:
        raise SystemExit(f"benchmarks: {_DISK * gigabytes:.0f} GB of disk are needed, {free / 1e9:.0f} GB are free")
    with tempfile.TemporaryDirectory(prefix="tfslim-big-", dir=folder) as aside:
        return _run(gigabytes, Path(aside), told)


def _run(gigabytes: float, folder: Path, told: Callable[[str], None]) -> Big:
    commands: list[Command] = []

    def do(name: str, source: Path, way: str, *more: str) -> Path:
        told(name)
        target = folder / name.replace(" ", "-")
        target.mkdir()
        stages, family = run_process(way, source, target, *more)
        (stage,) = stages
        hungriest = max(stage.phases, key=lambda phase: stage.phases[phase].peak_bytes)
        wrote = size(target / "out")
        commands.append(Command(name, stage.seconds, stage.peak_bytes, hungriest, family, wrote))
        return target / "out"

    def check(servable: Path) -> None:
        commands[-1] = Command(**{**vars(commands[-1]), "error": difference(wanted, _answer(servable, request))})

    model = do("make", folder, "big", str(gigabytes))
    commands.clear()
    request = Request("serving_default", _inputs(gigabytes))
    wanted = _answer(model, request)
    frozen = do("freeze", model, "single", "freeze")
    transformed = do("transform", frozen, "single", "transform")
    shutil.rmtree(frozen)
    check(do("reexport", transformed, "single", "reexport"))
    for encoding in ENCODINGS:
        stored = do(f"quantize {encoding}", transformed, "single", "quantize", encoding)
        check(do(f"reexport {encoding}", stored, "single", "reexport"))
    shutil.rmtree(transformed)
    check(do("slim", model, "single", "slim"))
    return Big(size(model), commands)


def sheet(found: Big) -> Sheet:
    """A row a command."""
    rows = [
        [
            command.name,
            f"{command.seconds:.0f}",
            f"{command.peak_bytes / 1e9:.2f} GB",
            f"{command.peak_bytes / found.bytes:.2f} x",
            f"{command.family_bytes / found.bytes:.2f} x",
            command.hungriest.partition(":")[0],
            f"{command.bytes / 1e9:.3f} GB",
            "" if command.error is None else f"{command.error:.2g}",
        ]
        for command in found.commands
    ]
    header = ["command", "seconds", "peak memory", "to the model", "with children", "hungriest", "output", "error"]
    worst = max(command.peak_bytes for command in found.commands)
    judged = "met" if worst < _MOST_MEMORY * found.bytes else "missed"
    notes = [
        f"A TensorFlow 2 model of {found.bytes / 1e9:.2f} GB, two thirds of it one table; each command in a fresh "
        'process. Memory is beyond TensorFlow\'s import; "with children" adds the processes that load the results as a '
        "server does, without libraries. The error is that of a servable's scores against the model's, relative L2.",
        f"Goal: {_MOST_MEMORY:g} x for each command; what serves the results takes what a served model takes (`slim` "
        f"measures both at once): {judged}.",
    ]
    return Sheet(f"Slimming a model of {found.bytes / 1e9:.1f} GB", header, rows, notes)


def _inputs(gigabytes: float) -> Mapping[str, np.ndarray]:
    words = int(gigabytes * 2e9 / 3 / 512 / 4) - 1
    return {"ids": np.random.default_rng(1).integers(0, words, (8, 64))}


def _answer(model: Path, request: Request) -> np.ndarray:
    (answer,) = answers(model, [request])
    if isinstance(answer, Exception):
        raise SystemExit(f"benchmarks: {model} does not answer: {answer}")
    return answer["scores"]
