"""What the encodings were to reach, and whether they did."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from benchmarks.encodings import BATCHES, BUDGET, SLIM, Compared
from benchmarks.sheets import Sheet
from benchmarks.variants import FROZEN, OLD, ORIGINAL


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
        closeness = {form.name: form.to_entropy for form in ours if form.to_entropy is not None}
        if closeness:
            rows.append(_goal_of_worst(compared, "compressed codes to their entropy", closeness, 1.05))
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
