"""The third stage: store the weights encoded."""
# ruff: noqa: B006  # a default that a pipeline shows; nothing changes the lists

from typing import Optional

from kfp import dsl

from components.image import IMAGE
from components.shared import call, dataset, describe, log_numbers, progress


@dsl.component(
    base_image=IMAGE,
    install_kfp_package=False,
    additional_funcs=[call, dataset, describe, log_numbers, progress],
)
def quantize(
    bundle: dsl.Input[dsl.Model],
    quantized: dsl.Output[dsl.Model],
    metrics: dsl.Output[dsl.Metrics],
    encoding: str = "",
    include: list[str] = [],
    exclude: list[str] = [],
    minimum_size: int = 1024,
    budget: list[str] = [],
    data: Optional[dsl.Input[dsl.Dataset]] = None,  # noqa: UP045  # kfp knows this spelling
    signature: str = "",
    main_output: str = "",
    label: str = "",
    search_minutes: float = 10.0,
    seed: int = 0,
):
    """Stores a bundle's weights encoded; requests do not pay for it.

    Args:
        bundle: From freeze or transform.
        quantized: The bundle with encoded weights.
        metrics: Bytes and nodes, and how far the answers are from those before.
        encoding: How each weight is stored, such as int4/block32; int8 unless told. None with a budget.
        include: Shell patterns of the weights to encode; all unless told.
        exclude: Shell patterns of the weights to leave alone.
        minimum_size: Weights of fewer elements are left alone.
        budget: Bounds such as "top1_agreement>=0.99": the smallest encodings that hold them on the data are searched.
        data: What a budget is measured on; a file of .jsonl, .npz or .tfrecord, or a directory of such files.
        signature: The signature that the data feeds; serving_default, or the one that fits, unless told.
        main_output: The output that bounds without a name mean.
        label: The key of the data that holds labels.
        search_minutes: Time for the search.
        seed: Of the sample that is drawn from the data.
    """
    import logging

    from tfslim_core import api

    done = call(
        api.quantize,
        bundle.path,
        quantized.path,
        encoding=encoding or None,
        include=include,
        exclude=exclude,
        minimum_size=minimum_size,
        budget=budget,
        data=dataset(data) if budget and data else None,
        signature=signature or None,
        main_output=main_output or None,
        label=label or None,
        search_minutes=search_minutes,
        seed=seed,
        overwrite=True,  # what a task that is tried again finds there is its own
        progress=progress(),
    )
    for note in done.notes:
        logging.info("tfslim: %s", note)
    log_numbers(metrics, done.metrics())
    describe(quantized, "tfslim bundle")
    quantized.metadata["encoding"] = "by budget" if budget else encoding or "int8"
