import itertools
import math

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from tfslim_core.intervals import wilson
from tfslim_core.metrics import ErrorStats, OutputSummary, main_output, shorten

repeatable = settings(max_examples=60, deadline=None, derandomize=True)
VALUES = st.one_of(st.floats(-1e3, 1e3, width=32), st.sampled_from([0.0, math.nan, math.inf, -math.inf]))
SHAPES = st.tuples(st.integers(1, 12), st.sampled_from([(3,), (7,), (1,), (2, 3)])).map(lambda of: (of[0], *of[1]))
PAIRS = SHAPES.flatmap(lambda shape: st.tuples(*[hnp.arrays(np.float32, shape, elements=VALUES) for _ in range(2)]))


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
    assert split.metrics.intervals == whole.metrics.intervals
    assert split.metrics.positions == whole.metrics.positions
    for name, value in whole.metrics.numbers().items():
        expected = None if value is None else pytest.approx(value, rel=1e-9, abs=1e-12)
        assert getattr(split.metrics, name) == expected, name
    assert split.histogram == whole.histogram
    assert split.worst == whole.worst
    for name in ("constant", "examples", "scores_classes", "identical", "no_flip_possible"):
        assert getattr(split, name) == getattr(whole, name), name


@repeatable
@given(
    st.sampled_from([3, 7]).flatmap(
        lambda classes: st.lists(
            st.tuples(*[hnp.arrays(np.float32, (4, classes), elements=VALUES) for _ in range(2)]),
            min_size=1,
            max_size=5,
        )
    ),
    st.randoms(),
)
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
    for name, share in (("p50", 0.5), ("p99", 0.99), ("p999", 0.999)):
        expected = np.quantile(error, share, method="inverted_cdf")
        assert getattr(metrics, f"{name}_abs_error") == pytest.approx(expected, rel=0.008)
    assert metrics.rel_l2_error == pytest.approx(np.linalg.norm(error) / np.linalg.norm(a), rel=1e-12)
    assert metrics.cosine == pytest.approx(np.sum(a * b) / np.linalg.norm(a) / np.linalg.norm(b), rel=1e-12)
    assert metrics.top1_agreement == np.mean(a.argmax(1) == b.argmax(1)) < 1
    assert metrics.flip_rate == np.mean(a.argmax(1) != b.argmax(1))
    fives = [np.sort(np.argsort(-x, axis=1, kind="stable")[:, :5], axis=1) for x in (a, b)]
    assert metrics.top5_agreement == np.mean((fives[0] == fives[1]).all(1)) < 1
    assert metrics.kl_divergence is None
    assert metrics.nan_mismatches == 0
    assert metrics.exact_match is None


def softmax(scores):
    raised = np.exp(scores - scores.max(-1, keepdims=True))
    return raised / raised.sum(-1, keepdims=True)


def test_distributions_have_a_divergence():
    random = np.random.default_rng(7)
    scores = random.normal(size=(300, 6))
    p, q = softmax(scores), softmax(scores + random.normal(size=scores.shape, scale=0.3))
    p[0] = [1, 0, 0, 0, 0, 0]
    q[1] = [0, 0, 0, 0, 0, 1]  # a divergence without bound, but for the least probability
    known = np.where(p > 0, p * (np.log(np.maximum(p, 1e-15)) - np.log(np.maximum(q, 1e-15))), 0).sum(1)
    metrics = summary(p, q).metrics
    assert metrics.kl_divergence == pytest.approx(known.mean(), rel=1e-9)
    low, high = metrics.intervals["kl_divergence"]
    assert 0 < low < metrics.kl_divergence < high
    assert summary(p, q * 1.01).metrics.kl_divergence is None
    assert summary(np.where(p == 0, -1e-4, p), q).metrics.kl_divergence is None
    assert summary(p, p.copy()).metrics.kl_divergence == 0


def test_positions_tell_where_answers_first_differ():
    a = np.tile(np.float32([[0.1, 0.9]]), (4, 5, 1))
    b = a.copy()
    b[1, 3], b[2, 1:] = [0.9, 0.1], [0.9, 0.1]
    metrics = summary(a, b).metrics
    assert metrics.top1_agreement == 15 / 20
    assert metrics.top5_agreement is None
    assert (metrics.positions.examples, metrics.positions.agreement) == (4, 0.5)
    assert metrics.positions.first_difference == 1
    tokens = summary([[1, 2, 3], [4, 5, 6], [7, 8, 9]], [[1, 2, 3], [4, 0, 6], [7, 8, 0]]).metrics
    assert (tokens.positions.agreement, tokens.positions.first_difference) == (1 / 3, 1)
    assert summary(a, a.copy()).metrics.positions.first_difference is None
    assert summary(a[:, 0], b[:, 0]).metrics.positions is None


def test_shares_of_examples_have_wilsons_interval_and_shares_of_values_one_of_clusters():
    random = np.random.default_rng(1)
    a = random.normal(size=(200, 6))
    b = a + random.normal(size=a.shape, scale=0.2)
    found = summary(a, b).metrics
    assert found.intervals["top1_agreement"] == wilson(found.top1_agreement, 200)
    assert found.intervals["flip_rate"] == pytest.approx(
        [1 - end for end in reversed(wilson(found.top1_agreement, 200))]
    )
    # All ten values of an example agree, or none does: no more is known than from 200 values.
    flips = np.repeat(random.random(200) < 0.1, 10).reshape(200, 10)
    clustered = summary(np.arange(2000).reshape(200, 10), np.arange(2000).reshape(200, 10) - flips).metrics
    expected = wilson(clustered.exact_match, 200)
    assert clustered.intervals["exact_match"] == pytest.approx(expected, abs=0.02)
    # Nothing differs, so that resampling would show no width at all.
    alike = summary(np.arange(2000).reshape(200, 10), np.arange(2000).reshape(200, 10)).metrics
    assert alike.intervals["exact_match"] == wilson(1.0, 200)


@pytest.mark.parametrize("metric", ["mean_abs_error", "rel_l2_error", "cosine", "p50_abs_error", "p99_abs_error"])
def test_intervals_of_95_percent_hold_the_value_in_about_95_of_100_samples(metric):
    random = np.random.default_rng(0)
    a = random.normal(size=(40_000, 4))
    b = a + random.normal(size=a.shape) * random.gamma(1, size=(len(a), 1))
    truth = getattr(summary(a, b).metrics, metric)
    held = 0
    for start in range(0, 40_000, 400):
        rows = slice(start, start + 400)
        found = compare(a[rows], b[rows], start).summary().metrics
        low, high = found.intervals[metric]
        held += low <= truth <= high
    assert 88 <= held <= 100


def test_no_upper_end_where_the_examples_cannot_tell():
    a = np.random.default_rng(0).normal(size=(400, 1))
    assert summary(a[:367], 2 * a[:367]).metrics.intervals["p99_abs_error"][1] is None
    assert summary(a[:368], 2 * a[:368]).metrics.intervals["p99_abs_error"][1] is not None


def test_no_flip_is_possible_where_the_lead_is_more_than_twice_the_error():
    a = np.float64([[1.0, 0.0, 0.5], [0.0, 2.0, 1.5]])  # the smallest lead is 0.5
    assert summary(a, a + 0.24).no_flip_possible
    assert not summary(a, a + 0.25).no_flip_possible
    assert not summary([[1.0, 1.0]], [[1.0, 1.0]]).no_flip_possible
    # The largest error of any example counts, and a NaN in one model alone is one without bound.
    wide = np.float64([[9.0, 0.0], [1.0, 0.0]])
    assert not summary(wide, wide - [[0.6, 0], [0, 0]]).no_flip_possible
    assert not summary(wide, [[math.nan, 0.0], [1.0, 0.0]]).no_flip_possible
    assert summary(a, a).identical
    assert not summary(a, a + 1e-9).identical


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
    assert stats.summary().examples == 5


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
