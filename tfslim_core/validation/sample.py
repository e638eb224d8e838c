"""A few real requests out of the user's data, for measuring what an encoding does to the answers."""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tfslim_core.errors import DataError
from tfslim_core.saved_model.served_signatures import Signature, read_signatures
from tfslim_core.validation.batches import Batch, Batcher
from tfslim_core.validation.feeding import choose_signature, feeding
from tfslim_core.validation.records import Letter, Record
from tfslim_core.validation.sources import Dataset, first_records, open_dataset, records_of

EXAMPLES = 256  # of each dataset
MOST_DRAWN_FROM = 1_000_000  # records of a dataset


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
    return requests_for(signatures, data, signature, batch_size)


def requests_for(
    signatures: Mapping[str, Signature], data: Mapping[str, str], signature: str | None, batch_size: int = 32
) -> RealRequests:
    """The same for signatures that were read already."""
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


@dataclass(frozen=True)
class SplitSample:
    """Batches of examples drawn from the data: those to search with, and those that a search never sees."""

    signature: Signature
    search: list[Batch]
    held_out: list[Batch]


def split_sample(
    signatures: Mapping[str, Signature],
    data: Mapping[str, str],
    signature: str | None,
    label: str | None,
    *,
    examples: int,
    seed: int,
    batch_size: int = 32,
) -> SplitSample:
    """Draw `examples` records of the datasets together, each as likely as any other, and split them three to two.

    Records that cannot be read or fed are left out. The first million of a dataset are drawn from.

    Raises:
        DataError: a dataset cannot be read or does not fit the signature, or too few records can be fed.
    """
    datasets = [open_dataset(name, path) for name, path in sorted(data.items())]
    firsts = {dataset.name: first_records(dataset) for dataset in datasets}
    peeked = [record for found in firsts.values() for record in found]
    chosen = signatures[choose_signature(signatures, signature, peeked, ", ".join(data.values()))]
    generator = np.random.default_rng(seed)
    parts: tuple[list[Batch], list[Batch]] = ([], [])
    for dataset in datasets:
        fed = feeding(chosen, firsts[dataset.name], label, dataset.path)
        rows = []
        for record in drawn(dataset, -(-examples // len(datasets)), generator):
            with contextlib.suppress(DataError):  # the validation counts it
                rows.append(fed.rows(record))
        cut = -(-len(rows) * 3 // 5)
        for some, batches in zip((rows[:cut], rows[cut:]), parts, strict=True):
            batcher = Batcher(dataset.name, fed.inputs, batch_size)
            for one in some:
                batches += batcher.add(one, 0)
            batches += [batch for batch in batcher.rest() if isinstance(batch, Batch)]
    if not all(parts):
        raise DataError(f"{', '.join(data.values())}: too few records can be fed to {chosen.name!r} to search with")
    return SplitSample(chosen, *parts)


def drawn(dataset: Dataset, count: int, generator: np.random.Generator) -> list[Record]:
    """A reservoir of so many records, in an order that says nothing (Vitter's algorithm R)."""
    kept: list[Record] = []
    for number, record in enumerate(islice(records_of(dataset), MOST_DRAWN_FROM)):
        if len(kept) < count:
            kept.append(record)
        elif (place := int(generator.integers(number + 1))) < count:
            kept[place] = record
    return [kept[index] for index in generator.permutation(len(kept))]
