"""The first stage: a model in, a bundle out."""
# ruff: noqa: B006  # a default that a pipeline shows; nothing changes the lists

from typing import Optional

from kfp import dsl

from components.lightweight import component
from components.shared import call, describe, history, log_notes, log_numbers, place, progress, write


@component
def freeze(
    model: dsl.Input[dsl.Model],
    bundle: dsl.Output[dsl.Model],
    metrics: dsl.Output[dsl.Metrics],
    tags: list[str] = ["serve"],
    signatures: list[str] = [],
    inputs: list[str] = [],
    outputs: list[str] = [],
    graph: Optional[dsl.Input[dsl.Artifact]] = None,  # noqa: UP045  # kfp knows this spelling
    untrusted: bool = False,
):
    """Freezes a model into a bundle: what the other stages work on.

    Args:
        model: A SavedModel of TensorFlow 1 or 2, a .pb or .pbtxt, a checkpoint, a .keras or .h5 file.
        tags: The tag set to open.
        signatures: The signatures to keep; all unless told.
        inputs: Tensors of a graph without signatures; guessed, and logged, unless told.
        outputs: The same.
        graph: Of a checkpoint without a .meta file.
        untrusted: Refuse a model that reaches beyond itself, to files or the network, before any of it runs.

    Returns:
        bundle: The frozen graph with its weights, tables and assets.
        metrics: Bytes and nodes, and how far the answers are from the model's.
    """
    from tfslim_core import api
    from tfslim_core.safety import refuse_dangerous

    beside = place(graph) if graph else None
    if untrusted:
        call(refuse_dangerous, place(model), beside)
    done = write(
        bundle,
        lambda path: api.freeze(
            place(model),
            path,
            tags=tags,
            signatures=signatures or None,
            inputs=inputs or None,
            outputs=outputs or None,
            graph=beside,
            overwrite=True,
            progress=progress(),
        ),
    )
    log_notes(done.notes)
    log_numbers(metrics, done.metrics())
    describe(bundle, "tfslim bundle", **history(bundle.path))
