"""How fast a comparison goes, and how long it will last; in words."""

from __future__ import annotations

import time
from collections.abc import Callable

from tfslim_core.report import formats


class Pace:
    """Counts batches as they come. expected: examples in all, about; None where nobody knows."""

    def __init__(self, expected: int | None, clock: Callable[[], float] = time.monotonic) -> None:
        self._expected, self._clock = expected, clock
        self._start = clock()
        self._first: tuple[float, int] | None = None
        self.examples = self.batches = 0

    def add(self, examples: int) -> None:
        """A batch of so many examples is done; one of none only tells that a file has ended."""
        if not examples:
            return
        self.examples += examples
        self.batches += 1
        # Until the first batch is done, models are loaded: that says nothing of the others.
        self._first = self._first or (self._clock(), examples)

    @property
    def total(self) -> int:
        """Examples in all, about; 0 where nobody knows, or knew better than it turned out."""
        return self._expected if self._expected and self._expected >= self.examples else 0

    def words(self) -> str:
        """12 batches, 823 /s, about 45 s left."""
        rate = self._rate()
        told = [f"{self.batches:,} batch{'es' * (self.batches != 1)}"]
        if rate:
            told.append(formats.per_second(rate))
        if rate and self.total:
            left = (self.total - self.examples) / rate
            told.append(f"about {formats.seconds(max(1, round(left)))} left")
        return ", ".join(told)

    def summary(self, examples: int) -> str:
        """A line for a log when all is done: 20,000 examples in 625 batches, 24.3 s, 823 /s. examples: those compared,
        of which workers in other processes did not tell.
        """
        seconds = self._clock() - self._start
        batches = f" in {self.batches:,} batches" if self.batches else ""
        rate = self._rate() or (examples / seconds if seconds else 0.0)
        return f"{examples:,} examples{batches}, {formats.seconds(seconds)}, {formats.per_second(rate)}"

    def _rate(self) -> float:
        """Examples a second since the first batch."""
        if self._first is None:
            return 0.0
        since, first = self._first
        elapsed = self._clock() - since
        return (self.examples - first) / elapsed if elapsed > 0 and self.examples > first else 0.0
