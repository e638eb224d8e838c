"""publish and rollback."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tfslim_core.api.arguments import Location, local
from tfslim_core.buckets import address_of
from tfslim_core.staging import in_buckets
from tfslim_core.verdict import Verdict

if TYPE_CHECKING:
    from tfslim_core.publishing import Published


@in_buckets(reads=["optimized", "verdict"])
def publish(optimized: Location, base: Location, *, verdict: Location | Verdict) -> Published:
    """Publish a model that passed its validation as the next version below `base`, TensorFlow Serving's layout.

    Raises:
        GateFailedError: the verdict is a fail. InconclusiveError: it is inconclusive.
        ModelError: the verdict is of other bytes, or the copy could not be made.
    """
    from tfslim_core import bucket_publishing, publishing

    found = verdict if isinstance(verdict, Verdict) else Verdict.read(local(verdict))
    if (address := address_of(base)) is not None:
        return bucket_publishing.publish(local(optimized), address, found)
    return publishing.publish(local(optimized), local(base), found)


def rollback(base: Location) -> Published:
    """Hide the highest version below `base`, so that the one before it is served.

    Raises:
        ModelError: there is none before it.
    """
    from tfslim_core import bucket_publishing, publishing

    if (address := address_of(base)) is not None:
        return bucket_publishing.rollback(address)
    return publishing.rollback(local(base))
