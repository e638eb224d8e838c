"""Bad records as they are gathered: the first of a dataset one by one, the rest counted by error, in bounded memory."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from tfslim_core.validation.records import Letter

MOST_LETTERS = 10_000  # of a dataset, that are told one by one
_MOST_ERRORS = 1_000  # that the rest is told apart by
_OTHERS = "errors of further kinds"


@dataclass
class GatheredLetters:
    """The letters of one dataset: add them, merge with others, then ask for all.

    most: how many are kept as they are, those of the earliest places, whoever saw them. Letters that end a file are
    kept all, since each says what could not be read.
    """

    most: int = MOST_LETTERS
    _kept: list[Letter] = field(default_factory=list)
    _ends: list[Letter] = field(default_factory=list)
    _rest: dict[str, Letter] = field(default_factory=dict)

    def add(self, letter: Letter) -> None:
        """Add a bad record."""
        (self._ends if letter.ends else self._kept).append(letter)
        if len(self._kept) >= 2 * self.most:
            self._settle()

    def merge(self, other: GatheredLetters) -> None:
        """Add what another saw."""
        for letter in (*other._ends, *other._kept):
            self.add(letter)
        for letter in other._rest.values():
            self._count(letter)

    def all(self) -> list[Letter]:
        """By place; one stands for all that have its error where its count says so."""
        self._settle()
        return sorted([*self._kept, *self._ends, *self._rest.values()], key=lambda letter: letter.place)

    def _settle(self) -> None:
        self._kept.sort(key=lambda letter: letter.place)
        for letter in self._kept[self.most :]:
            self._count(letter)
        del self._kept[self.most :]

    def _count(self, letter: Letter) -> None:
        error = letter.error if letter.error in self._rest or len(self._rest) < _MOST_ERRORS else _OTHERS
        seen = self._rest.get(error)
        self._rest[error] = replace(
            letter,
            error=error,
            shown=None,
            place=min(letter.place, seen.place) if seen else letter.place,
            count=letter.count + (seen.count if seen else 0),
        )


def merged(parts: Iterable[GatheredLetters]) -> GatheredLetters:
    """All of them together."""
    total = GatheredLetters()
    for part in parts:
        total.merge(part)
    return total
