"""Make warm-up requests from a sample of the data."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain, islice, zip_longest
from pathlib import Path
from typing import Any, Literal

import numpy as np
import tensorflow as tf
from tensorflow.core.framework import tensor_pb2

from tfslim_core.errors import DataError, ModelError, UsageError
from tfslim_core.saved_model.fresh_process import Request, answers
from tfslim_core.saved_model.read import read_saved_model
from tfslim_core.saved_model.served_signatures import Signature, read_signatures
from tfslim_core.validation.batches import Batch, Batcher
from tfslim_core.validation.feeding import Rows, choose_signature, feeding
from tfslim_core.validation.messages import examples_log, parse_example, predict_log
from tfslim_core.validation.sample import drawn
from tfslim_core.validation.sources import first_records, open_dataset
from tfslim_core.warmup_requests.requests_file import MOST_RECORDS

TYPICAL_BATCH = 32
MOST_BYTES = 64 * 2**20  # of requests: they lie in the model, and each server reads them at each load
_METHODS: Mapping[str, Literal["classify_log", "regress_log"]] = {
    "tensorflow/serving/classify": "classify_log",
    "tensorflow/serving/regress": "regress_log",
}


@dataclass(frozen=True)
class Wanted:
    """The requests to make. data: name -> path. count: of requests. signature: chosen by the data unless told."""

    data: Mapping[str, str]
    count: int = 100
    signature: str | None = None
    seed: int = 0

    def refuse_unclear(self) -> None:
        """Refuse what cannot be made.

        Raises:
            UsageError: no data, or more requests than a server takes.
        """
        if not self.data:
            raise UsageError("warm-up requests are made from a sample of the data; give --data NAME=PATH")
        if not 1 <= self.count <= MOST_RECORDS:
            raise UsageError(f"{self.count:,} warm-up requests: a server takes 1 to {MOST_RECORDS:,}")


def wanted_requests(
    count: int | None, data: Mapping[str, str] | None, signature: str | None, seed: int
) -> Wanted | None:
    """The same from a command's arguments; None where no requests are to be made.

    Raises:
        UsageError: no data, more requests than a server takes, or data that nothing heeds.
    """
    if count is None:
        if data:
            raise UsageError("the data is for warm-up requests; give --warmup N too")
        return None
    wanted = Wanted(dict(data or {}), count, signature, seed)
    wanted.refuse_unclear()
    return wanted


@dataclass(frozen=True)
class Made:
    """PredictionLogs, and what to tell of them."""

    records: tuple[bytes, ...]
    notes: tuple[str, ...]


def _requests_for(model: Path, tags: Sequence[str], wanted: Wanted) -> tuple[Request, ...]:
    """Requests of one example each and of 32, alternately, drawn from the data; at most 64 MiB of them.

    Raises:
        DataError: the data cannot be read or does not fit a signature.
        ModelError: there is no such signature.
    """
    served = read_signatures(model, tags)
    datasets = [open_dataset(name, path) for name, path in sorted(wanted.data.items())]
    firsts = {dataset.name: first_records(dataset) for dataset in datasets}
    where = ", ".join(wanted.data.values())
    chosen = served[choose_signature(served, wanted.signature, [r for f in firsts.values() for r in f], where)]
    generator = np.random.default_rng(wanted.seed)
    # Half of the requests are of 32 examples each; as many examples are drawn as they take, of small data all.
    each = -(-wanted.count * TYPICAL_BATCH // (2 * len(datasets)))
    rows: list[Rows] = []
    for dataset in datasets:
        fed = feeding(chosen, firsts[dataset.name], None, dataset.path)
        size = max((_bytes(one.arrays) for one in _fed(fed, firsts[dataset.name])), default=0)
        enough = min(max(each, wanted.count), 1 + 2 * MOST_BYTES // max(size, 1))
        rows += _fed(fed, drawn(dataset, enough, generator))
    rows = [replace(one, numbers=[number] * len(one.numbers)) for number, one in enumerate(rows)]
    if not rows:
        raise DataError(f"{where}: no record can be fed to signature {chosen.name!r}")
    alternating = chain.from_iterable(zip_longest(_batches(chosen, rows, 1), _batches(chosen, rows, TYPICAL_BATCH)))
    batches = _distinct(batch for batch in alternating if batch is not None)
    return tuple(Request(chosen.name, batch.feeds) for batch in islice(_within(batches, MOST_BYTES), wanted.count))


def made_requests(model: Path, tags: Sequence[str], wanted: Wanted) -> Made:
    """PredictionLogs of the requests that a model answers.

    Raises:
        DataError: the data cannot be read, does not fit, or the model answers none of it.
        ModelError: there is no such signature, or an input that no PredictRequest can hold.
    """
    requests = _requests_for(model, tags, wanted)
    name = requests[0].signature
    definition = read_saved_model(model, tags, [name]).signatures[name]
    found = answers(model, requests, tags)
    good = [request for request, answer in zip(requests, found, strict=True) if not isinstance(answer, ModelError)]
    if not good:
        raise DataError(f"the model answers none of {len(requests)} warm-up requests; the first: {found[0]}")
    notes = []
    if len(good) < len(requests):
        first = next(answer for answer in found if isinstance(answer, ModelError))
        notes.append(f"{len(requests) - len(good)} of the data's requests left out, which fail; the first: {first}")
    sizes = sorted({_examples(request) for request in good})
    notes.append(f"{len(good)} warm-up requests to {name!r} made, of {_listed(sizes)} examples each")
    return Made(tuple(_log(request, definition) for request in good), tuple(notes))


def _fed(fed: Any, records: Sequence[Any]) -> Iterator[Rows]:
    for record in records:
        try:
            yield fed.rows(record)
        except DataError:
            continue  # a validation counts it


def _batches(signature: Signature, rows: Sequence[Rows], size: int) -> Iterator[Batch]:
    batcher = Batcher("", signature.inputs, size)
    for one in rows:
        yield from batcher.add(one, 0)
    yield from (batch for batch in batcher.rest() if isinstance(batch, Batch))


def _distinct(batches: Iterator[Batch]) -> Iterator[Batch]:
    """Where a batch has a fixed size, or there is a single example, both sizes give the same batches."""
    seen = set()
    for batch in batches:
        places = (len(batch), *batch.places.tolist())
        if places not in seen:
            seen.add(places)
            yield batch


def _within(batches: Iterator[Batch], limit: int) -> Iterator[Batch]:
    taken = 0
    for batch in batches:
        size = _bytes(batch.feeds)
        if taken and taken + size > limit:
            continue
        taken += size
        yield batch


def _bytes(arrays: Mapping[str, np.ndarray]) -> int:
    return sum(
        sum(map(len, array.reshape(-1).tolist())) if array.dtype == object else array.nbytes
        for array in arrays.values()
    )


def _log(request: Request, definition: Any) -> bytes:
    """The kind of log that the signature's method asks for: only tf.Examples can be classified or regressed."""
    kind = _METHODS.get(definition.method_name)
    arrays = list(request.feeds.values())
    if kind is not None and len(arrays) == 1 and arrays[0].dtype == object:
        values = arrays[0].reshape(-1).tolist()
        if all(_is_example(value) for value in values):
            return examples_log(kind, request.signature, values)
    for key in request.feeds:
        if key not in definition.inputs or definition.inputs[key].WhichOneof("encoding") != "name":
            raise ModelError(
                f"signature {request.signature!r}: {key!r} is not a plain tensor, as a request's have to be"
            )
    return predict_log(
        request.signature,
        {key: _tensor(array, definition.inputs[key].dtype) for key, array in request.feeds.items()},
    )


def _is_example(value: bytes) -> bool:
    try:
        return bool(parse_example(value))
    except DataError:
        return False


def _tensor(array: np.ndarray, dtype: int) -> bytes:
    """A serialized TensorProto of the signature's dtype."""
    proto = tensor_pb2.TensorProto(dtype=dtype)
    proto.tensor_shape.CopyFrom(tf.TensorShape(array.shape).as_proto())
    if array.dtype == object:
        proto.string_val.extend(one.encode() if isinstance(one, str) else one for one in array.reshape(-1).tolist())
    else:
        proto.tensor_content = np.ascontiguousarray(array).tobytes()
    made: bytes = proto.SerializeToString(deterministic=True)
    return made


def _examples(request: Request) -> int:
    return next((len(array) for array in request.feeds.values() if array.ndim), 1)


def _listed(sizes: Sequence[int]) -> str:
    return " and ".join(map(str, sizes)) if len(sizes) < 3 else f"{sizes[0]} to {sizes[-1]}"
