"""The fourth stage: a bundle in, what a server or another tool takes out."""

from typing import Optional

from kfp import dsl

from components.lightweight import component
from components.shared import (
    check_choice,
    dataset,
    describe,
    history,
    log_notes,
    log_numbers,
    place,
    progress,
    write,
)


@component
def reexport(
    bundle: dsl.Input[dsl.Model],
    model: dsl.Output[dsl.Model],
    metrics: dsl.Output[dsl.Metrics],
    format: str = "saved_model",  # noqa: A002  # as the core names it
    min_runtime: str = "",
    warmup: int = 0,
    data: Optional[dsl.Input[dsl.Dataset]] = None,  # noqa: UP045  # kfp knows this spelling
    signature: str = "",
    seed: int = 0,
    tflite_quantize: str = "",
    also: Optional[dsl.Input[dsl.Model]] = None,  # noqa: UP045
):
    """Writes a bundle as a SavedModel, loaded and run by TensorFlow's C++ loader before the task is done.

    Args:
        bundle: From any stage before.
        format: saved_model; or graph_def (a plain frozen .pb), tflite (a directory with model.tflite), checkpoint.
        min_runtime: The oldest TensorFlow release that is to serve it, such as "2.4"; as the original's unless told.
        warmup: So many requests of the data are put into the SavedModel, for the server to send before it serves it.
        data: Requests for warmup, or to compare TFLite's answers on and to scale its int8 by.
        signature: The signature that the data feeds; serving_default, or the one that fits, unless told.
        seed: Of the sample that is drawn from the data.
        tflite_quantize: How TFLite's converter stores weights: none, float16, dynamic or int8.
        also: The bundle of a further tag set; one SavedModel then serves both.

    Returns:
        model: The SavedModel, for an unmodified server; or what the format says.
        metrics: Bytes and nodes.
    """
    from tfslim_core import api

    kinds = {"saved_model": "SavedModel", "graph_def": "GraphDef", "tflite": "TFLite model", "checkpoint": "checkpoint"}
    check_choice("format", format, kinds)
    check_choice("tflite_quantize", tflite_quantize, ("none", "float16", "dynamic", "int8"))
    fed = bool(warmup) or format == "tflite"
    done = write(
        model,
        lambda path: api.reexport(
            place(bundle),
            path,
            format=format,
            tflite_quantize=tflite_quantize or None,
            min_runtime=min_runtime or None,
            warmup=warmup or None,
            data=dataset(data) if data and fed else None,
            signature=signature if signature and fed else None,
            seed=seed,
            also=[place(also)] if also else [],
            overwrite=True,
            progress=progress(),
        ),
    )
    log_notes(done.notes)
    log_numbers(metrics, done.metrics())
    describe(model, kinds[format], format=format, **history(place(bundle)))
