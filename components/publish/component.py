"""The last stage: what passed becomes the next version that is served."""

from kfp import dsl

from components.lightweight import component
from components.shared import call, log_notes, place


@component
def publish(model: dsl.Input[dsl.Model], verdict: dsl.Input[dsl.Artifact], base: str, keep: int = 0) -> str:
    """Publishes a model that passed its validation as BASE/<next integer>/.

    Args:
        model: The SavedModel that was validated as the optimized one.
        verdict: From validate; anything but a pass for exactly this model fails the task.
        base: The directory that TensorFlow Serving watches; a gs:// address, or a path that the task sees.
        keep: So many of the newest versions stay, at least 2; all unless told.

    Returns:
        Output: The path or address of the version.
    """
    import logging
    import os

    from tfslim_core import api

    done = call(api.publish, place(model), base, verdict=os.path.join(place(verdict), "verdict.json"), keep=keep)
    logging.info("tfslim: published as version %d: %s", done.version, done.path)
    for version in done.removed:
        logging.info("tfslim: removed version %d", version)
    log_notes(done.notes)
    return str(done.path)
