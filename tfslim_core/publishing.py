"""Publish a model where TensorFlow Serving looks for versions, BASE/<integer>/, and take the last one back.

A server that polls BASE sees a version only when all of it is there: it is copied under a name that no server reads,
checked, and renamed. A number is never used twice, not even that of a version that was taken back.
"""

from __future__ import annotations

import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

from tfslim_core import storage
from tfslim_core.errors import GateFailedError, InconclusiveError, ModelError
from tfslim_core.verdict import Verdict

_HIDDEN = ".rolled-back-"
_TRIES = 100  # as many others may publish at the same moment


@dataclass(frozen=True)
class Published:
    """A version that a server can see. path: a directory, or the address of one."""

    path: Path | str
    version: int


def publish(optimized: Path, base: Path, verdict: Verdict) -> Published:
    """Copy a validated model to the next version below `base`.

    Raises:
        GateFailedError: the verdict is a fail. InconclusiveError: it is inconclusive.
        ModelError: the verdict is of other bytes, or the copy could not be made.
    """
    found = check_validated(optimized, verdict)
    try:
        base.mkdir(parents=True, exist_ok=True)
        return _copied(optimized, base, found)
    except OSError as error:
        raise ModelError(f"cannot publish to {base}: {error.strerror or error}") from None


def check_validated(optimized: Path, verdict: Verdict) -> str:
    """Make sure that a verdict lets exactly this model be published; the model's digest.

    Raises:
        GateFailedError: the verdict is a fail. InconclusiveError: it is inconclusive.
        ModelError: it is no SavedModel, or the verdict is of other bytes.
    """
    if verdict.verdict == "fail":
        raise GateFailedError(f"not published: the gate failed: {'; '.join(verdict.reasons) or 'see the verdict'}")
    if verdict.verdict == "inconclusive":
        raise InconclusiveError(f"not published: nothing was proven: {'; '.join(verdict.reasons) or 'see the verdict'}")
    if not (optimized / "saved_model.pb").is_file():
        raise ModelError(f"{optimized} is not a SavedModel: it holds no saved_model.pb")
    found = storage.digest(optimized)
    if found != verdict.models.optimized.digest:
        raise ModelError(
            f"{optimized} is not the model that was validated: its digest is {found[:12]}…, "
            f"the verdict's is {verdict.models.optimized.digest[:12]}…; validate this one first"
        )
    return found


def rollback(base: Path) -> Published:
    """Hide the highest version, so that the one below it is served.

    Returns:
        The version that is served now.

    Raises:
        ModelError: there is no version below the highest.
    """
    visible = sorted(number for number in _numbers(base, "") if (base / str(number)).is_dir())
    if len(visible) < 2:
        raise ModelError(f"{base} has {len(visible)} version{'s' * (len(visible) != 1)}: nothing to roll back to")
    try:
        (base / str(visible[-1])).rename(base / f"{_HIDDEN}{visible[-1]}")
    except OSError as error:
        raise ModelError(f"cannot hide {base / str(visible[-1])}: {error.strerror}") from None
    return Published(base / str(visible[-2]), visible[-2])


def _copied(optimized: Path, base: Path, digest: str) -> Published:
    aside = Path(tempfile.mkdtemp(prefix=".publishing-", dir=base))
    try:
        copy = aside / "model"
        shutil.copytree(optimized, copy)
        if storage.digest(copy) != digest:
            raise ModelError(f"the copy in {base} differs from {optimized}; is the disk sound?")
        storage.sync(copy)
        for _ in range(_TRIES):
            version = max([0, *_numbers(base, ""), *_numbers(base, _HIDDEN)]) + 1
            target = base / str(version)
            try:
                copy.rename(target)  # fails where another publisher was faster: a directory that is not empty stays
            except OSError:
                if not target.exists():
                    raise
                continue
            return Published(target, version)
        raise ModelError(f"cannot publish to {base}: others took {_TRIES} versions at the same time")
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _numbers(base: Path, prefix: str) -> list[int]:
    if not base.is_dir():
        return []
    names = [path.name.removeprefix(prefix) for path in base.iterdir() if path.name.startswith(prefix)]
    return [int(name) for name in names if name.isascii() and name.isdigit()]
