"""What can go wrong between here and a server, told apart by what it means for the request."""

from __future__ import annotations

from tfslim_core.errors import TfslimError


class RemoteError(TfslimError):
    """The server refused a request, or what answers there is no such server."""


class NotFoundError(RemoteError):
    """The server knows no run or schedule of this id."""


class ExistsError(RemoteError):
    """What was to be made is there already."""


class BusyError(RemoteError):
    """The server did not take the request, which can be sent again."""


class UnsureError(RemoteError):
    """The connection broke, and the server may have carried the request out or not."""


def first_line(text: str) -> str:
    """What a server or a library says, as one line that is fit for a terminal."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return "".join(letter for letter in lines[0][:500] if letter.isprintable()) if lines else ""
