"""Few different values: which they are, and which of them each element is. Values are compared bit for bit."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from tfslim_core.weights import Array

Patterns = NDArray[np.unsignedinteger]
_BLOCK = 1024 * 1024  # elements that are looked at at a time


def bit_patterns(value: Array) -> Patterns:
    """The elements in flat order as unsigned integers of the same bytes: NaN equals itself, and -0.0 is not 0.0."""
    found: Patterns = np.ascontiguousarray(value).reshape(-1).view(f"u{value.itemsize}")
    return found


def distinct(patterns: Patterns, most: int) -> Patterns | None:
    """The different patterns, sorted; None where there are more than `most`."""
    found = patterns[:0]
    for start in range(0, patterns.size, _BLOCK):
        # Sorting is a hundred times faster here than NumPy's `unique`, which hashes.
        ordered = np.sort(np.append(found, patterns[start : start + _BLOCK]))
        found = ordered[np.append(True, ordered[1:] != ordered[:-1])]
        if found.size > most:
            return None
    return found


def positions(patterns: Patterns, among: Patterns) -> NDArray[np.uint8]:
    """Where each element is in `among`, which is sorted, has at most 256 and holds them all."""
    found = np.empty(patterns.size, np.uint8)
    for start in range(0, patterns.size, _BLOCK):
        found[start : start + _BLOCK] = np.searchsorted(among, patterns[start : start + _BLOCK])
    return found
