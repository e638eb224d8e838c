"""Texts that people see, without what could be a secret."""

from __future__ import annotations

import re

_LONGEST = 2000  # characters
# What could be a key: in a URL before its host and as a signature after it, or after a word that says so.
_WORDS = "authorization|bearer|token|password|passwd|secret|api[_-]?key|access[_-]?key"
_SECRETS = re.compile(
    r"(?P<scheme>\b[a-z][a-z0-9+.-]*://)(?P<user>[^\s/@]+@)?(?P<place>[^\s?\"']*)(?P<query>\?[^\s\"']+)?"
    rf"|(?P<word>\b(?:{_WORDS})\b[\"']?\s*[:= ]\s*[\"']?)(?:bearer\s+)?[^\s\"',;]+",
    re.IGNORECASE,
)


def without_secrets(text: str) -> str:
    """A text as one line that is not too long, without what could be a key or a password."""
    one_line = " ".join(text.split())

    def hidden(found: re.Match[str]) -> str:
        if found["word"]:
            return f"{found['word']}…"
        return f"{found['scheme']}{'…@' if found['user'] else ''}{found['place']}{'?…' if found['query'] else ''}"

    return _SECRETS.sub(hidden, one_line)[:_LONGEST]
