"""What the validation job adds to running both models on the data: against a bare loop over the same batches.

A convolutional model of real cost, which is what the goal is about; a dense layer that costs next to nothing, where all
that shows is what the job adds to a batch; and two models between them.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median

import numpy as np

from benchmarks.examples_file import examples_file
from benchmarks.places import OUT
from benchmarks.sheets import Sheet
from benchmarks.subjects import Subject, basic_pitch, digit_convolutions, guesslang, source_files, text_feeds
from benchmarks.variants import int8
from tfslim_core.saved_model.server_loader import ServedModel, read_signatures
from tfslim_core.validation.batches import Batch
from tfslim_core.validation.feeding import feeding
from tfslim_core.validation.job import validate
from tfslim_core.validation.paired_models import Model, open_served_model
from tfslim_core.validation.sources import first_records, open_dataset, read_shard, shards

_BATCH = 32
_TURNS = 3
EXAMPLES = 20_000
_MOST_RATIO = 1.2
_MOST_TOY_RATIO = 3.5
_TOY_TIMES = 5  # examples of the toy, to those of the convolutional model

_opened: list[float] = []


@dataclass(frozen=True)
class Validated:
    """Seconds, medians of a few turns. job: from when both models are loaded until the verdict is written. loop: the
    bare loop, with each batch ready before it starts. start_up: of the job, until both models are loaded. goal: the
    ratio at most.
    """

    subject: str
    examples: int
    job: float
    loop: float
    ratio: float
    start_up: float
    goal: float = _MOST_RATIO


def run(told: Callable[[str], None], examples: int = EXAMPLES, turns: int = _TURNS) -> list[Validated]:
    """Validate each model so many times. examples: of the convolutional one; the toy has five times as many."""
    OUT.mkdir(parents=True, exist_ok=True)
    convolutions = digit_convolutions(examples)
    texts = replace(guesslang(), inputs=text_feeds(source_files()))
    cases = [
        (convolutions, _MOST_RATIO),
        (_toy(_TOY_TIMES * examples), _MOST_TOY_RATIO),
        (texts, _MOST_RATIO),
        (basic_pitch(), _MOST_RATIO),
    ]
    return [
        _validated(subject, examples_file(OUT / subject.name, subject.inputs), goal, turns, told)
        for subject, goal in cases
    ]


def sheet(all_found: Sequence[Validated]) -> Sheet:
    """A row a model."""
    header = ["model", "examples", "validation job", "bare loop", "ratio", "goal", "start-up"]
    rows = [
        [
            *(v.subject, f"{v.examples:,}", f"{v.job:.2f} s", f"{v.loop:.2f} s", f"{v.ratio:.2f}"),
            *(f"{v.goal:g}: {'met' if v.ratio <= v.goal else 'missed'}", f"{v.start_up:.2f} s"),
        ]
        for v in all_found
    ]
    notes = [
        f"Both run the original and the int8 model on batches of {_BATCH}. The loop has its batches in memory and "
        "drops the answers; the job reads the files, compares, and writes the verdict. Its time counts from when both "
        "models are loaded.",
    ]
    return Sheet("The validation job against a bare loop", header, rows, notes)


def open_and_note(path: str, tags: tuple[str, ...]) -> Model:
    """Opens a model as the job does, and notes when it was loaded."""
    model = open_served_model(path, tags)
    _opened.append(time.perf_counter())
    return model


def _validated(subject: Subject, data: Path, goal: float, turns: int, told: Callable[[str], None]) -> Validated:
    optimized = int8(subject, OUT / "validation" / subject.name, told)
    batches = _batches(subject, data)
    jobs, loops, starts = [], [], []
    for turn in range(turns):
        told(f"{subject.name}: turn {turn + 1}/{turns}")
        loops.append(_loop(subject, optimized, batches))
        start, job = _job(subject, optimized, data)
        starts.append(start)
        jobs.append(job)
    ratio = median(job / loop for job, loop in zip(jobs, loops, strict=True))
    examples = sum(len(batch) for batch in batches)
    return Validated(subject.name, examples, median(jobs), median(loops), ratio, median(starts), goal)


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


def _toy(examples: int) -> Subject:
    """A dense layer of 64 x 10."""
    from tests.validation import tiny_models

    random = np.random.default_rng(5)
    path = OUT / "models/toy"
    if not path.exists():
        tiny_models.linear(path, random.normal(size=(64, 10)))
    x = random.normal(size=(examples, 64)).astype(np.float32)
    return Subject("dense 64 x 10", "a toy", path, {"x": x}, f"{examples:,} of seeded noise", True)
