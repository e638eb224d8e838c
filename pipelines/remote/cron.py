"""Cron expressions: checked before they are sent, and in the spelling that each platform reads.

People write the usual five fields: minute, hour, day of the month, month, day of the week. Kubeflow Pipelines reads
six, seconds first, with Sunday as 0 only and no time zone; Vertex AI reads five behind an optional `TZ=`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from itertools import islice
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from tfslim_core.errors import UsageError, nearest

_MONTHS = "jan feb mar apr may jun jul aug sep oct nov dec".split()
_DAYS = "sun mon tue wed thu fri sat".split()
_SHORT = {
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
    "@monthly": "0 0 1 * *",
    "@weekly": "0 0 * * 0",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@hourly": "0 * * * *",
}
_FARTHEST = 366 * 9  # days: from one 29 February to the next it is eight years where a century lies between


@dataclass(frozen=True)
class _Kind:
    name: str
    least: int
    most: int
    words: Sequence[str] = ()
    first_word: int = 0


_KINDS = (
    _Kind("minute", 0, 59),
    _Kind("hour", 0, 23),
    _Kind("day of the month", 1, 31),
    _Kind("month", 1, 12, _MONTHS, 1),
    _Kind("day of the week", 0, 7, _DAYS),
)


@dataclass(frozen=True)
class _Field:
    """text: as both platforms read it. values: all that it matches. free: it begins with a star, so it binds no day."""

    text: str
    values: frozenset[int]
    free: bool


@dataclass(frozen=True)
class Cron:
    """A checked expression. zone: an IANA name, or empty for the platform's own."""

    fields: tuple[_Field, ...]
    second: int = 0
    zone: str = ""

    @property
    def usual(self) -> str:
        """The five usual fields."""
        return " ".join(field.text for field in self.fields)

    @property
    def kubeflow(self) -> str:
        """As Kubeflow Pipelines reads it: six fields, seconds first."""
        if self.zone not in ("", "UTC"):
            raise UsageError(
                f"--timezone {self.zone}: a schedule of Kubeflow Pipelines has no time zone of its own, it follows the "
                "cluster's (CRON_SCHEDULE_TIMEZONE, UTC unless set); write the hours in that one and leave it away"
            )
        return f"{self.second} {self.usual}"

    @property
    def vertex(self) -> str:
        """As Vertex AI reads it: five fields, behind the time zone."""
        if self.second:
            raise UsageError("--cron: Vertex AI starts runs on whole minutes; the seconds have to be 0")
        return f"TZ={self.zone or 'UTC'} {self.usual}"

    def next_times(self, after: datetime, count: int) -> list[datetime]:
        """The next times that it matches, in its own zone."""
        return list(islice(self._times(after), count))

    def _times(self, after: datetime) -> Iterator[datetime]:
        zone = ZoneInfo(self.zone or "UTC")
        minutes, hours = (sorted(field.values) for field in self.fields[:2])
        first = after.astimezone(zone).date()
        for day in (first + timedelta(days=n) for n in range(_FARTHEST)):
            if not self._on(day):
                continue
            for hour in hours:
                for minute in minutes:
                    found = datetime.combine(day, time(hour, minute, self.second), zone)
                    # An hour that the clocks skip does not come.
                    exists = found.astimezone(UTC).astimezone(zone).replace(tzinfo=None) == found.replace(tzinfo=None)
                    if exists and found > after:
                        yield found

    def _on(self, day: date) -> bool:
        _, _, month_days, months, week_days = self.fields
        if day.month not in months.values:
            return False
        by_month, by_week = day.day in month_days.values, day.isoweekday() % 7 in week_days.values
        return by_month and by_week if month_days.free or week_days.free else by_month or by_week


def parse(expression: str, zone: str = "") -> Cron:
    """Check an expression of five fields, or of six with seconds first, or a word such as @daily.

    Raises:
        UsageError: it cannot be read, a number is out of range, or it never comes.
    """
    text = expression.strip()
    if text.startswith("@"):
        if text.lower() not in _SHORT:
            raise UsageError(f"--cron {expression!r}: no such word{nearest(text, _SHORT)} ({', '.join(_SHORT)})")
        text = _SHORT[text.lower()]
    parts = text.split()
    if len(parts) not in (5, 6):
        raise UsageError(
            f"--cron {expression!r} has {len(parts)} fields; it takes five: minute, hour, day of the month, month, day "
            "of the week, such as '0 2 * * *' (quote it: the shell expands a bare star)"
        )
    second = 0
    if len(parts) == 6:
        if not re.fullmatch(r"[0-5]?[0-9]", parts[0]):
            raise UsageError(f"--cron {expression!r}: of six fields the first is one second, 0 to 59, not {parts[0]!r}")
        second = int(parts.pop(0))
    try:
        fields = tuple(_field(part, kind) for part, kind in zip(parts, _KINDS, strict=True))
    except ValueError as error:
        raise UsageError(f"--cron {expression!r}: {error}") from error
    cron = Cron(fields, second, _known(zone))
    if not cron.next_times(datetime.now(UTC), 1):
        raise UsageError(f"--cron {expression!r} never comes: no such day in these months")
    return cron


def _known(zone: str) -> str:
    try:
        if zone:
            ZoneInfo(zone)
    except (ZoneInfoNotFoundError, ValueError, OSError) as error:
        raise UsageError(f"--timezone {zone!r}: no such time zone; give an IANA name such as Europe/Berlin") from error
    return zone


def _field(text: str, kind: _Kind) -> _Field:
    parts = [_part(part, kind) for part in text.split(",")]
    values = frozenset(number for _, numbers in parts for number in numbers)
    free = any(part.startswith("*") for part, _ in parts)
    return _Field(",".join(part for part, _ in parts), values, free)


def _part(text: str, kind: _Kind) -> tuple[str, Sequence[int]]:
    span, slash, step_text = text.partition("/")
    if slash and not (step_text.isascii() and step_text.isdigit() and int(step_text) > 0):
        raise ValueError(f"the {kind.name} {text!r} has no whole number from 1 behind the slash")
    step = int(step_text) if slash else 1
    last = 6 if kind.most == 7 else kind.most
    if span in ("*", "?"):
        if span == "?" and kind.name not in ("day of the month", "day of the week"):
            raise ValueError(f"the {kind.name} cannot be '?'")
        return f"*{slash}{step_text}", range(kind.least, last + 1, step)
    first_text, dash, last_text = span.partition("-")
    first = _number(first_text, kind, text)
    if dash:
        last = _number(last_text, kind, text)
    elif not slash:
        last = first
    if last < first:
        raise ValueError(f"the {kind.name} {text!r} ends before it begins")
    if kind.most == last == 7:  # the 7 that is Sunday too: Kubeflow knows 0 only
        days = sorted({day % 7 for day in range(first, last + 1, step)})
        return ",".join(map(str, days)), days
    spelled = str(first) if not (dash or slash) else f"{first}-{last}{slash}{step_text}"
    return spelled, range(first, last + 1, step)


def _number(text: str, kind: _Kind, part: str) -> int:
    if text.lower() in kind.words:
        return kind.words.index(text.lower()) + kind.first_word
    if not (text.isascii() and text.isdigit()):
        words = f" or {kind.words[0].upper()} to {kind.words[-1].upper()}" if kind.words else ""
        raise ValueError(f"the {kind.name} {part!r} is not understood; it takes {kind.least} to {kind.most}{words}")
    if not kind.least <= int(text) <= kind.most:
        raise ValueError(f"the {kind.name} {text} is not from {kind.least} to {kind.most}")
    return int(text)
