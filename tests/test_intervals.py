import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tfslim_core.intervals import (
    REPLICATES,
    Replicates,
    examples_for_all,
    groups,
    of_groups,
    of_replicates,
    quantile_shares,
    rounded,
    wilson,
)

repeatable = settings(max_examples=40, deadline=None, derandomize=True)


@pytest.mark.parametrize(
    ("share", "examples", "low", "high"),
    [
        # As R's prop.test(..., correct = FALSE) has them.
        (0.5, 10, 0.2365931, 0.7634069),
        (0.9, 100, 0.8256343, 0.9447708),
        (1.0, 100, 0.9630065, 1.0),
        (0.0, 20, 0.0, 0.1611252),
    ],
)
def test_wilsons_interval_as_published(share, examples, low, high):
    assert wilson(share, examples) == pytest.approx((low, high), abs=1e-6)


def test_so_many_examples_that_agree_are_enough():
    assert examples_for_all(0.99) == 381
    assert wilson(1.0, 381)[0] >= 0.99 > wilson(1.0, 380)[0]
    assert examples_for_all(1.0) is None


def test_a_quantile_lies_between_order_statistics():
    low, high = quantile_shares(0.5, 100)
    assert (round(100 * low), round(100 * high)) == (40, 60)
    assert quantile_shares(0.99, 367)[1] is None  # 0.99^367 > 0.025
    assert quantile_shares(0.99, 368)[1] == 1


def sums(values, places, splits=()):
    parts = []
    for rows in np.split(np.arange(len(places)), splits):
        one = Replicates(len(values))
        one.add(values[:, rows], places[rows])
        parts.append(one)
    return parts


@repeatable
@given(st.integers(1, 300), st.lists(st.integers(0, 300), max_size=5), st.randoms())
def test_replicates_are_the_same_however_the_examples_are_split(rows, cuts, random):
    values = np.arange(2 * rows, dtype=float).reshape(2, rows)
    places = np.arange(rows) + (3 << 40)
    parts = sums(values, places, sorted(min(cut, rows) for cut in cuts))
    random.shuffle(parts)
    total = Replicates(2)
    for part in parts:
        total.merge(part)
    np.testing.assert_array_equal(total.sums, sums(values, places)[0].sums)  # whole numbers: no rounding


def test_examples_count_as_often_as_poisson_says_and_apart_from_each_other():
    places = np.concatenate([np.arange(3000), np.arange(3000) + (1 << 40)])
    weights = np.stack([sums(np.ones((1, 1)), places[row : row + 1])[0].sums[0] for row in range(len(places))])
    assert weights.shape == (6000, REPLICATES)
    assert weights.mean() == pytest.approx(1, abs=0.01)
    assert weights.var() == pytest.approx(1, abs=0.01)
    counted = np.bincount(weights.astype(int).reshape(-1), minlength=4)[:4] / weights.size
    assert counted == pytest.approx([math.exp(-1) / math.factorial(k) for k in range(4)], abs=0.005)
    alike = np.corrcoef(weights[:, :50].T) - np.eye(50)
    assert np.abs(alike).max() < 0.08
    assert np.abs(np.corrcoef(weights[:3000].sum(0), weights[3000:].sum(0))[0, 1]) < 0.3


def test_the_bootstrap_is_as_wide_as_theory_has_it():
    values = np.random.default_rng(0).normal(size=2000)
    found = sums(np.stack([values, np.ones(2000)]), np.arange(2000))[0].sums
    low, high = of_replicates(found[0] / found[1])
    assert high - low == pytest.approx(2 * 1.96 * values.std() / math.sqrt(2000), rel=0.15)
    assert low < values.mean() < high


def test_what_is_not_finite_has_no_interval():
    assert of_replicates(np.full(REPLICATES, np.nan)) is None
    assert of_replicates(np.append(np.zeros(REPLICATES - 1), np.inf)) is None
    # An example or two may be missing from a replicate.
    assert of_replicates(np.append(np.zeros(REPLICATES - 1), np.nan)) == (0, 0)


def test_rounding_keeps_what_is_left_to_the_best_value():
    assert rounded(0.123456) == 0.1235
    assert rounded(0.999987654, below=1.0) == pytest.approx(1 - 1.235e-5)
    assert rounded(1 - 2e-16, below=1.0) == 1
    assert rounded(0.0) == 0


def test_leaving_out_groups_is_as_wide_as_theory_has_it():
    values = np.random.default_rng(0).normal(size=4000)
    group = groups(np.arange(4000))
    assert sorted(set(group.tolist())) == list(range(20))
    without = np.array([values[group != one].mean() for one in range(20)])
    low, high = of_groups(values.mean(), without)
    assert high - low == pytest.approx(2 * 2.09 * values.std() / math.sqrt(4000), rel=0.5)
