"""The third stage: store the weights encoded."""
# ruff: noqa: B006  # a default that a pipeline shows; nothing changes the lists

from kfp import dsl

from components.image import IMAGE
from components.shared import call, describe, log_numbers, progress


@dsl.component(base_image=IMAGE, install_kfp_package=False, additional_funcs=[call, describe, log_numbers, progress])
def quantize(
    bundle: dsl.Input[dsl.Model],
    quantized: dsl.Output[dsl.Model],
    metrics: dsl.Output[dsl.Metrics],
    encoding: str = "int8",
    include: list[str] = [],
    exclude: list[str] = [],
    minimum_size: int = 1024,
):
    """Stores a bundle's weights encoded; requests do not pay for it.

    Args:
        bundle: From freeze or transform.
        quantized: The bundle with encoded weights.
        metrics: Bytes and nodes, and how far the answers are from those before.
        encoding: How each weight is stored, such as int8.
        include: Shell patterns of the weights to encode; all unless told.
        exclude: Shell patterns of the weights to leave alone.
        minimum_size: Weights of fewer elements are left alone.
    """
    from tfslim_core import api

    done = call(
        api.quantize,
        bundle.path,
        quantized.path,
        encoding=encoding,
        include=include,
        exclude=exclude,
        minimum_size=minimum_size,
        overwrite=True,  # what a task that is tried again finds there is its own
        progress=progress(),
    )
    log_numbers(metrics, done.metrics())
    describe(quantized, "tfslim bundle")
    quantized.metadata["encoding"] = encoding
