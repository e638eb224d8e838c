"""Which of the numbered names below a base a server tries, which it can load, and what may be hidden or removed.

Nothing here reads a disk or a bucket: both are looked at first, and these are the decisions on what was found.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from tfslim_core.errors import ModelError, UsageError
from tfslim_core.publishing.records import Record

# A directory that holds none of these is no model; they are written last.
MODEL_FILES = ("saved_model.pb", "saved_model.pbtxt", "model.tflite")
WARMUP_REQUESTS = "assets.extra/tf_serving_warmup_requests"
OWN = ".tfslim"
LEAST_KEPT = 2  # the version that is served, and the one to roll back to
TRIES = 100  # as many others may publish at the same moment
_HIGHEST = 2**63 - 1  # a server reads versions as int64


@dataclass(frozen=True)
class Published:
    """A version that a server can see. path: a directory, or the address of one.

    removed: older versions that made room. warmup_requests: whether the model carries some. notes: what else to tell.
    """

    path: Path | str
    version: int
    removed: tuple[int, ...] = ()
    warmup_requests: bool = False
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Version:
    """A version, or what a server takes for one.

    path: a directory, or the address of one. digest, published (ISO 8601, UTC), verdict, gates: as they were recorded;
    None and empty for what other tools put there. served: a server that polls the base serves this one: the highest
    complete one. complete: a server can load it, as far as its files tell. problem: what is wrong with it.
    """

    number: int
    path: str
    bytes: int
    digest: str | None = None
    published: str | None = None
    served: bool = False
    rolled_back: bool = False
    complete: bool = True
    problem: str | None = None
    warmup_requests: bool = False
    verdict: str | None = None
    gates: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """As the command prints it."""
        return asdict(self)


@dataclass(frozen=True)
class Seen:
    """What has a number. names: more than one where they differ in zeros. files: whether it holds a model's file.

    changing: another may be writing it now.
    """

    names: tuple[str, ...]
    bytes: int
    files: bool
    warmup_requests: bool = False
    changing: bool = False


@dataclass(frozen=True)
class Shelf:
    """What was found below a base, by number. removing: somebody is removing it. records: of what was published."""

    base: str
    visible: Mapping[int, Seen]
    rolled_back: Mapping[int, Seen]
    claimed: Collection[int] = ()
    removing: Collection[int] = ()
    records: Mapping[int, Record] = field(default_factory=dict)

    def problem(self, number: int) -> str | None:
        """Why a server cannot load a version that it sees; None where it can."""
        seen = self.visible[number]
        if number in self.removing and not seen.files:
            return "it is being removed"
        if seen.changing:
            return "it is being published, or its publisher died within the last hour"
        if not seen.files:
            return f"it holds no {MODEL_FILES[0]}"
        record = self.records.get(number)
        if record is not None and record.bytes not in (None, seen.bytes):
            return f"it holds {seen.bytes:,} bytes; {record.bytes:,} were published"
        return None

    def complete(self) -> list[int]:
        """Versions that a server can load and that nobody removes, ascending."""
        return [number for number in self._whole() if number not in self.removing]

    def _whole(self) -> list[int]:
        return sorted(number for number in self.visible if self.problem(number) is None)

    def served(self) -> Published:
        """The version that a server serves.

        Raises:
            ModelError: there is none.
        """
        complete = self.complete()
        if not complete:
            raise ModelError(f"{self.base} has no version that a server can load; publish one")
        return Published(self._path(self.visible[complete[-1]]), complete[-1])

    def next_number(self) -> int:
        """A number above all that are or were used.

        Raises:
            ModelError: a server could not read it.
        """
        number = max([0, *self.visible, *self.rolled_back, *self.claimed]) + 1
        if number > _HIGHEST:
            raise ModelError(f"cannot publish to {self.base}: version {_HIGHEST} is there, and servers read no higher")
        return number

    def warnings(self, digest: str) -> tuple[str, ...]:
        """What to tell who publishes a model."""
        same = sorted(n for n in self.rolled_back if n in self.records and self.records[n].digest == digest)
        return tuple(f"exactly this model was taken back as version {number}" for number in same[-1:])

    def to_hide(self, to: int | None) -> tuple[int, list[int]]:
        """The version to go back to, and those above it, ascending: the highest is hidden last, so that a server goes
        from there to the right one.

        to: which version to go back to; the one below the highest unless told.

        Raises:
            ModelError: it is not there, or there is none below the highest.
        """
        complete = self.complete()
        tried = sorted(n for n, seen in self.visible.items() if not seen.changing and n not in self.removing)
        if to is None:
            below = [number for number in complete if tried and number < tried[-1]]
            if not below:
                count = len(complete)
                raise ModelError(f"{self.base} has {count} version{'s' * (count != 1)}: nothing to roll back to")
            to = below[-1]
        elif to not in complete:
            known = ", ".join(map(str, complete)) or "none"
            raise ModelError(f"{self.base} has no version {to} that a server can load (it has: {known})")
        return to, [number for number in tried if number > to]

    def due(self, keep: int) -> list[int]:
        """Versions to remove, oldest first: those beyond the `keep` highest. What cannot be loaded is left alone, since
        another tool may be copying it.
        """
        return self._whole()[: -max(keep, LEAST_KEPT)]

    def due_rolled_back(self, keep: int) -> list[int]:
        """Versions that were taken back and are older than all that are kept."""
        oldest = self.complete()[-keep:][:1]
        return sorted(n for n in self.rolled_back if oldest and n < oldest[0])

    def listing(self) -> list[Version]:
        """All of them, ascending; those that were taken back too."""
        served = self._whole()[-1:]
        found = [
            self._version(number, seen, rolled_back=False, served=number in served)
            for number, seen in self.visible.items()
        ]
        found += [self._version(number, seen, rolled_back=True) for number, seen in self.rolled_back.items()]
        return sorted(found, key=lambda version: (version.number, version.rolled_back))

    def _version(self, number: int, seen: Seen, *, rolled_back: bool, served: bool = False) -> Version:
        record = self.records.get(number, Record())
        problem = None if rolled_back else self.problem(number)
        complete = seen.files and problem is None
        if complete and not rolled_back and number in self.removing:
            problem = "it is being removed"
        return Version(
            number,
            str(self._path(seen)),
            seen.bytes,
            digest=record.digest,
            published=record.published,
            served=served,
            rolled_back=rolled_back,
            complete=complete,
            problem=problem,
            warmup_requests=seen.warmup_requests,
            verdict=record.verdict,
            gates=tuple(gate.expr for gate in record.gates),
        )

    def _path(self, seen: Seen) -> Path | str:
        name = seen.names[-1]
        return f"{self.base.rstrip('/')}/{name}" if self.base.startswith("gs://") else Path(self.base) / name


def number_of(name: str) -> int | None:
    """The version that a server reads a name as, "0003" as 3; None where it takes no notice of the name."""
    if not re.fullmatch(r"[ \t]*[-+]?[0-9]{1,64}[ \t]*", name):
        return None
    number = int(name)
    return number if -_HIGHEST <= number <= _HIGHEST else None


def numbered(names: Iterable[str], prefix: str = "") -> dict[int, tuple[str, ...]]:
    """Names that a server reads as versions, by number; of several it takes the last."""
    found: dict[int, tuple[str, ...]] = {}
    for name in sorted(names):
        if name.startswith(prefix) and (number := number_of(name.removeprefix(prefix))) is not None:
            found[number] = (*found.get(number, ()), name)
    return found


def claimed_numbers(names: Iterable[str]) -> dict[int, str]:
    """The names of claims, "3.json", by number."""
    stems = {name: name.removesuffix(".json") for name in names if name.endswith(".json")}
    return {int(stem): name for name, stem in stems.items() if stem.isascii() and stem.isdigit()}


def removed_numbers(names: Iterable[str]) -> set[int]:
    """The numbers in names of removals, "3.TOKEN"."""
    numbers = {name.partition(".")[0] for name in names}
    return {int(number) for number in numbers if re.fullmatch("-?[0-9]+", number)}


def check_keep(keep: int | None) -> int | None:
    """How many versions to keep; None for all, which 0 means too.

    Raises:
        UsageError: too few.
    """
    if not keep:
        return None
    if keep < LEAST_KEPT:
        raise UsageError(
            f"keep {keep}: at least {LEAST_KEPT}, the version that is served and the one to roll back to; 0 keeps all"
        )
    return keep


def carries_warmup_requests(model: Path) -> bool:
    """Whether a server finds warm-up requests in a model."""
    return (model / WARMUP_REQUESTS).is_file()
