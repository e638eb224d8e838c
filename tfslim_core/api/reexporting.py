"""reexport: a bundle in the format that something else takes."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from tfslim_core import storage
from tfslim_core.api.arguments import Location, local, silent
from tfslim_core.api.checkpoints import thaw
from tfslim_core.api.reports import StageReport, stage_report
from tfslim_core.errors import UsageError
from tfslim_core.staging import in_buckets

if TYPE_CHECKING:
    from tfslim_core.bundle import Bundle
    from tfslim_core.stages import Progress
    from tfslim_core.warmup_requests import Wanted


@in_buckets(reads=["bundle"], data=["data"], writes=["out"])
def reexport(
    bundle: Location,
    out: Location,
    *,
    format: Literal["saved_model", "graph_def", "tflite", "checkpoint"] = "saved_model",  # noqa: A002  # the flag
    tflite_quantize: Literal["none", "float16", "dynamic", "int8"] | None = None,
    min_runtime: str | None = None,
    warmup: int | None = None,
    data: Mapping[str, str] | None = None,
    signature: str | None = None,
    seed: int = 0,
    also: Sequence[Location] = (),
    overwrite: bool = False,
    progress: Progress = silent,
) -> StageReport:
    """Write a bundle as a SavedModel, loaded and run by TensorFlow's C++ loader before it takes its name.

    format: or a plain frozen GraphDef, or a checkpoint with variables, as `thaw` writes it. "tflite" writes a directory
    with model.tflite, run by TFLite's interpreter and compared with the bundle's answers before it takes its name.
    tflite_quantize: how its weights are stored; "none" (float32) unless told. min_runtime: the oldest TensorFlow
    release that is to serve it, such as "2.4"; unless told, one that the original needed or was written by. warmup: so
    many warm-up requests are made of a sample of the data, for the signature that it feeds, drawn by `seed`; unless
    told, those that the model has are kept. Either are replayed. data: name -> path of requests: for warm-up, or to
    compare TFLite's answers on and to scale its int8 by. also: bundles that become further tag sets of the same
    SavedModel, each with tags of its own.

    Raises:
        ModelError: it is not a bundle, or the result does not load, does not answer, fails on a warm-up request, or
            needs a newer release.
        UsageError: an option that is for another format, int8 or warm-up requests without data, or no such release.
        DataError: the data cannot be read or does not fit.
        OutputExistsError: the output exists and `overwrite` is false.
    """
    from tfslim_core import compatibility
    from tfslim_core.bundle import read_bundle
    from tfslim_core.warmup_requests import wanted_requests

    start = time.monotonic()
    target = local(out)
    storage.check_free(target, overwrite=overwrite)
    if format != "tflite" and tflite_quantize:
        raise UsageError("--tflite-quantize is for --format tflite; give that too")
    if tflite_quantize == "int8" and not data:
        raise UsageError("--tflite-quantize int8 is scaled by requests; give --data NAME=PATH, or take dynamic")
    if format != "saved_model" and (also or warmup is not None):
        raise UsageError(f"--also and --warmup are for a SavedModel; {format} has neither tag sets nor such requests")
    if format in ("tflite", "checkpoint") and min_runtime is not None:
        raise UsageError(f"--min-runtime is for TensorFlow graphs; {format} is none")
    if format != "tflite" and warmup is None and (data or signature):
        raise UsageError("--data and --signature are for --warmup, or for --format tflite; give one of them too")
    if min_runtime is not None:
        compatibility.release(min_runtime)
    wanted = wanted_requests(warmup, data, signature, seed) if format == "saved_model" else None
    slimmed = read_bundle(local(bundle))
    if format == "checkpoint":
        thawed = thaw(bundle, out, overwrite=overwrite, progress=progress).done
        return stage_report(slimmed, target, "reexport", start, thawed.errors, None, thawed.notes)
    progress("write", 0, 0)
    if format == "graph_def":
        return _graph_def(slimmed, target, min_runtime, overwrite, start)
    if format == "tflite":
        return _tflite(slimmed, target, tflite_quantize or "none", data or {}, signature, overwrite, start, progress)
    others = [read_bundle(local(other)) for other in also]
    return _saved_model(slimmed, others, target, min_runtime, wanted, overwrite, start, progress)


def _graph_def(slimmed: Bundle, target: Path, min_runtime: str | None, overwrite: bool, start: float) -> StageReport:
    from tfslim_core import compatibility
    from tfslim_core.saved_model.write import write_graph_def

    with storage.whole_file(target, overwrite=overwrite) as file:
        need = compatibility.refuse_newer(write_graph_def(slimmed, file), slimmed.manifest.source, min_runtime)
    return stage_report(slimmed, target, "reexport", start, {}, None, need.notes)


def _tflite(
    slimmed: Bundle,
    target: Path,
    quantize: Literal["none", "float16", "dynamic", "int8"],
    data: Mapping[str, str],
    signature: str | None,
    overwrite: bool,
    start: float,
    progress: Progress,
) -> StageReport:
    from tfslim_core.tflite.reexport import requests_of, write_tflite

    given = requests_of(slimmed, data, signature)
    with storage.whole_directory(target, overwrite=overwrite) as aside:
        made = write_tflite(slimmed, aside, quantize, given, progress)
    return stage_report(slimmed, target, "reexport", start, made.errors, made.sample, made.notes)


def _saved_model(
    slimmed: Bundle,
    others: Sequence[Bundle],
    target: Path,
    min_runtime: str | None,
    wanted: Wanted | None,
    overwrite: bool,
    start: float,
    progress: Progress,
) -> StageReport:
    from tfslim_core import compatibility, stages
    from tfslim_core.fidelity.facts import bundle_facts
    from tfslim_core.saved_model.sample_check import take_sample
    from tfslim_core.saved_model.write import write_saved_model
    from tfslim_core.warmup_requests import warmed

    sample = None
    with storage.whole_directory(target, overwrite=overwrite) as aside:
        if others:
            errors, notes = stages.joined([slimmed, *others], aside, progress)
            notes += [note for one in (slimmed, *others) for note in stages.runtime_of(one, aside, min_runtime)]
        else:
            need = compatibility.refuse_newer(write_saved_model(slimmed, aside), slimmed.manifest.source, min_runtime)
            stages.check_servable(bundle_facts(slimmed), slimmed.manifest.tags, aside)
            progress("load with the C++ loader", 0, 0)
            sample = take_sample(aside, slimmed.manifest.tags, list(slimmed.manifest.signatures))
            errors, notes = {}, list(need.notes)
        notes += warmed(aside, slimmed.manifest, wanted, progress)
    return stage_report(slimmed, target, "reexport", start, errors, sample, list(dict.fromkeys(notes)))
