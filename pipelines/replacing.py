"""Functions of another library replaced for a while, said openly: what is replaced has to be there."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from types import ModuleType
from typing import Any

from tfslim_core.errors import UsageError


@contextmanager
def replaced(places: Sequence[tuple[ModuleType | type, str, Any]]) -> Iterator[list[Any]]:
    """Put others in the places of a library's functions, and back what was there, which this yields.

    places: (the function's module or class, its name, the other).

    Raises:
        UsageError: one is not there, in another version of the library; then none is replaced.
    """
    if missing := [f"{_full_name(place)}.{name}" for place, name, _ in places if not hasattr(place, name)]:
        library = missing[0].partition(".")[0]
        raise UsageError(
            f"this version of {library} has no {missing[0]}, which a run here replaces; install tfslim with its extra "
            f"pipelines again, which names the version of {library} that fits"
        )
    there = [getattr(place, name) for place, name, _ in places]
    with ExitStack() as back:
        for (place, name, other), before in zip(places, there, strict=True):
            back.callback(setattr, place, name, before)
            setattr(place, name, other)
        yield there


def _full_name(place: ModuleType | type) -> str:
    return place.__name__ if isinstance(place, ModuleType) else f"{place.__module__}.{place.__qualname__}"
