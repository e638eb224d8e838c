"""The third stage: store the weights encoded."""
# ruff: noqa: B006  # a default that a pipeline shows; nothing changes the lists

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
def quantize(
    bundle: dsl.Input[dsl.Model],
    quantized: dsl.Output[dsl.Model],
    metrics: dsl.Output[dsl.Metrics],
    encoding: str = "",
    include: list[str] = [],
    exclude: list[str] = [],
    minimum_size: int = 1024,
    placement: str = "",
    budget: list[str] = [],
    data: Optional[dsl.Input[dsl.Dataset]] = None,  # noqa: UP045  # kfp knows this spelling
    calibrate: bool = False,
    signature: str = "",
    main_output: str = "",
    label: str = "",
    search_minutes: float = 10.0,
    seed: int = 0,
):
    """Stores a bundle's weights encoded; requests do not pay for it.

    Args:
        bundle: From freeze or transform.
        encoding: How each weight is stored, such as int4/block32; int8 unless told. None with a budget.
        include: Shell patterns of the weights to encode; all unless told.
        exclude: Shell patterns of the weights to leave alone.
        minimum_size: Weights of fewer elements are left alone.
        placement: Where weights are decoded: rows, load or graph; by each weight's use unless told.
        budget: Bounds such as "top1_agreement>=0.99": the smallest encodings that hold them on the data are searched.
        data: What a budget is measured on; a file of .jsonl, .npz or .tfrecord, or a directory of such files.
        calibrate: Without a budget, round weights by what the layers are fed on the data, so that answers change less.
        signature: The signature that the data feeds; serving_default, or the one that fits, unless told.
        main_output: The output that bounds without a name mean.
        label: The key of the data that holds labels.
        search_minutes: Time for the search.
        seed: Of the sample that is drawn from the data.

    Returns:
        quantized: The bundle with encoded weights.
        metrics: Bytes and nodes, and how far the answers are from those before.
    """
    from tfslim_core import api

    check_choice("placement", placement, ("rows", "load", "graph"))
    done = write(
        quantized,
        lambda path: api.quantize(
            place(bundle),
            path,
            encoding=encoding or None,
            include=include,
            exclude=exclude,
            minimum_size=minimum_size,
            placement=placement or None,
            budget=budget,
            data=dataset(data) if data and (budget or calibrate) else None,
            signature=signature or None,
            main_output=main_output or None,
            label=label or None,
            search_minutes=search_minutes,
            seed=seed,
            overwrite=True,
            progress=progress(),
        ),
    )
    log_notes(done.notes)
    log_numbers(metrics, done.metrics())
    describe(
        quantized,
        "tfslim bundle",
        encoding="by budget" if budget else encoding or "int8",
        **history(quantized.path),
    )
