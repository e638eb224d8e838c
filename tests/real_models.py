"""The models of test_real_models, what they are asked, and what is written down of each."""

from __future__ import annotations

import math
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tests import keras_models
from tests.saved_models import BASIC_PITCH, GUESSLANG
from tests.saved_models import MODELS as PACKAGES
from tfslim_core import transforms
from tfslim_core.bundle import Bundle
from tfslim_core.saved_model.freeze import freeze_saved_model
from tfslim_core.saved_model.fresh_process import Request, answers
from tfslim_core.saved_model.read import read_saved_model
from tfslim_core.saved_model.write import write_saved_model
from tfslim_core.stages import transformed

GOLDEN = Path(__file__).parent / "golden/real_models.json"
TOLERANCE = 1e-4  # relative L2
_TEXTS = ["def f(x):\n    return x", "int main() { return 0; }", "the night was short", "no road leads there", ""]


@dataclass(frozen=True)
class Model:
    """How to get a SavedModel, given an empty directory, and what to ask its one input. bounds: of random numbers."""

    get: Callable[[Path], Path]
    feed: Callable[[], np.ndarray]


def _noise(*shape: int, high: float = 1.0) -> Callable[[], np.ndarray]:
    return lambda: (high * np.random.default_rng(1).random(shape)).astype(np.float32)


def _strings() -> np.ndarray:
    return np.array([text.encode() for text in _TEXTS], object)


def _keras(name: str) -> Callable[[Path], Path]:
    return lambda folder: keras_models.exported(keras_models.MODELS[name](), folder / name)


def _sleepecg(folder: Path) -> Path:
    with zipfile.ZipFile(PACKAGES / "sleepecg/classifiers/ws-gru-mesa.zip") as packed:
        packed.extractall(folder)  # drops what would lead out of the folder
    return folder / "classifier"


MODELS = {
    "guesslang": Model(lambda folder: GUESSLANG, _strings),
    "basic_pitch": Model(lambda folder: BASIC_PITCH, _noise(2, 43_844, 1, high=0.2)),
    "sleepecg": Model(_sleepecg, _noise(3, 12, 36)),
    "mobilenet": Model(_keras("mobilenet"), _noise(4, 96, 96, 3)),
    "resnet50": Model(_keras("resnet50"), _noise(4, 64, 64, 3)),
    "efficientnet": Model(_keras("efficientnet"), _noise(4, 64, 64, 3, high=255)),
    "text_lstm": Model(_keras("text_lstm"), _strings),
}


@dataclass(frozen=True)
class Measured:
    """What the default transforms did. bytes: of the graph and its weights; error: relative L2 of the worst output."""

    nodes: tuple[int, int]
    bytes: tuple[int, int]
    changes: dict[str, list[int]]
    error: float
    varies: bool

    def line(self) -> dict[str, object]:
        """What the golden file says of it; the error as a power of ten, since machines round differently."""
        at_most = 10.0 ** math.ceil(math.log10(max(self.error, 1e-7)))
        return {
            "nodes": list(self.nodes),
            "bytes": list(self.bytes),
            "changes": self.changes,
            "worst error at most": float(f"{at_most:.0e}"),
        }


def measured(name: str, folder: Path) -> Measured:
    """Freeze, transform and write the model; ask the original and the slim one by the C++ loader."""
    model = MODELS[name]
    original = model.get(folder)
    frozen = freeze_saved_model(read_saved_model(original, ("serve",), None))
    slim = transformed(frozen, None, lambda *now: None)
    out = folder / "slim"
    out.mkdir()
    write_saved_model(slim, out)
    changes: dict[str, list[int]] = {}
    for step in slim.manifest.steps:
        changes.setdefault(step.name, []).append(step.changes)
    error, varies = _compared(frozen, original, out, model.feed())
    size = tuple(transforms.stored_bytes(bundle.graph) for bundle in (frozen, slim))
    return Measured((len(frozen.graph.nodes), len(slim.graph.nodes)), size, changes, error, varies)


def _compared(frozen: Bundle, original: Path, slim: Path, feed: np.ndarray) -> tuple[float, bool]:
    signature = frozen.manifest.signature_defs()["serving_default"]
    request = Request("serving_default", {next(iter(signature.inputs)): feed})
    (wanted,), (found,) = answers(original, [request]), answers(slim, [request])
    worst, varies = 0.0, False
    for key, before in wanted.items():
        after = found[key]
        assert (after.dtype, after.shape) == (before.dtype, before.shape), key
        if before.dtype.kind != "f":
            assert np.array_equal(before, after), key
            continue
        assert np.isfinite(after).all(), key
        varies |= before.std(axis=0).max() > 1e-3 * np.abs(before).max()
        worst = max(worst, float(np.linalg.norm(after - before) / np.linalg.norm(before)))
    return worst, varies
