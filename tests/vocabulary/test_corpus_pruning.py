"""From a corpus to a smaller bundle: counted as a Beam job, chosen by count, number or budget, checked and told."""

from __future__ import annotations

import json

import numpy as np
import pytest
import tensorflow as tf

from tests.saved_models import assert_alike, save_v1, served
from tests.vocabulary.text_models import (
    LENGTH,
    WORDS,
    groups,
    ids_model,
    oov_buckets_model,
    vocabulary,
)
from tfslim_core import api, cli
from tfslim_core.bundle import read_bundle
from tfslim_core.errors import DataError, ModelError, OutputExistsError, UsageError
from tfslim_core.quantization.budgeting import Budget
from tfslim_core.quantization.live_model import LiveModel
from tfslim_core.vocabulary import corpus_pruning
from tfslim_core.vocabulary.corpus_pruning import Pruning, check_as_meant, prune_by_corpus

tf1 = tf.compat.v1


def jsonl(file, rows, **more):
    """A corpus of texts: rows of words."""
    lines = []
    for index, row in enumerate(rows):
        extra = {key: value[index] for key, value in more.items()}
        lines.append(json.dumps({"words": [word.decode() for word in row], **extra}))
    file.write_text("".join(line + "\n" for line in lines))
    return str(file)


def zipf(batch, seed=0, unknown=0.05):
    """Texts whose words follow Zipf's law."""
    rng = np.random.default_rng(seed)
    words = np.array(WORDS, object)[np.minimum(rng.zipf(1.3, (batch, LENGTH)) - 1, 59)]
    other = rng.random(words.shape) < unknown
    words[other] = [b"unknown%d" % n for n in rng.integers(0, 99, other.sum())]
    return words


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("corpus")


@pytest.fixture(scope="module")
def model(folder):
    build = oov_buckets_model(vocabulary(folder))
    return save_v1(folder / "model", lambda: {"serving_default": build()}, init=tf1.tables_initializer, assets=True)


@pytest.fixture(scope="module")
def bundle(model, folder):
    api.freeze(model, folder / "bundle")
    return folder / "bundle"


@pytest.fixture(scope="module")
def corpus(folder):
    return {"texts": jsonl(folder / "corpus.jsonl", zipf(300))}


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


def test_counts_are_of_each_use(corpus, bundle, folder):
    made = read_bundle(bundle)
    (group,), _ = groups(made)
    (folder / "least").mkdir()
    found = prune_by_corpus(made, Pruning(corpus, least=3), folder / "least", lambda *words: None)
    words, times = np.unique(zipf(300), return_counts=True)
    rare = sum(int(n) for word, n in zip(words, times, strict=True) if n < 3 and word in WORDS[1:])
    (entry,) = found.bundle.manifest.vocabularies
    assert entry.elsewhere == rare > 0
    assert group.rows == entry.rows_before
    check_as_meant(made, found.bundle, found)


@pytest.mark.parametrize("least", [1, 2, 5])
def test_rows_by_count(bundle, tmp_path, least):
    texts = zipf(100)
    made = read_bundle(bundle)
    wanted = Pruning({"t": jsonl(tmp_path / "t.jsonl", texts)}, least=least)
    (tmp_path / "out").mkdir()
    found = prune_by_corpus(made, wanted, tmp_path / "out", lambda *words: None)
    words, times = np.unique(texts, return_counts=True)
    kept = {word for word, n in zip(words, times, strict=True) if n >= least and word in WORDS} | {WORDS[0]}
    assert set((tmp_path / "out/assets/vocab.txt").read_bytes().splitlines()) == kept
    check_as_meant(made, found.bundle, found)


def test_the_most_used_rows(bundle, corpus, tmp_path):
    (tmp_path / "out").mkdir()
    found = prune_by_corpus(read_bundle(bundle), Pruning(corpus, most=10), tmp_path / "out", lambda *words: None)
    words, times = np.unique(zipf(300), return_counts=True)
    known = [(-int(n), WORDS.index(word), word) for word, n in zip(words, times, strict=True) if word in WORDS]
    lines = (tmp_path / "out/assets/vocab.txt").read_bytes().splitlines()
    assert set(lines) <= {word for _, _, word in sorted(known)[:10]} | {WORDS[0]}
    (entry,) = found.bundle.manifest.vocabularies
    assert entry.rows_after <= 10 + 3 + 1


def test_shards_add_up(bundle, tmp_path):
    """However many files the corpus has, the counts are the same."""
    texts = zipf(90)
    for part in range(3):
        jsonl(tmp_path / f"part{part}.jsonl", texts[30 * part : 30 * part + 30])
    found = []
    for number, data in enumerate(
        [{"all": str(tmp_path / "part*.jsonl")}, {f"d{n}": str(tmp_path / f"part{n}.jsonl") for n in range(3)}]
    ):
        (tmp_path / f"out{number}").mkdir()
        made = prune_by_corpus(read_bundle(bundle), Pruning(data), tmp_path / f"out{number}", lambda *words: None)
        found.append(made.bundle.manifest.vocabularies)
    assert found[0] == found[1]
    assert found[0][0].lookups == 90 * LENGTH


def test_a_budget(bundle, corpus, tmp_path):
    """Held on examples that were neither searched with nor counted; with fewer rows than are used."""
    budget = Budget(("scores:rel_l2_error<=0.5",), {"t": corpus["texts"]}, examples=200)
    (tmp_path / "out").mkdir()
    found = prune_by_corpus(read_bundle(bundle), Pruning(corpus, budget=budget), tmp_path / "out", lambda *words: None)
    (entry,) = found.bundle.manifest.vocabularies
    used = {word for row in zipf(300) for word in row} & set(WORDS)
    assert entry.words_after < len(used)
    assert entry.lookups == 220 * LENGTH  # without those of the 80 examples that confirm
    assert any(
        note.startswith("budget: ") and "neither counted nor searched" in note for note in found.bundle.manifest.notes
    )
    check_as_meant(read_bundle(bundle), found.bundle, found)


def test_a_budget_of_nothing_keeps_what_is_needed(bundle, corpus, tmp_path):
    budget = Budget(("scores:rel_l2_error<=0",), {"t": corpus["texts"]}, examples=200)
    (tmp_path / "out").mkdir()
    made = read_bundle(bundle)
    found = prune_by_corpus(made, Pruning(corpus, budget=budget), tmp_path / "out", lambda *words: None)
    with LiveModel(made, []) as live:
        wanted = live.run("serving_default", {"words": zipf(300)})
    with LiveModel(found.bundle, []) as live:
        np.testing.assert_array_equal(live.run("serving_default", {"words": zipf(300)})["scores"], wanted["scores"])


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


def test_a_corpus_that_uses_no_row(tmp_path):
    """Row numbers that no row has are counted for none, and an embedding without a use stays whole."""
    save_v1(tmp_path / "m", lambda: {"serving_default": ids_model()()})
    api.freeze(tmp_path / "m", tmp_path / "b")
    (tmp_path / "c.jsonl").write_text(json.dumps({"ids": [99] * LENGTH}) + "\n")
    (tmp_path / "out").mkdir()
    wanted = Pruning({"c": str(tmp_path / "c.jsonl")})
    found = prune_by_corpus(read_bundle(tmp_path / "b"), wanted, tmp_path / "out", lambda *words: None)
    assert not found.bundle.manifest.vocabularies
    assert any("the corpus looks nothing of it up" in note for note in found.bundle.manifest.notes)


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
