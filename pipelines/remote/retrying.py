"""Send a request again where that is safe, and never make a thing twice."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import TypeVar

from pipelines.remote.errors import BusyError, RemoteError, UnsureError

T = TypeVar("T")
PAUSES: tuple[float, ...] = (1.0, 2.0, 4.0)
"""Seconds before the second, third and fourth try."""


def again(ask: Callable[[], T]) -> T:
    """Call what may be called any number of times, such as a look-up; the last error is raised."""
    for pause in PAUSES:
        try:
            return ask()
        except (BusyError, UnsureError):
            time.sleep(pause)
    return ask()


def make_once(make: Callable[[], T], made: Callable[[], Sequence[T]], remove: Callable[[T], object]) -> T:
    """Make one thing, however often the connection breaks.

    Before it is sent again, `made` is asked whether the first request got through; it gives all that this call has
    made, first the one to keep. Should a request that was given up arrive after its repetition, `remove` is called.

    Raises:
        RemoteError: the server refused it, or it is not there after four tries.
    """
    unsure = False
    for pause in (*PAUSES, None):
        try:
            done = make()
        except (BusyError, UnsureError) as error:
            unsure = unsure or isinstance(error, UnsureError)
            if pause is not None:
                time.sleep(pause)
            found = _look(made, error)
            if found:
                return _only(found, remove)
            if pause is None:
                raise
            continue
        return _only(again(made), remove) if unsure else done
    raise AssertionError("the last try returns or raises")


def _look(made: Callable[[], Sequence[T]], error: RemoteError) -> Sequence[T]:
    try:
        return again(made)
    except (BusyError, UnsureError) as silent:
        raise UnsureError(
            f"{error}; and whether it was made is not known, as a look did not get through either"
        ) from silent


def _only(found: Sequence[T], remove: Callable[[T], object]) -> T:
    for spare in found[1:]:
        try:
            remove(spare)
        except RemoteError as error:
            raise RemoteError(
                f"a request that was given up arrived after all and made a second one; {error}"
            ) from error
    return found[0]
