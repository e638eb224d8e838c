"""Steps between those of whole bits, for a weight of which one bit less is a large part of all bytes.

What compressed codes of one step for all take falls evenly as the step grows, a bit an element each time it doubles. So
a step that is longer by a fourth root of 2 is a quarter of a bit, and is named so: int9.75, int9.5, int9.25. Likewise
where each input has a step of its own.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from tfslim_core.encodings import ENCODINGS
from tfslim_core.quantization.budget import Rung
from tfslim_core.weights import Weight

_SAMPLE = 1 << 20  # elements that tell what all would take
_NEAR = 0.03  # by which that may be off
_STEPS = sorted(float(name.removeprefix("int")) for name in ENCODINGS if name.startswith("int") and "." in name)


def between(weight: Weight, less: Rung, more: Rung) -> list[str]:
    """Encodings that may take fewer bytes than the one rung and more than the other, the most bytes first."""
    found = [name for name, size in _sizes(weight) if (1 - _NEAR) * less.bytes < size < (1 + _NEAR) * more.bytes]
    low, high = _bits_by_input(less), _bits_by_input(more)
    if low and high:
        found += [f"int{bits:g}/input" for bits in reversed(_STEPS) if low < bits < high]
    return found


def _bits_by_input(rung: Rung) -> float:
    """Of a rung that has a step for each input; 0 of another."""
    name, _, sharing = rung.encoding.partition("/")
    return float(name.removeprefix("int")) if sharing == "input" else 0.0


def _sizes(weight: Weight) -> Iterator[tuple[str, float]]:
    """For each encoding the entropy of its codes."""
    value = np.asarray(weight.read(), np.float32).reshape(-1)
    longest = max(abs(float(value.max(initial=0))), abs(float(value.min(initial=0))))
    some = value[:: -(-value.size // _SAMPLE)] if value.size else value
    for bits in reversed(_STEPS):
        scale = longest / (2 ** (bits - 1) - 1)
        if scale > 0:
            _, counts = np.unique(np.rint(some / scale), return_counts=True)
            yield f"int{bits:g}/tensor", float(counts @ np.log2(some.size / counts)) / some.size * value.size / 8
