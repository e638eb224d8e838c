"""Ratios of costs, and what noise makes of them."""

from __future__ import annotations

import numpy as np
import pytest

from tfslim_core.cost_ratios import METRICS, cost_ratios, ratio_of
from tfslim_core.costs import Costs, Rounds
from tfslim_core.gate import evaluate, parse
from tfslim_core.verdict import CostRatio, ModelCosts, Models


def costs(loads=(), firsts=(), peaks=(), **requests):
    by_batch = {int(batch.removeprefix("b")): rounds for batch, rounds in requests.items()}
    return Costs(1, 1, None, 1, {}, {}, Rounds(loads, firsts, peaks, by_batch))


def named(ratios):
    return {(ratio.metric, ratio.batch): ratio for ratio in ratios}


def models(*ratios, size=(100, 50)):
    original, optimized = (ModelCosts(bytes=one, load_seconds=None, peak_rss_bytes=None, digest="0") for one in size)
    return Models(original=original, optimized=optimized, ratios=list(ratios))


def ratio(value, interval, metric="latency_ratio", batch="1", rounds=10):
    return CostRatio(metric=metric, batch=batch, value=value, interval=interval, rounds=rounds)


def test_a_ratio_is_the_median_over_rounds():
    random = np.random.default_rng(1)
    old, new = (random.lognormal(sigma=0.3, size=(7, 41)).tolist() for _ in range(2))
    found = named(cost_ratios(costs(b8=old), costs(b8=new)))
    each = np.median(new, 1) / np.median(old, 1)
    assert found["latency_ratio", "8"].value == pytest.approx(np.median(each))
    assert found["latency_ratio", "8"].interval == pytest.approx((each.min(), each.max()))
    assert found["throughput_ratio", "8"].value == pytest.approx(np.median(np.mean(old, 1) / np.mean(new, 1)))
    assert found["latency_ratio_p99", "8"].value == pytest.approx(np.percentile(new, 99) / np.percentile(old, 99))
    for one in found.values():
        assert one.interval[0] <= one.value <= one.interval[1]
        assert one.rounds == 7


@pytest.mark.parametrize(("rounds", "left_out"), [(1, 0), (3, 0), (5, 0), (8, 0), (9, 1), (10, 1), (20, 5), (40, 13)])
def test_so_many_ratios_are_left_out_at_either_end(rounds, left_out):
    """The tables of the sign test: the interval of a median of n is from the (left_out + 1)th value."""
    loads = [float(number) for number in range(1, rounds + 1)]
    (one,) = cost_ratios(costs([1.0] * rounds), costs(loads))
    assert one.interval == ((loads[left_out], loads[-1 - left_out]) if rounds > 1 else None)


@pytest.mark.parametrize("metric", ["latency_ratio", "throughput_ratio", "latency_ratio_p99"])
def test_the_interval_holds_the_truth_about_as_often_as_it_says(metric):
    """Requests of one round are alike, and rounds are not: only rounds tell the noise."""
    random = np.random.default_rng(2)
    truth = 1 / 1.1 if metric == "throughput_ratio" else 1.1
    held = 0
    for _ in range(60):
        shared = random.lognormal(sigma=0.3, size=(20, 1))  # what the machine does to both
        old, new = (
            (shared * random.lognormal(sigma=0.05, size=(20, 1)) * random.lognormal(sigma=0.02, size=(20, 9)))
            for _ in range(2)
        )
        one = named(cost_ratios(costs(b1=old.tolist()), costs(b1=(1.1 * new).tolist())))[metric, "1"]
        held += one.interval[0] <= truth <= one.interval[1]
    assert held >= 53


def test_what_hits_both_models_alike_is_no_noise():
    loads = [1.0, 3.0, 9.0, 2.0, 5.0]
    one = named(cost_ratios(costs(loads), costs([2 * load for load in loads])))["load_ratio", None]
    assert (one.value, one.interval, one.rounds) == (2, (2, 2), 5)


def test_the_same_measurements_give_the_same_interval():
    pair = costs([1, 2, 1.5], b1=[[1, 2], [1.5, 1.1]]), costs([1.2, 2, 1], b1=[[1, 2.5], [1.3, 1]])
    assert cost_ratios(*pair) == cost_ratios(*pair)


def test_one_round_has_no_interval_and_nothing_measured_no_ratio():
    assert named(cost_ratios(costs(b1=[[2.0]]), costs(b1=[[3.0]])))["latency_ratio", "1"].interval is None
    assert cost_ratios(costs(), costs()) == []
    assert cost_ratios(costs([0.0]), costs([1.0])) == []


def test_the_worst_batch_size_counts_and_its_interval_is_that_of_the_worst():
    found = models(ratio(0.9, (0.8, 1.2)), ratio(1.0, (0.97, 1.03), batch="32"))
    assert ratio_of("latency_ratio", found) == (1.0, (0.97, 1.2), 10)
    speeds = [ratio(1.1, (0.9, 1.2), "throughput_ratio"), ratio(1.0, (0.95, 1.05), "throughput_ratio", "32")]
    assert ratio_of("throughput_ratio", models(*speeds)) == (1.0, (0.9, 1.05), 10)


@pytest.mark.parametrize(
    ("gate", "outcome", "passed"),
    [
        ("latency_ratio<=1.2", "pass", True),
        ("latency_ratio<=1.02", "inconclusive", True),
        ("latency_ratio<=0.98", "inconclusive", False),
        ("latency_ratio<=0.9", "fail", False),
        ("latency_ratio>=0.9", "pass", True),
        ("latency_ratio>=1.2", "fail", False),
        ("size_ratio<=0.5", "pass", True),
        ("size_ratio<=0.4", "fail", False),
    ],
)
def test_a_bound_within_the_noise_is_inconclusive(gate, outcome, passed):
    found = evaluate([parse(gate)], {}, models(ratio(1.0, (0.95, 1.05))))
    told = [reason for reason in found.reasons if "No data" not in reason]
    (check,) = found.checks
    assert (check.passed, check.undecided) == (passed, outcome == "inconclusive")
    assert found.outcome == ("fail" if outcome == "fail" else "inconclusive")  # there is no data
    assert bool(told) == (outcome != "pass")
    if gate.startswith("latency"):
        assert check.interval == (0.95, 1.05)
    if outcome == "inconclusive":
        assert "noise of 10 rounds it may be anything from 0.95 to 1.05" in told[0]


def test_a_gate_may_name_every_ratio():
    assert {parse(f"{metric}<=1").metric for metric in METRICS} == set(METRICS)
    for metric in set(METRICS) - {"size_ratio"}:
        assert "has no value" in " ".join(evaluate([parse(f"{metric}<=1")], {}, models()).reasons)
