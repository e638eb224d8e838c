"""What tfslim does, as functions: each reads its input, calls the core once, checks the result and writes it whole.

The command line and the pipeline components call these and nothing else. Every function raises TfslimError for what
can be expected to go wrong, and then leaves nothing behind; see `errors`.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from tfslim_core import storage
from tfslim_core.errors import ModelError, UsageError
from tfslim_core.verdict import Verdict

if TYPE_CHECKING:
    from tfslim_core.bundle import Bundle, StepEntry, WeightEntry
    from tfslim_core.publishing import Published
    from tfslim_core.saved_model.sample_check import Sample

Path_ = str | os.PathLike[str]
Progress = Callable[[str, int, int], None]
"""Told what is being done, and how many of how many steps of it are; 0 of 0 where that is not known."""


def _silent(what: str, done: int, total: int) -> None:
    del what, done, total


@dataclass(frozen=True)
class StageReport:
    """What a stage made.

    bytes: of the output directory. nodes: of the graph. errors: how far the answers are from those before, by
    "signature/output", relative L2 for floats. notes: for the reader, one sentence each.
    """

    path: Path
    stage: str
    bytes: int
    nodes: int
    seconds: float
    errors: Mapping[str, float] = field(default_factory=dict)
    steps: Sequence[StepEntry] = ()
    weights: Sequence[WeightEntry] = ()
    notes: Sequence[str] = ()

    def metrics(self) -> dict[str, float]:
        """Finite numbers for a pipeline's Metrics artifact."""
        numbers = {"bytes": float(self.bytes), "nodes": float(self.nodes), "seconds": round(self.seconds, 3)}
        return numbers | {f"error/{key}": error for key, error in self.errors.items() if error < float("inf")}

    def to_json(self) -> dict[str, Any]:
        """The report as JSON data."""
        return {
            "stage": self.stage,
            "path": str(self.path),
            "bytes": self.bytes,
            "nodes": self.nodes,
            "seconds": round(self.seconds, 3),
            "errors": dict(self.errors),
            "steps": [step.model_dump() for step in self.steps],
            "weights": [weight.model_dump() for weight in self.weights],
            "notes": list(self.notes),
        }


def freeze(
    model: Path_,
    bundle: Path_,
    *,
    tags: Sequence[str] = ("serve",),
    signatures: Sequence[str] | None = None,
    format: Literal["bundle", "graph_def"] = "bundle",  # noqa: A002  # the command's flag
    overwrite: bool = False,
    progress: Progress = _silent,
) -> StageReport:
    """Freeze a SavedModel into a bundle (or a plain frozen GraphDef), ready for the other stages.

    signatures: the ones to keep; all unless told.

    Raises:
        ModelError: it is not a SavedModel, is damaged, or lacks the tags or a signature.
        OutputExistsError: the output exists and `overwrite` is false.
    """
    from tfslim_core.saved_model.write import write_graph_def

    start = time.monotonic()
    storage.check_free(bundle, overwrite=overwrite)
    source = _local(model)
    frozen, sample = _frozen(source, tags, signatures, progress)

    def check(made: Bundle) -> dict[str, float]:
        return _checked(made, sample, "freezing", progress)

    if format == "graph_def":
        errors = check(frozen)
        with storage.whole_file(bundle, overwrite=overwrite) as file:
            write_graph_def(frozen, file)
    else:
        errors = _written(frozen, bundle, overwrite, check, progress)
    return _report(frozen, Path(bundle), "freeze", start, errors, sample)


def transform(
    bundle: Path_,
    out: Path_,
    *,
    transforms: str | Iterable[str] | None = None,
    overwrite: bool = False,
    progress: Progress = _silent,
) -> StageReport:
    """Rewrite a bundle's graph; the default set unless told otherwise.

    Raises:
        ModelError: it is not a bundle, or the answers changed.
        TransformError: a transform or parameter is unknown, or one failed.
        OutputExistsError: the output exists and `overwrite` is false.
    """
    from tfslim_core.bundle import read_bundle

    start = time.monotonic()
    storage.check_free(out, overwrite=overwrite)
    before = read_bundle(_local(bundle))
    after = _transformed(before, transforms, progress)
    sample = _sample_of(before, progress)
    errors = _written(after, out, overwrite, lambda made: _checked(made, sample, "the transforms", progress), progress)
    return _report(after, Path(out), "transform", start, errors, sample)


def quantize(
    bundle: Path_,
    out: Path_,
    *,
    encoding: str = "int8",
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    minimum_size: int = 1024,
    placement: Literal["rows", "load", "graph"] | None = None,
    overwrite: bool = False,
    progress: Progress = _silent,
) -> StageReport:
    """Store a bundle's weights encoded.

    include, exclude: shell patterns of weight names. minimum_size: elements. placement: chosen by use unless told.

    Raises:
        ModelError: it is not a bundle, or the result gives NaN or infinity where there was none.
        TransformError: there is no such encoding, or no weight of an included name.
        OutputExistsError: the output exists and `overwrite` is false.
    """
    from tfslim_core.bundle import read_bundle
    from tfslim_core.quantization.encode_weights import Choice

    start = time.monotonic()
    storage.check_free(out, overwrite=overwrite)
    before = read_bundle(_local(bundle))
    choice = Choice(encoding, tuple(include), tuple(exclude), minimum_size, placement)
    after = _quantized(before, choice, (), progress)
    sample = _sample_of(before, progress)
    errors = _written(after, out, overwrite, lambda made: _measured(made, sample, "quantization", progress), progress)
    return _report(after, Path(out), "quantize", start, errors, sample)


def reexport(
    bundle: Path_,
    out: Path_,
    *,
    format: Literal["saved_model", "graph_def"] = "saved_model",  # noqa: A002  # the command's flag
    overwrite: bool = False,
    progress: Progress = _silent,
) -> StageReport:
    """Write a bundle as a SavedModel, loaded and run by TensorFlow's C++ loader before it takes its name.

    Raises:
        ModelError: it is not a bundle, or the result does not load or does not answer.
        OutputExistsError: the output exists and `overwrite` is false.
    """
    from tfslim_core.bundle import read_bundle
    from tfslim_core.saved_model.write import write_graph_def, write_saved_model

    start = time.monotonic()
    storage.check_free(out, overwrite=overwrite)
    slim = read_bundle(_local(bundle))
    progress("write", 0, 0)
    if format == "graph_def":
        with storage.whole_file(out, overwrite=overwrite) as file:
            write_graph_def(slim, file)
        return _report(slim, Path(out), "reexport", start, {}, None)
    with storage.whole_directory(out, overwrite=overwrite) as aside:
        write_saved_model(slim, aside)
        sample = _served(slim, aside, progress)
    return _report(slim, Path(out), "reexport", start, {}, sample)


def publish(optimized: Path_, base: Path_, *, verdict: Path_ | Verdict) -> Published:
    """Publish a model that passed its validation as the next version below `base`, TensorFlow Serving's layout.

    Raises:
        GateFailedError: the verdict is a fail. InconclusiveError: it is inconclusive.
        ModelError: the verdict is of other bytes, or the copy could not be made.
    """
    from tfslim_core.publishing import publish as published

    found = verdict if isinstance(verdict, Verdict) else Verdict.read(_local(verdict))
    return published(_local(optimized), _local(base), found)


def rollback(base: Path_) -> Published:
    """Hide the highest version below `base`, so that the one before it is served.

    Raises:
        ModelError: there is none before it.
    """
    from tfslim_core.publishing import rollback as rolled_back

    return rolled_back(_local(base))


def transform_graph(
    graph_def: Any, inputs: Sequence[str], outputs: Sequence[str], transforms: str | Iterable[str]
) -> Any:
    """The Graph Transform Tool's TransformGraph: a GraphDef in, a GraphDef out.

    inputs, outputs: names of nodes or tensors ("x" or "x:0") that keep their names and meaning.

    Raises:
        TransformError: a transform or parameter is unknown, or one failed.
        GraphError: the graph is not valid, or a name is not in it.
    """
    from tfslim_core.graph import Graph
    from tfslim_core.saved_model.write import with_values
    from tfslim_core.transforms import apply

    graph, _ = apply(Graph.of(graph_def, inputs, outputs), transforms)
    return with_values(graph)


def _local(path: Path_) -> Path:
    """A local path.

    Raises:
        UsageError: it is a URL.
    """
    text = os.fspath(path)
    if "://" in text:
        raise UsageError(f"{text}: only local paths are read and written so far; copy it here first")
    return Path(text)


def _frozen(
    source: Path, tags: Sequence[str], signatures: Sequence[str] | None, progress: Progress
) -> tuple[Bundle, Sample]:
    """The frozen model, and what the original answers."""
    from tfslim_core.saved_model.freeze import freeze_saved_model
    from tfslim_core.saved_model.read import read_saved_model
    from tfslim_core.saved_model.sample_check import take_sample

    model = read_saved_model(source, tags, signatures)
    progress("ask the original", 0, 0)
    sample = take_sample(source, model.tags, list(model.signatures))
    progress("freeze", 0, 0)
    return freeze_saved_model(model), sample


def _transformed(bundle: Bundle, transforms: str | Iterable[str] | None, progress: Progress) -> Bundle:
    from tfslim_core.bundle import Skip, StepEntry
    from tfslim_core.transforms import apply

    graph, steps = apply(
        bundle.graph, transforms, progress=lambda done, total, name: progress(f"transform: {name}", done, total)
    )
    entries = [
        StepEntry(
            name=step.name,
            parameters={k: list(v) if isinstance(v, tuple) else v for k, v in step.parameters.items()},
            changes=step.changes,
            nodes_before=step.nodes_before,
            nodes_after=step.nodes_after,
            bytes_before=step.bytes_before,
            bytes_after=step.bytes_after,
            skipped=[Skip(node=skipped.node, reason=skipped.reason) for skipped in step.skipped],
            seconds=round(step.seconds, 3),
        )
        for step in steps
    ]
    manifest = bundle.manifest.model_copy(update={"steps": [*bundle.manifest.steps, *entries]})
    return replace(bundle, graph=graph, manifest=manifest)


def _quantized(bundle: Bundle, choice: Any, leave: Sequence[str], progress: Progress) -> Bundle:
    from tfslim_core.bundle import StepEntry
    from tfslim_core.quantization.encode_weights import encode_weights

    start = time.monotonic()
    graph, entries = encode_weights(
        bundle.graph, choice, leave=leave, progress=lambda name: progress(f"quantize: {name}", 0, 0)
    )
    changed = sum(entry.placement != "none" for entry in entries)
    step = StepEntry(
        name="quantize",
        parameters={"encoding": choice.encoding},
        changes=changed,
        nodes_before=len(bundle.graph.nodes),
        nodes_after=len(graph.nodes),
        bytes_before=bundle.stored_bytes,
        bytes_after=sum(weight.stored_bytes for weight in graph.weights.values()),
        seconds=round(time.monotonic() - start, 3),
    )
    manifest = bundle.manifest.model_copy(update={"steps": [*bundle.manifest.steps, step], "weights": entries})
    return replace(bundle, graph=graph, manifest=manifest)


def _sample_of(bundle: Bundle, progress: Progress) -> Sample:
    """What a bundle answers, served as it is."""
    from tfslim_core.saved_model.sample_check import take_sample
    from tfslim_core.saved_model.write import write_saved_model

    progress("ask the model as it was", 0, 0)
    with tempfile.TemporaryDirectory(prefix="tfslim-") as aside:
        write_saved_model(bundle, Path(aside))
        return take_sample(aside, bundle.manifest.tags, list(bundle.manifest.signatures))


def _checked(bundle: Bundle, sample: Sample, what: str, progress: Progress) -> dict[str, float]:
    from tfslim_core.saved_model.sample_check import check_equal

    return _compared(bundle, sample, lambda path: check_equal(sample, path, bundle.manifest.tags, what), progress)


def _measured(bundle: Bundle, sample: Sample, what: str, progress: Progress) -> dict[str, float]:
    from tfslim_core.saved_model.sample_check import differences

    errors = _compared(bundle, sample, lambda path: differences(sample, path, bundle.manifest.tags), progress)
    for place, error in errors.items():
        if error == float("inf"):
            raise ModelError(f"{what} made NaN or infinity of the output {place}, which had none")
    return errors


def _compared(
    bundle: Bundle, sample: Sample, compare: Callable[[str], Mapping[tuple[str, str], float]], progress: Progress
) -> dict[str, float]:
    from tfslim_core.saved_model.write import write_saved_model

    progress("check the answers", 0, 0)
    if not sample.requests:
        return {}
    with tempfile.TemporaryDirectory(prefix="tfslim-") as aside:
        write_saved_model(bundle, Path(aside))
        return {f"{signature}/{key}": error for (signature, key), error in compare(aside).items()}


def _served(bundle: Bundle, servable: Path, progress: Progress) -> Sample:
    """Load a servable in a fresh process and have every signature answer.

    Raises:
        ModelError: it does not load, or its interface is not the bundle's.
    """
    from tfslim_core.saved_model.sample_check import take_sample
    from tfslim_core.saved_model.served_signatures import read_signatures

    progress("load with the C++ loader", 0, 0)
    served, wanted = read_signatures(servable, bundle.manifest.tags), bundle.manifest.signatures
    if set(served) != set(wanted):
        raise ModelError(f"the servable has the signatures {sorted(served)}, not {sorted(wanted)}")
    return take_sample(servable, bundle.manifest.tags, list(wanted))


def _written(
    bundle: Bundle, out: Path_, overwrite: bool, check: Callable[[Bundle], dict[str, float]], progress: Progress
) -> dict[str, float]:
    """Write a bundle; it takes its name when what can be read back passes the check, whose result is returned."""
    from tfslim_core.bundle import read_bundle

    progress("write", 0, 0)
    with storage.whole_directory(_local(out), overwrite=overwrite) as aside:
        bundle.write(aside)
        return check(read_bundle(aside))


def _report(
    bundle: Bundle, out: Path, stage: str, start: float, errors: Mapping[str, float], sample: Sample | None
) -> StageReport:
    notes = [f"signature {name!r} was not checked: {why}" for name, why in (sample.unchecked if sample else {}).items()]
    notes += [f"{name} stays a variable: {why}" for name, why in bundle.manifest.kept_variables.items()]
    return StageReport(
        path=out,
        stage=stage,
        bytes=storage.size(out) if out.is_dir() else out.stat().st_size,
        nodes=len(bundle.graph.nodes),
        seconds=time.monotonic() - start,
        errors=errors,
        steps=bundle.manifest.steps,
        weights=bundle.manifest.weights,
        notes=notes,
    )
