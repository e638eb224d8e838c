"""Rows that a corpus never looks up, dropped by the component."""

from __future__ import annotations

import numpy as np
import pytest
from kfp import dsl

from benchmarks.models import text_classifier
from components.freeze import freeze
from components.prune_vocabulary import prune_vocabulary
from tests.components.artifacts import artifact


@pytest.fixture(scope="module")
def frozen(tmp_path_factory):
    folder = tmp_path_factory.mktemp("vocabulary")
    text_classifier(folder / "model", words=600, size=16, length=8, classes=3, filters=4)
    np.savez(folder / "corpus.npz", ids=np.arange(400).reshape(50, 8) % 100)
    bundle = artifact(dsl.Model, folder / "bundle")
    freeze.python_func(artifact(dsl.Model, folder / "model"), bundle, dsl.Metrics())
    return bundle, artifact(dsl.Dataset, folder / "corpus.npz")


def test_rows_that_nobody_uses_go(frozen, tmp_path):
    bundle, corpus = frozen
    pruned = artifact(dsl.Model, tmp_path / "pruned")
    prune_vocabulary.python_func(bundle, pruned, dsl.Metrics(), corpus=corpus)
    ((before, after),) = pruned.metadata["rows"].values()
    assert before == 600
    assert 100 <= after < 150
    assert pruned.metadata["bytes"] < bundle.metadata["bytes"]
    assert pruned.metadata["source_digest"] == bundle.metadata["source_digest"]


@pytest.mark.parametrize(
    ("arguments", "says"), [({}, "corpus"), ({"to": "center"}, "did you mean 'centre'"), ({"budget": ["x>1"]}, "x")]
)
def test_what_cannot_be_pruned_is_one_line(frozen, tmp_path, arguments, says):
    with pytest.raises(SystemExit, match=rf"^tfslim: .*{says}"):
        prune_vocabulary.python_func(frozen[0], artifact(dsl.Model, tmp_path / "out"), dsl.Metrics(), **arguments)
    assert not list(tmp_path.iterdir())
