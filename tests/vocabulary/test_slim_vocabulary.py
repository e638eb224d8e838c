"""Vocabularies pruned by `slim`: off by default, in every result that it makes, under the same budget."""

from __future__ import annotations

import json

import numpy as np
import pytest
import tensorflow as tf

from tests.saved_models import normal, save_v1, served
from tests.vocabulary.text_models import LENGTH
from tfslim_core import api, cli
from tfslim_core.costs import Costs
from tfslim_core.errors import DataError, UsageError

tf1 = tf.compat.v1
ROWS, WIDTH, CLASSES = 2000, 32, 4


def build():
    """Texts of classes: a word's class is its number's remainder, and the rows say so."""
    ids = tf1.placeholder(tf.int64, [None, LENGTH], name="ids")
    rows = 0.3 * normal(ROWS, WIDTH)
    rows[np.arange(ROWS), np.arange(ROWS) % CLASSES] += 1
    table = tf1.get_variable("embedding", initializer=rows, use_resource=True)
    kernel = tf1.get_variable("kernel", initializer=np.eye(WIDTH, CLASSES, dtype=np.float32), use_resource=True)
    return {
        "serving_default": ({"ids": ids}, {"scores": tf.nn.softmax(tf.reduce_sum(tf.gather(table, ids), 1) @ kernel)})
    }


def texts(batch, seed):
    return np.minimum(np.random.default_rng(seed).zipf(1.3, (batch, LENGTH)), ROWS - 1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("slim")
    save_v1(path / "model", build)
    np.savez(path / "texts.npz", ids=texts(2000, 1))

    return path


@pytest.fixture
def unmeasured(monkeypatch):
    """Without load times and latencies, which take seconds and which these tests do not ask for."""
    costs = (Costs(1, 0.1, None, 1, {}), Costs(1, 0.1, None, 1, {}))
    monkeypatch.setattr("tfslim_core.validation.job.measure_pair", lambda *_, **__: costs)
    monkeypatch.setattr("tfslim_core.costs.measure_pair", lambda *_, **__: costs)


def test_off_by_default(folder, tmp_path):
    with pytest.raises(UsageError, match="give that too"):
        api.slim(folder / "model", tmp_path / "out", corpus={"t": str(folder / "texts.npz")})
    with pytest.raises(UsageError, match="--corpus NAME=PATH"):
        api.slim(folder / "model", tmp_path / "out", prune_vocabulary=True)


def test_under_a_budget(folder, tmp_path, unmeasured):
    """Rows and encodings together hold it, on texts that neither saw; and rows did go."""
    report = api.slim(
        folder / "model",
        tmp_path / "out",
        data={"texts": str(folder / "texts.npz")},
        budget=["top1_agreement>=0.95"],
        gates=["top1_agreement>=0.95"],
        prune_vocabulary=True,
        include=["embedding"],
        minimum_size=64,
        search_minutes=0.1,
        report=tmp_path / "report",
    )
    assert "prune-vocabulary" in (tmp_path / "report/report.html").read_text()
    told = {stage.name: stage.notes for stage in report.context.stages}
    assert "rows to" in told["prune-vocabulary"]
    used = len(np.unique(texts(2000, 1)))
    rows = int(told["prune-vocabulary"].split("rows to ")[1].split(" ")[0].replace(",", ""))
    assert rows < 0.8 * used
    request = [("serving_default", {"ids": texts(1000, 2)})]
    (before,), (after,) = served(folder / "model", request), served(tmp_path / "out", request)
    agreement = np.mean(before["scores"].argmax(1) == after["scores"].argmax(1))
    assert 0.95 - 2 * (0.95 * 0.05 / 1000) ** 0.5 <= agreement < 1  # two standard errors
    assert report.outcome == "pass"


def test_by_count_with_a_file_of_options(folder, tmp_path, capsys, unmeasured):
    (tmp_path / "slim.yaml").write_text(
        f"prune_vocabulary: true\ncorpus: {{texts: {folder / 'texts.npz'}}}\nmin_count: 1\nto: centre\n"
    )
    out = tmp_path / "out"
    assert cli.main(["slim", str(folder / "model"), str(out), "--config", str(tmp_path / "slim.yaml"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["path"] == str(out)
    request = [("serving_default", {"ids": texts(2000, 1)})]
    (before,), (after,) = served(folder / "model", request), served(out, request)
    np.testing.assert_allclose(after["scores"], before["scores"], atol=0.02)


def test_a_vocabulary_that_breaks_the_budget_alone(folder, tmp_path):
    """Encodings are held against the answers of the model as it was, with all its rows."""
    with pytest.raises(DataError, match=r"the pruned vocabulary alone breaks the budget: top1_agreement>=0\.95"):
        api.slim(
            folder / "model",
            tmp_path / "out",
            data={"texts": str(folder / "texts.npz")},
            budget=["top1_agreement>=0.95"],
            prune_vocabulary=True,
            keep=5,
            minimum_size=64,
        )
    assert not list(tmp_path.iterdir())
