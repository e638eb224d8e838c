"""The file of warm-up requests, read and written."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np

from tfslim_core.errors import DataError
from tfslim_core.saved_model.fresh_process import Request
from tfslim_core.saved_model.served_signatures import Signature
from tfslim_core.validation.feeding import DEFAULT_SIGNATURE
from tfslim_core.validation.messages import parse_prediction_log
from tfslim_core.validation.readers import WARMUP_FILE
from tfslim_core.validation.tfrecord import frame, read_frames

MOST_RECORDS = 1000  # kMaxNumRecords of tensorflow_serving/servables/tensorflow: a server loads no model with more


@dataclass(frozen=True)
class Record:
    """One PredictionLog. data: its bytes. request: what it asks, or None where `problem` says why it cannot be told."""

    number: int
    data: bytes
    request: Request | None
    problem: str = ""


def requests_file(model: Path) -> Path:
    """Where a SavedModel's warm-up requests lie, if it has any."""
    return model / "assets.extra" / WARMUP_FILE


def read_records(file: Path, signatures: Mapping[str, Signature]) -> list[Record]:
    """The records, one more than a server takes at most. signatures: the model's; their lone input is fed the examples
    of a request to classify or to regress.

    Raises:
        DataError: the file is not TFRecords, or is cut off.
    """
    try:
        if file.stat().st_size and not file.is_file():
            raise DataError(f"{file} is not a file")
        with file.open("rb") as opened:
            frames = list(islice(read_frames(opened), MOST_RECORDS + 1))
    except (OSError, MemoryError, OverflowError) as error:
        raise DataError(f"{file} cannot be read: {error}") from None
    except DataError as error:
        raise DataError(f"{file}: {error}") from None
    return [_record(number, data, signatures) for number, data in enumerate(frames)]


def write_records(file: Path, records: Iterable[bytes]) -> None:
    """Write PredictionLogs.

    Raises:
        DataError: there are more than a server takes.
    """
    frames = [frame(data) for data in records]
    if len(frames) > MOST_RECORDS:
        raise DataError(f"{len(frames):,} warm-up requests are more than the {MOST_RECORDS:,} that a server takes")
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(b"".join(frames))
    os.chmod(file, 0o644)


def _record(number: int, data: bytes, signatures: Mapping[str, Signature]) -> Record:
    try:
        parsed = parse_prediction_log(data)
    except DataError as error:
        return Record(number, data, None, str(error))
    if parsed is None:
        return Record(number, data, None, "it is no PredictionLog")
    name, inputs = parsed[0] or DEFAULT_SIGNATURE, parsed[1]
    if isinstance(inputs, dict):
        return Record(number, data, Request(name, inputs))
    keys = list(signatures[name].inputs) if name in signatures else ["inputs"]
    if len(keys) != 1:
        return Record(number, data, None, f"it has tf.Examples, and signature {name!r} takes {', '.join(keys)}")
    examples = np.empty(len(inputs), object)
    examples[:] = inputs
    return Record(number, data, Request(name, {keys[0]: examples}))
