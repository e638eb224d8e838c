"""publish, rollback and versions."""

from __future__ import annotations

import os
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from tfslim_core import storage
from tfslim_core.api.arguments import Location, local
from tfslim_core.buckets import address_of
from tfslim_core.errors import UsageError
from tfslim_core.publishing.model_config import model_config_text
from tfslim_core.staging import in_buckets, shown
from tfslim_core.verdict import Verdict

if TYPE_CHECKING:
    from tfslim_core.publishing import Published, Version


@in_buckets(reads=["optimized", "verdict"])
def publish(
    optimized: Location,
    base: Location,
    *,
    verdict: Location | Verdict,
    keep: int | None = None,
    model_config: Location | None = None,
    model_name: str | None = None,
    overwrite: bool = False,
) -> Published:
    """Publish a model that passed its validation as the next version below `base`, TensorFlow Serving's layout.

    keep: so many versions, at least 2, and remove older ones; None or 0 for all. model_config: a file to write for a
    server's --model_config_file, which names the model `model_name`, the last part of `base` unless told; overwrite: if
    that file is there and says something else, replace it.

    Raises:
        GateFailedError: the verdict is a fail. InconclusiveError: it is inconclusive.
        ModelError: the verdict is of other bytes, or the copy could not be made.
        OutputExistsError: there is another `model_config`. UsageError: too few are to be kept, or there is no name.
    """
    from tfslim_core.publishing import bucket, folder
    from tfslim_core.publishing.admission import check_apart

    found = verdict if isinstance(verdict, Verdict) else Verdict.read(local(verdict))
    address = address_of(base)
    where = os.path.abspath(local(base)) if address is None else str(address)
    check_apart(shown(optimized), where)
    config = _config(where, model_config, model_name, overwrite=overwrite)
    with ExitStack() as stack:
        if config is not None:  # written before anything is published, and there once it is
            stack.enter_context(storage.whole_file(config[0], overwrite=True)).write_text(config[1])
        if address is not None:
            return bucket.publish(local(optimized), address, found, keep=keep)
        return folder.publish(local(optimized), local(base), found, keep=keep)


def _config(base: str, file: Location | None, name: str | None, *, overwrite: bool) -> tuple[Path, str] | None:
    """The file to write and its text, None where there is nothing to write; refused before anything is published."""
    if file is None:
        if name is not None:
            raise UsageError("a model's name is for a server's config; give --model-config FILE too")
        return None
    if address_of(file) is not None:
        raise UsageError(f"{file}: the config is written to a local file; copy it from there")
    text, path = model_config_text(base, name), local(file)
    if path.is_file() and path.read_bytes() == text.encode():
        return None
    storage.check_free(path, overwrite=overwrite)
    return path, text


def rollback(base: Location, *, to: int | None = None) -> Published:
    """Hide the highest version below `base`, so that the one before it is served.

    to: hide all above this version instead; nothing, where it is the highest.

    Raises:
        ModelError: there is none before it.
    """
    from tfslim_core.publishing import bucket, folder

    if (address := address_of(base)) is not None:
        return bucket.rollback(address, to)
    return folder.rollback(local(base), to)


def versions(base: Location) -> list[Version]:
    """What is below `base`, ascending: versions, what a server takes for one, and those that were taken back.

    Raises:
        ModelError: it is no directory, or cannot be read. StorageError: the same of a bucket.
    """
    from tfslim_core.publishing import bucket, folder

    address = address_of(base)
    found = folder.shelf(local(base)) if address is None else bucket.shelf(address, records=True)
    return found.listing()
