"""Functions of another library replaced for a while, said openly: what is replaced has to be there."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from types import ModuleType
from typing import Any

from tfslim_core.errors import UsageError


@contextmanager
def replaced(places: Sequence[tuple[ModuleType, str, Any]]) -> Iterator[list[Any]]:
    """Put others in the places of a library's functions, (its module, its name, the other), and back what was there.

    Yields what was there.

    Raises:
        UsageError: one is not there, in another version of the library; then none is replaced.
    """
    if missing := [f"{module.__name__}.{name}" for module, name, _ in places if not hasattr(module, name)]:
        library = missing[0].partition(".")[0]
        raise UsageError(
            f"this version of {library} has no {missing[0]}, which a run here replaces; install tfslim with its extra "
            f"pipelines again, which names the version of {library} that fits"
        )
    there = [getattr(module, name) for module, name, _ in places]
    with ExitStack() as back:
        for (module, name, other), before in zip(places, there, strict=True):
            back.callback(setattr, module, name, before)
            setattr(module, name, other)
        yield there
