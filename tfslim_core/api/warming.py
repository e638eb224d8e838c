"""warmup: requests that a server sends to a model before it serves it."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tfslim_core import storage
from tfslim_core.api.arguments import Location, local, silent

if TYPE_CHECKING:
    from tfslim_core.stages import Progress


@dataclass(frozen=True)
class WarmupReport:
    """The file of requests that was made. notes: for the reader, one sentence each."""

    path: Path
    requests: int
    bytes: int
    seconds: float
    notes: Sequence[str]

    def to_json(self) -> dict[str, Any]:
        """The report as JSON data."""
        return {
            "path": str(self.path),
            "requests": self.requests,
            "bytes": self.bytes,
            "seconds": round(self.seconds, 3),
            "notes": list(self.notes),
        }


def warmup(
    model: Location,
    out: Location,
    *,
    data: Mapping[str, str],
    count: int = 100,
    signature: str | None = None,
    seed: int = 0,
    tags: Sequence[str] = ("serve",),
    overwrite: bool = False,
    progress: Progress = silent,
) -> WarmupReport:
    """Make a file of warm-up requests for a SavedModel from a sample of the data; the model is left as it is.

    Each of the requests was answered by the model. A server looks for the file in the model's `assets.extra/`, under
    the name tf_serving_warmup_requests; `slim` and `reexport` put one there.

    Raises:
        UsageError: no data, or more than 1,000 requests.
        ModelError: it is not a SavedModel, or does not load.
        DataError: the data cannot be read, does not fit, or the model answers none of it.
        OutputExistsError: the output exists and `overwrite` is false.
    """
    from tfslim_core.warmup_requests import Wanted, made_requests, write_records

    start = time.monotonic()
    source, target = local(model), local(out)
    storage.check_free(target, overwrite=overwrite)
    wanted = Wanted(dict(data), count, signature, seed)
    wanted.refuse_unclear()
    progress("make warm-up requests", 0, 0)
    made = made_requests(source, tags, wanted)
    with storage.whole_file(target, overwrite=overwrite) as file:
        write_records(file, made.records)
    return WarmupReport(target, len(made.records), target.stat().st_size, time.monotonic() - start, made.notes)
