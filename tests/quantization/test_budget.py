"""The search against a model of a model: weights whose harm is known, and a budget on the sum."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tfslim_core.quantization.budget import Judged, Rung, ladder, search, steps


def exponential(nbytes, sensitivity):
    """float32, then 8 to 2 bits: each bit less makes the squared error four times as large."""
    rungs = [Rung("", nbytes, 0.0)]
    return ladder([*rungs, *(Rung(f"int{b}", nbytes * b // 32, sensitivity * 4.0 ** (8 - b)) for b in range(8, 1, -1))])


def total(ladders, plan, what):
    return sum(getattr(rung, what) for name, found in ladders.items() for rung in found if rung.encoding == plan[name])


def judging(ladders, allowed, log=None, harms=None):
    def judge(plan):
        if log is not None:
            log.append(dict(plan))
        used = sum((harms or {}).get(name, 0) for name in plan if plan[name]) + total(ladders, plan, "harm")
        return Judged(used / allowed, used <= allowed, {"harm": used})

    return judge


def test_a_ladder_keeps_what_is_on_the_way_down():
    rungs = [
        Rung("", 400, 0),
        Rung("a", 100, 1),
        Rung("b", 200, 0.9),
        Rung("c", 120, 3),
        Rung("d", 50, 5),
        Rung("e", 60, 6),
    ]
    assert [rung.encoding for rung in ladder(rungs)] == ["", "a", "d"]
    assert [rung.encoding for rung in ladder([Rung("", 400, 0), Rung("free", 100, 0)])] == ["free"]
    assert [rung.encoding for rung in ladder([Rung("", 400, 0), Rung("broken", 100, math.inf)])] == ["", "broken"]


def test_steps_go_the_least_harm_per_byte_first_and_down_each_ladder_in_order():
    ladders = {"big": exponential(8000, 1.0), "small": exponential(800, 1.0), "tender": exponential(8000, 100.0)}
    order = steps(ladders)
    slopes = [step.harm / step.saved for step in order]
    assert slopes == sorted(slopes)
    for name, found in ladders.items():
        assert [step.encoding for step in order if step.weight == name] == [rung.encoding for rung in found[1:]]


@settings(max_examples=100, deadline=None, derandomize=True)
@given(
    st.lists(st.tuples(st.integers(500, 10**6), st.floats(1e-6, 1e3)), min_size=1, max_size=12),
    st.floats(1e-4, 1e6),
)
def test_what_is_found_holds_and_is_near_the_smallest(weights, allowed):
    ladders = {f"w{number}": exponential(*weight) for number, weight in enumerate(weights)}
    log = []
    judge = judging(ladders, allowed, log)
    found = search(ladders, judge, judge)
    assert found.search.holds
    assert found.held_out.holds
    assert total(ladders, found.plan, "harm") <= allowed
    assert len(log) < 200
    # No other plan on the ladders does better than the relaxation, which may cut the first step that did not fit.
    left = allowed
    bound = total(ladders, {name: rungs[0].encoding for name, rungs in ladders.items()}, "bytes")
    for step in steps(ladders):
        share = min(1.0, left / step.harm) if step.harm else 1.0
        bound -= step.saved * share
        left -= step.harm * share
        if share < 1:
            break
    largest = max(step.saved for step in steps(ladders))
    assert bound - 1 <= total(ladders, found.plan, "bytes") <= bound + largest + 1
    # One more step would break the budget, or there is none.
    if found.next_step is not None:
        assert not judge({**found.plan, found.next_step.weight: found.next_step.encoding}).holds


def test_single_steps_go_on_where_one_weight_blocks_all():
    """The harm of one weight was thought to be nothing, and is all there may be."""
    ladders = {"liar": exponential(1000, 1e-9), "a": exponential(1000, 1.0), "b": exponential(1000, 1.0)}
    judge = judging(ladders, 50.0, harms={"liar": 1e6})
    found = search(ladders, judge, judge)
    assert found.plan["liar"] == ""
    assert {found.plan["a"], found.plan["b"]} == {"int6"}


def test_a_rung_that_is_too_much_does_not_hide_a_better_one_below():
    """Of few examples, whether one more turns round is chance: less precise may be right again."""
    ladders = {"w": exponential(1000, 1.0), "other": exponential(1000, 1.0)}

    def judge(plan):
        used = {"int6": 2.0, "int5": 0.5, "int4": 2.0, "int3": 2.0, "int2": 0.5}.get(plan["w"], 0.0)
        used += 0.0 if plan["other"] in ("", "int8") else 2.0
        return Judged(used, used <= 1, {})

    found = search(ladders, judge, judge)
    assert found.plan == {"w": "int2", "other": "int8"}
    assert found.measured < 30


def test_what_is_not_confirmed_is_taken_back():
    ladders = {f"w{number}": exponential(1000 + number, 1.0) for number in range(10)}
    found = search(ladders, judging(ladders, 10000.0), judging(ladders, 100.0))
    assert found.held_out.holds
    assert total(ladders, found.plan, "harm") <= 100
    # No further than needed, even when many steps are too much.
    assert total(ladders, found.plan, "harm") > 90
    for allowed in (3.0, 30.0, 300.0, 3000.0):
        asked = []
        some = search(ladders, judging(ladders, 10000.0), judging(ladders, allowed, asked))
        following = {**some.plan, some.next_step.weight: some.next_step.encoding}
        assert some.held_out.holds
        assert total(ladders, following, "harm") > allowed
        assert len(asked) < 16
    nothing = search(ladders, judging(ladders, 10000.0), judging(ladders, 1e-9))
    assert set(nothing.plan.values()) == {""}


def test_when_time_is_up_what_was_found_is_confirmed():
    ladders = {f"w{number}": exponential(1000, 1.0) for number in range(10)}
    found = search(ladders, judging(ladders, 1e6), judging(ladders, 1e6), seconds=-1)
    assert not found.finished
    assert set(found.plan.values()) == {""}
    assert found.held_out.used == 0


def test_a_search_without_weights_finds_nothing_to_do():
    found = search({}, judging({}, 1.0), judging({}, 1.0))
    assert (found.plan, found.next_step, found.finished) == ({}, None, True)


@pytest.mark.parametrize("order", [1, -1])
def test_the_same_is_found_each_time(order):
    weights = {f"w{number}": exponential(1000, 1.0) for number in range(6)}
    ladders = dict(list(weights.items())[::order])
    judge = judging(ladders, 100.0)
    assert search(ladders, judge, judge).plan == search(weights, judge, judge).plan
