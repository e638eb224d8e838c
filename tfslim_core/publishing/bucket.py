"""Publish into a bucket, gs://BUCKET/BASE/<integer>/, and take versions back.

A bucket has no rename. A version's files are uploaded below a name that no server reads and compared; its number is
claimed by an object that only one publisher can make; then they are copied within the storage to the version's own
name, saved_model.pb last, without which no server loads it, and compared again.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path

from tfslim_core import buckets, storage
from tfslim_core.buckets import Address, Entry
from tfslim_core.errors import ModelError, StorageError, TfslimError
from tfslim_core.publishing.admission import check_validated
from tfslim_core.publishing.records import Record, read_records, record_of
from tfslim_core.publishing.retention import keep_only
from tfslim_core.publishing.versions import (
    LEAST_KEPT,
    MODEL_FILES,
    OWN,
    TRIES,
    WARMUP_REQUESTS,
    Published,
    Seen,
    Shelf,
    carries_warmup_requests,
    check_keep,
    claimed_numbers,
    numbered,
    removed_numbers,
)
from tfslim_core.verdict import Verdict

_HIDDEN = f"{OWN}/rolled-back/"
# Seconds after which nobody is publishing any more: since the last file of a version came, and of an upload, where one
# large file may take long.
_ABANDONED = 3600.0
_UPLOAD_ABANDONED = 24 * 3600.0


def publish(optimized: Path, base: Address, verdict: Verdict, *, keep: int | None = None) -> Published:
    """Copy a validated model to the next version below `base`.

    keep: so many versions, at least 2, and remove older ones; all unless told.

    Raises:
        GateFailedError: the verdict is a fail. InconclusiveError: it is inconclusive.
        ModelError: the verdict is of other bytes, or the model changed meanwhile.
        StorageError: the bucket cannot be written to.
        UsageError: too few are to be kept.
    """
    keep = check_keep(keep)
    digest = check_validated(optimized, verdict)
    _clean_up(base)
    warnings = shelf(base, records=True).warnings(digest)
    staged = base / OWN / "staged" / uuid.uuid4().hex
    try:
        buckets.upload(optimized, staged)
        if storage.digest(optimized) != digest:
            raise ModelError(f"{optimized} changed while it was published")
        version = _claimed(base, record_of(verdict, digest, storage.size(optimized)))
        target = base / str(version)
        try:
            _copied(staged, target)
        except BaseException:
            _remove(target, MODEL_FILES)
            raise
    finally:
        _remove(staged)
    removed, notes = keep_only(keep, lambda: shelf(base), partial(_removed, base), partial(_remove_rolled_back, base))
    return Published(str(target), version, removed, carries_warmup_requests(optimized), (*warnings, *notes))


def rollback(base: Address, to: int | None = None) -> Published:
    """Hide the highest version, so that the one below it is served; that one is returned.

    to: hide all above this one instead. What a rollback began that died is finished, and nothing more is hidden then.

    Raises:
        ModelError: there is no version below the highest, or another rollback was faster.
        StorageError: the bucket cannot be written to.
    """
    finished = _clean_up(base)
    before = shelf(base)
    if to is None and finished and max(finished) > max(before.visible, default=0):
        return before.served()
    target, above = before.to_hide(to)
    for number in above:
        for name in before.visible[number].names:
            _hide(base, name, target)
    after = shelf(base)
    if not after.complete():  # the one to go back to was removed at this moment
        name = before.visible[above[-1]].names[-1]
        _copied(base / f"{_HIDDEN}{name}", base / name)
        _remove(base / f"{_HIDDEN}{name}", MODEL_FILES)
        raise ModelError(f"{base}: version {target} was removed at this moment: nothing to roll back to")
    return after.served()


def shelf(base: Address, *, records: bool = False) -> Shelf:
    """What is below a base. records: read the records of publications too.

    Raises:
        StorageError: the bucket cannot be read.
    """
    return _shelf(base, buckets.entries(base), records)


def _shelf(base: Address, found: Mapping[str, Entry], records: bool = False) -> Shelf:
    claims = claimed_numbers(_below(found, f"{OWN}/claims/"))
    tops = {name.split("/")[0] for name in found}
    hidden = {name.split("/")[0] for name in _below(found, _HIDDEN)}
    visible = {n: _seen(found, names, n in claims) for n, names in numbered(tops).items()}
    rolled_back = {
        n: _seen(found, tuple(f"{_HIDDEN}{name}" for name in names), False) for n, names in numbered(hidden).items()
    }
    texts: dict[int, bytes] = {}
    if records:
        wanted = sorted({*visible, *rolled_back} & claims.keys())
        texts = dict(zip(wanted, buckets.read_all(base / OWN / "claims" / claims[n] for n in wanted), strict=True))
    removing = removed_numbers(_below(found, f"{OWN}/removed/"))
    return Shelf(str(base), visible, rolled_back, claims, removing, read_records(texts))


def _seen(found: Mapping[str, Entry], names: tuple[str, ...], claimed: bool) -> Seen:
    files = _below(found, f"{names[-1]}/")
    entries = [found[f"{names[-1]}/{name}"] for name in files] or [found[names[-1]]]
    whole = any(name in files for name in MODEL_FILES)
    return Seen(
        names,
        sum(entry.size for entry in entries),
        whole,
        warmup_requests=WARMUP_REQUESTS in files,
        # Only a claimed number is still being copied: another tool's half version is tried by servers all the same.
        changing=claimed and not whole and not _old(entries, _ABANDONED) and not _hidden_whole(found, names[-1]),
    )


def _hidden_whole(found: Mapping[str, Entry], name: str) -> bool:
    """Whether a version was taken back as a whole, so that what is still there of it is to be deleted."""
    return any(f"{_HIDDEN}{name}/{file}" in found for file in MODEL_FILES)


def _old(entries: Iterable[Entry], seconds: float) -> bool:
    return time.time() - max(entry.changed for entry in entries) > seconds


def _claimed(base: Address, record: Record) -> int:
    """A number that nobody has or had."""
    version = shelf(base).next_number()
    for _ in range(TRIES):
        if buckets.claim(base / OWN / "claims" / f"{version}.json", record.text()):
            return version
        version = max(version + 1, shelf(base).next_number())
    raise ModelError(f"cannot publish to {base}: others took {TRIES} versions at the same time")


def _copied(source: Address, target: Address) -> None:
    """Copy all that is below a name to another, what makes it a model last, and compare."""
    wanted = buckets.entries(source)
    _copy_below(source, target, wanted)
    made = buckets.entries(target)
    if {name: entry.crc32c for name, entry in made.items()} != {name: entry.crc32c for name, entry in wanted.items()}:
        raise ModelError(f"{target} does not hold what was copied to it; somebody else writes there")


def _copy_below(source: Address, target: Address, names: Iterable[str]) -> None:
    """Copy what is below a name to another, several at once; what makes it a model when all others are there."""
    pairs = {name: (source / name, target / name) for name in names}
    buckets.copy_all(pair for name, pair in pairs.items() if name not in MODEL_FILES)
    buckets.copy_all(pair for name, pair in pairs.items() if name in MODEL_FILES)


def _hide(base: Address, name: str, target: int) -> None:
    """Copy a version to a name that no server reads, whole, and only then delete it, saved_model.pb first."""
    found = buckets.entries(base / name)
    try:
        _copy_below(base / name, base / f"{_HIDDEN}{name}", found)
        if not found:
            buckets.copy(base / name, base / f"{_HIDDEN}{name}")  # an object, which a server tries to load
            buckets.delete([base / name])
    except StorageError as error:
        if buckets.entries(base / name).keys() >= found.keys() and found:
            raise
        raise ModelError(
            f"{base}: another rollback hid version {name} at this moment, and this one has hidden no other ({error})"
        ) from None
    if target not in shelf(base).complete():
        raise ModelError(f"{base}: version {target} was removed at this moment; see: tfslim list {base}")
    _remove(base / name, MODEL_FILES)


def _removed(base: Address, number: int) -> bool:
    """Remove a version, unless a rollback at this moment leaves too few; whether it was.

    The mark is there before the others are counted, and a rollback looks for marks after it has hidden a version: at
    least one of the two sees the other, so that they never hide the last version between them.
    """
    mark = base / OWN / "removed" / f"{number}.{uuid.uuid4().hex}"
    buckets.claim(mark, "")
    try:
        now = shelf(base)
        if number not in now.visible or len(now.complete()) < LEAST_KEPT:
            return False
        for name in now.visible[number].names:
            _remove(base / name, MODEL_FILES)
        return True
    finally:
        buckets.delete([mark])


def _remove_rolled_back(base: Address, names: tuple[str, ...]) -> None:
    for name in names:
        _remove(base / name)


def _clean_up(base: Address) -> set[int]:
    """Delete what those left behind that died: uploads, versions that never got their last file or have lost it again,
    and marks. Returns versions that a rollback had begun to hide.
    """
    found = buckets.entries(base)
    now = _shelf(base, found)
    begun = set()
    for number, seen in now.visible.items():
        left = number in now.claimed and not seen.changing
        if seen.files or not (left or number in now.removing):
            continue
        if _hidden_whole(found, seen.names[-1]):
            begun.add(number)
        _remove(base / seen.names[-1], MODEL_FILES)
    for token in {name.split("/")[0] for name in _below(found, f"{OWN}/staged/")} - {""}:
        prefix = f"{OWN}/staged/{token}"
        if _old([entry for name, entry in found.items() if name.startswith(f"{prefix}/")], _UPLOAD_ABANDONED):
            _remove(base / prefix)
    with suppress(TfslimError):
        marks = {name: found[f"{OWN}/removed/{name}"] for name in _below(found, f"{OWN}/removed/")}
        buckets.delete(base / OWN / "removed" / name for name, entry in marks.items() if _old([entry], _ABANDONED))
    return begun


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
