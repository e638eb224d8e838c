"""The second stage: rewrite the graph."""

from kfp import dsl

from components.image import IMAGE
from components.shared import call, describe, log_numbers, progress


@dsl.component(base_image=IMAGE, install_kfp_package=False, additional_funcs=[call, describe, log_numbers, progress])
def transform(
    bundle: dsl.Input[dsl.Model],
    transformed: dsl.Output[dsl.Model],
    metrics: dsl.Output[dsl.Metrics],
    transforms: str = "",
):
    """Rewrites a bundle's graph; the signatures and the answers stay.

    Args:
        bundle: From freeze.
        transformed: The rewritten bundle.
        metrics: Bytes and nodes, and how far the answers are from those before.
        transforms: Calls such as "strip_unused_nodes fold_constants(ignore_errors=true)"; the default set unless told.
    """
    from tfslim_core import api

    done = call(
        api.transform,
        bundle.path,
        transformed.path,
        transforms=transforms or None,
        overwrite=True,  # what a task that is tried again finds there is its own
        progress=progress(),
    )
    log_numbers(metrics, done.metrics())
    describe(transformed, "tfslim bundle")
    transformed.metadata["transforms"] = [step.name for step in done.steps]
