"""What a model costs as a SavedModel and as a TFLite model: original, int8 decoded at load, TFLite in four ways."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from benchmarks import variants
from benchmarks.agreement import ask, compare
from benchmarks.alternating import measure
from benchmarks.cases import CASES
from benchmarks.serving import BATCHES, Served, Variant
from benchmarks.serving import sheet as serving_sheet
from benchmarks.sheets import Sheet
from tfslim_core import api
from tfslim_core.bundle import read_bundle
from tfslim_core.errors import ModelError
from tfslim_core.storage import size

SUBJECTS = ("dense", "digits", "MobileNetV2")
WAYS = ("none", "float16", "dynamic", "int8")


def run(seconds: float, told: Callable[[str], None], only: Sequence[str] = SUBJECTS) -> list[Served]:
    """Make all forms of each model and measure them in turns."""
    found = []
    for name in only:
        with tempfile.TemporaryDirectory() as folder:
            found.append(_served(name, Path(folder), seconds, told))
    return found


def sheet(served: Served) -> Sheet:
    """The table of one model, a column a form."""
    made = serving_sheet(served)
    told = (
        "TFLite runs in its own interpreter with XNNPACK, which takes as many threads as there are cores; its process "
        "holds none of TensorFlow's libraries, which are about 300 MB of the others' peak memory."
    )
    return replace(made, notes=[*made.notes, told])


def _served(name: str, folder: Path, seconds: float, told: Callable[[str], None]) -> Served:
    subject = CASES[name]().subject
    told(f"{name}: freeze")
    api.freeze(subject.path, folder / "frozen", signatures=[subject.signature])
    api.transform(folder / "frozen", folder / "bundle")
    api.quantize(folder / "bundle", folder / "quantized")
    paths = {variants.ORIGINAL: subject.path, variants.INT8: folder / "slim"}
    api.reexport(folder / "quantized", folder / "slim")
    missing = {}
    for way in WAYS:
        told(f"{name}: TFLite, {way}")
        label = f"TFLite {'float32' if way == 'none' else way}"
        data = dict(subject.tuning) if way == "int8" else None
        try:
            api.reexport(folder / "bundle", folder / way, format="tflite", tflite_quantize=way, data=data)
            paths[label] = folder / way
        except ModelError as error:
            missing[label] = str(error)
    answers = {label: ask(subject, path) for label, path in paths.items()}
    costs = measure(
        paths,
        subject.signature,
        {batch: subject.first(batch) for batch in BATCHES},
        seconds=seconds,
        told=lambda what: told(f"{name}: {what}"),
    )
    live = sum(weight.nbytes for weight in read_bundle(folder / "frozen").graph.weights.values())
    found = [
        Variant(label, size(path), costs[label], compare(subject, answers[variants.ORIGINAL], answers[label]))
        for label, path in paths.items()
    ]
    return Served(name, subject.about, subject.asked, live, found, missing)
