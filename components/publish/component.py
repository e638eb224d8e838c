"""The last stage: what passed becomes the next version that is served."""

from kfp import dsl

from components.image import IMAGE
from components.shared import call


@dsl.component(base_image=IMAGE, install_kfp_package=False, additional_funcs=[call])
def publish(model: dsl.Input[dsl.Model], verdict: dsl.Input[dsl.Artifact], base: str) -> str:
    """Publishes a model that passed its validation as BASE/<next integer>/. Returns that path.

    Args:
        model: The SavedModel that was validated as the optimized one.
        verdict: From validate; anything but a pass for exactly this model fails the task.
        base: The directory that TensorFlow Serving watches.
    """
    import logging
    import os

    from tfslim_core import api

    done = call(api.publish, model.path, base, verdict=os.path.join(verdict.path, "verdict.json"))
    logging.info("tfslim: published as version %d: %s", done.version, done.path)
    return str(done.path)
