"""Which parts of a model the bytes belong to, before and after, few enough to draw."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

KEPT = 8
GONE = 4


@dataclass(frozen=True, slots=True)
class Share:
    """A part of the model. `css` is its colour; a part with nothing after is gone."""

    label: str
    before: int
    after: int
    css: str


def shares(before: Sequence[tuple[str, int]], after: Sequence[tuple[str, int]]) -> list[Share]:
    """The largest parts under their own names, what is kept first; the small ones are added up, so no byte is lost."""
    old, new = _summed(before), _summed(after)
    parts = sorted(
        ((label, old[label], new[label]) for label in old | new),
        key=lambda part: (-part[1] - part[2], part[0]),
    )
    kept = _few([part for part in parts if part[2]], KEPT, "smaller parts")
    gone = _few([part for part in parts if part[1] and not part[2]], GONE, "smaller parts, gone")
    return [Share(*part, css=f"kept{place}") for place, part in enumerate(kept)] + [
        Share(*part, css=f"gone gone{place % 2}") for place, part in enumerate(gone)
    ]


def _summed(items: Sequence[tuple[str, int]]) -> Counter[str]:
    total: Counter[str] = Counter()
    for label, size in items:
        total[label] += size
    return total


def _few(parts: list[tuple[str, int, int]], most: int, rest: str) -> list[tuple[str, int, int]]:
    if len(parts) <= most:
        return parts
    small = parts[most - 1 :]
    added = (f"{len(small):,} {rest}", sum(part[1] for part in small), sum(part[2] for part in small))
    return [*parts[: most - 1], added]
