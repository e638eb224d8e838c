"""Publish into a bucket, gs://BUCKET/BASE/<integer>/, and take the last version back.

A bucket has no rename. A version is claimed first, by an object that only one publisher can make; its files are
uploaded below a name that no server reads and compared; then they are copied within the storage to the version's own
name, saved_model.pb last, without which no server loads it.

    BASE/3/…                            a version
    BASE/.tfslim/claims/3.json          its number is taken, for ever; the digest of the model
    BASE/.tfslim/staged/3/…             while it is published
    BASE/.tfslim/rolled-back/4/…        a version that was taken back
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from tfslim_core import buckets, storage
from tfslim_core.buckets import Address
from tfslim_core.errors import ModelError, TfslimError
from tfslim_core.publishing import Published, check_validated
from tfslim_core.verdict import Verdict

_OWN = ".tfslim"
_LAST = "saved_model.pb"
_TRIES = 100
_ABANDONED = 3600.0  # seconds after which nobody is publishing a version any more


def publish(optimized: Path, base: Address, verdict: Verdict) -> Published:
    """Copy a validated model to the next version below `base`.

    Raises:
        GateFailedError: the verdict is a fail. InconclusiveError: it is inconclusive.
        ModelError: the verdict is of other bytes, or the model changed meanwhile.
        StorageError: the bucket cannot be written to.
    """
    digest = check_validated(optimized, verdict)
    found = buckets.entries(base)
    _clean_up(base, found)
    version = _claimed(base, found, digest)
    target, staged = base / str(version), base / _OWN / "staged" / str(version)
    try:
        buckets.upload(optimized, staged)
        if storage.digest(optimized) != digest:
            raise ModelError(f"{optimized} changed while it was published")
        names = sorted(buckets.entries(staged), key=lambda name: (name == _LAST, name))
        for name in names:
            buckets.copy(staged / name, target / name)
    except BaseException:
        _remove(target, [_LAST])
        _remove(staged)
        raise
    _remove(staged)
    return Published(str(target), version)


def rollback(base: Address) -> Published:
    """Hide the highest version, so that the one below it is served; that one is returned.

    Raises:
        ModelError: there is no version below the highest.
        StorageError: the bucket cannot be written to.
    """
    found = buckets.entries(base)
    visible = sorted(_visible(found))
    if len(visible) < 2:
        raise ModelError(f"{base} has {len(visible)} version{'s' * (len(visible) != 1)}: nothing to roll back to")
    last = visible[-1]
    for name in _below(found, f"{last}/"):
        buckets.copy(base / f"{last}/{name}", base / _OWN / "rolled-back" / str(last) / name)
    _remove(base / str(last), [_LAST])
    return Published(str(base / str(visible[-2])), visible[-2])


def _claimed(base: Address, found: Iterable[str], digest: str) -> int:
    """A number that nobody has or had."""
    names = list(found)
    numbers = [int(name.split("/")[0]) for name in names if name.split("/")[0].isdecimal()]
    numbers += [int(stem) for name in _below(names, f"{_OWN}/claims/") if (stem := Path(name).stem).isdecimal()]
    version = max(numbers, default=0)
    content = json.dumps({"digest": digest, "claimed": time.time()})
    for _ in range(_TRIES):
        version += 1
        if buckets.claim(base / _OWN / "claims" / f"{version}.json", content):
            return version
    raise ModelError(f"cannot publish to {base}: others took {_TRIES} versions at the same time")


def _visible(found: Iterable[str]) -> list[int]:
    """Versions that a server can load."""
    parts = [name.split("/") for name in found]
    return [int(part[0]) for part in parts if len(part) == 2 and part[0].isdecimal() and part[1] == _LAST]


def _clean_up(base: Address, found: dict[str, Any]) -> None:
    """Delete what publishers left that died: files of versions that never got their last one, and staged ones."""
    complete = set(_visible(found))
    now = time.time()
    for name, entry in found.items():
        parts = name.split("/")
        partial = parts[0].isdecimal() and int(parts[0]) not in complete and f"{_OWN}/claims/{parts[0]}.json" in found
        if (partial or parts[:2] == [_OWN, "staged"]) and now - entry.changed > _ABANDONED:
            buckets.delete([base / name])


def _remove(below: Address, first: Sequence[str] = ()) -> None:
    """Delete all that is below a name, `first` before the others; what cannot be deleted is left to the next one."""
    try:
        names = sorted(buckets.entries(below), key=lambda name: (name not in first, name))
        buckets.delete(below / name for name in names)
    except TfslimError:
        if first:
            raise


def _below(names: Iterable[str], prefix: str) -> list[str]:
    return [name.removeprefix(prefix) for name in names if name.startswith(prefix)]
