"""Any TensorFlow model in: each format becomes a SavedModel in a scratch folder, and goes on as one.

`recognize` tells what a path is; one module a format writes the SavedModel; `opened` is what the rest calls. A
SavedModel is taken as it lies, unless it has to be mended before anything can load it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tfslim_core import storage
from tfslim_core.errors import GraphError, ModelError, UsageError
from tfslim_core.importing.recognize import Kind, Recognized, files_of, recognize


@dataclass(frozen=True)
class Opened:
    """path: a SavedModel, there as long as the block. source: what was named.

    files: those it was made of, none where it lies there as it is. kind: the format, in words. notes: what was seen and
    done, one sentence each; the first says what it is.
    """

    path: Path
    source: Path
    kind: str
    notes: tuple[str, ...]
    files: tuple[Path, ...] = ()

    @property
    def converted(self) -> bool:
        """Whether the SavedModel is not what was named, but made of it."""
        return bool(self.files)


@contextmanager
def opened(
    path: Path,
    *,
    tags: Sequence[str] = ("serve",),
    inputs: Sequence[str] | None = None,
    outputs: Sequence[str] | None = None,
    graph: Path | None = None,
    progress: Callable[[str, int, int], None] | None = None,
) -> Iterator[Opened]:
    """The model at `path`, of whatever format, as a SavedModel with these tags.

    inputs, outputs: names of nodes or tensors of a graph without signatures; guessed where they are left out, and
    told. graph: of a checkpoint that has no .meta.

    Raises:
        ModelError, GraphError: it is nothing that is known, is damaged, or cannot be served.
        UsageError: inputs, outputs or a graph were given for a format that has its own.
    """
    found = recognize(path)
    _refuse_idle_options(found, inputs, outputs, graph)
    if found.kind is Kind.BUNDLE:
        raise ModelError(f"{path} is a bundle, frozen already: transform, quantize and reexport take it")
    with storage.scratch_directory() as scratch:
        if found.kind is Kind.SAVED_MODEL:
            yield _as_it_is(found.path, scratch, tags)
            return
        if progress is not None:
            progress(f"read the {found.kind.value}", 0, 0)
        if found.kind is Kind.CHECKPOINT and graph is None and path.suffix == ".meta" and path.is_file():
            graph = path
        try:
            notes = _converted(found, scratch, tags, inputs, outputs, graph)
        except GraphError as error:
            raise error if str(path) in str(error) else GraphError(f"{path}: {error}") from None
        files = (found.path,) if found.kind is not Kind.CHECKPOINT else tuple(files_of(found.path))
        yield Opened(scratch, path, found.kind.value, (f"{found.kind.value}: {notes[0]}", *notes[1:]), files)


def _as_it_is(path: Path, scratch: Path, tags: Sequence[str]) -> Opened:
    from tfslim_core.importing import saved_model

    notes = saved_model.mended(path, scratch)
    here = scratch if notes else path
    files = tuple(sorted(file for file in path.rglob("*") if file.is_file())) if notes else ()
    return Opened(here, path, Kind.SAVED_MODEL.value, (saved_model.seen(path, tags), *notes), files)


def _converted(
    found: Recognized,
    scratch: Path,
    tags: Sequence[str],
    inputs: Sequence[str] | None,
    outputs: Sequence[str] | None,
    graph: Path | None,
) -> list[str]:
    if found.kind in (Kind.KERAS, Kind.KERAS_HDF5):
        from tfslim_core.importing import keras_file

        return keras_file.convert(found.path, scratch)
    if found.kind is Kind.CHECKPOINT:
        from tfslim_core.importing import checkpoint

        return checkpoint.convert(found.path, scratch, graph, inputs, outputs, tags)
    from tfslim_core.importing import frozen_graph

    return frozen_graph.convert(found.path, scratch, inputs, outputs, tags)


def _refuse_idle_options(
    found: Recognized, inputs: Sequence[str] | None, outputs: Sequence[str] | None, graph: Path | None
) -> None:
    if graph is not None and found.kind is not Kind.CHECKPOINT:
        raise UsageError(f"--graph is for a checkpoint; {found.path} is a {found.kind.value}")
    if (inputs or outputs) and found.kind not in (Kind.GRAPH, Kind.META_GRAPH, Kind.CHECKPOINT):
        raise UsageError(
            f"--inputs and --outputs are for graphs without signatures; {found.path} is a {found.kind.value}, which "
            "has its own (--signatures chooses among them)"
        )
