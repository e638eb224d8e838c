"""How small, how right and how fast the encodings are, beside the old recipe and what TensorFlow brings itself."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import other_quantizers, tflite
from benchmarks.agreement import Agreement, ask, compare
from benchmarks.alternating import Cost, measure
from benchmarks.cases import Case
from benchmarks.children import ChildError
from benchmarks.graph_transform_tool import OldToolError, transform_in_child
from benchmarks.places import OUT
from benchmarks.sheets import Sheet
from benchmarks.variants import FROZEN, OLD, ORIGINAL
from tfslim_core import api
from tfslim_core.bundle import read_bundle
from tfslim_core.errors import ModelError, TfslimError
from tfslim_core.graph import Graph
from tfslim_core.storage import size
from tfslim_core.weights import Encoded

BATCHES = (1, 32)
ENCODINGS = ("int8", "int6", "int4", "int4/block64", "float16")
SLIM, BUDGET = "tfslim slim", "tfslim, budget"


@dataclass(frozen=True)
class Form:
    """One form of one model. to_entropy: what `_to_entropy` says of it. told: what the searched one says of itself."""

    name: str
    bytes: int
    cost: Cost
    agreement: Agreement
    to_entropy: float | None = None
    told: str = ""


@dataclass(frozen=True)
class Compared:
    """One model in all its forms, the original first. live: parameters served. missing: form -> why it is not there."""

    subject: str
    about: str
    asked: str
    budget: Sequence[str]
    live: int
    forms: Sequence[Form]
    missing: Mapping[str, str] = field(default_factory=dict)

    def of(self, name: str) -> Form | None:
        """The form of that name, if it was made."""
        return next((form for form in self.forms if form.name == name), None)


def run(case: Case, seconds: float, told: Callable[[str], None]) -> Compared:
    """Make and measure all forms of a model. seconds: for the latencies of one batch size of one form."""
    subject = case.subject
    folder = OUT / "encodings" / subject.name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    making = _Making(case, folder, lambda what: told(f"{subject.name}: {what}"))
    making.all()
    original = ask(subject, subject.path)
    agreements = {}
    for name, path in list(making.paths.items()):
        told(f"{subject.name}: compare the answers of {name}")
        try:
            agreements[name] = compare(subject, original, ask(subject, path))
        except ModelError as error:
            making.missing[name] = f"it does not serve: {_short(error)}"
            del making.paths[name]
    costs = measure(
        making.paths,
        subject.signature,
        {batch: subject.first(batch) for batch in BATCHES},
        seconds=seconds,
        told=lambda what: told(f"{subject.name}: {what}"),
    )
    forms = [
        Form(
            name,
            _bytes(path),
            costs[name],
            agreements[name],
            making.to_entropy.get(name),
            making.told.get(name, ""),
        )
        for name, path in making.paths.items()
    ]
    return Compared(subject.name, subject.about, subject.asked, case.budget, making.live, forms, making.missing)


class _Making:
    """Makes the forms; those that cannot be made are in `missing`, with the reason."""

    def __init__(self, case: Case, folder: Path, told: Callable[[str], None]) -> None:
        self._case, self._folder, self._told = case, folder, told
        self.paths: dict[str, Path] = {ORIGINAL: case.subject.path}
        self.missing: dict[str, str] = {}
        self.told: dict[str, str] = {}
        self.to_entropy: dict[str, float] = {}
        self.live = 0

    def all(self) -> None:
        """All of them."""
        subject, frozen, bundle = self._case.subject, self._folder / "frozen", self._folder / "frozen_bundle"
        self._told("freeze")
        api.freeze(subject.path, bundle)
        api.reexport(bundle, frozen)
        self.paths[FROZEN] = frozen
        self.live = read_bundle(bundle).manifest.source.live_parameters
        self._told(OLD)
        try:
            transform_in_child(bundle, self._folder / "old")
            self.paths[OLD] = self._folder / "old"
        except OldToolError as reason:
            self.missing[OLD] = str(reason)
        for way in other_quantizers.WAYS:
            self._told(way)
            self._quantized(way, frozen)
        rewritten = self._folder / "bundle"
        self._told("transform")
        api.transform(bundle, rewritten)
        for encoding in ENCODINGS:
            self._stored(f"tfslim {encoding}", rewritten, {"encoding": encoding})
        self._slimmed()
        searched = {"budget": self._case.budget, "data": subject.tuning, "label": self._case.label}
        self._stored(BUDGET, rewritten, searched)

    def _quantized(self, way: str, frozen: Path) -> None:
        """By one of TensorFlow's own ways; where it refuses the original it gets the frozen model."""
        suffix = tflite.SUFFIX if way == other_quantizers.TFLITE else ""
        out = self._folder / f"{other_quantizers.WAYS.index(way)}{suffix}"
        why = []
        for model in (self._case.subject.path, frozen):
            try:
                other_quantizers.quantize_in_child(way, model, out, self._case.subject.signature)
            except ChildError as error:
                why.append(_short(error))
                continue
            self.paths[way] = out
            if why:
                self.told[way] = f"of the frozen model; of the original it fails: {why[0]}"
            return
        self.missing[way] = f"it fails: {why[-1]}"

    def _stored(self, name: str, bundle: Path, how: Mapping[str, Any]) -> None:
        """By `tfslim quantize`."""
        out = self._folder / name.replace("/", "_").replace(" ", "_")
        stored = out.with_name(f"{out.name}_bundle")
        try:
            made_of = api.quantize(bundle, stored, progress=self._progress(name), **how)
            api.reexport(stored, out)
        except TfslimError as error:
            self.missing[name] = f"it fails: {_short(error)}"
            return
        self.paths[name] = out
        if (found := _to_entropy(read_bundle(stored).graph)) is not None:
            self.to_entropy[name] = found
        if "budget" in how:
            kinds: dict[str, int] = {}
            for weight in made_of.weights:
                kinds[weight.encoding] = kinds.get(weight.encoding, 0) + weight.bytes_before // 4
            shares = ", ".join(
                f"{kind} {count / max(self.live, 1):.1%}" for kind, count in sorted(kinds.items(), key=lambda i: -i[1])
            )
            self.told[name] = f"{'; '.join(made_of.notes)}; of the parameters: {shares}; {made_of.seconds:.0f} s"

    def _slimmed(self) -> None:
        """What `tfslim slim` makes when it is told nothing but the data to look at."""
        out = self._folder / "slim"
        api.slim(self._case.subject.path, out, data=self._case.subject.tuning, progress=self._progress(SLIM))
        self.paths[SLIM] = out

    def _progress(self, name: str) -> Callable[[str, int, int], None]:
        return lambda what, done, total: self._told(f"{name}: {what}" + (f" {done}/{total}" if total else ""))


def sheet(compared: Compared) -> Sheet:
    """The table of one model, a row a form."""
    header = ["", "bytes", "to live parameters", "codes to entropy", "top-1 agreement", "label accuracy"]
    header += ["relative L2 error"]
    header += [*(f"latency, batch {batch}" for batch in BATCHES), "memory", "load"]
    rows = [_row(form, compared) for form in compared.forms]
    used = [number for number in range(len(header)) if any(row[number] for row in rows)]
    notes = [
        f"{compared.live:,} parameters are served; 1.00 of them is a byte each. Answers are compared on "
        f"{compared.asked}. Latency and memory are ratios to the original's (latency: median, quartiles). "
        "Codes to entropy: what codes take that are compressed, to their zero-order entropy. "
        f"The budget was: {', '.join(compared.budget)}."
    ]
    notes += [f"{form.name}: {form.told}." for form in compared.forms if form.told]
    notes += [f"{name} is not there: {why}." for name, why in compared.missing.items()]
    title = f"{compared.subject}: {compared.about}"
    return Sheet(title, [header[n] for n in used], [[row[n] for n in used] for row in rows], notes)


def _row(form: Form, compared: Compared) -> list[str]:
    cost, agreement = form.cost, form.agreement
    original = compared.forms[0].cost
    memory = cost.peak_rss_bytes / original.peak_rss_bytes
    return [
        form.name,
        f"{form.bytes:,}",
        f"{form.bytes / max(compared.live, 1):.2f}",
        "" if form.to_entropy is None else f"{form.to_entropy:.3f}",
        "" if agreement.top1 is None else f"{agreement.top1:.4f}",
        "" if agreement.accuracy is None else f"{agreement.accuracy:.4f}",
        f"{agreement.rel_l2:.2g}",
        *(_ratio(cost, batch) for batch in BATCHES),
        # The interpreter's process holds all of TensorFlow's Python package, which would say nothing.
        "–" if form.name == other_quantizers.TFLITE else f"{memory:.2f}",
        f"{cost.load_seconds * 1000:.0f} ms",
    ]


def _ratio(cost: Cost, batch: int) -> str:
    latency = cost.latency[batch]
    return f"{latency.ratio:.2f} ({latency.low:.2f}–{latency.high:.2f})"


def _to_entropy(graph: Graph) -> float | None:
    """Of all codes that are compressed, the bytes that they take to those of their zero-order entropy within a weight;
    None where none are.
    """
    taken, least = 0, 0.0
    for weight in graph.weights.values():
        codes = weight.encoded.parts.get("codes") if weight.encoded else None
        if codes is not None and codes.encoded is not None and _is_compressed(codes.encoded):
            _, counts = np.unique(codes.read(), return_counts=True)
            shares = counts / counts.sum()
            taken += codes.stored_bytes
            least += float(-(shares * np.log2(shares)).sum()) * counts.sum() / 8
    return taken / least if least else None


def _is_compressed(stored: Encoded) -> bool:
    inner = (part.encoded for part in stored.parts.values())
    return stored.encoding == "zlib" or any(_is_compressed(one) for one in inner if one is not None)


def _bytes(path: Path) -> int:
    return path.stat().st_size if path.is_file() else size(path)


def _short(error: Exception) -> str:
    """Without the paths of this machine."""
    return str(error).replace(str(OUT), "…")[:200]
