"""The Graph Transform Tool and tfslim side by side: the same list of transforms on the same frozen graphs."""

from __future__ import annotations

import os
import selectors
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import tensorflow as tf

from benchmarks.frozen import GENERATED_NODES, FrozenGraph, frozen_graphs
from benchmarks.places import OUT, ROOT
from benchmarks.sheets import Sheet

LIST = (
    "strip_unused_nodes remove_nodes(op=Identity, op=StopGradient, op=PreventGradient, op=Snapshot) "
    "fold_constants(ignore_errors=true) fold_batch_norms merge_duplicate_nodes strip_unused_nodes"
)
OLD, SAME, DEFAULT = "Graph Transform Tool", "tfslim, same list", "tfslim, default set"
_WAYS = {OLD: ("old", LIST), SAME: ("tfslim", LIST), DEFAULT: ("tfslim", "")}
_ROUNDS = 7
_MOST_SECONDS = 60.0  # for the rounds of one way; a slow one is measured less often
_TIMEOUT = 300.0  # one call


@dataclass(frozen=True)
class Made:
    """What one way made of a graph.

    seconds: the median. ratio: to the old tool, the median of the rounds' ratios; None when there is none. error:
    against the original, relative L2 of the worst float output, or the share of unequal elements of another. failed:
    why there is nothing.
    """

    seconds: float = 0.0
    ratio: float | None = None
    nodes: int = 0
    bytes: int = 0
    error: float = 0.0
    failed: str = ""


@dataclass(frozen=True)
class Compared:
    """One graph: its nodes and bytes before, and what each way made of it."""

    name: str
    nodes: int
    bytes: int
    made: Mapping[str, Made] = field(default_factory=dict)


def run(told: Callable[[str], None], only: Sequence[str] = ()) -> list[Compared]:
    """Transform each graph every way."""
    return [_compared(graph, told) for graph in frozen_graphs(told, only)]


def sheet(all_found: Sequence[Compared]) -> Sheet:
    """A row for each graph and way."""
    rows = []
    for found in all_found:
        rows.append([found.name, "before", f"{found.nodes:,}", _size(found.bytes), "", "", ""])
        for way, made in found.made.items():
            if made.failed:
                rows.append(["", way, "–", "–", "–", "–", made.failed])
                continue
            rows.append(
                [
                    "",
                    way,
                    f"{made.nodes:,}",
                    _size(made.bytes),
                    f"{made.seconds:.3f}",
                    "" if made.ratio is None else f"{made.ratio:.2f} x",
                    f"{made.error:.0e}" if made.error else "0",
                ]
            )
    header = ["graph", "after", "nodes", "bytes", "seconds", "to the old tool's", "worst error"]
    notes = [
        f"The list: `{LIST}`. The default set is tfslim's own. Each way has a process of its own with TensorFlow "
        "imported; one call before those that count, which go in turns; seconds are the median, from the bytes of a "
        "GraphDef in memory to the bytes of the new one. All attributes are in the graphs, since stripped ones make "
        "the old tool abort. Bytes are those of the serialized GraphDef. The error is against the graph before: "
        "relative L2 of the worst output, or the share of elements that differ where it is not of floats.",
        f"`generated`: {GENERATED_NODES:,} nodes, a chain of small dense layers with batch norms spelled out.",
        "Most of sleepecg and of the text LSTM is in the bodies of loops and calls, which the old tool does not enter.",
    ]
    return Sheet("The same transforms by the Graph Transform Tool and by tfslim", header, rows, notes)


def _compared(graph: FrozenGraph, told: Callable[[str], None]) -> Compared:
    folder = OUT / "transforms"
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as place:
        file = Path(place, "graph.pb")
        file.write_bytes(graph.graph_def.SerializeToString())
        workers = {way: _Worker(way, graph, file, Path(place, f"{n}.pb")) for n, way in enumerate(_WAYS)}
        try:
            _measure(workers, lambda what: told(f"{graph.name}: {what}"))
            for worker in workers.values():
                worker.finish()
            told(f"{graph.name}: compare")
            wanted = _answers(graph, graph.graph_def)
            made = {way: _made(graph, worker, workers[OLD], wanted) for way, worker in workers.items()}
            return Compared(graph.name, len(graph.graph_def.node), file.stat().st_size, made)
        finally:
            for worker in workers.values():
                worker.close()


def _measure(workers: Mapping[str, _Worker], told: Callable[[str], None]) -> None:
    told("first calls")
    for worker in workers.values():
        worker.call()
        worker.seconds.clear()
    for turn in range(_ROUNDS):
        told(f"round {turn + 1}/{_ROUNDS}")
        for worker in list(workers.values())[:: 1 if turn % 2 == 0 else -1]:
            if sum(worker.seconds) < _MOST_SECONDS:
                worker.call()


def _made(graph: FrozenGraph, worker: _Worker, old: _Worker, wanted: Sequence[Any]) -> Made:
    if worker.failed:
        return Made(failed=worker.failed)
    data = worker.result.read_bytes()
    made = tf.compat.v1.GraphDef.FromString(data)
    pairs = [] if old.failed or worker is old else list(zip(worker.seconds, old.seconds, strict=False))
    try:
        error = _error(wanted, _answers(graph, made))
    except (ValueError, tf.errors.OpError) as reason:
        return Made(failed=f"does not run: {str(reason).splitlines()[0][:80]}")
    return Made(
        median(worker.seconds),
        median(a / b for a, b in pairs) if pairs else None,
        len(made.node),
        len(data),
        error,
    )


class _Worker:
    """A process that transforms one graph one way. failed: how it ended when it did not answer."""

    def __init__(self, way: str, graph: FrozenGraph, file: Path, result: Path) -> None:
        kind, transforms = _WAYS[way]
        self.seconds: list[float] = []
        self.failed = ""
        self.result = result
        names = [",".join(graph.input_nodes), ",".join(graph.output_nodes)]
        command = [sys.executable, "-m", "benchmarks.transforming_process", kind, str(file), *names, transforms]
        environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "-1", "TF_CPP_MIN_LOG_LEVEL": "2"}
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as the child
        self._process = subprocess.Popen(
            [*command, str(result)],
            cwd=ROOT,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            bufsize=0,
        )
        self._line()

    def call(self) -> None:
        """Transform once."""
        if not self.failed:
            assert self._process.stdin is not None
            self._process.stdin.write(b"\n")
            line = self._line()
            self.seconds += [float(line)] if line else []

    def finish(self) -> None:
        """Let it write its result."""
        if not self.failed:
            assert self._process.stdin is not None
            self._process.stdin.close()
            self._process.wait()

    def close(self) -> None:
        """End it."""
        self._process.kill()
        self._process.wait()
        self._errors.close()

    def _line(self) -> bytes:
        assert self._process.stdout is not None
        end = time.monotonic() + _TIMEOUT
        found = b""
        with selectors.DefaultSelector() as selector:
            selector.register(self._process.stdout, selectors.EVENT_READ)
            while not found.endswith(b"\n"):
                if not selector.select(max(0.0, end - time.monotonic())):
                    self.failed = f"not done after {_TIMEOUT:g} s"
                    return b""
                got = os.read(self._process.stdout.fileno(), 4096)
                if not got:
                    self.failed = self._end()
                    return b""
                found += got
        return found

    def _end(self) -> str:
        code = self._process.wait()
        self._errors.seek(0)
        lines = [line.strip() for line in self._errors.read().decode(errors="replace").splitlines() if line.strip()]
        how = f"aborts ({signal.Signals(-code).name})" if code < 0 else "error"
        return f"{how}: {(lines or ['it said nothing'])[-1][:120]}"


def _answers(graph: FrozenGraph, graph_def: Any) -> list[Any]:
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        tf.import_graph_def(graph_def, name="")
        if graph.init:
            session.run(graph.init)
        return list(session.run(list(graph.outputs), dict(graph.feeds)))


def _error(wanted: Sequence[Any], found: Sequence[Any]) -> float:
    errors = [0.0]
    for before, after in zip(map(np.asarray, wanted), map(np.asarray, found), strict=True):
        if before.shape != after.shape or before.dtype != after.dtype:
            return float("inf")
        if before.dtype.kind == "f":
            errors.append(float(np.linalg.norm(after - before) / max(np.linalg.norm(before), 1e-30)))
        else:
            errors.append(float(np.mean(before != after)))
    return max(errors, key=lambda error: (np.isnan(error), error))


def _size(count: int) -> str:
    return f"{count:,}"
