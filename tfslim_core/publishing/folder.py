"""Publish into a folder, and take versions back: each of these is one rename, before which no server sees anything.

A version is copied under a name that no server reads, compared and brought to disk; its number is claimed by a file
that only one publisher can make, so that it is never used twice, not even when the version is gone.
"""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

from tfslim_core import storage
from tfslim_core.errors import ModelError
from tfslim_core.publishing import staged
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
)
from tfslim_core.verdict import Verdict

_HIDDEN = ".rolled-back-"


def publish(optimized: Path, base: Path, verdict: Verdict, *, keep: int | None = None) -> Published:
    """Copy a validated model to the next version below `base`.

    keep: so many versions, at least 2, and remove older ones; all unless told.

    Raises:
        GateFailedError: the verdict is a fail. InconclusiveError: it is inconclusive.
        ModelError: the verdict is of other bytes, or the copy could not be made.
        UsageError: too few are to be kept.
    """
    keep = check_keep(keep)
    digest = check_validated(optimized, verdict)
    with _told(f"cannot publish to {base}"):
        if base.exists() and not base.is_dir():
            raise ModelError(f"cannot publish to {base}: it is not a directory")
        base.mkdir(parents=True, exist_ok=True)
        storage.sync_folder(base.parent)
        _clear_leftovers(base)
        warnings = shelf(base).warnings(digest)
        with staged.place(base / OWN / "staged") as aside:
            copy = aside / "model"
            _copy(optimized, copy)
            if storage.digest(copy) != digest:
                raise ModelError(f"the copy in {base} differs from {optimized}; was it changed, is the disk sound?")
            storage.sync(copy)
            record = record_of(verdict, digest, storage.size(copy))
            version = _shown(copy, base, record)
    removed, notes = keep_only(keep, lambda: shelf(base), partial(_removed, base), partial(_remove_rolled_back, base))
    target = base / str(version)
    return Published(target, version, removed, carries_warmup_requests(target), (*warnings, *notes))


def rollback(base: Path, to: int | None = None) -> Published:
    """Hide the highest version, so that the one below it is served.

    to: hide all above this one instead.

    Returns:
        The version that is served now.

    Raises:
        ModelError: there is no version below the highest, or another rollback was faster.
    """
    with _told(f"cannot roll back {base}"):
        before = shelf(base)
        target, above = before.to_hide(to)
        with _alone(base):
            if target not in shelf(base).complete():
                raise ModelError(f"{base}: version {target} was removed at this moment; see: tfslim list {base}")
            for number in above:
                _hide(base, before.visible[number].names, lenient=to is not None)
            storage.sync_folder(base)
            return shelf(base).served()


def shelf(base: Path, *, contents: bool = True) -> Shelf:
    """What is below a base; nothing, where it is not there. contents: look into the versions too.

    Raises:
        ModelError: it is a file, or cannot be read.
    """

    def seen(found: dict[int, tuple[str, ...]]) -> dict[int, Seen]:
        return {number: _seen(base, names) if contents else Seen(names, 0, False) for number, names in found.items()}

    with _told(f"cannot read {base}"):
        names = _names(base)
        claims = claimed_numbers(_names(base / OWN / "claims"))
        visible, hidden = seen(numbered(names)), seen(numbered(names, _HIDDEN))
        texts = {}
        for number in {*visible, *hidden} & claims.keys():
            with suppress(OSError):  # going back to another version does not wait for a record's rights
                texts[number] = (base / OWN / "claims" / claims[number]).read_bytes()
        return Shelf(str(base), visible, hidden, claims, records=read_records(texts))


def _hide(base: Path, names: tuple[str, ...], *, lenient: bool) -> None:
    for name in names:
        try:
            (base / name).rename(_free_to_hide(base, name))
        except FileNotFoundError:
            if not lenient:
                raise ModelError(
                    f"{base}: another rollback hid version {name} at this moment, and this one has hidden no other; "
                    f"see: tfslim list {base}"
                ) from None


def _free_to_hide(base: Path, name: str) -> Path:
    """A hidden name of the same number; another tool may have used again one that was taken back."""
    while os.path.lexists(path := base / f"{_HIDDEN}{name}"):
        name = re.sub("([0-9])", r"0\1", name, count=1)
    return path


def _seen(base: Path, names: tuple[str, ...]) -> Seen:
    path = base / names[-1]
    files = any(os.path.isfile(path / name) for name in MODEL_FILES)
    return Seen(names, _bytes(path), files, warmup_requests=os.path.isfile(path / WARMUP_REQUESTS))


def _bytes(path: Path) -> int:
    """Bytes of the files below a path, or of a file, as far as they stay there and may be seen."""
    total = 0
    for folder, _, files in os.walk(path):
        for name in files:
            with suppress(OSError):
                total += os.stat(os.path.join(folder, name)).st_size
    return os.stat(path).st_size if path.is_file() else total


def _names(folder: Path) -> list[str]:
    try:
        return os.listdir(folder)
    except FileNotFoundError:
        return []


def _copy(model: Path, copy: Path) -> None:
    """Copy files and directories; this user may rename and delete the copies."""
    copy.mkdir()
    paths = sorted(model.rglob("*"), key=lambda path: (path.name in MODEL_FILES, path))
    for path in paths:
        if path.is_dir():
            (copy / path.relative_to(model)).mkdir(parents=True, exist_ok=True)
    for path in paths:
        if path.is_file():
            shutil.copy(path, copy / path.relative_to(model))
    for path in [model, *paths]:
        if path.is_dir():
            (copy / path.relative_to(model)).chmod(path.stat().st_mode & 0o777 | 0o700)


def _shown(copy: Path, base: Path, record: Record) -> int:
    """Let a server see the copy, under a number that nobody had before."""
    for _ in range(TRIES):
        version = shelf(base, contents=False).next_number()
        if not _claimed(base, version, record):
            continue
        target = base / str(version)
        try:
            copy.rename(target)
        except OSError:
            if not os.path.lexists(target):
                raise
            continue  # some other tool put something there just now
        storage.sync_folder(base)
        return version
    raise ModelError(f"cannot publish to {base}: others took {TRIES} versions at the same time")


def _claimed(base: Path, number: int, record: Record) -> bool:
    """Take a number, once; whether it was free."""
    path = base / OWN / "claims" / f"{number}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        made = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
    except FileExistsError:
        return False
    try:
        with os.fdopen(made, "w", encoding="utf-8") as file:
            file.write(record.text())
            file.flush()
            os.fsync(file.fileno())
    except OSError:
        with suppress(OSError):  # nobody saw a version of this number
            path.unlink()
        raise
    storage.sync_folder(path.parent)
    return True


def _removed(base: Path, number: int) -> bool:
    """Remove a version, unless a rollback has left too few; whether it was."""
    with _alone(base):
        now = shelf(base)
        if number not in now.due(LEAST_KEPT):
            return False
        hidden = _set_aside(base, now.visible[number].names)
    for path in hidden:
        _delete(path)
    return True


def _remove_rolled_back(base: Path, names: tuple[str, ...]) -> None:
    for path in _set_aside(base, names):
        _delete(path)


@contextmanager
def _alone(base: Path) -> Iterator[None]:
    """Keep retention and other rollbacks waiting, so that they never hide the last versions between them."""
    try:
        lock = os.open(base / OWN / "lock", os.O_RDWR | os.O_CREAT, 0o666)
    except OSError:  # tfslim has never published here, or the disk is full: a rollback works all the same
        yield
        return
    try:
        with suppress(OSError):  # this file system has no locks
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield
    finally:
        os.close(lock)


def _set_aside(base: Path, names: tuple[str, ...]) -> list[Path]:
    """Hide each in one step, so that a server that is loading has all of it or nothing; where they are to delete."""
    hidden = []
    for name in names:
        aside = base / OWN / "removing" / uuid.uuid4().hex
        aside.parent.mkdir(exist_ok=True)
        with suppress(FileNotFoundError):  # another was faster
            (base / name).rename(aside)
            hidden.append(aside)
    storage.sync_folder(base)
    return hidden


def _delete(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink()


def _clear_leftovers(base: Path) -> None:
    """Delete what those left behind that died: copies under way, and versions half deleted."""
    staged.clear_abandoned(base / OWN / "staged")
    with suppress(OSError):
        for name in _names(base / OWN / "removing"):
            _delete(base / OWN / "removing" / name)


@contextmanager
def _told(what: str) -> Iterator[None]:
    """Errors of the file system as one line.

    Raises:
        ModelError: something went wrong.
    """
    try:
        yield
    except OSError as error:
        where = f" ({error.filename})" if error.filename and str(error.filename) not in what else ""
        raise ModelError(f"{what}: {error.strerror or error}{where}") from None
