"""How small, how right and how fast the encodings are, beside the old recipe and what TensorFlow brings itself."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks import other_quantizers, tflite
from benchmarks.agreement import Agreement, ask, compare
from benchmarks.alternating import Cost, measure
from benchmarks.children import ChildError
from benchmarks.digits import digits
from benchmarks.graph_transform_tool import OldToolError, transform_in_child
from benchmarks.models import dense_inputs, made, text_examples
from benchmarks.places import OUT
from benchmarks.sheets import Sheet
from benchmarks.subjects import Subject, basic_pitch, guesslang, tones
from benchmarks.variants import FROZEN, OLD, ORIGINAL
from tfslim_core import api
from tfslim_core.bundle import read_bundle
from tfslim_core.errors import ModelError, TfslimError
from tfslim_core.storage import size

BATCHES = (1, 32)
ENCODINGS = ("int8", "int6", "int4", "int4/block64", "float16")
SLIM, BUDGET = "tfslim slim", "tfslim, budget"
_WORDS = 100_000  # x 300 float32: 120 MB


@dataclass(frozen=True)
class Case:
    """A subject, the budget that its encodings are searched under, and its tuning data's label, if it has one."""

    subject: Subject
    budget: Sequence[str]
    label: str | None = None


@dataclass(frozen=True)
class Form:
    """One form of one model. told: what the searched one says of itself."""

    name: str
    bytes: int
    cost: Cost
    agreement: Agreement
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
        Form(name, _bytes(path), costs[name], agreements[name], making.told.get(name, ""))
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
    header = ["", "bytes", "to live parameters", "top-1 agreement", "label accuracy", "relative L2 error"]
    header += [*(f"latency, batch {batch}" for batch in BATCHES), "memory", "load"]
    rows = [_row(form, compared) for form in compared.forms]
    used = [number for number in range(len(header)) if any(row[number] for row in rows)]
    notes = [
        f"{compared.live:,} parameters are served; 1.00 of them is a byte each. Answers are compared on "
        f"{compared.asked}. Latency and memory are ratios to the original's (latency: median, quartiles). "
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


def goals(all_compared: Sequence[Compared]) -> Sheet:
    """What was to be reached, and whether it was."""
    rows: list[list[str]] = []
    for compared in all_compared:
        original, frozen, int8 = (compared.of(name) for name in (ORIGINAL, FROZEN, "tfslim int8"))
        assert original is not None
        assert frozen is not None
        if int8 is not None:
            # Of the frozen model, what is no parameter: the graph, tables.
            change = frozen.bytes - 4 * compared.live
            share = (int8.bytes - change) / max(compared.live, 1)
            rows.append(_goal(compared, "int8: bytes to live parameters, graph aside", share, 1.03))
        ours = [form for form in compared.forms if form.name.startswith("tfslim")]
        for batch in BATCHES:
            ratios = {form.name: form.cost.latency[batch].ratio for form in ours}
            rows.append(_goal_of_worst(compared, f"latency ratio, batch {batch}", ratios, 1.05))
        peak = original.cost.peak_rss_bytes
        ratios = {form.name: form.cost.peak_rss_bytes / peak for form in ours}
        rows.append(_goal_of_worst(compared, "memory ratio", ratios, 1.0))
        rows += _GOALS.get(compared.subject, _no_more)(compared)
    missed = [row for row in rows if row[-1] != "met"]
    met = f"{len(rows) - len(missed)} of {len(rows)} goals are met"
    return Sheet("Goals", ["model", "what", "found", "at most", ""], rows, [met + "."])


def _goal(compared: Compared, what: str, found: float, most: float) -> list[str]:
    return [compared.subject, what, f"{found:.3f}", f"{most:.3f}", "met" if found <= most else "missed"]


def _goal_of_worst(compared: Compared, what: str, found: Mapping[str, float], most: float) -> list[str]:
    missing = ", ".join(name for name, value in found.items() if value > most)
    worst = max(found, key=lambda name: found[name])
    row = _goal(compared, f"{what}, the worst of tfslim's: {worst}", found[worst], most)
    return [*row[:-1], f"missed by {missing}"] if missing else row


def _no_more(compared: Compared) -> list[list[str]]:
    del compared
    return []


def _guesslang_goals(compared: Compared) -> list[list[str]]:
    int8, searched = compared.of("tfslim int8"), compared.of(BUDGET)
    if int8 is None or searched is None:
        return [_goal(compared, f"{BUDGET}: made", np.inf, 0)]
    return [
        _goal(compared, f"{BUDGET}: bytes to those of int8", searched.bytes / int8.bytes, 0.8),
        _goal(compared, f"{BUDGET}: 1 - top-1 agreement", 1 - (searched.agreement.top1 or 0), 0.01),
    ]


def _digits_goals(compared: Compared) -> list[list[str]]:
    original, int8, searched = (compared.of(name) for name in (ORIGINAL, "tfslim int8", BUDGET))
    if original is None or int8 is None or searched is None:
        return [_goal(compared, f"{BUDGET}: made", np.inf, 0)]
    drop = (original.agreement.accuracy or 0) - (searched.agreement.accuracy or 0)
    return [
        _goal(compared, f"{BUDGET}: bytes to those of int8", searched.bytes / int8.bytes, 0.45),
        _goal(compared, f"{BUDGET}: label accuracy lost", drop, 0.003),
    ]


def _text_goals(compared: Compared) -> list[list[str]]:
    old, searched = compared.of(OLD), compared.of(BUDGET)
    if old is None or searched is None:
        return [_goal(compared, f"{BUDGET}: made", np.inf, 0)]
    return [
        _goal(compared, f"{BUDGET}: MB", searched.bytes / 1e6, 24.5),
        _goal(
            compared,
            f"{BUDGET}: 1 - top-1 agreement, to the old recipe's",
            1 - (searched.agreement.top1 or 0),
            1 - (old.agreement.top1 or 0),
        ),
    ]


def _basic_pitch_goals(compared: Compared) -> list[list[str]]:
    old, slim = compared.of(OLD), compared.of(SLIM)
    if slim is None:
        return [_goal(compared, f"{SLIM}: made", np.inf, 0)]
    found = [_goal(compared, f"{SLIM}: relative L2 error", slim.agreement.rel_l2, 0.01)]
    if old is not None:
        found.append(_goal(compared, f"{SLIM}: bytes to those of the old recipe", slim.bytes / old.bytes, 1.5))
    return found


_GOALS: Mapping[str, Callable[[Compared], list[list[str]]]] = {
    "guesslang": _guesslang_goals,
    "digits": _digits_goals,
    "text": _text_goals,
    "basic_pitch": _basic_pitch_goals,
}


def _text() -> Case:
    path = made("text", words=_WORDS, layers=3, filters=256, pretrained=1, steps=300)
    inputs, labels = text_examples(2048, words=_WORDS, seed=1)
    tuning, _ = text_examples(4000, words=_WORDS, seed=2)
    subject = Subject(
        "text",
        "text CNN, embedding of 100,000 x 300",
        path,
        inputs,
        f"{len(labels):,} generated texts, words by Zipf's law, that neither training nor tuning saw",
        classifies=True,
        tuning={"tuning": _npz("text", tuning)},
        labels=labels,
    )
    return Case(subject, ["top1_agreement>=0.992"])


def _dense() -> Case:
    subject = Subject(
        "dense",
        "4 dense layers of 2048 x 2048",
        made("dense"),
        dense_inputs(512),
        "512 of seeded noise",
        classifies=False,
        tuning={"tuning": _npz("dense", dense_inputs(512, seed=2))},
    )
    return Case(subject, ["rel_l2_error<=0.05"])


def _guesslang() -> Case:
    return Case(guesslang(tuning=1500, per_extension=200), ["top1_agreement>=0.99"])


def _digits() -> Case:
    path = made("digits")
    images, labels = digits().unseen
    tuned_images, tuned_labels = digits().tuning
    subject = Subject(
        "digits",
        "classifier of handwritten digits, three dense layers",
        path,
        {"x": images},
        f"{len(images):,} real digits that neither training nor tuning saw",
        classifies=True,
        tuning={"tuning": _npz("digits", {"x": tuned_images, "label": tuned_labels})},
        labels=labels,
    )
    return Case(subject, ["label_accuracy_drop<=0.003"], "label")


def _basic_pitch() -> Case:
    tuning = {"tuning": _npz("basic_pitch", {"input_2": tones(64, seed=2)})}
    budget = [f"{output}:rel_l2_error<=0.01" for output in ("contour", "note", "onset")]
    return Case(replace(basic_pitch(), tuning=tuning), budget)


def _transformer() -> Case:
    def inputs(seed: int) -> dict[str, NDArray[np.float32]]:
        return {"x": np.random.default_rng(seed).standard_normal((256, 32, 256), np.float32)}

    subject = Subject(
        "transformer",
        "4 transformer blocks, random weights",
        made("transformer"),
        inputs(1),
        "256 of seeded noise",
        classifies=False,
        tuning={"tuning": _npz("transformer", inputs(2))},
    )
    return Case(subject, ["rel_l2_error<=0.05"])


def _npz(name: str, arrays: Mapping[str, NDArray[Any]]) -> str:
    file = OUT / "encodings_data" / f"{name}.npz"
    file.parent.mkdir(parents=True, exist_ok=True)
    kept: dict[str, Any] = dict(arrays)
    np.savez(file, **kept)
    return str(file)


CASES: Mapping[str, Callable[[], Case]] = {
    "text": _text,
    "dense": _dense,
    "guesslang": _guesslang,
    "digits": _digits,
    "basic_pitch": _basic_pitch,
    "transformer": _transformer,
}


def _bytes(path: Path) -> int:
    return path.stat().st_size if path.is_file() else size(path)


def _short(error: Exception) -> str:
    """Without the paths of this machine."""
    return str(error).replace(str(OUT), "…")[:200]
