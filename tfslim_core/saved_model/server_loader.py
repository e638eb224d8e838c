"""Serve a SavedModel with TensorFlow's C++ loader, the code that TensorFlow Serving links.

What loads here loads there: `tf.saved_model.load` is a different program that accepts models which no server opens.
The `tensorflow` Python package is not executed; it may be imported before or after.
"""

from __future__ import annotations

import ctypes
import os
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from types import TracebackType

import numpy as np

from tfslim_core.errors import DataError, ModelError, nearest
from tfslim_core.saved_model.c_api import (
    Output,
    Status,
    from_tensor,
    library,
    tensor_from_proto,
    to_tensor,
)
from tfslim_core.saved_model.served_signatures import (
    Signature,
    TensorSpec,
    proto_module,
    read_interface,
    read_signatures,
)

__all__ = ["ServedModel", "Signature", "TensorSpec", "read_signatures"]


class ServedModel:
    """A loaded model; a context manager. `run` may be called from several threads at once.

    path, tags: which MetaGraph of which SavedModel. threads: within and between ops, TensorFlow's choice unless given;
    the first model of a process decides it for the threads within ops. signatures: by name, without TensorFlow's own
    ("__saved_model_init_op", which the loader has run). load_seconds: what the loader took.

    Raises:
        ModelError: there is no SavedModel, the tag set is not in it, or the loader refuses it.
    """

    def __init__(
        self, path: str | os.PathLike[str], tags: Sequence[str] = ("serve",), *, threads: int | None = None
    ) -> None:
        self.path = os.fspath(path)
        self._interface = read_interface(self.path, tags)
        self.signatures: Mapping[str, Signature] = self._interface.signatures
        self._graph: int = library().TF_NewGraph()
        try:
            start = time.perf_counter()
            self._session = _load(self.path, tags, self._graph, threads)
            self.load_seconds = time.perf_counter() - start
        except ModelError:
            library().TF_DeleteGraph(self._graph)
            raise
        self._free = weakref.finalize(self, _free, self._session, self._graph)
        self._idle = threading.Condition()
        self._running = 0

    def __enter__(self) -> ServedModel:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Wait for the requests under way, then free the session. More calls do nothing."""
        with self._idle:
            self._idle.wait_for(lambda: self._running == 0)
            self._free()

    def run(
        self, signature: str, feeds: Mapping[str, np.ndarray], outputs: Sequence[str] | None = None
    ) -> dict[str, np.ndarray]:
        """Answer one request: arrays by output key; strings come as object arrays of bytes.

        feeds: by input key, of the dtype and rank that the signature says (strings also as S, U or str elements);
        inputs with a default may be left out. outputs: the keys wanted; all that are tensors unless given.

        Raises:
            ModelError: no such signature, the model is closed, or TensorFlow could not compute the answer.
            DataError: the feeds or the outputs do not fit the signature.
        """
        with self._call(signature, feeds, outputs) as call:
            return call()

    def time(self, signature: str, feeds: Mapping[str, np.ndarray], repeats: int) -> list[float]:
        """Milliseconds of each of `repeats` equal requests, without the conversion from and to numpy.

        Raises:
            ModelError, DataError: as `run`.
        """
        taken = []
        with self._call(signature, feeds, None) as call:
            for _ in range(repeats):
                start = time.perf_counter()
                fetched = call.session_run()
                taken.append((time.perf_counter() - start) * 1000)
                call.delete(fetched)
        return taken

    @contextmanager
    def _call(self, name: str, feeds: Mapping[str, np.ndarray], outputs: Sequence[str] | None) -> Iterator[_Call]:
        signature = self._signature(name)
        arrays = checked_feeds(self.path, signature, feeds)
        wanted = checked_outputs(self.path, signature, outputs)
        with ExitStack() as stack:
            stack.enter_context(self._open())
            fed: dict[str, int] = {}
            for key, spec in signature.inputs.items():
                tensor = self._feed(signature, key, arrays)
                if tensor is not None:
                    stack.callback(library().TF_DeleteTensor, tensor)
                    fed[spec.name] = tensor
            yield _Call(self.path, self._session, self._output, fed, wanted)

    def _signature(self, name: str) -> Signature:
        if name not in self.signatures:
            known = ", ".join(self.signatures) or "none"
            raise ModelError(f"{self.path} has no signature {name!r}{nearest(name, self.signatures)} (it has: {known})")
        return self.signatures[name]

    def _feed(self, signature: Signature, key: str, arrays: Mapping[str, np.ndarray]) -> int | None:
        if key not in arrays:
            default = self._interface.defaults[signature.name].get(key)
            return None if default is None else tensor_from_proto(default)
        output = self._output(signature.inputs[key].name)
        return to_tensor(arrays[key], library().TF_OperationOutputType(output))

    def _output(self, tensor: str) -> Output:
        """Where a tensor name ("x:0") is in the graph."""
        node, _, index = tensor.rpartition(":")
        operation = library().TF_GraphOperationByName(self._graph, node.encode())
        if not (operation and index.isdecimal() and int(index) < library().TF_OperationNumOutputs(operation)):
            raise ModelError(f"{self.path}: a signature names the tensor {tensor!r}, which the graph does not have")
        return Output(operation, int(index))

    @contextmanager
    def _open(self) -> Iterator[None]:
        """Keep the session alive for a block."""
        with self._idle:
            if not self._free.alive:
                raise ModelError(f"{self.path} was closed; open it again")
            self._running += 1
        try:
            yield
        finally:
            with self._idle:
                self._running -= 1
                self._idle.notify_all()


class _Call:
    """One request with its tensors made: `fed` by tensor name, `wanted` output key -> tensor name.

    A tensor that is fed and wanted is answered with what was fed, as the Python session does.
    """

    def __init__(
        self,
        path: str,
        session: int,
        output: Callable[[str], Output],
        fed: Mapping[str, int],
        wanted: Mapping[str, str],
    ) -> None:
        self._path, self._session, self._fed, self._wanted = path, session, fed, wanted
        self._fetched = [name for name in dict.fromkeys(wanted.values()) if name not in fed]
        self._inputs = (Output * len(fed))(*map(output, fed))
        self._values = (ctypes.c_void_p * len(fed))(*fed.values())
        self._outputs = (Output * len(self._fetched))(*map(output, self._fetched))

    def __call__(self) -> dict[str, np.ndarray]:
        fetched = self.session_run()
        try:
            arrays = {name: from_tensor(tensor) for name, tensor in zip(self._fetched, fetched, strict=True)}
        finally:
            self.delete(fetched)
        for name in set(self._wanted.values()) & set(self._fed):
            arrays[name] = from_tensor(self._fed[name])
        named = ((key, arrays[name]) for key, name in self._wanted.items())
        return {key: array for key, array in named if array is not None}

    def session_run(self) -> list[int]:
        """The fetched TF_Tensors; the caller deletes them."""
        if not self._fetched:
            return []
        tensors = (ctypes.c_void_p * len(self._fetched))()
        with Status() as status:
            library().TF_SessionRun(
                *(self._session, None),
                *(self._inputs, self._values, len(self._inputs)),
                *(self._outputs, tensors, len(tensors)),
                *(None, 0, None, status.pointer),
            )
            problem = status.problem()
        if problem:
            raise ModelError(f"{self._path} cannot answer: {problem}; check the request against the signature")
        return [tensor for tensor in tensors if tensor is not None]

    @staticmethod
    def delete(tensors: Sequence[int]) -> None:
        for tensor in tensors:
            library().TF_DeleteTensor(tensor)


def _load(path: str, tags: Sequence[str], graph: int, threads: int | None) -> int:
    tf = library()
    options = tf.TF_NewSessionOptions()
    names = [tag.encode() for tag in tags]
    with Status() as status:
        # A model that was trained on GPUs may name them; without soft placement it would be refused here.
        config = proto_module("protobuf.config_pb2").ConfigProto(allow_soft_placement=True)
        if threads is not None:
            config.intra_op_parallelism_threads = config.inter_op_parallelism_threads = threads
        serialized = config.SerializeToString()
        tf.TF_SetConfig(options, serialized, len(serialized), status.pointer)
        session: int | None = tf.TF_LoadSessionFromSavedModel(
            *(options, None, os.fsencode(path), (ctypes.c_char_p * len(names))(*names), len(names)),
            *(graph, None, status.pointer),
        )
        problem = status.problem()
    tf.TF_DeleteSessionOptions(options)
    if problem or not session:
        raise ModelError(f"{path}: TensorFlow's loader refuses it: {problem}; export the model again, or copy it whole")
    return session


def _free(session: int, graph: int) -> None:
    with Status() as status:
        library().TF_CloseSession(session, status.pointer)
    with Status() as status:
        library().TF_DeleteSession(session, status.pointer)
    library().TF_DeleteGraph(graph)


def checked_feeds(path: str, signature: Signature, feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    required = {key for key, spec in signature.inputs.items() if not spec.optional}
    where = f"{path}: signature {signature.name!r}"
    if not required <= set(feeds) <= set(signature.inputs):
        takes = ", ".join(f"{key} (optional)" if key not in required else key for key in signature.inputs) or "nothing"
        raise DataError(f"{where} takes the inputs: {takes}; it was fed: {', '.join(sorted(feeds)) or 'nothing'}")
    arrays = {key: np.asarray(value) for key, value in feeds.items()}
    for key, array in arrays.items():
        spec = signature.inputs[key]
        is_string = spec.dtype == object and array.dtype.kind in "OSU"
        if (array.dtype != spec.dtype and not is_string) or spec.dtype == np.void:
            raise DataError(
                f"{where} takes {key!r} as {_dtype_name(spec.dtype)}; it was fed {_dtype_name(array.dtype)}"
            )
        if spec.shape is not None and len(spec.shape) != array.ndim:
            expected = f"{len(spec.shape)} dimensions {_shape_name(spec.shape)}"
            raise DataError(f"{where} takes {key!r} with {expected}; it was fed {_shape_name(array.shape)}")
    return arrays


def checked_outputs(path: str, signature: Signature, outputs: Sequence[str] | None) -> dict[str, str]:
    """Output key -> tensor name, without outputs that have no form in numpy unless they are asked for."""
    for key in outputs or ():
        if key not in signature.outputs:
            gives, asked = ", ".join(signature.outputs), ", ".join(outputs or ())
            raise DataError(
                f"{path}: signature {signature.name!r} gives the outputs: {gives}; it was asked for: {asked}"
            )
        if signature.outputs[key].dtype == np.void:
            raise DataError(f"{path}: output {key!r} of signature {signature.name!r} is not a tensor of values")
    keys = list(signature.outputs) if outputs is None else outputs
    return {key: signature.outputs[key].name for key in keys if signature.outputs[key].dtype != np.void}


def _dtype_name(dtype: np.dtype[np.generic]) -> str:
    return {"O": "strings", "S": "strings", "U": "strings"}.get(dtype.kind, dtype.name)


def _shape_name(shape: Sequence[int | None]) -> str:
    return "[" + ", ".join("?" if size is None else str(size) for size in shape) + "]"
