"""What the validation job adds to running both models on the data: against a bare loop over the same batches."""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from benchmarks.places import OUT
from benchmarks.sheets import Sheet
from benchmarks.subjects import Subject, basic_pitch, guesslang, source_files
from benchmarks.variants import int8
from tfslim_core.saved_model.server_loader import ServedModel, read_signatures
from tfslim_core.validation.batches import Batch
from tfslim_core.validation.feeding import feeding
from tfslim_core.validation.job import validate
from tfslim_core.validation.paired_models import Model, open_served_model
from tfslim_core.validation.sources import first_records, open_dataset, read_shard, shards

_BATCH = 32
_TURNS = 3
_MOST_RATIO = 1.3

_opened: list[float] = []


@dataclass(frozen=True)
class Validated:
    """Seconds, medians of a few turns. job: from when both models are loaded until the verdict is written. loop: the
    bare loop, with each batch ready before it starts. start_up: of the job, until both models are loaded.
    """

    subject: str
    examples: int
    job: float
    loop: float
    ratio: float
    start_up: float


def run(told: Callable[[str], None]) -> list[Validated]:
    """Validate a small model with small answers, and a convolutional one with large answers."""
    OUT.mkdir(parents=True, exist_ok=True)
    return [_validated(guesslang(), _jsonl(), told), _validated(basic_pitch(), _npz(basic_pitch()), told)]


def sheet(all_found: Sequence[Validated]) -> Sheet:
    """A row a model."""
    header = ["model", "examples", "validation job", "bare loop", "ratio", "start-up"]
    rows = [
        [v.subject, f"{v.examples:,}", f"{v.job:.2f} s", f"{v.loop:.2f} s", f"{v.ratio:.2f}", f"{v.start_up:.2f} s"]
        for v in all_found
    ]
    met = all(v.ratio <= _MOST_RATIO for v in all_found)
    notes = [
        f"Both run the original and the int8 model on batches of {_BATCH}. The loop has its batches in memory and "
        "drops the answers; the job reads the files, compares, and writes the verdict. Its time counts from when both "
        "models are loaded.",
        f"Goal: a ratio of at most {_MOST_RATIO:g}: {'met' if met else 'missed'}.",
    ]
    return Sheet("The validation job against a bare loop", header, rows, notes)


def open_and_note(path: str, tags: tuple[str, ...]) -> Model:
    """Opens a model as the job does, and notes when it was loaded."""
    model = open_served_model(path, tags)
    _opened.append(time.perf_counter())
    return model


def _validated(subject: Subject, data: Path, told: Callable[[str], None]) -> Validated:
    optimized = int8(subject, OUT / "validation" / subject.name, told)
    batches = _batches(subject, data)
    jobs, loops, starts = [], [], []
    for turn in range(_TURNS):
        told(f"{subject.name}: turn {turn + 1}/{_TURNS}")
        loops.append(_loop(subject, optimized, batches))
        start, job = _job(subject, optimized, data)
        starts.append(start)
        jobs.append(job)
    ratio = median(job / loop for job, loop in zip(jobs, loops, strict=True))
    examples = sum(len(batch) for batch in batches)
    return Validated(subject.name, examples, median(jobs), median(loops), ratio, median(starts))


def _loop(subject: Subject, optimized: Path, batches: Sequence[Batch]) -> float:
    with ServedModel(subject.path) as before, ServedModel(optimized) as after:
        start = time.perf_counter()
        for batch in batches:
            before.run(subject.signature, batch.feeds)
            after.run(subject.signature, batch.feeds)
        return time.perf_counter() - start


def _job(subject: Subject, optimized: Path, data: Path) -> tuple[float, float]:
    """(start-up, the rest)."""
    _opened.clear()
    with tempfile.TemporaryDirectory(prefix="tfslim-benchmark-") as out:
        start = time.perf_counter()
        validate(
            subject.path,
            optimized,
            {"data": str(data)},
            out=Path(out),
            signature=subject.signature,
            batch_size=_BATCH,
            measure_costs=False,
            open_model=open_and_note,
        )
        end = time.perf_counter()
    return _opened[-1] - start, end - _opened[-1]


def _batches(subject: Subject, data: Path) -> list[Batch]:
    """The batches that the job makes of the data."""
    dataset = open_dataset("data", str(data))
    fed = feeding(read_signatures(subject.path)[subject.signature], first_records(dataset), None, str(data))
    items = [item for shard in shards(dataset) for item in read_shard("data", shard, fed, _BATCH)]
    return [item for item in items if isinstance(item, Batch) and len(item)]


def _jsonl() -> Path:
    file = OUT / "source_files.jsonl"
    file.write_text("".join(json.dumps({"inputs": text}) + "\n" for text in source_files()))
    return file


def _npz(subject: Subject) -> Path:
    file = OUT / f"{subject.name}.npz"
    arrays: dict[str, Any] = dict(subject.inputs)
    np.savez(file, **arrays)
    return file
