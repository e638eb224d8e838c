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


def write(artifact: dsl.Artifact, make: Callable[[str], Any]) -> Any:
    """What `make` returns when the core has written an artifact: at its path, or aside, and then copied file by file.

    The core renames a whole directory at the end, which a mounted bucket refuses. What an attempt before this one left
    there is replaced either way.
    """
    import os
    import shutil
    import sys
    import tempfile

    def takes_renames(folder: str) -> bool:
        with tempfile.TemporaryDirectory(prefix=".tfslim-", dir=folder) as probe:
            os.makedirs(os.path.join(probe, "old", "within"))
            try:
                os.rename(os.path.join(probe, "old"), os.path.join(probe, "new"))
            except OSError:
                return False
            return True

    try:
        os.makedirs(os.path.dirname(artifact.path), exist_ok=True)
        in_place = takes_renames(os.path.dirname(artifact.path))
    except OSError as error:
        sys.exit(f"tfslim: cannot write {artifact.path}: {error.strerror or error}")
    if in_place:
        return call(make, artifact.path)
    with tempfile.TemporaryDirectory(prefix="tfslim-") as aside:
        made = os.path.join(aside, os.path.basename(artifact.path))
        done = call(make, made)
        try:
            if os.path.isdir(artifact.path):
                shutil.rmtree(artifact.path)
            (shutil.copytree if os.path.isdir(made) else shutil.copyfile)(made, artifact.path)
        except OSError as error:
            sys.exit(f"tfslim: cannot write {artifact.path}: {error.strerror or error}")
        return done


def check_choice(name: str, given: str, known: Iterable[str]) -> None:
    """End the component with one line where an option says something else than the core knows."""
    import sys

    from tfslim_core.errors import nearest

    if given and given not in known:
        sys.exit(f"tfslim: {name} is one of {', '.join(known)}; it is {given!r}{nearest(given, known)}")


def whole_numbers(name: str, numbers: Iterable[float]) -> list[int]:
    """Whole numbers of a list, which kfp hands over as 1.0; others end the component with one line."""
    import sys

    found = list(numbers)
    if any(number != int(number) for number in found):
        sys.exit(f"tfslim: {name} takes whole numbers; they are {found}")
    return [int(number) for number in found]


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


def place(artifact: dsl.Artifact) -> str:
    """Where an input lies: its path, or its address in a bucket that is not mounted here, which the core reads too."""
    import os

    return artifact.uri if artifact.uri.startswith("gs://") and not os.path.exists(artifact.path) else artifact.path


def dataset(data: dsl.Dataset) -> dict[str, str]:
    """A dataset as the core takes it, by the name of its file or directory; all files below where it is one."""
    import glob
    import os

    from tfslim_core.api.running import dataset_name

    name = dataset_name(data.uri)
    where = place(data)
    if where.startswith("gs://"):
        return {name: where if "." in os.path.basename(where) else f"{where.rstrip('/')}/*"}
    return {name: os.path.join(glob.escape(where), "**", "*") if os.path.isdir(where) else where}


def log_numbers(metrics: dsl.Metrics, numbers: Mapping[str, float]) -> None:
    """Log the finite numbers; any other would break the metadata store's JSON and with it the component."""
    import math

    for name, number in numbers.items():
        if math.isfinite(number):
            metrics.log_metric(name, number)


def log_notes(notes: Iterable[str]) -> None:
    """Tell what the core has for the reader, a line each."""
    import logging

    for note in notes:
        logging.info("tfslim: %s", note)


def log_classes(classes: dsl.ClassificationMetrics, found: Any) -> None:
    """Log what a validation tells of classes: for each of the original how many examples have which now, and where
    there are labels the optimized model's ROC curve.
    """
    if (confusion := found.confusion()) is not None:
        classes.log_confusion_matrix(*confusion)
    if (roc := found.roc()) is not None:
        classes.log_roc_curve(roc.optimized.fpr, roc.optimized.tpr, roc.optimized.threshold)


def describe(artifact: dsl.Artifact, kind: str, **facts: Any) -> None:
    """Note on an artifact what lies at its path, and the facts."""
    from pathlib import Path

    from tfslim_core import __version__, storage

    path = Path(artifact.path)
    artifact.metadata.update(
        kind=kind, bytes=storage.size(path), digest=storage.digest(path), tfslim_version=__version__, **facts
    )


def history(bundle: str) -> dict[str, Any]:
    """What a bundle's manifest tells of the model: where it came from, its signatures, what was done to it.

    signatures: name -> inputs and outputs -> key -> dtype and shape, -1 where any size goes and no shape where even the
    rank is open; the names alone where that would be long, since what a task is given has to fit a command line.
    encodings: how weights are stored -> how many.
    """
    import json
    from collections import Counter
    from pathlib import Path

    from tensorflow import as_dtype
    from tensorflow.core.framework.types_pb2 import DataType

    manifest = json.loads(Path(bundle, "manifest.json").read_bytes())

    def tensor(info: dict[str, Any]) -> dict[str, Any]:
        found = {"dtype": as_dtype(DataType.Value(info["dtype"])).name if "dtype" in info else "composite"}
        shape = info.get("tensor_shape", {"unknown_rank": True})
        known = (
            {} if shape.get("unknown_rank") else {"shape": [int(dim.get("size", 0)) for dim in shape.get("dim", [])]}
        )
        return found | known

    signatures = {
        name: {side: {key: tensor(info) for key, info in entry.get(side, {}).items()} for side in ("inputs", "outputs")}
        for name, entry in sorted(manifest["signatures"].items())
    }
    return {
        "tags": manifest["tags"],
        "signatures": signatures if len(json.dumps(signatures)) < 8192 else sorted(signatures),
        "source_digest": manifest["source"]["digest"],
        "source_bytes": manifest["source"]["bytes"],
        "transforms": [step["name"] for step in manifest["steps"]],
        "encodings": dict(Counter(weight["encoding"] for weight in manifest["weights"])),
    }
