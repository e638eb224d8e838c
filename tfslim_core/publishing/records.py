"""What is noted of a publication: which model, when, and what its verdict rests on. Never paths or data."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime

from pydantic import BaseModel, ConfigDict, Field, ValidationError

import tfslim_core
from tfslim_core.verdict import Outcome, Verdict


class Gate(BaseModel):
    """A check that was passed."""

    expr: str
    value: float | None
    dataset: str
    slice: str | None = None


class Record(BaseModel):
    """The claim of a version's number. digest, bytes: of the model. published: ISO 8601, UTC. datasets: examples each.

    Every field may be missing: the claims of older releases hold less.
    """

    model_config = ConfigDict(ser_json_inf_nan="null")

    digest: str | None = None
    bytes: int | None = None
    published: str | None = None
    tfslim: str | None = None
    verdict: Outcome | None = None
    gates: list[Gate] = Field(default_factory=list)
    datasets: dict[str, int] = Field(default_factory=dict)

    def text(self) -> str:
        """As it is stored."""
        return self.model_dump_json(indent=2) + "\n"


def record_of(verdict: Verdict, digest: str, size: int) -> Record:
    """The record of a model that is published now."""
    return Record(
        digest=digest,
        bytes=size,
        published=datetime.now(UTC).isoformat(timespec="seconds"),
        tfslim=tfslim_core.__version__,
        verdict=verdict.verdict,
        gates=[Gate(expr=c.expr, value=c.value, dataset=c.dataset, slice=c.slice) for c in verdict.checks],
        datasets={name: found.examples for name, found in verdict.datasets.items()},
    )


def read_records(texts: Mapping[int, bytes]) -> dict[int, Record]:
    """The records that can be read; that of a publisher which died may be cut off."""
    found = {}
    for number, text in texts.items():
        try:
            found[number] = Record.model_validate_json(text)
        except ValidationError:
            continue
    return found
