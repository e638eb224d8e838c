"""Find the smallest encodings, weight by weight, that hold a budget.

Each weight has a ladder: encodings from the most bytes to the fewest, with the harm that each is expected to do. The
harm of several weights adds up, nearly: rounding errors of different weights are independent, and so are the squares of
what they do to the answers. So all ladders are walked down together, the step that does the least harm per byte saved
first (the greedy solution of the knapsack's relaxation), and what remains is how far: found by bisection, each place
being measured whole, on real answers. Then single steps beyond that place are tried, and at last examples that the
search never saw must confirm what was found; where they do not, steps are taken back until they do.
"""

from __future__ import annotations

import heapq
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

Plan = Mapping[str, str]  # weight -> encoding; "" is as it is
MOST_TRIES = 64  # single steps that are tried in vain beyond the place that bisection found
MOST_AHEAD = 3  # steps of one weight that are tried together after fewer were too much


@dataclass(frozen=True)
class Rung:
    """One encoding of a weight. harm: expected, in any unit that adds up over weights."""

    encoding: str
    bytes: int
    harm: float


@dataclass(frozen=True)
class Step:
    """One weight from a rung of its ladder to the next."""

    weight: str
    encoding: str
    saved: int
    harm: float


@dataclass(frozen=True)
class Judged:
    """What a plan came to. used: the share of the budget; more than 1 breaks it. holds: with the margin asked for."""

    used: float
    holds: bool
    values: Mapping[str, float]


@dataclass(frozen=True)
class Found:
    """The plan, what it came to on both parts of the sample, and what one more step would have.

    measured: plans that were tried. finished: whether there was time for all that was wanted.
    """

    plan: Plan
    search: Judged
    held_out: Judged
    next_step: Step | None
    next_judged: Judged | None
    measured: int
    finished: bool


def ladder(rungs: Sequence[Rung]) -> list[Rung]:
    """The rungs that are worth taking, from the least harm to the fewest bytes: the lower convex hull.

    A rung above the line between two others costs more harm per byte than going past it.
    """
    best: list[Rung] = []
    for rung in sorted(rungs, key=lambda rung: (rung.harm, rung.bytes, rung.encoding)):
        if best and rung.bytes >= best[-1].bytes:
            continue
        while len(best) > 1 and _slope(best[-2], best[-1]) >= _slope(best[-1], rung):
            best.pop()
        best.append(rung)
    return best


def _slope(a: Rung, b: Rung) -> float:
    """Harm per byte saved from one rung to another."""
    return (b.harm - a.harm) / (a.bytes - b.bytes)


def steps(ladders: Mapping[str, Sequence[Rung]]) -> list[Step]:
    """All ladders walked down together, the least harm per byte first; ties by name."""
    waiting = [(_slope(found[0], found[1]), name, 1) for name, found in ladders.items() if len(found) > 1]
    heapq.heapify(waiting)
    order = []
    while waiting:
        _, name, at = heapq.heappop(waiting)
        before, rung = ladders[name][at - 1 : at + 1]
        order.append(Step(name, rung.encoding, before.bytes - rung.bytes, rung.harm - before.harm))
        if at + 1 < len(ladders[name]):
            heapq.heappush(waiting, (_slope(rung, ladders[name][at + 1]), name, at + 1))
    return order


def search(
    ladders: Mapping[str, Sequence[Rung]],
    judge: Callable[[Plan], Judged],
    confirm: Callable[[Plan], Judged],
    *,
    seconds: float = math.inf,
    progress: Callable[[str, int, int], None] = lambda what, done, total: None,
) -> Found:
    """The smallest plan that `judge` finds to hold, and `confirm` too.

    ladders: as `ladder` makes them; the first rung of each is where the walk starts. seconds: after these only what has
    to be confirmed is measured.
    """
    start = time.monotonic()
    order = steps(ladders)
    tried: dict[tuple[tuple[str, str], ...], Judged] = {}

    def late() -> bool:
        return time.monotonic() - start > seconds

    def judged(plan: Plan) -> Judged:
        key = tuple(sorted(plan.items()))
        if key not in tried:
            tried[key] = judge(plan)
        return tried[key]

    low, high = 0, len(order)
    rounds = max(1, high.bit_length())
    while low < high and not late():
        progress("search: how far all weights go together", len(tried), rounds)
        middle = (low + high + 1) // 2
        low, high = (middle, high) if judged(_after(ladders, order[:middle])).holds else (low, middle - 1)
    taken, left = list(order[:low]), list(order[low:])
    vain, before = 0, -1
    # Answers turn round in either direction: what was too much may be little once other weights are rounded too.
    while left and len(taken) != before:
        before = len(taken)
        vainly: dict[str, list[Step]] = {}
        for step in tuple(left):
            if late() or vain >= MOST_TRIES:
                break
            further = [*vainly.get(step.weight, ()), step]
            if len(further) > MOST_AHEAD:
                continue
            progress("search: single weights", vain, MOST_TRIES)
            if judged(_after(ladders, [*taken, *further])).holds:
                taken += further
                left = [other for other in left if other not in further]
                vainly.pop(step.weight, None)
            else:
                vainly[step.weight] = further
                vain += 1
    finished = not late()
    wished = list(taken)
    progress("confirm on examples that the search never saw", 0, 0)
    plan = _after(ladders, taken)
    held_out = confirm(plan)
    back, refused = 1, len(taken)
    while taken and not held_out.holds:
        refused = len(taken)
        taken = taken[: max(0, len(taken) - back)]
        back *= 2
        plan = _after(ladders, taken)
        held_out = confirm(plan)
    # What was taken back too far.
    while refused - len(taken) > 1:
        fewer = wished[: (len(taken) + refused) // 2]
        again = confirm(_after(ladders, fewer))
        if again.holds:
            taken, plan, held_out = fewer, _after(ladders, fewer), again
        else:
            refused = len(fewer)
    following = _following(order, taken)
    next_plan = _after(ladders, [*taken, following]) if following else None
    return Found(
        plan,
        judged(plan),
        held_out,
        following,
        judged(next_plan) if next_plan is not None and (finished or _known(tried, next_plan)) else None,
        len(tried),
        finished,
    )


def _after(ladders: Mapping[str, Sequence[Rung]], taken: Sequence[Step]) -> Plan:
    return {name: found[0].encoding for name, found in ladders.items()} | {s.weight: s.encoding for s in taken}


def _following(order: Sequence[Step], taken: Sequence[Step]) -> Step | None:
    """The first step that was not taken."""
    done = set(taken)
    return next((step for step in order if step not in done), None)


def _known(tried: Mapping[tuple[tuple[str, str], ...], Judged], plan: Plan) -> bool:
    return tuple(sorted(plan.items())) in tried
