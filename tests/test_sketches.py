import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tfslim_core.sketches import ExactSum, LogHistogram

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
