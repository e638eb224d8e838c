"""The stage as users call it: checked, written whole or not at all, every expected failure one line."""

from __future__ import annotations

import json

import numpy as np
import pytest
import tensorflow as tf

from tests.saved_models import assert_alike, save_v1, served
from tests.vocabulary.text_models import (
    LENGTH,
    WORDS,
    jsonl,
    zipf,
)
from tfslim_core import api, cli
from tfslim_core.bundle import read_bundle
from tfslim_core.errors import DataError, ModelError, OutputExistsError, UsageError
from tfslim_core.vocabulary import corpus_pruning

tf1 = tf.compat.v1


@pytest.fixture(scope="module")
def pruned(bundle, corpus, folder):
    return api.prune_vocabulary(bundle, folder / "pruned", corpus=corpus)


def test_a_stage(model, pruned, folder):
    """Words that are never used go: on the corpus the answers are what they were, by TensorFlow's C++ loader too."""
    assert pruned.errors == {"serving_default/scores": 0}
    made = read_bundle(folder / "pruned")
    (entry,) = made.manifest.vocabularies
    used = {word for row in zipf(300) for word in row} & set(WORDS)
    assert entry.words_after == len(used | {WORDS[0]}) < 60
    assert entry.rows_after == entry.words_after + 3
    assert (entry.lookups, entry.elsewhere, entry.to) == (300 * LENGTH, 0, "oov")
    (step,) = [step for step in made.manifest.steps if step.name == "prune_vocabulary"]
    assert not step.exact
    assert step.changes == 1
    assert step.bytes_after < step.bytes_before
    assert any(f"its vocabulary has {len(used)} words of 60" in note for note in pruned.notes)
    api.reexport(folder / "pruned", folder / "servable")
    requests = [("serving_default", {"words": zipf(300)})]
    assert_alike(served(model, requests), served(folder / "servable", requests), rtol=0, atol=0)
    lines = (folder / "servable/assets/vocab.txt").read_bytes().splitlines()
    assert lines == [word for word in WORDS if word in used | {WORDS[0]}]
    # A word that is gone is one that the vocabulary never held: it is in a bucket for unknown words.
    gone = next(word for word in WORDS if word not in lines)
    asked = [("serving_default", {"words": np.array([[gone] * LENGTH, [b"unknown"] * LENGTH], object)})]
    (before,), (after,) = served(model, asked), served(folder / "servable", asked)
    assert not np.array_equal(before["scores"][0], after["scores"][0])
    np.testing.assert_array_equal(before["scores"][1], after["scores"][1])


def test_the_stages_that_follow_take_it(pruned, folder):
    api.quantize(pruned.path, folder / "quantized", minimum_size=16)
    done = api.reexport(folder / "quantized", folder / "small")
    assert done.path.exists()


def refused(call, folder, match, kind):
    before = sorted(folder.rglob("*"))
    with pytest.raises(kind, match=match) as caught:
        call()
    assert "\n" not in str(caught.value)
    assert sorted(folder.rglob("*")) == before


def test_what_is_refused(bundle, corpus, tmp_path):
    empty, other, bad = (tmp_path / f"{name}.jsonl" for name in ("empty", "other", "bad"))
    empty.write_text("")
    other.write_text('{"text": "a"}\n')
    bad.write_text((json.dumps({"words": ["w1"] * LENGTH}) + "\n") * 5 + '{"words": ["w1"]}\n' * 5)
    out = tmp_path / "out"

    def call(**options):
        return lambda: api.prune_vocabulary(bundle, out, **options)

    refused(call(), tmp_path, "--corpus NAME=PATH", UsageError)
    refused(call(corpus=corpus, min_count=1, keep=3), tmp_path, "give one of them", UsageError)
    refused(call(corpus=corpus, budget=["top1_agreement>=0.9"]), tmp_path, "needs data", UsageError)
    refused(call(corpus={"t": str(tmp_path / "none.jsonl")}), tmp_path, "no such file", DataError)
    refused(call(corpus={"t": str(empty)}), tmp_path, "the corpus is empty", DataError)
    refused(call(corpus={"t": str(other)}), tmp_path, "its keys|takes the keys|no signature takes", DataError)
    refused(call(corpus={"t": str(bad)}), tmp_path, "5 of 10 records of the corpus are bad", DataError)
    refused(call(corpus=corpus, signature="nothing"), tmp_path, "no signature 'nothing'", ModelError)
    (tmp_path / "taken").mkdir()
    refused(
        lambda: api.prune_vocabulary(bundle, tmp_path / "taken", corpus=corpus), tmp_path, "exists", OutputExistsError
    )


def test_a_result_that_does_something_else_is_not_written(bundle, corpus, tmp_path, monkeypatch):
    """The check is not for show: rows in the wrong order are noticed."""
    plain = corpus_pruning.prune

    def wrong(*arguments):
        result = plain(*arguments)
        (name,) = result.replaced
        weight = result.bundle.graph.weights[name]
        graph = result.bundle.graph.replace(weights={name: weight.map(lambda value: value[::-1])})
        return corpus_pruning.replace(result, bundle=corpus_pruning.replace(result.bundle, graph=graph))

    monkeypatch.setattr(corpus_pruning, "prune", wrong)
    refused(
        lambda: api.prune_vocabulary(bundle, tmp_path / "out", corpus=corpus),
        tmp_path,
        "more than was meant",
        ModelError,
    )


def test_a_model_without_embeddings(tmp_path, corpus):
    def build():
        words = tf1.placeholder(tf.string, [None, LENGTH], name="words")
        return {"serving_default": ({"words": words}, {"length": tf.strings.length(words)})}

    save_v1(tmp_path / "m", build)
    api.freeze(tmp_path / "m", tmp_path / "b")
    report = api.prune_vocabulary(tmp_path / "b", tmp_path / "out", corpus=corpus)
    assert any("there is no embedding" in note for note in report.notes)
    assert report.errors == {"serving_default/length": 0}


def test_the_command(bundle, corpus, tmp_path, capsys):
    out = tmp_path / "out"
    flags = ["--corpus", f"t={corpus['texts']}", "--min-count", "2", "--json"]
    assert cli.main(["prune-vocabulary", str(bundle), str(out), *flags]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["stage"] == "prune-vocabulary"
    assert told["vocabularies"][0]["to"] == "oov"
    assert told["steps"][-1]["parameters"] == {"min_count": 2}
    assert cli.main(["prune-vocabulary", str(bundle), str(out), "--corpus", "nothing"]) == 2
    assert "--corpus nothing: give NAME=PATH" in capsys.readouterr().err
    assert cli.main(["prune-vocabulary", str(bundle), str(out), "more"]) == 2


def test_all_words_unknown(bundle, tmp_path):
    texts = np.full((50, LENGTH), b"unknown", object)
    texts[:, 1:] = [b"other%d" % n for n in range(LENGTH - 1)]
    report = api.prune_vocabulary(bundle, tmp_path / "out", corpus={"t": jsonl(tmp_path / "t.jsonl", texts)})
    (entry,) = read_bundle(tmp_path / "out").manifest.vocabularies
    assert entry.words_after == 1  # of the row 0, which may be padding
    assert report.errors == {"serving_default/scores": 0}
