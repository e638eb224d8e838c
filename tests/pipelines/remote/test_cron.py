from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.remote.cron import parse
from tfslim_core.errors import UsageError

NEW_YEAR = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.mark.parametrize(
    ("expression", "kubeflow", "vertex"),
    [
        ("0 2 * * *", "0 0 2 * * *", "TZ=UTC 0 2 * * *"),
        ("  0  2 * * * ", "0 0 2 * * *", "TZ=UTC 0 2 * * *"),
        ("0 0 2 * * *", "0 0 2 * * *", "TZ=UTC 0 2 * * *"),
        ("@daily", "0 0 0 * * *", "TZ=UTC 0 0 * * *"),
        ("*/15 8-18/2 1,15 jan-MAR mon-fri", "0 */15 8-18/2 1,15 1-3 1-5", "TZ=UTC */15 8-18/2 1,15 1-3 1-5"),
        ("0 2 * * 7", "0 0 2 * * 0", "TZ=UTC 0 2 * * 0"),
        ("0 2 * * 5-7", "0 0 2 * * 0,5,6", "TZ=UTC 0 2 * * 0,5,6"),
        ("0 2 * * 1-7/4", "0 0 2 * * 1,5", "TZ=UTC 0 2 * * 1,5"),
        ("0 2 1 * 7,*/3", "0 0 2 1 * 0,*/3", "TZ=UTC 0 2 1 * 0,*/3"),
        ("5/20 2 ? * *", "0 5-59/20 2 * * *", "TZ=UTC 5-59/20 2 * * *"),
    ],
)
def test_each_platform_gets_its_spelling(expression, kubeflow, vertex):
    assert (parse(expression).kubeflow, parse(expression).vertex) == (kubeflow, vertex)


@pytest.mark.parametrize(
    ("expression", "told"),
    [
        ("", "0 fields"),
        ("* * *", "3 fields"),
        ("1 2 3 4 5 6 7", "7 fields"),
        ("60 2 * * *", "the minute 60 is not from 0 to 59"),
        ("0 24 * * *", "the hour 24 is not from 0 to 23"),
        ("0 2 0 * *", "the day of the month 0 is not from 1 to 31"),
        ("0 2 * foo *", "JAN to DEC"),
        ("0 2 * * 8", "the day of the week 8 is not from 0 to 7"),
        ("0 2 * * FRI-MON", "ends before it begins"),
        ("*/0 2 * * *", "no whole number from 1"),
        ("*/-1 2 * * *", "no whole number from 1"),
        ("? 2 * * *", "the minute cannot be '?'"),
        ("0 2 L * *", "the day of the month 'L' is not understood"),
        ("0 2 * * 5#2", "not understood"),
        ("1,,2 2 * * *", "not understood"),
        ("٣ 2 * * *", "not understood"),
        ("* 0 2 * * *", "the first is one second"),
        ("@reboot", "no such word"),
        ("@dayly", "did you mean '@daily'"),
        ("0 0 31 2 *", "never comes"),
        ("0 0 31 4,6,9,11 *", "never comes"),
    ],
)
def test_what_cannot_be_read_or_never_comes_is_told(expression, told):
    with pytest.raises(UsageError, match=r"--cron .*") as found:
        parse(expression)
    assert told in str(found.value)


def test_the_29_of_february_comes():
    assert parse("0 0 29 2 *").next_times(NEW_YEAR, 1) == [datetime(2028, 2, 29, tzinfo=UTC)]


def test_two_bound_days_are_alternatives_and_a_star_binds_none():
    days = [when.day for when in parse("0 0 13 * fri").next_times(NEW_YEAR, 4)]
    assert days == [2, 9, 13, 16]
    assert parse("0 0 */2 * fri").next_times(NEW_YEAR, 2) == [datetime(2026, 1, d, tzinfo=UTC) for d in (9, 23)]


def test_an_hour_that_the_clocks_skip_does_not_come():
    berlin = ZoneInfo("Europe/Berlin")
    times = parse("30 2 * * *", "Europe/Berlin").next_times(datetime(2026, 3, 28, tzinfo=berlin), 2)
    assert [(when.day, when.hour) for when in times] == [(28, 2), (30, 2)]


def test_time_zones():
    assert parse("0 2 * * *", "Europe/Berlin").vertex == "TZ=Europe/Berlin 0 2 * * *"
    with pytest.raises(UsageError, match="no time zone of its own"):
        _ = parse("0 2 * * *", "Europe/Berlin").kubeflow
    with pytest.raises(UsageError, match="no such time zone"):
        parse("0 2 * * *", "Europe/Nowhere")
    with pytest.raises(UsageError, match="no such time zone"):
        parse("0 2 * * *", "../etc/passwd")


def test_vertex_starts_on_whole_minutes():
    with pytest.raises(UsageError, match="whole minutes"):
        _ = parse("30 0 2 * * *").vertex


@given(st.lists(st.text("0123456789*/-,?LW#adefjlmnorstu", min_size=1, max_size=6), min_size=4, max_size=7))
def test_anything_is_read_or_refused(fields):
    try:
        read = parse(" ".join(fields))
    except UsageError:
        return
    again = parse(read.kubeflow)
    assert (again.kubeflow, again.next_times(NEW_YEAR, 3)) == (read.kubeflow, read.next_times(NEW_YEAR, 3))
