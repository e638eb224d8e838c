"""The first stage: SavedModel in, bundle out."""
# ruff: noqa: B006  # a default that a pipeline shows; nothing changes the lists

from kfp import dsl

from components.image import IMAGE
from components.shared import call, describe, log_numbers, progress


@dsl.component(base_image=IMAGE, install_kfp_package=False, additional_funcs=[call, describe, log_numbers, progress])
def freeze(
    model: dsl.Input[dsl.Model],
    bundle: dsl.Output[dsl.Model],
    metrics: dsl.Output[dsl.Metrics],
    tags: list[str] = ["serve"],
    signatures: list[str] = [],
):
    """Freezes a SavedModel into a bundle: what the other stages work on.

    Args:
        model: A SavedModel of TensorFlow 1 or 2.
        bundle: The frozen graph with its weights, tables and assets.
        metrics: Bytes and nodes, and how far the answers are from the model's.
        tags: The tag set to open.
        signatures: The signatures to keep; all unless told.
    """
    from tfslim_core import api

    done = call(
        api.freeze,
        model.path,
        bundle.path,
        tags=tags,
        signatures=signatures or None,
        overwrite=True,  # what a task that is tried again finds there is its own
        progress=progress(),
    )
    log_numbers(metrics, done.metrics())
    describe(bundle, "tfslim bundle")
