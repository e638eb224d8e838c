"""What differs between two models, and what of it is a loss to those who call them."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from tfslim_core.errors import ModelError
from tfslim_core.fidelity.facts import INSIDE, INTERFACE, Facts

_SHOWN = 3


@dataclass(frozen=True)
class Difference:
    """A fact that is not the same in both. part, place: see `facts`. a, b: None where the model has no such thing.

    interface: whether callers or servers rely on it. loss: whether the second model breaks what the first promised.
    """

    part: str
    place: str
    a: str | None
    b: str | None

    @property
    def kind(self) -> Literal["lost", "added", "changed"]:
        """What happened to it on the way from the first model to the second."""
        return "lost" if self.b is None else "added" if self.a is None else "changed"

    @property
    def interface(self) -> bool:
        """Whether callers or servers rely on it."""
        return self.part in INTERFACE

    @property
    def loss(self) -> bool:
        """Whether the second model breaks what the first promised.

        An input that is new is a loss too: requests that were answered lack it.
        """
        return self.interface and (self.kind != "added" or self.part == "input")

    def to_json(self) -> dict[str, Any]:
        """As JSON data."""
        return {**asdict(self), "kind": self.kind, "interface": self.interface, "loss": self.loss}

    def __str__(self) -> str:
        what = f"{self.part} {self.place!r}" if self.place else self.part
        if self.kind == "changed":
            return f"{what} was {self.a}, and is {self.b}"
        return f"{what} is {self.kind} ({self.a or self.b})"


@dataclass(frozen=True)
class Comparison:
    """Two models held against each other. alike: how many facts are the same in both."""

    a: Path
    b: Path
    differences: tuple[Difference, ...]
    alike: int

    @property
    def losses(self) -> tuple[Difference, ...]:
        """Those differences that break what the first model promised."""
        return tuple(difference for difference in self.differences if difference.loss)

    def to_json(self) -> dict[str, Any]:
        """As JSON data."""
        return {
            "a": str(self.a),
            "b": str(self.b),
            "lost": len(self.losses),
            "alike": self.alike,
            "differences": [difference.to_json() for difference in self.differences],
        }


def differences(a: Facts, b: Facts) -> list[Difference]:
    """What is not the same, what callers rely on first."""
    order = {part: number for number, part in enumerate((*INTERFACE, *INSIDE))}
    keys = sorted(a.keys() | b.keys(), key=lambda key: (order[key[0]], key[1]))
    return [Difference(*key, a.get(key), b.get(key)) for key in keys if a.get(key) != b.get(key)]


def refuse_losses(before: Facts, after: Facts, what: str, asked: Collection[str] = ()) -> None:
    """Make sure that nothing was lost. asked: parts that were meant to change, though not to go.

    Raises:
        ModelError: something was; `what` names what was done to the model.
    """
    lost = [d for d in differences(before, after) if d.loss and not (d.part in asked and d.kind == "changed")]
    if lost:
        more = f"; and {len(lost) - _SHOWN} more" if len(lost) > _SHOWN else ""
        raise ModelError(f"{what} lost something: {'; '.join(map(str, lost[:_SHOWN]))}{more}")
