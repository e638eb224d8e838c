"""Telling a listener more than a count, where it can show it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, runtime_checkable


@runtime_checkable
class ShowsDetail(Protocol):
    """A listener that shows words beside the count."""

    def detail(self, words: str) -> None:
        """Show these until the next step."""


def tell_detail(progress: Callable[[str, int, int], None], what: str, done: int, total: int, words: str) -> None:
    """Tell what is being done, how much of it is, and `words` to a listener that shows such."""
    progress(what, done, total)
    if isinstance(progress, ShowsDetail):
        progress.detail(words)
