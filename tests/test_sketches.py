import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tfslim_core.sketches import ExactSum, ExactSums, LogHistogram

repeatable = settings(max_examples=60, deadline=None, derandomize=True)


@pytest.mark.parametrize("terms", itertools.permutations([1e16, 1.0, -1e16, 1e-3]))
def test_a_sum_loses_nothing_in_any_order(terms):
    total = ExactSum()
    for term in terms:
        total.add(term)
    assert total.value == 1.001


@repeatable
@given(st.lists(st.floats(-1e100, 1e100)), st.lists(st.floats(-1e100, 1e100)))
def test_sums_merge_into_the_sum_of_all(first, second):
    totals = ExactSum(), ExactSum()
    for total, terms in zip(totals, (first, second), strict=True):
        for term in terms:
            total.add(term)
    totals[0].merge(totals[1])
    assert totals[0].value == math.fsum([*first, *second])


TERMS = st.floats(allow_nan=False, allow_infinity=False, min_value=-1e290, max_value=1e290)


@repeatable
@given(st.lists(st.tuples(TERMS, TERMS), max_size=40), st.lists(st.integers(0, 40), max_size=4), st.randoms())
def test_sums_of_examples_are_exact_however_they_come_together(pairs, cuts, order):
    rows = np.array(pairs).reshape(-1, 2).T
    wanted = [math.fsum(row) for row in rows.tolist()]
    edges = [0, *sorted(cuts), len(pairs)]
    parts = [rows[:, slice(*edge)] for edge in itertools.pairwise(edges)]
    order.shuffle(parts)
    total = ExactSums(2)
    for part in parts:
        one = ExactSums(2)
        one.add(part)
        if order.random() < 0.5:
            one.values  # noqa: B018  # adds up what waits
        total.merge(one)
    assert total.values == wanted


def test_many_examples_and_endless_ones():
    random = np.random.default_rng(0)
    rows = random.normal(size=(3, 5000)) * 10.0 ** random.integers(-300, 300, size=(3, 5000))
    total = ExactSums(3)
    for start in range(0, 5000, 32):
        total.add(rows[:, start : start + 32])
    assert total.values == [math.fsum(row) for row in rows.tolist()]
    total.add(np.array([[math.inf, 1.0], [math.nan, 1.0], [5e-324, -5e-324]]))
    assert total.values[0] == math.inf
    assert math.isnan(total.values[1])
    assert total.values[2] == math.fsum(rows[2].tolist())


def test_infinity_stays():
    total = ExactSum()
    for term in (1.0, math.inf, 2.0):
        total.add(term)
    assert total.value == math.inf


@repeatable
@given(st.lists(st.floats(1e-30, 1e30), min_size=1), st.floats(0, 1))
def test_quantiles_are_within_their_accuracy(values, share):
    histogram = LogHistogram()
    histogram.add(np.array(values))
    expected = sorted(values)[max(1, math.ceil(share * len(values))) - 1]
    assert histogram.quantile(share) == pytest.approx(expected, rel=0.008)


def test_nothing_has_no_quantile_and_zeros_are_zero():
    histogram = LogHistogram()
    assert histogram.quantile(0.5) is None
    histogram.add(np.array([0.0, 1e-45]))
    assert histogram.quantile(1) == 0
    histogram.add(np.array([1e300] * 3))
    assert histogram.quantile(0.99) == math.inf
