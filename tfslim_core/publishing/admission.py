"""Which model may be published: one whose verdict is a pass, and exactly that one."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from tfslim_core import storage
from tfslim_core.errors import GateFailedError, InconclusiveError, ModelError
from tfslim_core.publishing.versions import MODEL_FILES
from tfslim_core.tflite.files import tflite_file
from tfslim_core.verdict import Verdict


def check_validated(optimized: Path, verdict: Verdict) -> str:
    """Make sure that a verdict lets exactly this model be published; the model's digest.

    Raises:
        GateFailedError: the verdict is a fail. InconclusiveError: it is inconclusive.
        ModelError: it is no SavedModel, it links to what is outside, or the verdict is of other bytes or no whole one.
    """
    if verdict.verdict == "fail":
        raise GateFailedError(f"not published: the gate failed: {'; '.join(verdict.reasons) or 'see the verdict'}")
    if verdict.verdict == "inconclusive":
        raise InconclusiveError(f"not published: nothing was proven: {'; '.join(verdict.reasons) or 'see the verdict'}")
    for check in verdict.checks:
        if not check.passed or check.undecided:
            raise ModelError(
                f"not published: the verdict says pass, and its check {check.expr} on {check.dataset} did not pass; "
                "it was edited: validate again"
            )
    if not (optimized / MODEL_FILES[0]).is_file() and (optimized.is_file() or tflite_file(optimized) is None):
        raise ModelError(f"{optimized} is not a SavedModel: it holds no saved_model.pb (nor a model.tflite)")
    found = storage.digest(optimized)
    try:
        check_self_contained(optimized)
    except OSError as error:
        raise ModelError(f"{error.filename or optimized} cannot be read: {error.strerror or error}") from None
    if found != verdict.models.optimized.digest:
        raise ModelError(
            f"{optimized} is not the model that was validated: its digest is {found[:12]}…, "
            f"the verdict's is {verdict.models.optimized.digest[:12]}…; validate this one first"
        )
    return found


def check_self_contained(model: Path) -> None:
    """Refuse a model that is more, or less, than the files below its directory.

    Raises:
        ModelError: it holds a link that leads outside, to a directory or nowhere, or what is no file.
    """
    root = os.path.realpath(model)
    for path in model.rglob("*"):
        name = path.relative_to(model)
        if path.is_symlink():
            target = os.path.realpath(path)
            if os.path.commonpath([root, target]) != root:
                raise ModelError(f"{model}: the file {str(name)!r} leads outside the model, to {os.readlink(path)!r}")
            if not os.path.isfile(target):
                raise ModelError(f"{model}: {str(name)!r} links to what is no file; put the file itself there")
        elif not stat.S_ISREG(mode := path.lstat().st_mode) and not stat.S_ISDIR(mode):
            raise ModelError(f"{model}: {str(name)!r} is neither a file nor a directory; a model has nothing else")


def check_apart(optimized: str, base: str) -> None:
    """Refuse a model that is in the folder which it is to be published to, or around it. Both may be addresses.

    Raises:
        ModelError: one is inside the other.
    """
    if optimized.startswith("gs://") != base.startswith("gs://"):
        return
    one, other = (f"{path if path.startswith('gs://') else os.path.realpath(path)}/" for path in (optimized, base))
    if one.startswith(other) or other.startswith(one):
        raise ModelError(
            f"the model {optimized} and the folder {base} that versions are published to are one inside the other; "
            "copy the model to a place of its own first"
        )
