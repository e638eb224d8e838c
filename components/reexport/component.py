"""The fourth stage: bundle in, SavedModel out."""

from kfp import dsl

from components.image import IMAGE
from components.shared import call, describe, log_numbers, progress


@dsl.component(base_image=IMAGE, install_kfp_package=False, additional_funcs=[call, describe, log_numbers, progress])
def reexport(
    bundle: dsl.Input[dsl.Model],
    model: dsl.Output[dsl.Model],
    metrics: dsl.Output[dsl.Metrics],
):
    """Writes a bundle as a SavedModel, loaded and run by TensorFlow's C++ loader before the task is done.

    Args:
        bundle: From any stage before.
        model: The SavedModel, for an unmodified server.
        metrics: Bytes and nodes.
    """
    import json
    from pathlib import Path

    from tfslim_core import api

    done = call(
        api.reexport,
        bundle.path,
        model.path,
        overwrite=True,  # what a task that is tried again finds there is its own
        progress=progress(),
    )
    log_numbers(metrics, done.metrics())
    signatures = json.loads((Path(bundle.path) / "manifest.json").read_bytes())["signatures"]
    describe(model, "SavedModel", signatures)
