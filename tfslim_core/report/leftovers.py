"""What transforms left alone, grouped so that a thousand nodes with one reason read as one line."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tfslim_core.report.context import Skipped


@dataclass(frozen=True, slots=True)
class LeftAlone:
    """The nodes that one transform left alone for one reason, in the order they came."""

    transform: str
    reason: str
    nodes: list[str]


def left_alone(skipped: Sequence[Skipped]) -> list[LeftAlone]:
    """Groups in the order in which they first came."""
    groups: dict[tuple[str, str], list[str]] = {}
    for one in skipped:
        groups.setdefault((one.transform, one.reason), []).append(one.node)
    return [LeftAlone(transform, reason, nodes) for (transform, reason), nodes in groups.items()]
