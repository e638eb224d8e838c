"""What rows of an embedding that texts do not use cost: the text classifier with fewer rows, as floats and encoded."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.models import made, text_examples
from benchmarks.places import OUT
from benchmarks.sheets import Sheet
from tfslim_core import api, stages, storage
from tfslim_core.bundle import Bundle, read_bundle
from tfslim_core.quantization.budgeting import Budget
from tfslim_core.quantization.encode_weights import Choice
from tfslim_core.quantization.harm import NO_HARM
from tfslim_core.saved_model.server_loader import ServedModel
from tfslim_core.saved_model.write import write_saved_model
from tfslim_core.vocabulary.corpus_pruning import Pruning, check_as_meant, prune_by_corpus

_WORDS = 100_000
_CORPUS = 40_000  # texts
_BOUND = "top1_agreement>=0.97"


@dataclass(frozen=True)
class Pruned:
    """One form of the model. agreement: of the first class, with the original, on texts that were not counted.
    elsewhere: the share of lookups in the corpus whose row went. seconds: for pruning.
    """

    form: str
    rows: int
    bytes: int
    int8_bytes: int
    agreement: float
    int8_agreement: float
    elsewhere: float
    seconds: float


def run(told: Callable[[str], None]) -> list[Pruned]:
    """Unused rows, a fifth of the rows, and as many as a budget allows; then words and encodings within that budget."""
    model = made("text", words=_WORDS, layers=3, filters=256, pretrained=1, steps=300)
    corpus, _ = text_examples(_CORPUS, words=_WORDS, seed=11)
    unseen, _ = text_examples(2048, words=_WORDS, seed=1)
    OUT.mkdir(parents=True, exist_ok=True)
    file = OUT / "corpus.npz"
    np.savez(file, **corpus)
    data = {"texts": str(file)}
    budget = Budget((_BOUND,), data)
    wanted = _classes(model, unseen["ids"])
    found = []
    with tempfile.TemporaryDirectory(dir=OUT) as place:
        folder = Path(place)
        told("freeze")
        api.freeze(model, folder / "frozen")
        api.transform(folder / "frozen", folder / "folded")
        whole = read_bundle(folder / "folded")
        forms = {
            "all rows": None,
            "unused rows gone": Pruning(data, least=1),
            "the 20,000 most used": Pruning(data, most=20_000),
            f"within {_BOUND}": Pruning(data, budget=budget),
        }
        for number, (form, pruning) in enumerate(forms.items()):
            told(form)
            found.append(_measured(form, whole, pruning, folder / str(number), unseen["ids"], wanted))
        told("words and encodings")
        found.append(_both(whole, Pruning(data, budget=budget, share=0.5), budget, folder, unseen["ids"], wanted))
    return found


def sheet(found: Sequence[Pruned]) -> Sheet:
    """A row a form."""
    header = ["rows", "kept", "float32", "agreement", "int8", "agreement", "lookups elsewhere", "time"]
    rows = [
        [
            one.form,
            f"{one.rows:,}",
            f"{one.bytes / 1e6:.1f} MB" if one.bytes else "",
            f"{one.agreement:.2%}" if one.bytes else "",
            f"{one.int8_bytes / 1e6:.1f} MB",
            f"{one.int8_agreement:.2%}",
            f"{one.elsewhere:.1%}",
            f"{one.seconds:.0f} s",
        ]
        for one in found
    ]
    return Sheet(
        "Text classifier of 100,000 x 300: rows by what texts use",
        header,
        rows,
        [
            f"Counted in {_CORPUS:,} generated texts; agreement of the first class with the original on 2,048 others. "
            "The last row spends half of the budget on words and the rest on encodings other than int8, searched for.",
        ],
    )


def _measured(
    form: str, whole: Bundle, pruning: Pruning | None, folder: Path, ids: np.ndarray, wanted: np.ndarray
) -> Pruned:
    start = time.monotonic()
    bundle, elsewhere = (whole, 0.0) if pruning is None else _pruned(whole, pruning, folder / "files")
    seconds = time.monotonic() - start
    plain = _servable(bundle, folder / "float")
    small = _servable(stages.quantized(bundle, Choice(), NO_HARM, _silent), folder / "int8")
    return Pruned(
        form,
        bundle.graph.weights["embedding"].shape[0],
        storage.size(plain),
        storage.size(small),
        float(np.mean(_classes(plain, ids) == wanted)),
        float(np.mean(_classes(small, ids) == wanted)),
        elsewhere,
        seconds,
    )


def _both(whole: Bundle, pruning: Pruning, budget: Budget, folder: Path, ids: np.ndarray, wanted: np.ndarray) -> Pruned:
    start = time.monotonic()
    bundle, elsewhere = _pruned(whole, pruning, folder / "files")
    stored = stages.searched(bundle, Choice(), budget, None, _silent, whole)
    seconds = time.monotonic() - start
    small = _servable(stored, folder / "both")
    agreement = float(np.mean(_classes(small, ids) == wanted))
    rows = bundle.graph.weights["embedding"].shape[0]
    return Pruned("words and encodings within it", rows, 0, storage.size(small), 0.0, agreement, elsewhere, seconds)


def _pruned(whole: Bundle, pruning: Pruning, files: Path) -> tuple[Bundle, float]:
    files.mkdir(parents=True)
    found = prune_by_corpus(whole, pruning, files, _silent)
    check_as_meant(whole, found.bundle, found)
    (entry,) = found.bundle.manifest.vocabularies
    return found.bundle, entry.elsewhere / entry.lookups


def _servable(bundle: Bundle, folder: Path) -> Path:
    folder.mkdir(parents=True)
    write_saved_model(bundle, folder)
    return folder


def _classes(model: Path, ids: np.ndarray) -> np.ndarray:
    with ServedModel(model, ("serve",)) as served:
        parts = [served.run("serving_default", {"ids": some})["scores"] for some in np.array_split(ids, 16)]
        return np.concatenate(parts).argmax(1)


def _silent(what: str, done: int, total: int) -> None:
    del what, done, total
