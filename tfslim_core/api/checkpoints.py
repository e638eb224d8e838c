"""checkpoint and thaw: what training and inference keep in a checkpoint, and models that become trainable again."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from tfslim_core import storage
from tfslim_core.api.arguments import Location, local, silent
from tfslim_core.errors import UsageError
from tfslim_core.staging import in_buckets

if TYPE_CHECKING:
    from tfslim_core.checkpoints.smaller import Slimmed
    from tfslim_core.checkpoints.thaw import Thawed
    from tfslim_core.stages import Progress


@dataclass(frozen=True)
class CheckpointReport:
    """What `checkpoint` made. path: the directory. prefix: of the checkpoint in it. bytes: of its index and data."""

    path: Path | str
    prefix: Path
    bytes: int
    seconds: float
    done: Slimmed

    @property
    def groups(self) -> list[dict[str, Any]]:
        """Tensors by kind and whether they stay, with their number and bytes; what goes comes first."""
        found: dict[tuple[bool, str], dict[str, Any]] = {}
        for tensor in self.done.tensors:
            zero = {"kind": tensor.kind, "kept": tensor.kept, "tensors": 0, "bytes": 0}
            group = found.setdefault((tensor.kept, tensor.kind), zero)
            group["tensors"] += 1
            group["bytes"] += tensor.bytes
        return [found[key] for key in sorted(found, key=lambda key: (key[0], -found[key]["bytes"], key[1]))]

    def to_json(self) -> dict[str, Any]:
        """The report as JSON data."""
        return {
            "stage": "checkpoint",
            "path": str(self.path),
            "prefix": str(self.prefix),
            "bytes_before": self.done.bytes_before,
            "bytes": self.bytes,
            "seconds": round(self.seconds, 3),
            "groups": self.groups,
            "shared": list(self.done.shared),
            "shared_bytes": self.done.shared_bytes,
            "tensors": [asdict(tensor) | {"shape": list(tensor.shape)} for tensor in self.done.tensors],
            "notes": list(self.done.notes),
        }


@dataclass(frozen=True)
class ThawReport:
    """What `thaw` made. path: the directory. bytes: of it."""

    path: Path | str
    bytes: int
    seconds: float
    done: Thawed

    def to_json(self) -> dict[str, Any]:
        """The report as JSON data."""
        done = self.done
        return {
            "stage": "thaw",
            "path": str(self.path),
            "prefix": str(done.prefix),
            "bytes": self.bytes,
            "seconds": round(self.seconds, 3),
            "errors": dict(done.errors),
            "variables": [
                {
                    "name": variable.name,
                    "key": variable.key,
                    "origin": variable.origin,
                    "dtype": variable.weight.dtype.name,
                    "shape": list(variable.weight.shape),
                    "trainable": variable.trainable,
                    "state": variable.state,
                }
                for variable in done.variables
            ],
            "gone": dict(done.gone),
            "replaced": list(done.replaced),
            "left": list(done.left),
            "notes": list(done.notes),
        }


@in_buckets(reads=["path"], writes=["out"])
def checkpoint(
    path: Location,
    out: Location,
    *,
    keep: Literal["inference", "training"] = "inference",
    averages: Literal["keep", "drop", "only"] = "keep",
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    overwrite: bool = False,
    progress: Progress = silent,
) -> CheckpointReport:
    """Write a checkpoint without what inference, or training that goes on, has no use for; names stay.

    path: a checkpoint's prefix or one of its files, a directory with a `checkpoint` file, or a SavedModel. out: a
    directory, which gets a checkpoint of the same name. averages: moving averages stay beside their variables, go, or
    stay in their place. include, exclude: shell patterns of names that stay whatever they are, and of those that go.

    Raises:
        ModelError: it is no checkpoint, or is damaged.
        UsageError: a pattern that fits nothing, or an output that would replace the input.
        OutputExistsError: the output exists and `overwrite` is false.
    """
    from tfslim_core.checkpoints.smaller import Wanted, slim_checkpoint
    from tfslim_core.checkpoints.tensor_bundle import prefix_of

    start = time.monotonic()
    target = local(out)
    storage.check_free(target, overwrite=overwrite)
    prefix = prefix_of(local(path))
    _refuse_inside(Path(prefix), target)
    progress("read, write and compare", 0, 0)
    with storage.whole_directory(target, overwrite=overwrite) as aside:
        done = slim_checkpoint(prefix, aside, Wanted(keep, averages, tuple(include), tuple(exclude)))
    made = target / Path(prefix).name
    return CheckpointReport(target, made, done.bytes_after, time.monotonic() - start, done)


@in_buckets(reads=["model", "like"], writes=["out"])
def thaw(
    model: Location,
    out: Location,
    *,
    tags: Sequence[str] = ("serve",),
    variables: Literal["auto", "recorded", "layers"] = "auto",
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    like: Location | None = None,
    overwrite: bool = False,
    progress: Progress = silent,
) -> ThawReport:
    """Write a bundle, or a SavedModel, slimmed or not, as a checkpoint with variables, for training to go on from.

    out: a directory, which gets model.ckpt by the variables' own names and a MetaGraph beside it; or with `like`, a
    checkpoint or SavedModel, a checkpoint of that structure with the model's values in it. variables: those that the
    model had, those that layers read, or the latter where nothing tells the former. include, exclude: shell patterns of
    more of them, or fewer.

    Raises:
        ModelError: it is no model, nothing becomes a variable, or the result does not answer as the model does.
        UsageError: a pattern that fits nothing.
        OutputExistsError: the output exists and `overwrite` is false.
    """
    from tfslim_core import stages
    from tfslim_core.bundle import is_bundle, read_bundle
    from tfslim_core.checkpoints import thaw as thawing
    from tfslim_core.checkpoints.tensor_bundle import prefix_of
    from tfslim_core.saved_model.freeze import freeze_saved_model
    from tfslim_core.saved_model.read import read_saved_model

    start = time.monotonic()
    target = local(out)
    storage.check_free(target, overwrite=overwrite)
    source = local(model)
    pattern = prefix_of(local(like)) if like is not None else None
    for place in (source, *([Path(pattern)] if pattern else [])):
        _refuse_inside(place, target)
    bundle = read_bundle(source) if is_bundle(source) else freeze_saved_model(read_saved_model(source, tags, None))
    chosen = (variables, tuple(include), tuple(exclude))
    progress("write", 0, 0)
    with storage.whole_directory(target, overwrite=overwrite) as aside:
        if pattern is not None:
            done = thawing.thaw_like(bundle, aside, target, *chosen, pattern)
        else:
            done = thawing.thaw(bundle, aside, target, *chosen, lambda: stages.sample_of(bundle, progress))
    return ThawReport(target, storage.size(target), time.monotonic() - start, done)


def _refuse_inside(source: Path, target: Path) -> None:
    """Refuse to put a directory in the place of one that holds what it is made from."""
    if Path(os.path.abspath(source)).is_relative_to(os.path.abspath(target)):
        raise UsageError(f"{target} holds {source.name} itself; give the result a directory of its own")
