"""A TFLite model in a process of its own, asked and timed as `ModelProcess` asks and times a SavedModel."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from benchmarks.places import ROOT
from tfslim_core.errors import ModelError
from tfslim_core.saved_model.array_stream import read_message, write_message
from tfslim_core.saved_model.fresh_process import Request

SUFFIX = ".tflite"


class Process:
    """An interpreter in a child; a context manager. load_seconds: to make it and to allocate for the first request.

    Raises:
        ModelError: the model cannot be loaded or cannot answer the first request.
    """

    def __init__(self, path: Path, requests: Sequence[Request] = ()) -> None:
        self._path = path
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.tflite"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            cwd=ROOT,
            env={**os.environ, "CUDA_VISIBLE_DEVICES": "-1", "TF_CPP_MIN_LOG_LEVEL": "3"},
        )
        try:
            self.load_seconds: float = self._told({"path": str(path)})["load_seconds"]
            for request in requests:
                self._told({"do": "keep"}, request.feeds)
            if requests:
                self.time(0, 1)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Process:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def ask(self, request: Request) -> dict[str, np.ndarray]:
        """Arrays by output key.

        Raises:
            ModelError: it cannot answer.
        """
        return self._asked({"do": "run"}, request.feeds)[1]

    def time(self, request: int, repeats: int) -> list[float]:
        """Milliseconds of each of `repeats` runs of a request that was given at the start, without copies."""
        milliseconds: list[float] = self._told({"do": "time", "request": request, "repeats": repeats})["ms"]
        return milliseconds

    def peak_rss_bytes(self) -> int:
        """The most resident memory so far; all of TensorFlow's Python package is in it."""
        lines = Path(f"/proc/{self._process.pid}/status").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:"))

    def close(self) -> None:
        """End the child."""
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            pipe.close()
        self._process.kill()
        self._process.wait()

    def _told(self, question: Mapping[str, Any], arrays: Mapping[str, np.ndarray] | None = None) -> dict[str, Any]:
        return self._asked(question, arrays)[0]

    def _asked(
        self, question: Mapping[str, Any], arrays: Mapping[str, np.ndarray] | None = None
    ) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            write_message(self._process.stdin, question, arrays)  # type: ignore[arg-type]
            told, found = read_message(self._process.stdout)  # type: ignore[arg-type]
        except (EOFError, OSError):
            raise ModelError(f"{self._path}: the interpreter's process died") from None
        if "error" in told:
            raise ModelError(f"{self._path}: {told['error']}")
        return told, found


class _Interpreted:
    """The child's end. The tensors of a request are set once; timing it is invoking alone."""

    def __init__(self, path: str) -> None:
        import tensorflow as tf

        start = time.perf_counter()
        self._interpreter = tf.lite.Interpreter(path, num_threads=len(os.sched_getaffinity(0)))
        self._interpreter.allocate_tensors()
        self.load_seconds = time.perf_counter() - start
        signatures = list(self._interpreter.get_signature_list())
        runner = self._interpreter.get_signature_runner(signatures[0] if signatures else None)
        self._inputs = {key: one["index"] for key, one in runner.get_input_details().items()}
        self._outputs = {key: one["index"] for key, one in runner.get_output_details().items()}
        self._set: Mapping[str, np.ndarray] | None = None

    def run(self, feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        self._feed(feeds)
        self._interpreter.invoke()
        return {key: self._interpreter.get_tensor(index) for key, index in self._outputs.items()}

    def time(self, feeds: Mapping[str, np.ndarray], repeats: int) -> list[float]:
        if feeds is not self._set:
            self.run(feeds)
            self._set = feeds
        taken = []
        for _ in range(repeats):
            start = time.perf_counter()
            self._interpreter.invoke()
            taken.append(1000 * (time.perf_counter() - start))
        return taken

    def _feed(self, feeds: Mapping[str, np.ndarray]) -> None:
        self._set = None
        for key, array in feeds.items():
            self._interpreter.resize_tensor_input(self._inputs[key], array.shape)
        self._interpreter.allocate_tensors()
        for key, array in feeds.items():
            self._interpreter.set_tensor(self._inputs[key], array)


def main() -> None:
    """The child: load the model that the first message names, then answer until stdin ends."""
    answers_to = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    model: _Interpreted | None = None
    kept: list[Mapping[str, np.ndarray]] = []
    while True:
        try:
            question, arrays = read_message(sys.stdin.buffer)
        except EOFError:
            os._exit(0)
        told: dict[str, Any] = {}
        found: dict[str, np.ndarray] = {}
        try:
            if model is None:
                model = _Interpreted(question["path"])
                told = {"load_seconds": model.load_seconds}
            elif question["do"] == "keep":
                kept.append(arrays)
            elif question["do"] == "time":
                told = {"ms": model.time(kept[question["request"]], question["repeats"])}
            else:
                found = model.run(arrays)
        except Exception as error:
            told, found = {"error": f"{type(error).__name__}: {error}"[:300]}, {}
        write_message(answers_to, told, found)


if __name__ == "__main__":
    main()
