"""Messages of others in ours: one line, not too long."""

from __future__ import annotations


def one_line(error: BaseException) -> str:
    """An error's message without line breaks, shortened for a line on a terminal."""
    text = " ".join(str(getattr(error, "message", None) or error).split())
    return text if len(text) <= 300 else text[:297] + "..."
