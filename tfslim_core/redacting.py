"""Texts that people see, without what could be a key or a password: errors, logs, reports and dry runs."""

from __future__ import annotations

import re

_LONGEST = 2000  # characters
_WORDS = "authorization|bearer|password|passwd|secret|token|api[_-]?key|access[_-]?key"
# access_token, X-Goog-Signature, secretName; not a signature of a model, and not tokens or a tokenizer.
_NAME = rf"[\w.-]*(?i:{_WORDS}|credentials?|[_-]signature)(?![a-z])[\w.-]*"
_USER = re.compile(r"(?<=://)[^\s/@]+(?=@)")
_QUERY = re.compile(r"(?i)(?<![\w+.-])([a-z][a-z0-9+.-]*://[^\s?\"']+\?)[^\s\"']+")
_NAMED = re.compile(
    rf"((?:(?<![\w.-])(?:{_NAME}|sig)[\"']?\s*[=:]\s*|\b(?i:{_WORDS})\s+)[\"']?(?i:(?:basic|bearer)\s+)?+)[^\s\"',;&]+"
)


def names_a_secret(name: str) -> bool:
    """Whether what has this name could be a key or a password."""
    return re.fullmatch(_NAME, name) is not None


def redacted(text: str, mark: str = "…") -> str:
    """A text with a mark for users in addresses, and for what stands after a word that names a secret."""
    return _NAMED.sub(rf"\1{mark}", _USER.sub(mark, text))


def without_secrets(text: str) -> str:
    """The same as one line that is not too long, and for people: all behind the ? of an address is hidden too, where a
    signature may have any name.
    """
    one_line = " ".join(text[: 10 * _LONGEST].split())
    return redacted(_QUERY.sub(r"\1…", one_line))[:_LONGEST]
