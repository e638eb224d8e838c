"""What a pipeline needs around the stages: to look at what is asked for, and to tell how a run ended."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from tfslim_core import storage
from tfslim_core.api.arguments import Location, local
from tfslim_core.api.publishing import versions
from tfslim_core.buckets import address_of
from tfslim_core.errors import ModelError, UsageError
from tfslim_core.publishing import Version
from tfslim_core.publishing.versions import check_keep
from tfslim_core.redacting import without_secrets


@dataclass(frozen=True)
class RunReport:
    """How a run of a pipeline ended. run: its id. state: as Kubeflow names it. task: the one that the state is of.

    error: why it failed, one line without what could be a secret; empty where it did not. served: what is served below
    the base now, None where nothing is. problem: why that is not known.
    """

    run: str
    time: str
    state: str
    task: str
    error: str
    base: str
    served: Mapping[str, Any] | None
    problem: str = ""

    @property
    def line(self) -> str:
        """All of it in one line."""
        ended = f"run {self.run + ' ' if self.run else ''}ended: {self.state}"
        failed = f" at {self.task}: {self.error or 'see the log of the task that failed'}" if self.failed else ""
        now_served = f"version {self.served['version']} ({self.served['path']})" if self.served else "nothing"
        return f"{ended}{failed}; served now below {self.base}: {self.problem or now_served}"

    @property
    def failed(self) -> bool:
        """Whether it is known to have failed."""
        return self.state.upper() in ("FAILED", "FAILURE", "ERROR", "CANCELLED", "CANCELED")


def candidates(
    data: Sequence[str],
    *,
    encodings: Sequence[str] = (),
    encoding: str = "",
    budget: Sequence[str] = (),
    gates: Sequence[str] = (),
    keep: int = 0,
) -> list[str]:
    """The encodings that a pipeline is to try, of all that was asked for; "" means the default, or the budget's choice.

    Raises:
        UsageError: there is no data, two datasets have one name, an encoding or a check is unknown, or what was asked
            for does not go together.
    """
    from tfslim_core import gate

    if not data or isinstance(data, str) or not all(isinstance(uri, str) and uri.strip() for uri in data):
        raise UsageError("data names no dataset; give the URI of at least one")
    names = [dataset_name(uri) for uri in data]
    for at, name in enumerate(names):
        if name in names[:at]:
            raise UsageError(
                f"two datasets are called {name!r}: {data[names.index(name)]} and {data[at]}; reports and checks tell "
                "them apart by the names of their files or directories"
            )
    asked = list(encodings) or ([encoding] if encoding else [])
    if encodings and encoding:
        raise UsageError(f"encoding {encoding!r} and encodings {list(encodings)} are given; name all in encodings")
    if budget and asked:
        raise UsageError(f"a budget chooses the encodings itself; leave out {', '.join(asked)}")
    if twice := [one for at, one in enumerate(asked) if one in asked[:at]]:
        raise UsageError(f"encoding {twice[0]!r} is named twice")
    if not all(one.strip() for one in asked):
        raise UsageError("an encoding is empty; name it, such as int8")
    if asked:
        from tfslim_core.encodings import named  # and with it TensorFlow, for which nobody waits who named none

        for one in asked:
            named(one)
    for expression in [*budget, *gates]:
        place = gate.parse(expression).dataset
        if place is not None and len(data) > 1:
            raise UsageError(
                f"gate {expression!r} names the dataset {place!r}, and each of {len(data)} datasets is validated by "
                "itself; leave the name out"
            )
    check_keep(keep)
    return asked or [""]


def dataset_name(uri: str) -> str:
    """What a dataset is called in a pipeline: the name of its file or directory, up to the first dot."""
    return os.path.basename(uri.rstrip("/")).split(".")[0] or "data"


def served(base: Location) -> Version | None:
    """The version that a server which polls `base` serves now; None where there is none.

    Raises:
        ModelError, StorageError: as `versions`.
    """
    if address_of(base) is None and not local(base).exists():
        return None
    return next((version for version in versions(base) if version.served), None)


def fetch(source: Location, out: Location) -> None:
    """Copy a directory or a file, from here or from a bucket, to `out`, which is not there yet.

    Raises:
        ModelError: there is nothing, or it cannot be copied. StorageError: the same of a bucket.
    """
    from tfslim_core import buckets

    target = local(out)
    address = address_of(source)
    if address is not None:
        with TemporaryDirectory() as folder:
            _copy(buckets.download(address, Path(folder)), target)
    else:
        _copy(local(source), target)


def report_run(
    *, run: str, state: str, task: str, error: str, base: Location, report_to: Location | None = None
) -> RunReport:
    """Tell how a run ended and what is served now; as REPORT_TO/<run>.json too where that is given.

    What is served may be what cannot be found out; that is told and is no error, since a run has to be reported.

    Raises:
        TfslimError: the file cannot be written.
    """
    from tfslim_core import buckets
    from tfslim_core.errors import TfslimError

    found, problem = None, ""
    try:
        found = served(base)
    except TfslimError as why:
        problem = f"not known ({why})"
    report = RunReport(
        run=run,
        time=datetime.now(UTC).isoformat(timespec="seconds"),
        state=state,
        task=task,
        error=without_secrets(error),
        base=without_secrets(os.fspath(base)),
        served={"version": found.number, "path": str(found.path)} if found else None,
        problem=problem,
    )
    if report_to is None:
        return report
    name = f"{re.sub('[^A-Za-z0-9._-]+', '-', run).strip('.-') or 'run'}.json"
    address = address_of(report_to)
    with TemporaryDirectory() as folder:
        place = Path(folder) / name if address is not None else local(report_to) / name
        if address is None:
            try:
                place.parent.mkdir(parents=True, exist_ok=True)
            except OSError as why:
                raise UsageError(f"report_to {report_to}: cannot be made: {why.strerror}") from None
        with storage.whole_file(place, overwrite=True) as aside:
            aside.write_text(json.dumps(asdict(report), indent=2) + "\n")
        if address is not None:
            buckets.upload(place, address / name, overwrite=True)
    return report


def _copy(source: Path, target: Path) -> None:
    try:
        if source.is_dir():
            shutil.copytree(source, target)
        else:
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, target)
    except (OSError, shutil.Error) as error:
        raise ModelError(
            f"{source}: cannot be copied to {target}: {getattr(error, 'strerror', None) or error}"
        ) from None
