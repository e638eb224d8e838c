"""What the models cost to serve: original, frozen, by the old recipe, by tfslim; and how alike they answer."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from benchmarks import variants
from benchmarks.agreement import Agreement, ask, compare
from benchmarks.alternating import Cost, measure
from benchmarks.sheets import Sheet
from benchmarks.subjects import Subject
from tfslim_core.errors import ModelError
from tfslim_core.storage import size

BATCHES = (1, 32)
_MOST_LATENCY = 1.1
_MOST_GUESSLANG_BYTES = 0.27


@dataclass(frozen=True)
class Variant:
    """One form of one model."""

    name: str
    bytes: int
    cost: Cost
    agreement: Agreement


@dataclass(frozen=True)
class Served:
    """One model in all its forms, the original first. missing: form -> why it is not there."""

    subject: str
    about: str
    asked: str
    live_bytes: int
    variants: Sequence[Variant]
    missing: Mapping[str, str] = field(default_factory=dict)

    def of(self, name: str) -> Variant:
        """The form of that name."""
        return next(variant for variant in self.variants if variant.name == name)


def run(subject: Subject, seconds: float, told: Callable[[str], None]) -> Served:
    """Make and measure all forms of a model. seconds: for the latencies of one batch size of one form."""
    made = variants.make(subject, told)
    paths, missing = dict(made.paths), dict(made.missing)
    agreements = {}
    told(f"{subject.name}: compare the answers")
    original = ask(subject, subject.path)
    for name, path in made.paths.items():
        try:
            agreements[name] = compare(subject, original, ask(subject, path))
        except ModelError as error:
            missing[name] = f"it does not serve: {error}"
            del paths[name]
    costs = measure(
        paths,
        subject.signature,
        {batch: subject.first(batch) for batch in BATCHES},
        seconds=seconds,
        told=lambda what: told(f"{subject.name}: {what}"),
    )
    found = [Variant(name, size(path), costs[name], agreements[name]) for name, path in paths.items()]
    return Served(subject.name, subject.about, subject.asked, made.live_bytes, found, missing)


def sheet(served: Served) -> Sheet:
    """The table of one model, a column a form."""
    original = served.of(variants.ORIGINAL)
    columns = [_column(variant, original, served.live_bytes) for variant in served.variants]
    rows = [[label, *(column[label] for column in columns)] for label in columns[0]]
    notes = [f"Answers are compared on {served.asked}."]
    notes += [f"{name} does not get through: {why}" for name, why in served.missing.items()]
    return Sheet(f"{served.subject}: {served.about}", ["", *(v.name for v in served.variants)], rows, notes)


def goals(all_served: Sequence[Served]) -> Sheet:
    """What the int8 model has to keep to, and whether it did."""
    rows = []
    for served in all_served:
        if variants.INT8 not in {variant.name for variant in served.variants}:
            rows.append([served.subject, "serves", "no", "yes", "missed"])
            continue
        original, slim = served.of(variants.ORIGINAL), served.of(variants.INT8)
        for batch in BATCHES:
            ratio = slim.cost.latency[batch].ratio
            rows.append(_goal(served.subject, f"latency ratio, batch {batch}", ratio, _MOST_LATENCY))
        memory = slim.cost.peak_rss_bytes / original.cost.peak_rss_bytes
        rows.append(_goal(served.subject, "peak memory ratio", memory, 1.0))
        if served.subject == "guesslang":
            rows.append(_goal(served.subject, "bytes ratio", slim.bytes / original.bytes, _MOST_GUESSLANG_BYTES))
            rows.append(_goal(served.subject, "1 - top-1", 1 - (slim.agreement.top1 or 0), 0.01))
    return Sheet(f"Goals of {variants.INT8}", ["model", "what", "found", "at most", ""], rows)


def _goal(subject: str, what: str, found: float, most: float) -> list[str]:
    return [subject, what, f"{found:.3f}", f"{most:g}", "met" if found <= most else "missed"]


def _column(variant: Variant, original: Variant, live_bytes: int) -> dict[str, str]:
    cost, agreement = variant.cost, variant.agreement
    cells = {
        "bytes": f"{variant.bytes:,}",
        "ratio to original": f"{variant.bytes / original.bytes:.3f}",
        "ratio to live float32": f"{variant.bytes / live_bytes:.3f}",
        "load": f"{cost.load_seconds * 1000:.0f} ms",
        "peak memory": f"{cost.peak_rss_bytes / 1e6:.0f} MB",
        "memory ratio": f"{cost.peak_rss_bytes / original.cost.peak_rss_bytes:.2f}",
    }
    for batch in BATCHES:
        latency = cost.latency[batch]
        cells[f"p50, batch {batch}"] = f"{latency.p50_ms:.2f} ms"
        cells[f"ratio, batch {batch}"] = f"{latency.ratio:.2f} ({latency.low:.2f}–{latency.high:.2f})"
    if agreement.top1 is not None:
        cells["top-1 agreement"] = f"{agreement.top1:.4f}"
    return cells | {"relative L2 error": f"{agreement.rel_l2:.2g}"}
