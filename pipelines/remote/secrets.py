"""Secrets: what logs in comes from the environment or a file only, and none is ever shown."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tfslim_core import redacting
from tfslim_core.errors import UsageError

HIDDEN = "***"


def header_value(value: str, source: str) -> str:
    """A secret that may stand in a header; the libraries below would show one that may not in their error.

    Raises:
        UsageError: it has characters that no header can carry; the message has none of it.
    """
    value = value.strip()
    if not (value.isascii() and value.isprintable()):
        raise UsageError(
            f"{source}: what it holds is not one line of printable ASCII characters, and so no such secret"
        )
    return value


def redacted(value: Any, name: str = "") -> Any:
    """The same with what looks like a secret hidden: users in addresses, signatures, and values named for one."""
    if isinstance(value, Mapping):
        return {key: redacted(inner, str(key)) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [redacted(inner, name) for inner in value]
    if not isinstance(value, str):
        return value
    return HIDDEN if value and redacting.names_a_secret(name) else redacting.redacted(value, HIDDEN)
