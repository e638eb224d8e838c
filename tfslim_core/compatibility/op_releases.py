"""The table of which TensorFlow release first knew each op, each of its attributes, and each value of these.

op_releases.json beside this file was read off the registries of released wheels, 1.3 to 2.21, by
`python -m benchmarks.op_releases` of the source tree. "Since" means known in that release and in each one after it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from tfslim_core.errors import UsageError

Release = tuple[int, int]
"""Major and minor number: (2, 4)."""


@dataclass(frozen=True)
class Known:
    """Since when an op is known. attributes, values: those that came later than the op; values as the text of a number,
    a string or a dtype's name in TensorFlow's types.proto.
    """

    since: Release
    attributes: Mapping[str, Release] = field(default_factory=dict)
    values: Mapping[str, Mapping[str, Release]] = field(default_factory=dict)


@dataclass(frozen=True)
class OpReleases:
    """The table. producers: release -> the number that it writes into graphs. dtypes: those after `oldest`."""

    producers: Mapping[Release, int]
    dtypes: Mapping[str, Release]
    ops: Mapping[str, Known]

    @property
    def oldest(self) -> Release:
        """The first release in the table; what it knew may be older."""
        return next(iter(self.producers))

    @property
    def newest(self) -> Release:
        """The last release in the table."""
        return next(reversed(list(self.producers)))

    def of_producer(self, producer: int) -> Release | None:
        """The first release that writes this number into its graphs, or a higher one; None where it wrote none."""
        if not producer:
            return None
        return next((one for one, number in self.producers.items() if number >= producer), self.newest)


@cache
def op_releases() -> OpReleases:
    """The table, read once."""
    content = json.loads(Path(__file__).with_suffix(".json").read_text())
    return OpReleases(
        {_pair(name): number for name, number in content["releases"].items()},
        _pairs(content["dtypes"]),
        {
            op: Known(
                _pair(entry["since"]),
                _pairs(entry.get("attributes", {})),
                {name: _pairs(values) for name, values in entry.get("values", {}).items()},
            )
            for op, entry in content["ops"].items()
        },
    )


def release(text: str) -> Release:
    """A release as a user writes it: 2.4, or 2.4.1, whose last number does not matter.

    Raises:
        UsageError: it is no such thing, or older than the table.
    """
    found = _leading(text)
    if found is None or not re.fullmatch(r"\d+\.\d+(\.\w+)*", text):
        raise UsageError(f"--min-runtime {text}: give a TensorFlow release, e.g. --min-runtime 2.4")
    if found < op_releases().oldest:
        raise UsageError(
            f"--min-runtime {text}: what TensorFlow knew before {words(op_releases().oldest)} is not on record; give "
            "that or a later release"
        )
    return found


def written_by(tensorflow_version: str, producer: int) -> Release | None:
    """The release that wrote a graph, by what the model says of itself; None where it says nothing."""
    return _leading(tensorflow_version) or op_releases().of_producer(producer)


def words(found: Release) -> str:
    """As a user writes it: 2.4."""
    return f"{found[0]}.{found[1]}"


def _leading(text: str) -> Release | None:
    found = re.match(r"(\d+)\.(\d+)(?!\d)", text)
    return (int(found[1]), int(found[2])) if found else None


def _pair(text: str) -> Release:
    major, minor = text.split(".")
    return int(major), int(minor)


def _pairs(texts: Mapping[str, str]) -> Mapping[str, Release]:
    return {key: _pair(text) for key, text in texts.items()}
