"""Make room: remove versions that are older than those to keep, wherever they are."""

from __future__ import annotations

from collections.abc import Callable

from tfslim_core.errors import TfslimError
from tfslim_core.publishing.versions import Shelf


def keep_only(
    keep: int | None,
    look: Callable[[], Shelf],
    remove: Callable[[int], bool],
    remove_rolled_back: Callable[[tuple[str, ...]], None],
) -> tuple[tuple[int, ...], tuple[str, ...]]:
    """Remove older versions; which these were, and what to tell where that failed, since the publication did not.

    keep: so many versions; None for all. look: what is there now. remove: a version, by its number; whether it was, and
    not left because of a rollback at this moment. remove_rolled_back: one that was taken back, by its names.
    """
    removed: list[int] = []
    try:
        if keep:
            for number in look().due(keep):
                if remove(number):
                    removed.append(number)
            now = look()
            for number in now.due_rolled_back(keep):
                remove_rolled_back(now.rolled_back[number].names)
    except (OSError, TfslimError) as error:
        said = getattr(error, "strerror", None) or error
        return tuple(removed), (f"older versions are still there: {said}",)
    return tuple(removed), ()
