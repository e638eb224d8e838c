"""A fresh process that slims one model and tells what each stage took: `python -m benchmarks.staged_process`.

Arguments: one of WAYS, what it reads, an empty folder, for some ways one more. Prints one line of JSON. TensorFlow's
import is not counted.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

from benchmarks.memory import anonymous, peak, reset_peak, resident


@dataclass
class Phase:
    """Part of a stage. peak_bytes: beyond what the process took after TensorFlow's import."""

    seconds: float = 0.0
    peak_bytes: int = 0


@dataclass
class Stage:
    """One command. phases: by what its progress told."""

    name: str
    phases: dict[str, Phase] = field(default_factory=dict)

    @property
    def seconds(self) -> float:
        """Of all phases."""
        return sum(phase.seconds for phase in self.phases.values())

    @property
    def peak_bytes(self) -> int:
        """Of the hungriest phase."""
        return max(phase.peak_bytes for phase in self.phases.values())


class _Clock:
    """Takes the times of stages and of the phases that they tell."""

    def __init__(self) -> None:
        self.stages: list[Stage] = []
        self._baseline = resident()
        self._phase, self._since = "", 0.0

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        self.stages.append(Stage(name))
        self._phase = "open"
        reset_peak()
        self._since = time.perf_counter()
        yield
        self._close()

    def told(self, what: str, done: int, total: int) -> None:
        del done, total
        phase = what.partition(":")[0]
        if phase != self._phase:
            self._close()
            self._phase = phase

    def _close(self) -> None:
        now = time.perf_counter()
        phase = self.stages[-1].phases.setdefault(self._phase, Phase())
        phase.seconds += now - self._since
        phase.peak_bytes = max(phase.peak_bytes, peak() - self._baseline)
        reset_peak()
        self._since = now


def staged(model: Path, folder: Path, clock: _Clock) -> None:
    """The four commands, each with its output on disk."""
    from tfslim_core import api

    with clock.stage("freeze"):
        api.freeze(model, folder / "frozen", progress=clock.told)
    with clock.stage("transform"):
        api.transform(folder / "frozen", folder / "transformed", progress=clock.told)
    with clock.stage("quantize"):
        api.quantize(folder / "transformed", folder / "quantized", progress=clock.told)
    with clock.stage("reexport"):
        api.reexport(folder / "quantized", folder / "servable", progress=clock.told)


def slim(model: Path, folder: Path, clock: _Clock) -> None:
    """The one command, without data."""
    from tfslim_core import api

    with clock.stage("slim"):
        api.slim(model, folder / "servable", progress=clock.told)


def big(_: Path, folder: Path, clock: _Clock, gigabytes: str) -> None:
    """Make a large model, `folder/out`."""
    from benchmarks.models import big as make

    with clock.stage("make"):
        make(folder / "out", float(gigabytes))


def single(source: Path, folder: Path, clock: _Clock, command: str, encoding: str = "") -> None:
    """One command; its output is `folder/out`."""
    from tfslim_core import api

    options = {"encoding": encoding} if encoding else {}
    with clock.stage(f"{command} {encoding}".strip()):
        getattr(api, command)(source, folder / "out", progress=clock.told, **options)


WAYS: dict[str, Callable[..., None]] = {
    "staged": staged,
    "slim": slim,
    "big": big,
    "single": single,
}


def main() -> None:
    """Import TensorFlow, then slim."""
    import tensorflow  # noqa: F401  # what is measured comes after it

    clock, anonymous_before = _Clock(), anonymous()
    WAYS[sys.argv[1]](Path(sys.argv[2]), Path(sys.argv[3]), clock, *sys.argv[4:])
    print(json.dumps({"anonymous_before": anonymous_before, "stages": [asdict(stage) for stage in clock.stages]}))


if __name__ == "__main__":
    main()
