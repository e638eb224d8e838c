"""A few real requests out of the data, as the validation would feed them."""

from __future__ import annotations

import json

import numpy as np
import pytest

from tests.validation import tiny_models
from tfslim_core.errors import DataError, ModelError
from tfslim_core.validation.sample import EXAMPLES, real_requests

W = np.random.default_rng(5).normal(size=(4, 3))
X = np.random.default_rng(1).normal(size=(1000, 4)).astype(np.float32)


@pytest.fixture
def linear(tmp_path):
    return tiny_models.linear(tmp_path / "model", W)


@pytest.fixture
def two(tmp_path):
    """Signatures whose inputs differ."""
    numbers, text = {"x": (1, [-1, 4])}, {"text": (7, [-1])}
    return tiny_models.echo(tmp_path / "model", {"serving_default": numbers, "same": numbers, "words": text})


def npz(path, **arrays):
    np.savez(path, **arrays)
    return str(path)


def jsonl(path, records):
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return str(path)


def rows(found):
    return np.concatenate([feeds["x"] for feeds in found.feeds])


def test_the_first_examples_of_each_dataset_in_batches(linear, tmp_path):
    data = {"many": npz(tmp_path / "many.npz", x=X), "few": npz(tmp_path / "few.npz", x=-X[:5])}
    found = real_requests(linear, data, ("serve",), None)
    assert found.signature == "serving_default"
    np.testing.assert_array_equal(rows(found), np.concatenate([-X[:5], X[:EXAMPLES]]))
    assert [len(feeds["x"]) for feeds in found.feeds] == [5, *[32] * (EXAMPLES // 32)]
    assert found.feeds[0]["x"].dtype == np.float32


def test_bad_records_are_left_to_the_validation(linear, tmp_path):
    records = [{"x": X[0].tolist()}, {"x": [1, 2]}, {"y": 3}, "text", {"x": X[1].tolist()}]
    found = real_requests(linear, {"test": jsonl(tmp_path / "a.jsonl", records)}, ("serve",), None)
    np.testing.assert_allclose(rows(found), X[:2])


def test_labels_and_other_keys_are_not_fed(linear, tmp_path):
    data = {"test": npz(tmp_path / "a.npz", x=X[:3], label=np.arange(3))}
    assert [feeds.keys() for feeds in real_requests(linear, data, ("serve",), None).feeds] == [{"x"}]


def test_no_examples(linear, tmp_path):
    found = real_requests(linear, {"test": npz(tmp_path / "a.npz", x=X[:0])}, ("serve",), None)
    assert (found.signature, found.feeds) == ("serving_default", [])
    assert real_requests(linear, {"test": jsonl(tmp_path / "a.jsonl", [])}, ("serve",), None).feeds == []


def test_the_signature_that_is_asked_for_or_kept(two, tmp_path):
    data = {"test": npz(tmp_path / "a.npz", x=X[:3])}
    assert real_requests(two, data, ("serve",), None).signature == "serving_default"
    assert real_requests(two, data, ("serve",), "same").signature == "same"
    assert real_requests(two, data, ("serve",), None, kept=["same", "words"]).signature == "same"
    words = {"test": jsonl(tmp_path / "a.jsonl", [{"text": "a"}, {"text": "b"}])}
    found = real_requests(two, words, ("serve",), None)
    assert found.signature == "words"
    assert found.feeds[0]["text"].tolist() == [b"a", b"b"]
    with pytest.raises(ModelError, match="no signature 'same'"):
        real_requests(two, data, ("serve",), "same", kept=["words"])
    with pytest.raises(DataError, match="no signature takes records with the keys: x"):
        real_requests(two, data, ("serve",), None, kept=["words"])


def test_keys_that_do_not_fit_show_both_sets(linear, tmp_path):
    with pytest.raises(DataError, match=r"a.npz.*the keys: pixels .*takes the keys: x"):
        real_requests(linear, {"test": npz(tmp_path / "a.npz", pixels=X)}, ("serve",), None)
    both = {"a": npz(tmp_path / "a.npz", x=X), "b": npz(tmp_path / "b.npz", pixels=X)}
    with pytest.raises(DataError, match=r"b.npz: its records have the keys: pixels"):
        real_requests(linear, both, ("serve",), None)


def test_files_and_models_that_are_not_there(linear, tmp_path):
    with pytest.raises(DataError, match="no such file"):
        real_requests(linear, {"test": str(tmp_path / "none.npz")}, ("serve",), None)
    with pytest.raises(ModelError):
        real_requests(tmp_path / "none", {"test": npz(tmp_path / "a.npz", x=X)}, ("serve",), None)
