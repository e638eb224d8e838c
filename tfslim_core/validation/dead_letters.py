"""Bad records: a file with every one of them, and a summary by error."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

from tfslim_core.report import BadRecords
from tfslim_core.validation.records import Letter

FILE_NAME = "dead_letters.jsonl"

Locate = Callable[[str, Letter], tuple[str, int]]
"""(dataset, letter) -> its file, and its number in that file from 0 on."""


def write_dead_letters(out: Path, letters: Mapping[str, Sequence[Letter]], locate: Locate) -> None:
    """One line per bad record: dataset, file, record (its number in the file, from 0 on), error, input if known; and
    records, how many it stands for, where that is more than one."""
    if not any(letters.values()):
        return
    with (out / FILE_NAME).open("w", encoding="utf-8") as file:
        for name, letter in _all(letters):
            path, record = locate(name, letter)
            line = {"dataset": name, "file": path, "record": record, "error": letter.error, "input": letter.shown}
            line |= {"records": letter.count} if letter.count > 1 else {}
            file.write(json.dumps(line, ensure_ascii=False) + "\n")


def lost(letters: Iterable[Letter]) -> int:
    """How many records they stand for."""
    return sum(letter.count for letter in letters)


def by_error(letters: Mapping[str, Sequence[Letter]], locate: Locate) -> list[BadRecords]:
    """Each error once for a dataset, with how many records have it and where the first is; the most frequent first."""
    groups: dict[tuple[str, str], list[Letter]] = {}
    for name, letter in _all(letters):
        groups.setdefault((name, letter.error), []).append(letter)
    found = [BadRecords(name, error, lost(some), *locate(name, some[0])) for (name, error), some in groups.items()]
    return sorted(found, key=lambda one: (list(letters).index(one.dataset), -one.count, one.error))


def _all(letters: Mapping[str, Sequence[Letter]]) -> Iterable[tuple[str, Letter]]:
    return ((name, letter) for name, some in letters.items() for letter in some)
