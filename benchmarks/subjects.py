"""The models that are measured, and what they are asked."""

from __future__ import annotations

import random
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.digits import moved_digits
from benchmarks.examples_file import examples_file
from benchmarks.models import dense_inputs, made, text_inputs
from benchmarks.places import BASIC_PITCH, GUESSLANG, OUT, SLEEPECG
from pipelines.demo_data import gather, roots
from tfslim_core.storage import whole_directory

Feeds = Mapping[str, NDArray[Any]]

_PER_EXTENSION = 80  # about 1500 files on a usual machine
_TUNING = 256  # files that int8 is tuned on


@dataclass(frozen=True)
class Subject:
    """A model to measure.

    inputs: examples to compare answers and to measure latencies on, first axis the batch. asked: what they are, in
    words. classifies: whether the top class of an answer means something. tuning: data for `tfslim slim`, by name.
    labels: the right classes of the inputs, where they are known.
    """

    name: str
    about: str
    path: Path
    inputs: Feeds
    asked: str
    classifies: bool
    signature: str = "serving_default"
    tuning: Mapping[str, str] = field(default_factory=dict)
    labels: NDArray[np.int64] | None = None

    def __len__(self) -> int:
        return len(next(iter(self.inputs.values())))

    def first(self, batch: int) -> Feeds:
        """A request of so many examples."""
        return {key: array[np.arange(batch) % len(array)] for key, array in self.inputs.items()}

    def batches(self, size: int = 32) -> list[Feeds]:
        """All examples in requests of at most `size`."""
        return [{k: a[start : start + size] for k, a in self.inputs.items()} for start in range(0, len(self), size)]


def guesslang(tuning: int = _TUNING, per_extension: int = _PER_EXTENSION) -> Subject:
    """A real classifier of source code: string input, table, TF2 control flow.

    tuning: files to tune on; the others are what the answers are compared on.
    """
    texts = source_files(per_extension)
    return Subject(
        "guesslang",
        "real classifier of source code",
        _there(GUESSLANG),
        text_feeds(texts[tuning:]),
        f"{len(texts) - tuning:,} real source files that the tuning did not see",
        classifies=True,
        tuning={"tuning": str(examples_file(OUT / f"tuning-{tuning}", text_feeds(texts[:tuning])))},
    )


def guesslang_pieces(count: int, length: int = 1_000) -> Subject:
    """The same on pieces of real source files, which are as many as are asked for if there are."""
    texts = source_files()
    pieces = [text[start : start + length] for text in texts for start in range(0, len(text), length)]
    inputs = {"inputs": np.array([piece.encode() for piece in pieces[:count]], f"S{length}")}
    return replace(guesslang(), inputs=inputs, asked=f"{count:,} pieces of real source files")


def dense() -> Subject:
    """Four large matrices, where a decode per request would show most."""
    return Subject(
        "dense", "4 dense layers of 2048 x 2048", made("dense"), dense_inputs(512), "512 of seeded noise", False
    )


def text() -> Subject:
    """A large table, of which a request reads a few rows."""
    path = made("text", words=50_000)
    about = "text CNN, embedding of 50,000 x 300"
    return Subject("text", about, path, text_inputs(2048), "2048 seeded texts, words by Zipf's law", True)


def basic_pitch() -> Subject:
    """A real audio CNN with batch norms and three outputs, which `tf.saved_model.load` cannot open."""
    return Subject(
        "basic_pitch",
        "real audio CNN",
        _there(BASIC_PITCH),
        {"input_2": tones(64)},
        "64 windows of seeded tones in noise",
        classifies=False,
    )


def digit_convolutions(examples: int) -> Subject:
    """A convolutional classifier, trained here on real digits, and as many of these as are asked for."""
    images, labels = moved_digits(examples)
    asked = f"{examples:,} real handwritten digits, all but 5,000 of them moved by a pixel or two"
    path = made("digit_convolutions")
    return Subject("digits CNN", "convolutions, trained here", path, {"x": images}, asked, True, labels=labels)


def sleepecg(sequences: int, steps: int = 512) -> Subject:
    """A real recurrent classifier of sleep stages: one step after another, whatever the number of cores."""
    path = OUT / "models/sleepecg"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        with whole_directory(path) as aside, zipfile.ZipFile(_file(SLEEPECG)) as packed:
            packed.extractall(aside)  # drops what would lead out of the directory
    noise = np.random.default_rng(1).standard_normal((sequences, steps, 36), np.float32)
    asked = f"{sequences:,} sequences of {steps} steps of seeded noise"
    return Subject("sleepecg", "real recurrent model", path / "classifier", {"input_10": noise}, asked, True)


SUBJECTS: Mapping[str, Callable[[], Subject]] = {
    "guesslang": guesslang,
    "dense": dense,
    "text": text,
    "basic_pitch": basic_pitch,
}


@cache
def source_files(per_extension: int = _PER_EXTENSION) -> list[str]:
    """Real source files of this machine, in an order that mixes the languages and is the same each time."""
    texts = list(gather(roots(), per_extension).values())
    random.Random(0).shuffle(texts)
    return texts


def text_feeds(texts: Sequence[str]) -> Feeds:
    """Texts as guesslang takes them."""
    return {"inputs": np.array([text.encode() for text in texts], object)}


def tones(windows: int, length: int = 43_844, rate: int = 22_050, seed: int = 1) -> NDArray[np.float32]:
    """[windows, length, 1]: three decaying notes with overtones in each window, in a little noise."""
    rng = np.random.default_rng(seed)
    time = np.arange(length) / rate
    sound = 0.01 * rng.standard_normal((windows, length))
    for window in sound:
        for note in rng.integers(40, 84, 3):
            start, pitch = rng.uniform(0, 1), 440 * 2 ** ((note - 69) / 12)
            since = np.maximum(time - start, 0)
            for overtone in (1, 2, 3):
                window += 0.2 / overtone * np.exp(-3 * since) * np.sin(2 * np.pi * overtone * pitch * since)
    return sound[..., None].astype(np.float32)


def _file(path: Path) -> Path:
    if not path.is_file():
        raise SystemExit(f"benchmarks: {path}: no such file; run: make setup")
    return path


def _there(path: Path) -> Path:
    if not (path / "saved_model.pb").is_file():
        raise SystemExit(f"benchmarks: {path}: no such model; run: make setup")
    return path
