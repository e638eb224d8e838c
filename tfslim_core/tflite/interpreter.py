"""Serve a TFLite model with TFLite's interpreter, as ServedModel serves a SavedModel with TensorFlow's C++ loader.

The `tensorflow` Python package is not executed, so that a process with this model alone is up at once, and what it
weighs is the model and the interpreter.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import TracebackType
from typing import Any

import numpy as np

from tfslim_core._tf_private import lite_interpreter
from tfslim_core.errors import DataError, ModelError, nearest
from tfslim_core.saved_model.served_signatures import Signature
from tfslim_core.saved_model.server_loader import checked_feeds, checked_outputs
from tfslim_core.tflite.files import tflite_file
from tfslim_core.tflite.signatures import LiteSignature, read_lite_signatures

_DELEGATED = "DELEGATE"  # how the interpreter calls what XNNPACK computes


class LiteModel:
    """A loaded model; a context manager. `run` may be called from several threads; requests are answered in turn.

    path: a .tflite file, or a directory with a model.tflite. threads: all cores unless given. load_seconds: to read
    the file, and to place the tensors of each signature at the size that the file gives (one example).

    Raises:
        ModelError: there is no TFLite model, it is damaged, or the interpreter has no kernel for it.
    """

    def __init__(self, path: str | os.PathLike[str], *, threads: int | None = None) -> None:
        self.path = os.fspath(path)
        file = tflite_file(path)
        if file is None:
            raise ModelError(f"{path}: no TFLite model; give a .tflite file, or a directory with a model.tflite")
        self._signatures = read_lite_signatures(file)
        self.signatures: Mapping[str, Signature] = {name: one.signature for name, one in self._signatures.items()}
        self._lock = threading.Lock()
        start = time.perf_counter()
        try:
            self._interpreter: Any = lite_interpreter(os.fspath(file), threads or len(os.sched_getaffinity(0)))
            for subgraph in sorted({one.subgraph for one in self._signatures.values()}):
                self._interpreter.AllocateTensors(subgraph)
        except (ValueError, RuntimeError) as error:
            raise ModelError(f"{self.path}: TFLite refuses it: {_line(error)}; export it again") from None
        self.load_seconds = time.perf_counter() - start

    def __enter__(self) -> LiteModel:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Free the model. More calls do nothing."""
        with self._lock:
            self._interpreter = None

    def run(
        self, signature: str, feeds: Mapping[str, np.ndarray], outputs: Sequence[str] | None = None
    ) -> dict[str, np.ndarray]:
        """Answer one request: arrays by output key; strings come as object arrays of bytes.

        Raises:
            ModelError: no such signature, the model is closed, or it cannot compute the answer.
            DataError: the feeds or the outputs do not fit the signature.
        """
        with self._fed(signature, feeds) as one:
            wanted = checked_outputs(self.path, one.signature, outputs)
            self._interpreter.Invoke(one.subgraph)
            return {key: self._answer(one, key) for key in wanted}

    def time(self, signature: str, feeds: Mapping[str, np.ndarray], repeats: int) -> list[float]:
        """Milliseconds of each of `repeats` equal requests, without the conversion from and to numpy.

        Raises:
            ModelError, DataError: as `run`.
        """
        taken = []
        with self._fed(signature, feeds) as one:
            for _ in range(repeats):
                start = time.perf_counter()
                self._interpreter.Invoke(one.subgraph)
                taken.append((time.perf_counter() - start) * 1000)
        return taken

    def delegated(self) -> tuple[int, int]:
        """How many calls into XNNPACK the first subgraph makes, and how many steps it has in all with them."""
        with self._lock:
            names = [self._interpreter.NodeName(i) for i in range(self._interpreter.NumNodes())]
        return sum(name.upper().endswith(_DELEGATED) for name in names), len(names)

    @contextmanager
    def _fed(self, name: str, feeds: Mapping[str, np.ndarray]) -> Iterator[LiteSignature]:
        """The signature, its inputs resized and set."""
        if name not in self._signatures:
            known = ", ".join(self._signatures) or "none"
            raise ModelError(
                f"{self.path} has no signature {name!r}{nearest(name, self._signatures)} (it has: {known})"
            )
        one = self._signatures[name]
        arrays = checked_feeds(self.path, one.signature, feeds)
        with self._lock:
            if self._interpreter is None:
                raise ModelError(f"{self.path} was closed; open it again")
            try:
                self._resize(one, arrays)
                for key, array in arrays.items():
                    self._interpreter.SetTensor(one.inputs[key], _plain(array), one.subgraph)
                yield one
            except (ValueError, RuntimeError) as error:
                raise ModelError(
                    f"{self.path} cannot answer: {_line(error)}; check the request against the signature"
                ) from None

    def _resize(self, one: LiteSignature, arrays: Mapping[str, np.ndarray]) -> None:
        sizes = {key: tuple(self._interpreter.TensorSize(one.inputs[key], one.subgraph)) for key in arrays}
        if all(sizes[key] == array.shape for key, array in arrays.items()):
            return
        for key, array in arrays.items():
            shape = one.signature.inputs[key].shape
            if shape is not None and any(w is not None and w != s for w, s in zip(shape, array.shape, strict=True)):
                raise DataError(
                    f"{self.path}: signature {one.signature.name!r} takes {key!r} as {shape}, not {array.shape}"
                )
            self._interpreter.ResizeInputTensor(one.inputs[key], np.array(array.shape, np.int32), False, one.subgraph)
        self._interpreter.AllocateTensors(one.subgraph)

    def _answer(self, one: LiteSignature, key: str) -> np.ndarray:
        array: np.ndarray = self._interpreter.GetTensor(one.outputs[key], one.subgraph)
        return array.astype(object) if one.signature.outputs[key].dtype == object else array


def _plain(array: np.ndarray) -> np.ndarray:
    """What the interpreter takes: contiguous, and strings as bytes of their own length, which numpy's S would pad."""
    if array.dtype.kind not in "OSU":
        return np.ascontiguousarray(array)
    made = np.empty(array.shape, object)
    made.reshape(-1)[:] = [one.encode() if isinstance(one, str) else bytes(one) for one in array.reshape(-1).tolist()]
    return made


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())[:300]
