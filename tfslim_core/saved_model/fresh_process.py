"""A model alone in a fresh child process, loaded as its server loads it: for answers and for measurements.

The child does not import the `tensorflow` package and so is up in half a second. Parent and child talk over the child's
stdin and stdout (see array_stream): one question, one answer. When the parent goes, so does the child, even one that a
model keeps busy.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import threading
import weakref
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import IO, Any, BinaryIO

import numpy as np

from tfslim_core.errors import ModelError, TfslimError
from tfslim_core.orphans import end_with_parent
from tfslim_core.saved_model.array_stream import read_message, write_message
from tfslim_core.saved_model.server_loader import ServedModel
from tfslim_core.served import open_served
from tfslim_core.tflite.interpreter import LiteModel

_SHOWN_STDERR = 300  # characters


@dataclass(frozen=True)
class Request:
    """One request: a signature's name and arrays by input key."""

    signature: str
    feeds: Mapping[str, np.ndarray]


class Conversation:
    """A model in a child of its own that answers requests one by one; a context manager. The child starts when it is
    first needed, and a new one takes the place of one that a request killed.

    timeout: seconds for the load and for each request.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        tags: Sequence[str] = ("serve",),
        *,
        threads: int | None = None,
        timeout: float = 600,
    ) -> None:
        self._start = partial(_Child, path, tags, threads, timeout)
        self._child: _Child | None = None

    def __enter__(self) -> Conversation:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._child is not None:
            self._child.close()

    def ask(self, request: Request) -> dict[str, np.ndarray] | ModelError:
        """Arrays by output key, or the error that the request met; one that names the signal if it killed the child.

        Raises:
            ModelError: the model cannot be loaded, or not in time.
        """
        if self._child is None or not self._child.alive:
            if self._child is not None:
                self._child.close()
            self._child = self._start()
        try:
            return self._child.ask({"do": "run", "signature": request.signature}, request.feeds)[1]
        except TfslimError as error:
            return error if isinstance(error, ModelError) else ModelError(str(error))


def answers(
    path: str | os.PathLike[str],
    requests: Sequence[Request],
    tags: Sequence[str] = ("serve",),
    *,
    threads: int | None = None,
    timeout: float = 600,
) -> list[dict[str, np.ndarray] | ModelError]:
    """What the model answers to each request, in order: arrays by output key, or the error that the request met.

    timeout: seconds for the load and for each request.

    Raises:
        ModelError: the model cannot be loaded, or not in time.
    """
    with Conversation(path, tags, threads=threads, timeout=timeout) as conversation:
        return [conversation.ask(request) for request in requests]


class ModelProcess:
    """A model loaded in a child of its own that stays for measuring; a context manager.

    requests: sent once, so that timing them does not touch the pipe; the first of them is run as the first request.
    load_seconds: the loader call alone. first_request_ms: None without requests. timeout: seconds for the load and for
    each call.

    Raises:
        ModelError: the model cannot be loaded or cannot answer the first request.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        requests: Sequence[Request] = (),
        tags: Sequence[str] = ("serve",),
        *,
        threads: int | None = None,
        timeout: float = 600,
    ) -> None:
        self._child = _Child(path, tags, threads, timeout)
        self.load_seconds = self._child.load_seconds
        self.first_request_ms: float | None = None
        self._kept = 0
        try:
            for request in requests:
                self._keep(request)
            if requests:
                self.first_request_ms = self.time(0, 1)[0]
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> ModelProcess:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def time(self, request: int | Request, repeats: int) -> list[float]:
        """Milliseconds of each of `repeats` runs in the child, without conversion from and to numpy.

        request: an index into the requests given at the start, or a request to add to them.

        Raises:
            ModelError: the model cannot answer it, or the child died.
            DataError: the request does not fit the signature.
        """
        index = request if isinstance(request, int) else self._keep(request)
        milliseconds: list[float] = self._child.ask({"do": "time", "request": index, "repeats": repeats})[0]["ms"]
        return milliseconds

    def peak_rss_bytes(self) -> int:
        """The most resident memory that the child has had so far (VmHWM), with about 300 MB of TensorFlow's libraries.

        Raises:
            ModelError: the child has ended.
        """
        return self._child.peak_rss_bytes()

    def close(self) -> None:
        """End the child. More calls do nothing."""
        self._child.close()

    def _keep(self, request: Request) -> int:
        self._child.ask({"do": "keep", "signature": request.signature}, request.feeds)
        self._kept += 1
        return self._kept - 1


class _Child:
    """The parent's end: a child process with the model loaded."""

    def __init__(self, path: str | os.PathLike[str], tags: Sequence[str], threads: int | None, timeout: float) -> None:
        self._path, self._timeout = os.fspath(path), timeout
        self._stderr: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as the child
        self._process = subprocess.Popen(
            # -P: whatever lies in the current directory must not shadow a module.
            [sys.executable, "-P", "-m", "tfslim_core.saved_model.fresh_process"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._stderr,
            # Looking for a GPU takes a second.
            env={"TF_CPP_MIN_LOG_LEVEL": "1", **os.environ, "CUDA_VISIBLE_DEVICES": "-1"},
        )
        self._finish = weakref.finalize(self, _finish, self._process, self._stderr)
        try:
            told, _ = self.ask({"path": os.path.abspath(self._path), "tags": list(tags), "threads": threads})
        except BaseException:
            self.close()
            raise
        self.load_seconds: float = told["load_seconds"]

    def __enter__(self) -> _Child:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def alive(self) -> bool:
        return self._finish.alive and self._process.poll() is None

    def ask(
        self, question: Mapping[str, Any], arrays: Mapping[str, np.ndarray] | None = None
    ) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        """The child's answer.

        Raises:
            TfslimError: the error that the child raised, of its class; ModelError when it died or took too long.
        """
        if not self._finish.alive:
            raise ModelError(f"{self._path}: its process was closed; start a new one")
        late = threading.Event()

        def give_up() -> None:
            late.set()
            self._process.kill()

        timer = threading.Timer(self._timeout, give_up)
        timer.daemon = True
        timer.start()
        try:
            write_message(_pipe(self._process.stdin), question, arrays)
            told, received = read_message(_pipe(self._process.stdout))
        except (EOFError, OSError):
            raise self._death(late.is_set()) from None
        finally:
            timer.cancel()
        if "error" in told:
            raise _error_class(told["kind"])(told["error"])
        return told, received

    def peak_rss_bytes(self) -> int:
        try:
            lines = Path(f"/proc/{self._process.pid}/status").read_text().splitlines()
            return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:"))
        except (OSError, StopIteration):
            raise self._death(late=False) from None

    def close(self) -> None:
        self._finish()

    def _death(self, late: bool) -> ModelError:
        if late:
            self._process.wait()
            return ModelError(
                f"{self._path}: no answer within {self._timeout:g} s; give more time or a smaller request"
            )
        try:
            code = self._process.wait(5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            code = self._process.wait()
        how = f"was killed by {_signal_name(-code)}" if code < 0 else f"ended with exit code {code}"
        tip = " (out of memory?)" if -code == signal.SIGKILL else ""
        said = self._last_words()
        cause = f"; it said: {said}" if said else ""
        return ModelError(f"{self._path}: the process that ran the model {how}{tip}{cause}")

    def _last_words(self) -> str:
        """The line of the child's stderr that tells most: a failed check in TensorFlow, else the last one."""
        self._stderr.seek(max(0, self._stderr.seek(0, os.SEEK_END) - 65536))
        lines = [line.strip() for line in self._stderr.read().decode(errors="replace").splitlines() if line.strip()]
        fatal = [line for line in lines if "Check failed" in line]
        return ([*lines[-1:], *fatal[-1:]] or [""])[-1][:_SHOWN_STDERR]


def _finish(process: subprocess.Popen[bytes], stderr: IO[bytes]) -> None:
    for pipe in (process.stdin, process.stdout):
        with contextlib.suppress(OSError):  # what was still buffered for a child that has died
            _pipe(pipe).close()
    try:
        process.wait(5)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    stderr.close()


def _pipe(stream: IO[bytes] | None) -> BinaryIO:
    assert stream is not None
    return stream  # type: ignore[return-value]


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _error_class(name: str) -> type[TfslimError]:
    known = {kind.__name__: kind for kind in TfslimError.__subclasses__()}
    return known.get(name, ModelError)


def main() -> None:
    """The child: load the model that the first message names, then answer until stdin ends."""
    end_with_parent()
    # Ops may print; what they print must not get between the answers.
    answers_to = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    questions = sys.stdin.buffer
    try:
        first, _ = read_message(questions)
        model = open_served(first["path"], first["tags"], threads=first["threads"])
    except TfslimError as error:
        write_message(answers_to, {"error": str(error), "kind": type(error).__name__})
        return
    write_message(answers_to, {"load_seconds": model.load_seconds})
    kept: list[Request] = []
    while True:
        try:
            question, arrays = read_message(questions)
        except EOFError:
            os._exit(0)  # nothing is left to save, and freeing a large model takes time
        try:
            told, result = _answer(model, kept, question, arrays)
        except TfslimError as error:
            told, result = {"error": str(error), "kind": type(error).__name__}, {}
        write_message(answers_to, told, result)


def _answer(
    model: ServedModel | LiteModel, kept: list[Request], question: Mapping[str, Any], arrays: dict[str, np.ndarray]
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    if question["do"] == "run":
        return {}, model.run(question["signature"], arrays)
    if question["do"] == "keep":
        kept.append(Request(question["signature"], arrays))
        return {}, {}
    request = kept[question["request"]]
    return {"ms": model.time(request.signature, request.feeds, question["repeats"])}, {}


if __name__ == "__main__":
    main()
