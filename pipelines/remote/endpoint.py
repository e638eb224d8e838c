"""The address of a server, as a user gives it."""

from __future__ import annotations

from urllib.parse import urlsplit

from pipelines.remote.secrets import redacted
from tfslim_core.errors import UsageError

_HERE = ("localhost", "127.0.0.1", "::1")


def checked(endpoint: str, expected: str, *, secure: bool = False) -> str:
    """An address without a slash at its end.

    expected: what it should have been. secure: over https alone, but to this machine.

    Raises:
        UsageError: it is none, or has a secret in it.
    """
    try:
        parts = urlsplit(endpoint)
        host = parts.hostname
    except ValueError:  # half an address of IPv6
        host = None
    if not host or not (parts.scheme == "https" or (parts.scheme == "http" and (not secure or host in _HERE))):
        raise UsageError(f"--endpoint {redacted(endpoint)!r}: not an address {expected}")
    if parts.username or parts.query or parts.fragment:
        raise UsageError(
            "--endpoint: an address without user, password and '?'; what to log in with comes from the environment"
        )
    return endpoint.rstrip("/")
