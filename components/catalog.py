"""All components: the stages in the order in which a pipeline has them, then what only whole pipelines need."""

from __future__ import annotations

from pathlib import Path

from kfp.dsl import base_component

from components.choose import choose
from components.decide import decide
from components.freeze import freeze
from components.join import join
from components.prepare import prepare
from components.prune_vocabulary import prune_vocabulary
from components.publish import publish
from components.quantize import quantize
from components.reexport import reexport
from components.report import report
from components.rollback import rollback
from components.served import served
from components.skip import skip
from components.train import train
from components.transform import transform
from components.validate import validate

HERE = Path(__file__).parent

# By the name of the folder, as the page of a pipeline shows them.
TITLES: dict[str, str] = {
    "freeze": "Freeze a model",
    "transform": "Rewrite the graph",
    "prune_vocabulary": "Prune the vocabulary",
    "quantize": "Encode the weights",
    "reexport": "Write a SavedModel",
    "validate": "Validate on data",
    "publish": "Publish a version",
    "rollback": "Roll back a version",
    "prepare": "Look at what is asked for",
    "join": "Join verdicts",
    "choose": "Choose a candidate",
    "served": "Find the served version",
    "skip": "Skip a step",
    "decide": "Decide between outcomes",
    "report": "Tell how a run ended",
    "train": "Train a classifier of images",
}
COMPONENTS: dict[str, base_component.BaseComponent] = {
    "freeze": freeze,
    "transform": transform,
    "prune_vocabulary": prune_vocabulary,
    "quantize": quantize,
    "reexport": reexport,
    "validate": validate,
    "publish": publish,
    "rollback": rollback,
    "prepare": prepare,
    "join": join,
    "choose": choose,
    "served": served,
    "skip": skip,
    "decide": decide,
    "report": report,
    "train": train,
}


def folder(name: str) -> Path:
    """Where a component's function, component.yaml and README.md are."""
    return HERE / name
