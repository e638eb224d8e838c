"""One verdict of several: of the datasets on which a model was validated one by one, or of the candidates of one model.

A joined verdict is as good as the worst of its parts, and says what each found under the names of their datasets.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from tfslim_core.errors import DataError, ModelError
from tfslim_core.verdict import Check, Outcome, Verdict

# The best first.
_ORDER: tuple[Outcome, ...] = ("pass", "inconclusive", "fail")


@dataclass(frozen=True)
class Candidate:
    """One of the models to choose from. name: for people, such as its encoding. others: what became of those that were
    not chosen, a line each.
    """

    name: str
    verdict: Verdict
    others: tuple[str, ...] = ()

    @property
    def outcome(self) -> Outcome:
        """pass, fail or inconclusive."""
        return self.verdict.verdict

    def __str__(self) -> str:
        found = self.verdict
        why = f": {'; '.join(found.reasons)}" if found.verdict != "pass" and found.reasons else ""
        return f"{self.name} ({found.models.optimized.bytes:,} bytes): {found.verdict}{why}"


def joined(parts: Sequence[Verdict]) -> Verdict:
    """One verdict on the same two models over all the datasets of the parts.

    The worst verdict wins. What the models cost is told by the first of the worst parts; a check on the models, which
    each part made anew, by the part where it came out worst.

    Raises:
        ModelError: there is no part, or the parts are not of the same two models.
        DataError: two parts have a dataset of the same name.
    """
    if not parts:
        raise ModelError("there is no verdict to join; give at least one")
    _check_same_models(parts)
    names = [name for part in parts for name in part.datasets]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise DataError(f"two verdicts have a dataset {twice[0]!r}; give each file or directory its own name")
    outcome = max((part.verdict for part in parts), key=_ORDER.index)
    worst = next(part for part in parts if part.verdict == outcome)
    checks = _checks(parts)
    return Verdict(
        verdict=outcome,
        reasons=_passed(parts, checks) if outcome == "pass" else _reasons(parts),
        checks=checks,
        models=worst.models,
        datasets={name: result for part in parts for name, result in part.datasets.items()},
    )


def chosen(candidates: Sequence[Candidate]) -> Candidate:
    """The smallest candidate that passed; where none did, the one that came closest.

    An inconclusive one is closer than one that failed; among the like, the one with the fewest failed checks, and then
    the one whose worst value is nearest to its bound.

    Raises:
        ModelError: there is none.
    """
    if not candidates:
        raise ModelError("there is no candidate to choose from")
    best = min(candidates, key=_distance)
    return replace(best, others=tuple(str(one) for one in candidates if one is not best))


def _distance(candidate: Candidate) -> tuple[float, ...]:
    verdict = candidate.verdict
    size = float(verdict.models.optimized.bytes)
    if verdict.verdict == "pass":
        return (0.0, size)
    failed = [check for check in verdict.checks if not check.passed]
    missed = max((_miss(check) for check in failed), default=0.0)
    return (float(_ORDER.index(verdict.verdict)), float(len(failed)), missed, size)


def _miss(check: Check) -> float:
    """How far a value is from its bound, by the larger of the two; 1 where there is no value."""
    if check.value is None:
        return 1.0
    scale = max(abs(check.value), abs(check.bound))
    return abs(check.value - check.bound) / scale if scale else 0.0


def _check_same_models(parts: Sequence[Verdict]) -> None:
    for role in ("original", "optimized"):
        digests = [getattr(part.models, role).digest for part in parts]
        for digest in digests[1:]:
            if digest != digests[0]:
                raise ModelError(
                    f"the verdicts are not of the same {role} model: its digest is {digests[0][:12]}… in one, "
                    f"{digest[:12]}… in another; validate one model on all datasets"
                )


def _checks(parts: Sequence[Verdict]) -> list[Check]:
    """The checks on the datasets, then each on the models once: where it failed, else where it decided nothing."""
    on_models: dict[str, Check] = {}
    on_data: list[Check] = []
    for check in (check for part in parts for check in part.checks):
        if check.dataset:
            on_data.append(check)
        elif check.expr not in on_models or _badness(check) > _badness(on_models[check.expr]):
            on_models[check.expr] = check
    return [*on_data, *on_models.values()]


def _badness(check: Check) -> tuple[bool, bool]:
    return not check.passed, check.undecided


def _passed(parts: Sequence[Verdict], checks: Sequence[Check]) -> list[str]:
    """One sentence on all, and what the parts note beside that their checks hold."""
    examples = sum(result.examples for part in parts for result in part.datasets.values())
    held = "The one check holds" if len(checks) == 1 else f"All {len(checks)} checks hold"
    notes = [reason for part in parts for reason in part.reasons[1:]]
    return list(dict.fromkeys([f"{held} on {examples:,} examples.", *notes]))


def _reasons(parts: Sequence[Verdict]) -> list[str]:
    """Why not, the failures first; of parts that passed only their notes."""
    told: Mapping[Outcome, list[str]] = {outcome: [] for outcome in _ORDER}
    for part in parts:
        told[part.verdict].extend(part.reasons[1:] if part.verdict == "pass" else part.reasons)
    return list(dict.fromkeys([*told["fail"], *told["inconclusive"], *told["pass"]]))
