"""Which pipeline a command is about, and what it is told: the options that commands share."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from tfslim_core.errors import UsageError, nearest

if TYPE_CHECKING:
    from kfp.dsl import base_component

PIPELINES = ("slim", "retrain_and_slim", "slim_many")

PipelineOption = Annotated[str, typer.Option("--pipeline", metavar="NAME", help=f"One of: {', '.join(PIPELINES)}.")]
ArgOption = Annotated[
    list[str] | None,
    typer.Option("--arg", metavar="NAME=VALUE", help="An argument of the pipeline; give it once for each."),
]
TrainerOption = Annotated[
    str | None,
    typer.Option(
        "--trainer",
        metavar="FILE_OR_URL",
        help="component.yaml of the trainer of retrain_and_slim; tfslim's unless told.",
    ),
]


def find_pipeline(name: str, trainer: str | None = None) -> base_component.BaseComponent:
    """A pipeline by name. trainer: a compiled component, of the one that trains.

    Raises:
        UsageError: there is none of this name, or it trains nothing. DataError: the trainer cannot be loaded.
    """
    if name not in PIPELINES:
        raise UsageError(f"no pipeline {name!r}{nearest(name, PIPELINES)} (there are: {', '.join(PIPELINES)})")
    if trainer is not None and name != "retrain_and_slim":
        raise UsageError(f"--trainer is of retrain_and_slim; {name} trains nothing")
    if name == "retrain_and_slim":
        from pipelines.retrain_and_slim import retraining
        from pipelines.trainer import loaded

        return retraining(loaded(trainer)) if trainer else retraining()
    from pipelines.slim import slim
    from pipelines.slim_many import slim_many

    return {"slim": slim, "slim_many": slim_many}[name]
