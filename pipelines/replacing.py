"""Functions of another library replaced for a while, said openly: what is replaced has to be there."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from types import ModuleType
from typing import Any

from tfslim_core.errors import UsageError


@contextmanager
def replaced(places: Sequence[tuple[ModuleType | type, str, Any]]) -> Iterator[list[Any]]:
    """Put others in the places of a library's functions, (module or class, name, the other), and back what was there.

    Yields what was there.

    Raises:
        UsageError: one is not there, in another version of the library; then none is replaced.
    """
    if missing := [f"{_named(owner)}.{name}" for owner, name, _ in places if not hasattr(owner, name)]:
        library = missing[0].partition(".")[0]
        raise UsageError(
            f"this version of {library} has no {missing[0]}, which a run here replaces; install tfslim with its extra "
            f"pipelines again, which names the version of {library} that fits"
        )
    there = [getattr(owner, name) for owner, name, _ in places]
    with ExitStack() as back:
        for (owner, name, other), before in zip(places, there, strict=True):
            back.callback(setattr, owner, name, before)
            setattr(owner, name, other)
        yield there


def _named(owner: ModuleType | type) -> str:
    return owner.__name__ if isinstance(owner, ModuleType) else f"{owner.__module__}.{owner.__qualname__}"
