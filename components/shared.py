"""What the components share.

The source of these functions travels inside every compiled component that names them (`additional_funcs`), so that a
component runs wherever tfslim_core and kfp are installed: imports are inside, and only typing and dsl are at hand.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from kfp import dsl


def call(stage: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Call the core; an error that it expects ends the component with one line in the log instead of a traceback."""
    import sys

    from tfslim_core.errors import TfslimError

    try:
        return stage(*args, **kwargs)
    except TfslimError as error:
        sys.exit(f"tfslim: {error}")


def progress() -> Callable[[str, int, int], None]:
    """A listener for the core: a line in the log for whatever begins, and one every ten seconds while it lasts."""
    import logging
    import time

    last: dict[str, Any] = {"what": "", "time": 0.0}

    def told(what: str, done: int, total: int) -> None:
        now = time.monotonic()
        if what == last["what"] and now < last["time"] + 10:
            return
        last.update(what=what, time=now)
        count = f" {done:,} of {total:,}" if total else f" {done:,}" if done else ""
        logging.info("tfslim: %s%s", what, count)

    return told


def dataset(data: dsl.Dataset) -> dict[str, str]:
    """A dataset as the core takes it, by the name of its file or directory; all files below where it is one."""
    import os

    name = os.path.basename(data.uri.rstrip("/")).split(".")[0] or "data"
    return {name: os.path.join(data.path, "**", "*") if os.path.isdir(data.path) else data.path}


def log_numbers(metrics: dsl.Metrics, numbers: Mapping[str, float]) -> None:
    """Log the finite numbers; any other would break the metadata store's JSON and with it the component."""
    import math

    for name, number in numbers.items():
        if math.isfinite(number):
            metrics.log_metric(name, number)


def log_confusion(classes: dsl.ClassificationMetrics, found: tuple[list[str], list[list[int]]] | None) -> None:
    """Log class names and, for each class of the original, how many examples have which class now."""
    if found is not None:
        classes.log_confusion_matrix(*found)


def describe(artifact: dsl.Artifact, kind: str, signatures: Iterable[str] = ()) -> None:
    """Note on an artifact what lies at its path; the signatures are those of its bundle manifest where it has one."""
    import json
    from pathlib import Path

    from tfslim_core import __version__, storage

    path = Path(artifact.path)
    manifest = path / "manifest.json"
    if manifest.is_file():
        signatures = json.loads(manifest.read_bytes())["signatures"]
    artifact.metadata.update(
        kind=kind,
        bytes=storage.size(path),
        digest=storage.digest(path),
        signatures=sorted(signatures),
        tfslim_version=__version__,
    )
