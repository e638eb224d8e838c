"""publish and rollback."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tfslim_core.api.arguments import Location, local
from tfslim_core.verdict import Verdict

if TYPE_CHECKING:
    from tfslim_core.publishing import Published


def publish(optimized: Location, base: Location, *, verdict: Location | Verdict) -> Published:
    """Publish a model that passed its validation as the next version below `base`, TensorFlow Serving's layout.

    Raises:
        GateFailedError: the verdict is a fail. InconclusiveError: it is inconclusive.
        ModelError: the verdict is of other bytes, or the copy could not be made.
    """
    from tfslim_core.publishing import publish as published

    found = verdict if isinstance(verdict, Verdict) else Verdict.read(local(verdict))
    return published(local(optimized), local(base), found)


def rollback(base: Location) -> Published:
    """Hide the highest version below `base`, so that the one before it is served.

    Raises:
        ModelError: there is none before it.
    """
    from tfslim_core.publishing import rollback as rolled_back

    return rolled_back(local(base))
