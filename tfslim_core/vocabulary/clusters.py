"""What stands for rows that are dropped: the centres of their clusters.

Rows of many dimensions are nearer to their mean than to each other. Measured on a text classifier with the 20,000 most
used of 100,000 rows kept: rows that unseen texts look up are off by 19 % (relative L2) with 64 centres, 20 % with one,
24 % where each dropped row reads the nearest kept one.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

ROUNDS = 10
_FITTED = 1 << 15  # rows that centres are fitted to; all are assigned
_AT_ONCE = 1 << 26  # distances that are in memory

Floats = NDArray[np.float32]


def centres(
    rows: Floats, weights: NDArray[np.floating[Any]], count: int, seed: int = 0
) -> tuple[Floats, NDArray[np.int64]]:
    """Weighted k-means (Lloyd 1982): [count, d] centres, and for each row of [n, d] the number of its nearest.

    weights: [n], how much a row matters; all positive.
    """
    generator = np.random.default_rng(seed)
    count = min(count, len(rows))
    if count == 1:
        return np.average(rows, axis=0, weights=weights)[None].astype(np.float32), np.zeros(len(rows), np.int64)
    chance = weights / weights.sum()
    some = np.arange(len(rows))
    if len(rows) > _FITTED:
        some = np.sort(generator.choice(len(rows), _FITTED, replace=False, p=chance))
    fitted, matter = rows[some], weights[some]
    found = fitted[np.sort(generator.choice(len(some), count, replace=False, p=matter / matter.sum()))].copy()
    for _ in range(ROUNDS):
        nearest = assigned(fitted, found)
        mass = np.bincount(nearest, matter, minlength=count)
        sums = np.zeros((count, rows.shape[1]))
        np.add.at(sums, nearest, fitted * matter[:, None])
        used = mass > 0
        found[used] = (sums[used] / mass[used, None]).astype(np.float32)
    return found, assigned(rows, found)


def assigned(rows: Floats, centres: Floats) -> NDArray[np.int64]:
    """For each row the number of its nearest centre; the first of equals."""
    half = np.square(centres).sum(axis=1) / 2
    step = max(1, _AT_ONCE // len(centres))
    parts = [np.argmin(half - rows[at : at + step] @ centres.T, axis=1) for at in range(0, len(rows), step)]
    return np.concatenate([np.zeros(0, np.int64), *parts])
