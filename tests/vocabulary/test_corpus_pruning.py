"""From a corpus to a smaller bundle: counted as a Beam job, chosen by count, number or budget, checked and told."""

from __future__ import annotations

import json

import numpy as np
import pytest
import tensorflow as tf

from tests.saved_models import save_v1
from tests.vocabulary.text_models import (
    LENGTH,
    WORDS,
    groups,
    ids_model,
    jsonl,
    zipf,
)
from tfslim_core import api
from tfslim_core.bundle import read_bundle
from tfslim_core.quantization.budgeting import Budget
from tfslim_core.quantization.live_model import LiveModel
from tfslim_core.vocabulary.corpus_pruning import Pruning, check_as_meant, prune_by_corpus

tf1 = tf.compat.v1


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


def test_workers_in_other_processes(bundle, tmp_path):
    """The job runs where Beam's options say; two processes count what one does."""
    for part in range(2):
        jsonl(tmp_path / f"part{part}.jsonl", zipf(60, seed=part))
    data = {f"d{part}": str(tmp_path / f"part{part}.jsonl") for part in range(2)}
    options = ("--direct_running_mode=multi_processing", "--direct_num_workers=2")
    found = []
    for number, beam_options in enumerate(((), options)):
        (tmp_path / f"out{number}").mkdir()
        wanted = Pruning(data, beam_options=beam_options)
        made = prune_by_corpus(read_bundle(bundle), wanted, tmp_path / f"out{number}", lambda *words: None)
        found.append(made.bundle.manifest.vocabularies)
    assert found[0] == found[1]
