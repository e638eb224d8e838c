"""What the functions of the API share about their arguments."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tfslim_core.errors import UsageError

if TYPE_CHECKING:
    from tfslim_core.quantization.budgeting import Budget


Location = str | os.PathLike[str]


def silent(what: str, done: int, total: int) -> None:
    """Progress that nobody is told of."""
    del what, done, total


def local(path: Location) -> Path:
    """A local path.

    Raises:
        UsageError: it is a URL.
    """
    text = os.fspath(path)
    # A Path has made "gs:/bucket" of "gs://bucket".
    if url := re.match(r"([a-z][a-z0-9+.-]+):/+", text):
        address = f"{url[1]}://{text[url.end() :]}"
        raise UsageError(f"{address}: paths are local or gs://; copy it here first")
    return Path(text)


def check_apart(report: Path, *models: Path) -> None:
    """Refuse a report that would become a part of a model, or take the place of one."""
    place = Path(os.path.abspath(report))
    for model in models:
        other = Path(os.path.abspath(model))
        if place.is_relative_to(other) or other.is_relative_to(place):
            raise UsageError(
                f"the report {report} and the model {model} are one inside the other; give it its own place"
            )


def budget_within(bounds: Sequence[str], encoding: str | None, **options: Any) -> Budget | None:
    """The budget, refused early where it cannot be searched for; None where there are no bounds.

    Raises:
        UsageError: as `Budget.gates`, or an encoding was asked for too.
    """
    if not bounds:
        return None
    from tfslim_core.quantization.budgeting import Budget

    if encoding is not None:
        raise UsageError("--budget chooses the encodings itself; leave out --encoding")
    budget = Budget(tuple(bounds), **options)
    budget.gates()
    return budget
