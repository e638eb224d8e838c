"""The validation job over much data, and in one and two processes: each run in a process of its own."""

from __future__ import annotations

import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from benchmarks import children
from benchmarks.examples_file import examples_file
from benchmarks.memory import FamilyPeak, peak, reset_peak
from benchmarks.places import OUT
from benchmarks.sheets import Sheet
from benchmarks.subjects import Subject, digit_convolutions, guesslang_pieces, sleepecg

_COUNTS = (100_000, 1_000_000)
_WIDTH = 64
_FILE = 100_000
# In one process and in two, each with few examples and with many: what the latter take longer has no start-up in it.
# TensorFlow spreads convolutions over the cores within a process; it has less to spread of text, and of a recurrent
# model, which takes one step after another.
_SHARED = {"guesslang": (800, 6_400), "sleepecg": (512, 4_096), "digits CNN": (4_000, 24_000)}
_SUBJECTS: Mapping[str, Callable[[int], Subject]] = {
    "guesslang": guesslang_pieces,
    "sleepecg": sleepecg,
    "digits CNN": digit_convolutions,
}
_PORTIONS = 8
_LEAST_GAIN = 1.5
_TIMEOUT = 1800.0


@dataclass(frozen=True)
class Run:
    """A run. bytes: the peak of its process, and with several the sum of what is their own."""

    what: str
    processes: int
    examples: int
    seconds: float
    bytes: int


def run(told: Callable[[str], None], scale: float = 1.0) -> list[Run]:
    """Generated examples of a small model; real ones in one process and in two."""
    OUT.mkdir(parents=True, exist_ok=True)
    found = []
    counted = [("small", 1, count) for count in _COUNTS]
    shared = [(what, n, count) for what, counts in _SHARED.items() for n in (1, 2) for count in counts]
    for what, processes, count in (*counted, *shared):
        arguments = (what, str(processes), str(max(_PORTIONS, round(scale * count))))
        told(" ".join(arguments))
        with tempfile.NamedTemporaryFile(suffix=".json", dir=OUT) as answer:
            children.run("benchmarks.runners", answer.name, *arguments, timeout=_TIMEOUT)
            found.append(Run(**json.loads(Path(answer.name).read_text())))
    return found


def sheet(found: Sequence[Run]) -> Sheet:
    """A row a run."""
    header = ["model", "processes", "examples", "time", "peak memory"]
    rows = [
        [r.what, str(r.processes), f"{r.examples:,}", f"{r.seconds:.1f} s", f"{r.bytes / 1e6:.0f} MB"] for r in found
    ]
    notes = ["Times are of the whole job, start-up included."]
    for what in _SHARED:
        one, two = (_without_start(what, processes, found) for processes in (1, 2))
        met = "met" if one / two >= _LEAST_GAIN else "missed"
        notes.append(
            f"{what}: start-up apart, which is to say for the examples that the larger run has more, two processes are "
            f"{one / two:.2f} x as fast as one; goal: at least {_LEAST_GAIN:g}: {met}."
        )
    return Sheet("Memory over much data, and a second process", header, rows, notes)


def _without_start(what: str, processes: int, found: Sequence[Run]) -> float:
    """Seconds that many examples take longer than few."""
    few, many = sorted((r.examples, r.seconds) for r in found if (r.what, r.processes) == (what, processes))
    return many[1] - few[1]


def _small(folder: Path, count: int) -> tuple[Path, Path]:
    """A dense layer in two versions, and data beside them."""
    from tests.validation import tiny_models

    weights = np.random.default_rng(5).normal(size=(_WIDTH, 10))
    random = np.random.default_rng(1)
    for number in range(0, count, _FILE):
        rows = random.normal(size=(min(_FILE, count - number), _WIDTH)).astype(np.float32)
        examples_file(folder / f"{number:08}", {"x": rows})
    return tiny_models.linear(folder / "a", weights), tiny_models.linear(folder / "b", weights * 1.001)


def _shared(folder: Path, what: str, count: int) -> tuple[Path, Path]:
    """A model, twice, and data for it in files of equal size."""
    subject = _SUBJECTS[what](count)
    for number, rows in enumerate(np.array_split(np.arange(len(subject)), _PORTIONS)):
        examples_file(folder / f"{number}", {key: value[rows] for key, value in subject.inputs.items()})
    return subject.path, subject.path


def _main(answer: str, what: str, processes: str, count: str) -> None:
    from tfslim_core.validation.job import validate

    folder = Path(tempfile.mkdtemp(prefix="tfslim-benchmark-"))
    try:
        before, after = _small(folder, int(count)) if what == "small" else _shared(folder, what, int(count))
        (folder / "out").mkdir()
        reset_peak()
        start = time.perf_counter()
        with FamilyPeak(os.getpid()) as family:
            found = validate(
                before,
                after,
                {"data": str(folder / "*.npz")},
                out=folder / "out",
                measure_costs=False,
                beam_options=[f"--direct_num_workers={processes}"],
            )
        seconds = time.perf_counter() - start
        examples = found.verdict.datasets["data"].examples
        done = Run(what, int(processes), examples, seconds, family.bytes if int(processes) > 1 else peak())
        Path(answer).write_text(json.dumps(asdict(done)))
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    _main(*sys.argv[1:])
