"""diff: what a model lost on the way to another."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from tfslim_core.api.arguments import Location, local
from tfslim_core.staging import in_buckets

if TYPE_CHECKING:
    from tfslim_core.fidelity.differences import Comparison


@in_buckets(reads=["a", "b"])
def diff(a: Location, b: Location, *, tags: Sequence[str] | None = None) -> Comparison:
    """Hold the second model against the first: signatures, tables, files, ops, versions. Nothing is run.

    tags: of the MetaGraph to compare; all of them unless told.

    Raises:
        ModelError: one is neither a SavedModel nor a bundle, is damaged, or lacks the tags.
    """
    from tfslim_core.fidelity.differences import Comparison, differences
    from tfslim_core.fidelity.facts import facts_of

    first, second = local(a), local(b)
    before, after = facts_of(first, tags), facts_of(second, tags)
    found = differences(before, after)
    return Comparison(first, second, tuple(found), sum(after.get(key) == value for key, value in before.items()))
