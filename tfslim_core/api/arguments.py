"""What the functions of the API share about their arguments."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tfslim_core.buckets import address_of
from tfslim_core.errors import UsageError
from tfslim_core.redacting import without_secrets

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
        raise UsageError(f"{without_secrets(address)}: paths are local or gs://; copy it here first")
    return Path(text)


def check_workers(arguments: Mapping[str, Any]) -> None:
    """Refuse addresses in buckets where the job's workers would not see the copies that are made on this machine.

    Raises:
        UsageError: `beam_options` name workers elsewhere; or they cannot be understood.
    """
    if not arguments["beam_options"]:
        return
    from tfslim_core.validation import runners

    named = {name.upper(): arguments[name] for name in ("original", "optimized") if name in arguments}
    for name in ("data", "corpus"):
        named |= {f"--{name} {key}": path for key, path in (arguments.get(name) or {}).items()}
    found = {what: str(address) for what, path in named.items() if (address := address_of(path))}
    runners.check_copies_seen(runners.options_of(arguments["beam_options"]), found)


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
