"""A small model, examples for it, and what the components make of them; made once for all files here."""

from __future__ import annotations

import json
from types import SimpleNamespace

import numpy as np
import pytest
from kfp import dsl

from benchmarks.models import dense
from components.freeze import freeze
from components.quantize import quantize
from components.reexport import reexport
from components.transform import transform
from tests.components.artifacts import artifact, validation


@pytest.fixture(scope="package")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("components")


@pytest.fixture(scope="package")
def model(folder):
    dense(folder / "model", layers=2, width=64)
    return artifact(dsl.Model, folder / "model")


@pytest.fixture(scope="package")
def data(folder):
    """Two files of 100 examples, each with a label of its own kind."""
    (folder / "examples").mkdir()
    random = np.random.default_rng(0)
    for name in ("a", "b"):
        rows = random.standard_normal((100, 64)).round(4).tolist()
        lines = [json.dumps({"x": row, "half": int(sum(row) > 0), "file": name}) for row in rows]
        (folder / f"examples/{name}.jsonl").write_text("\n".join(lines) + "\n")
    return artifact(dsl.Dataset, folder / "examples")


@pytest.fixture(scope="package")
def stages(folder, model):
    """What the four stages made of the model."""
    made = SimpleNamespace(
        **{name: artifact(dsl.Model, folder / name) for name in ("frozen", "transformed", "quantized", "slim")},
        **{f"{name}_metrics": artifact(dsl.Metrics, folder / name) for name in ("frozen", "quantized", "slim")},
    )
    freeze.python_func(model, made.frozen, made.frozen_metrics)
    transform.python_func(made.frozen, made.transformed, artifact(dsl.Metrics, folder))
    quantize.python_func(made.transformed, made.quantized, made.quantized_metrics)
    reexport.python_func(made.quantized, made.slim, made.slim_metrics)
    return made


@pytest.fixture(scope="package")
def validated(folder, model, stages, data):
    """A validation that passes."""
    return validation(
        folder,
        "passed",
        original=model,
        optimized=stages.slim,
        data=data,
        gates=["size_ratio<=0.5"],
        slices=["file"],
        cost_batch_sizes=[1.0, 8.0],  # as kfp hands them over
        bundle=stages.quantized,
    )
