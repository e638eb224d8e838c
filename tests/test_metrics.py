import itertools
import math

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from tfslim_core.metrics import ErrorStats, OutputSummary, main_output, shorten

repeatable = settings(max_examples=60, deadline=None, derandomize=True)
VALUES = st.one_of(st.floats(-1e3, 1e3, width=32), st.sampled_from([0.0, math.nan, math.inf, -math.inf]))
PAIRS = st.integers(1, 12).flatmap(
    lambda rows: st.tuples(*[hnp.arrays(np.float32, (rows, 3), elements=VALUES) for _ in range(2)])
)


def compare(original, optimized, first=0):
    stats = ErrorStats()
    stats.add_batch(original, optimized, range(first, first + len(original)), lambda row: first + row)
    return stats


def summary(original, optimized) -> OutputSummary:
    return compare(np.asarray(original), np.asarray(optimized)).summary()


def strings(*values):
    return np.array(values, object)


@repeatable
@given(PAIRS, st.data())
def test_any_split_merged_in_any_order_adds_up_to_the_whole(pair, data):
    original, optimized = pair
    cuts = sorted(data.draw(st.lists(st.integers(0, len(original)), max_size=4)))
    edges = [0, *cuts, len(original)]
    parts = [compare(original[a:b], optimized[a:b], a) for a, b in itertools.pairwise(edges) if b > a]
    total = ErrorStats()
    for part in data.draw(st.permutations(parts)):
        total.merge(part)
    whole, split = compare(original, optimized).summary(), total.summary()
    for name, value in whole.metrics:
        expected = None if value is None else pytest.approx(value, rel=1e-9, abs=1e-12)
        assert getattr(split.metrics, name) == expected, name
    assert split.histogram == whole.histogram
    assert split.worst == whole.worst
    assert (split.constant, split.examples, split.scores_classes) == (
        whole.constant,
        whole.examples,
        whole.scores_classes,
    )


@repeatable
@given(st.lists(PAIRS, min_size=1, max_size=5), st.randoms())
def test_the_order_of_merging_changes_no_bit(pairs, random):
    stats = [compare(*pair, first=100 * i) for i, pair in enumerate(pairs)]
    first, second = ErrorStats(), ErrorStats()
    for part in stats:
        first.merge(part)
    random.shuffle(stats)
    for part in stats:
        second.merge(part)
    assert first.summary() == second.summary()


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, ml_dtypes.bfloat16])
def test_known_values_against_plain_numpy(dtype):
    random = np.random.default_rng(7)
    a = random.normal(size=(400, 10)).astype(dtype)
    b = (a.astype(np.float64) + random.normal(size=a.shape, scale=0.05)).astype(dtype)
    metrics = summary(a, b).metrics
    a, b = a.astype(np.float64), b.astype(np.float64)
    error = np.abs(b - a)
    assert metrics.max_abs_error == error.max()
    assert metrics.mean_abs_error == pytest.approx(error.mean(), rel=1e-12)
    assert metrics.p99_abs_error == pytest.approx(np.quantile(error, 0.99, method="inverted_cdf"), rel=0.008)
    assert metrics.rel_l2_error == pytest.approx(np.linalg.norm(error) / np.linalg.norm(a), rel=1e-12)
    assert metrics.cosine == pytest.approx(np.sum(a * b) / np.linalg.norm(a) / np.linalg.norm(b), rel=1e-12)
    assert metrics.top1_agreement == np.mean(a.argmax(1) == b.argmax(1)) < 1
    assert metrics.nan_mismatches == 0
    assert metrics.exact_match is None


def test_equal_answers_give_zeros():
    a = np.random.default_rng(0).normal(size=(20, 4))
    found = summary(a, a.copy())
    assert found.metrics.max_abs_error == found.metrics.rel_l2_error == found.metrics.p99_abs_error == 0
    assert found.metrics.cosine == pytest.approx(1)
    assert found.metrics.top1_agreement == 1
    assert found.worst == []


def test_nan_and_inf_on_both_sides_are_equal():
    both = [[math.nan, 1.0], [math.inf, 2.0], [-math.inf, 3.0]]
    found = summary(both, both)
    assert found.metrics.nan_mismatches == 0
    assert found.metrics.max_abs_error == 0
    assert found.worst == []


@pytest.mark.parametrize(("a", "b"), [(1.0, math.nan), (math.nan, 1.0), (math.inf, 1.0), (math.inf, -math.inf)])
def test_nan_or_inf_on_one_side_is_a_mismatch_and_the_worst_example(a, b):
    found = summary([[0.5, 1.0], [a, 2.0]], [[0.75, 1.0], [b, 2.0]])
    assert found.metrics.nan_mismatches == 1
    assert found.metrics.max_abs_error == 0.25
    assert [(case.index, case.error) for case in found.worst] == [(1, math.inf), (0, 0.25)]


def test_a_row_where_only_one_model_gives_nan_does_not_agree():
    # argmax names place 0 on both sides.
    assert summary([[3.0, 1.0]], [[math.nan, 1.0]]).metrics.top1_agreement == 0


def test_nothing_finite_leaves_the_errors_without_meaning():
    found = summary([[math.nan, math.nan]], [[math.nan, math.nan]])
    assert found.metrics.max_abs_error is found.metrics.rel_l2_error is found.metrics.cosine is None
    assert found.metrics.nan_mismatches == 0


def test_another_shape_is_a_mismatch_and_never_broadcast():
    found = summary(np.zeros((4, 1)), np.zeros((4, 3)))
    assert found.mismatches == 4
    assert found.metrics.max_abs_error is None
    assert found.worst[0].error == math.inf


def test_another_dtype_is_a_mismatch():
    assert summary(np.zeros((4, 2), np.float32), np.zeros((4, 2), np.float16)).mismatches == 4


def test_strings_and_booleans_count_equal_values_alone():
    found = summary(strings(b"a", b"b", b"c", b"d"), strings(b"a", b"x", b"c", b"d"))
    assert found.kind == "string"
    assert found.metrics.exact_match == 0.75
    assert found.metrics.max_abs_error is found.metrics.nan_mismatches is None
    assert [(case.index, case.original, case.optimized) for case in found.worst] == [(1, "b", "x")]
    assert summary([True, False], [True, True]).metrics.exact_match == 0.5


def test_integers_have_exact_matches_and_errors():
    metrics = summary([[1, 2], [3, 4]], [[1, 2], [3, 7]]).metrics
    assert metrics.exact_match == 0.75
    assert metrics.max_abs_error == 3
    assert metrics.top1_agreement is None
    assert summary([2**62 + 1], [2**62]).metrics.exact_match == 0  # equal as floats


def test_complex_answers_are_compared_by_their_parts():
    metrics = summary(np.array([[1 + 1j, 2]]), np.array([[1 + 3j, 2]])).metrics
    assert metrics.max_abs_error == 2
    assert metrics.top1_agreement is None


@pytest.mark.parametrize(
    ("original", "constant"),
    [
        (np.ones((5, 2)), True),
        (np.array([[1.0], [1.0], [2.0]]), False),
        (np.array([[math.nan], [math.nan]]), True),
        (np.array([[0.0], [-0.0]]), True),
        (strings(b"a", b"a"), True),
        (strings(b"a", b"b"), False),
        (np.zeros((0, 2)), False),
    ],
)
def test_an_output_that_never_varies_is_known_as_constant(original, constant):
    assert summary(original, original).constant is constant


@pytest.mark.parametrize(("second", "constant"), [(1.0, True), (2.0, False)])
def test_constant_means_over_all_batches(second, constant):
    stats = ErrorStats()
    for value in (1.0, second):
        stats.add_batch(np.full((3, 2), value), np.full((3, 2), value), range(3))
    assert stats.summary().constant is constant
    assert stats.only_answer is not None


def test_an_answer_without_a_batch_axis_counts_as_one():
    stats = compare(np.float32([1, 2, 3, 4]), np.float32([1, 2, 3, 4]))
    stats.add_batch(np.asarray(2.0), np.asarray(2.5), [7, 8, 9])
    assert stats.summary().worst[0].index == 7
    assert stats.summary().metrics.max_abs_error == 0.5


def test_only_the_worst_examples_are_described():
    asked = []
    stats = ErrorStats()
    error = np.arange(1000.0)[:, None]
    stats.add_batch(np.zeros((1000, 1)), error, range(1000), asked.append)
    assert [case.index for case in stats.summary().worst] == list(range(999, 989, -1))
    assert len(asked) == 10


def test_the_histogram_holds_every_finite_value():
    edges, counts = summary(np.zeros((1, 6)), [[0, 1e-20, 2e-3, 0.5, 0.5, 1e9]]).histogram
    assert len(edges) == len(counts) + 1
    assert edges[0] == 0
    assert edges[-1] == math.inf
    by_edge = {edge: count for edge, count in zip(edges, counts, strict=False) if count}
    assert by_edge == {0: 2, 1e-3: 1, 10**-0.5: 2, 1e6: 1}


def test_numbers_that_overflow_do_not_pass_for_small():
    metrics = summary([[1.0, 2.0]], [[1e308, -1e308]]).metrics
    assert metrics.rel_l2_error == math.inf
    assert metrics.max_abs_error == pytest.approx(1e308)
    assert metrics.p99_abs_error is not None


def test_the_main_output_scores_classes():
    scores, plain = ("float", True), ("float", False)
    assert main_output({"a": plain, "ids": ("integer", False), "b": scores, "c": scores}) == "b"
    assert main_output({"embedding": scores, "logits": scores, "class_probabilities": scores}) == "class_probabilities"
    assert main_output({"ids": ("integer", False), "y": plain}) == "y"
    assert main_output({"names": ("string", False)}) == "names"
    assert main_output({}) is None


def test_long_values_are_shortened():
    assert shorten(b"x" * 500) == "x" * 400 + " … (100 more characters)"
    assert shorten({"a": np.float32(1.5), "b": strings(b"p", b"q")}) == {"a": 1.5, "b": ["p", "q"]}
    assert shorten(np.zeros((10, 10)))[-1] == "… (100 values of shape [10, 10])"
    assert shorten(np.float32(math.nan)) == "nan"
    assert shorten(np.float32([1])[0].astype(ml_dtypes.bfloat16)) == 1.0
