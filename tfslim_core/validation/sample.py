"""A few real requests out of the user's data, for measuring what an encoding does to the answers."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from tfslim_core.errors import DataError
from tfslim_core.saved_model.served_signatures import read_signatures
from tfslim_core.validation.batches import Batch, Batcher
from tfslim_core.validation.feeding import choose_signature, feeding
from tfslim_core.validation.records import Letter
from tfslim_core.validation.sources import first_records, open_dataset

EXAMPLES = 256  # of each dataset


@dataclass(frozen=True)
class RealRequests:
    """The signature that the data feeds, and batches of its first examples by input key."""

    signature: str
    feeds: list[Mapping[str, NDArray[Any]]]


def real_requests(
    original: Path,
    data: Mapping[str, str],
    tags: tuple[str, ...],
    signature: str | None,
    kept: Collection[str] | None = None,
    batch_size: int = 32,
) -> RealRequests:
    """The first examples of each dataset, batched.

    kept: the signatures that may be fed; all unless told.

    Raises:
        DataError: a dataset cannot be read or does not fit the signature.
        ModelError: there is no such signature.
    """
    served = read_signatures(original, tags)
    signatures = {name: one for name, one in served.items() if kept is None or name in kept}
    records = {name: (path, first_records(open_dataset(name, path), EXAMPLES)) for name, path in sorted(data.items())}
    peeked = [record for _, found in records.values() for record in found]
    chosen = choose_signature(signatures, signature, peeked, ", ".join(data.values()))
    feeds: list[Mapping[str, NDArray[Any]]] = []
    for path, found in records.values():
        fed = feeding(signatures[chosen], found, None, path)
        batcher = Batcher("", fed.inputs, batch_size)
        made: list[Batch | Letter] = []
        for record in found:
            try:
                made += batcher.add(fed.rows(record), 0)
            except DataError:
                continue  # the validation counts it
        feeds += [batch.feeds for batch in (*made, *batcher.rest()) if isinstance(batch, Batch)]
    return RealRequests(chosen, feeds)
