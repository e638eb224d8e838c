"""Texts without what could be a key or a password: for logs, errors, reports and dry runs."""

from __future__ import annotations

import re

HIDDEN = "***"
_WORDS = "authorization|bearer|password|passwd|secret|token|api[_-]?key|access[_-]?key"
# access_token, X-Goog-Signature, secretName; not a signature of a model, and not tokens or a tokenizer.
_NAME = rf"[\w.-]*(?i:{_WORDS}|credentials?|[_-]signature)(?![a-z])[\w.-]*"
_USER = re.compile(r"(?<=://)[^\s/@]+(?=@)")
_QUERY = re.compile(r"(?i)(?<![\w+.-])([a-z][a-z0-9+.-]*://[^\s?\"']+\?)[^\s\"']+")
_NAMED = re.compile(
    rf"((?:(?<![\w.-]){_NAME}[\"']?\s*[=:]\s*|\b(?i:{_WORDS})\s+)[\"']?(?i:(?:basic|bearer)\s+)?+)[^\s\"',;&]+"
)


def names_a_secret(name: str) -> bool:
    """Whether what has this name could be a key or a password."""
    return re.fullmatch(_NAME, name) is not None


def without_secrets(text: str, *, queries: bool = False) -> str:
    """The same with users in addresses hidden, and what stands after a word that says so.

    queries: also all behind the ? of an address, where a signature may have any name.
    """
    text = _USER.sub(HIDDEN, text)
    if queries:
        text = _QUERY.sub(rf"\1{HIDDEN}", text)
    return _NAMED.sub(rf"\1{HIDDEN}", text)
