"""Ten models slimmed by one run of the pipeline `slim_many`: memory of all its processes together, and time."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from benchmarks.cases import CASES
from benchmarks.examples_file import examples_file
from benchmarks.memory import FamilyPeak
from benchmarks.places import OUT
from benchmarks.sheets import Sheet
from benchmarks.subjects import Subject, basic_pitch, dense, digit_convolutions, guesslang, sleepecg, text
from tfslim_core import storage

_HERE = OUT / "many"
_EXAMPLES = 512  # of each subject, the first


@dataclass(frozen=True)
class Many:
    """bytes: of each original, by name. endings: what the run says of each. peak_bytes: of all its processes at once,
    what no file backs.
    """

    bytes: dict[str, int]
    endings: dict[str, str]
    peak_bytes: int
    seconds: float


def run(told: Callable[[str], None]) -> Many:
    """Slim ten models, two at once."""
    shutil.rmtree(_HERE, ignore_errors=True)
    _HERE.mkdir(parents=True)
    asked, sizes = [], {}
    for name, make in _subjects():
        told(f"{name}: model and data")
        subject = make()
        sizes[name] = storage.size(subject.path)
        data = examples_file(_HERE / name, {key: array[:_EXAMPLES] for key, array in subject.inputs.items()})
        asked.append({"model": str(subject.path.absolute()), "data": [str(data)], "base": str(_HERE / name)})
    told("ten models")
    command = [sys.executable, "-m", "pipelines", "run", "--pipeline", "slim_many", "--work", str(_HERE / "run")]
    models = ["--arg", f"models={json.dumps(asked)}"]
    start = time.monotonic()
    process = subprocess.Popen([*command, *models], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    with process, FamilyPeak(process.pid) as peak:
        out, err = process.communicate()
    told_of = dict(line.split(": ", 1) for line in out.splitlines() if ": " in line)
    endings = {name: told_of[name] for name in sizes if name in told_of}
    if len(endings) < len(sizes):
        raise SystemExit(f"benchmarks: the run did not end for all models:\n{out}{err}")
    return Many(sizes, endings, peak.bytes, time.monotonic() - start)


def sheet(found: Many) -> Sheet:
    """A row a model."""
    rows = [[name, f"{found.bytes[name] / 1e6:,.1f} MB", _shortly(said)] for name, said in found.endings.items()]
    notes = [
        f"All processes of the run together took {found.peak_bytes / 1e9:.2f} GB at their peak (what no file backs), "
        f"in {found.seconds / 60:.1f} min: two models at once, each step a process of its own.",
        "Default gates. Models of random weights that 8 bits harm, or that have too few examples, are not published.",
    ]
    return Sheet("Ten models in one run", ["model", "original", "how it ended"], rows, notes)


def _shortly(said: str) -> str:
    """Published or not, and in a few words why not."""
    words = said.split(": ")
    return words[0] if words[0] == "published" else ": ".join(words[:2])


def _subjects() -> Iterator[tuple[str, Callable[[], Subject]]]:
    yield "guesslang", guesslang
    yield "basic-pitch", basic_pitch
    yield "sleepecg", lambda: sleepecg(64, 128)
    yield "digits-cnn", lambda: digit_convolutions(512)
    yield "dense", dense
    yield "text", text
    for name in ("digits", "transformer", "MobileNetV2", "ResNet50"):
        yield name.lower(), lambda name=name: CASES[name]().subject  # type: ignore[misc]
