"""All statistics of a dataset together: whatever the split and the order of merging, the same summary."""

import itertools
import json
import math
from unittest import mock

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tfslim_core.validation import answered, slice_queue
from tfslim_core.validation.batches import Batch
from tfslim_core.validation.tally import DatasetStats, DatasetSummary

ROWS = 24
KEYS = ["scores", "value", "ids", "names", "flags", "tokens"]
repeatable = settings(max_examples=10, deadline=None, derandomize=True)


def answers(random, scale):
    scores = np.exp(np.random.default_rng(1).normal(size=(ROWS, 7)) + scale * random.normal(size=(ROWS, 7)))
    changed = random.random(ROWS) < scale
    names = np.array([b"a", b"bb"], object)[(np.arange(ROWS) + changed) % 2]
    value = np.where(random.random((ROWS, 1)) < scale / 4, math.nan, np.arange(ROWS)[:, None] + scale)
    return {
        "scores": scores / scores.sum(1, keepdims=True),
        "value": value.astype(np.float32),
        "ids": np.arange(ROWS) + changed,
        "names": names,
        "flags": changed,
        "tokens": np.arange(ROWS * 3).reshape(ROWS, 3) // 2 + changed[:, None],
    }


def of_batches(parts, original, optimized, labels, slices):
    found = []
    for rows in parts:
        batch = Batch("d", {"x": rows}, rows + (2 << 40), labels[rows], slices={k: v[rows] for k, v in slices.items()})
        stats = DatasetStats(KEYS)
        stats.add(batch, *({key: array[rows] for key, array in one.items()} for one in (original, optimized)))
        found.append(stats)
    return found


@repeatable
@given(st.integers(0, 1000), st.sampled_from([0.0, 0.3]), st.lists(st.integers(1, ROWS - 1), max_size=4), st.randoms())
def test_any_split_merged_in_any_order_gives_the_same_summary(seed, scale, cuts, order):
    random = np.random.default_rng(seed)
    original, optimized = answers(random, 0.0), answers(random, scale)
    labels = np.empty(ROWS, object)
    labels[:] = [None if random.random() < 0.2 else int(label) for label in random.integers(0, 7, ROWS)]
    slices = {
        key: np.array([f"{key}={number % many}" for number in range(ROWS)], object)
        for key, many in (("k", 3), ("l", 2))
    }
    edges = [0, *sorted(set(cuts)), ROWS]
    parts = of_batches([np.arange(*edge) for edge in itertools.pairwise(edges)], original, optimized, labels, slices)
    whole = of_batches([np.arange(ROWS)], original, optimized, labels, slices)[0].summary()
    totals = []
    for _ in range(2):
        order.shuffle(parts)
        total = DatasetStats(KEYS)
        for part in parts:
            total.merge(part)
        totals.append(total.summary())
    # Another order changes no byte; another split only how sums of floats were rounded on the way.
    assert totals[0].to_json() == totals[1].to_json()
    assert_near(json.loads(totals[0].to_json()), json.loads(whole.to_json()))
    assert DatasetSummary.from_json(whole.to_json()) == whole


def assert_near(found, wanted, where="summary"):
    assert type(found) is type(wanted), where
    if isinstance(wanted, dict):
        assert set(found) == set(wanted), where
        for key in wanted:
            assert_near(found[key], wanted[key], f"{where}/{key}")
    elif isinstance(wanted, list):
        assert len(found) == len(wanted), where
        for number, pair in enumerate(zip(found, wanted, strict=True)):
            assert_near(*pair, f"{where}/{number}")
    elif isinstance(wanted, float):
        assert found == pytest.approx(wanted, rel=1e-9, abs=1e-12, nan_ok=True), where
    else:
        assert found == wanted, where


def test_failures_count_in_their_slice():
    stats = DatasetStats(["y"])
    rows = np.arange(1)
    stats.add_failure(Batch("d", {"x": rows}, rows, slices={"k": np.array(["k=1"], object)}), "no such table")
    found = stats.summary()
    assert (found.failures, found.slices["k"]["k=1"].failures) == (1, 1)


@repeatable
@given(st.integers(0, 1000), st.lists(st.integers(1, ROWS - 1), max_size=6), st.integers(1, 9), st.booleans())
def test_examples_may_wait_for_any_company(seed, cuts, rows, longer):
    """What waits together shows in no number, also where examples of another form come between."""
    random = np.random.default_rng(seed)
    original, optimized = answers(random, 0.0), answers(random, 0.3)
    labels = random.integers(0, 7, ROWS).astype(object)
    slices = {key: np.array([f"{key}={n % many}" for n in range(ROWS)], object) for key, many in (("k", 3), ("l", 2))}
    batches = []
    for number, edge in enumerate(itertools.pairwise([0, *sorted(set(cuts)), ROWS])):
        of = np.arange(*edge)
        x = np.zeros((len(of), 1 + longer * (number % 2)))
        named = {key: names[of] for key, names in slices.items()}
        batch = Batch("d", {"x": x}, of, labels[of], slices=named)
        batches.append((batch, *({key: array[of] for key, array in one.items()} for one in (original, optimized))))
    found = []
    for most in (1, rows, 1000):
        stats = DatasetStats(KEYS)
        with mock.patch.object(slice_queue, "_ROWS", most), mock.patch.object(answered, "_ROWS", most):
            for batch in batches:
                stats.add(*batch)
            found.append(stats.summary().to_json())
    assert found[0] == found[1] == found[2]
    told = json.loads(found[0])["slices"]
    assert {name: part["examples"] for name, part in told["k"].items()} == {f"k={n}": ROWS // 3 for n in range(3)}
