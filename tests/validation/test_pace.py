"""How fast it goes and how long it lasts, by a clock of our own."""

from __future__ import annotations

import pytest

from tfslim_core.validation.pace import Pace


class Clock:
    now = 100.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


def test_batches_rate_and_time_left(clock):
    pace = Pace(1000, clock)
    clock.now += 20  # models are loaded
    pace.add(32)
    assert pace.words() == "1 batch"
    for _ in range(5):
        clock.now += 0.1
        pace.add(32)
    assert (pace.examples, pace.batches, pace.total) == (192, 6, 1000)
    # 160 examples in half a second, and 808 are left.
    assert pace.words() == "6 batches, 320 /s, about 3.00 s left"
    assert pace.summary(192) == "192 examples in 6 batches, 20.5 s, 320 /s"


@pytest.mark.parametrize("expected", [None, 0, 50])
def test_no_time_is_left_where_nobody_knows_it(clock, expected):
    pace = Pace(expected, clock)
    for _ in range(3):
        clock.now += 1
        pace.add(32)
    assert pace.total == 0
    assert pace.words() == "3 batches, 32 /s"


def test_the_end_of_a_file_is_no_batch(clock):
    pace = Pace(None, clock)
    pace.add(0)
    assert (pace.batches, pace.words()) == (0, "0 batches")


def test_what_other_processes_did_is_summed_up_without_their_batches(clock):
    pace = Pace(None, clock)
    clock.now += 4
    assert pace.summary(800) == "800 examples, 4.00 s, 200 /s"
