"""Numbers for people."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tfslim_core.report import formats


@pytest.mark.parametrize(
    ("form", "value", "text"),
    [
        (formats.number, 0.012345, "0.0123"),
        (formats.number, 9.999, "10"),
        (formats.number, 999.9, "1,000"),
        (formats.number, 1_234_567, "1,230,000"),
        (formats.number, -0.0012, "-0.0012"),
        (formats.number, 4.564e-7, "4.56e-7"),
        (formats.number, 1e-5, "1e-5"),
        (formats.number, 0, "0"),
        (formats.count, 4812, "4,812"),
        (formats.size, 0, "0 B"),
        (formats.size, 999, "999 B"),
        (formats.size, 999_999, "1.00 MB"),
        (formats.size, 31_926_650, "31.9 MB"),
        (formats.size, 2_500_000_000, "2.50 GB"),
        (formats.magnitude, 30_534_000, "30.5 M"),
        (formats.magnitude, 12, "12"),
        (formats.milliseconds, 1.4, "1.40 ms"),
        (formats.milliseconds, 0.0801, "80.1 µs"),
        (formats.milliseconds, 2100, "2.10 s"),
        (formats.seconds, 0, "0 s"),
        (formats.seconds, 0.9996, "1.00 s"),
        (formats.seconds, 125, "2 min 5 s"),
        (formats.share, 1, "100 %"),
        (formats.share, 0, "0 %"),
        (formats.share, 0.9928, "99.28 %"),
        (formats.share, 0.98996, "98.99 %"),
        (formats.share, 0.29, "29 %"),
        (formats.share, 0.5, "50 %"),
        (formats.share, 0.999876, "99.987 %"),
        (formats.share, 0.00004, "0.004 %"),
        (formats.share, 1e-9, "1e-7 %"),
        (formats.share, 0.9999, "99.99 %"),
        (formats.share, 1 - 1e-12, "< 100 %"),
        (formats.ratio, 0.0655, "0.066×"),
        (formats.ratio, 1.0402, "1.04×"),
    ],
)
def test_formats(form, value, text):
    assert form(value) == text


@pytest.mark.parametrize(
    "form",
    [
        formats.number,
        formats.count,
        formats.size,
        formats.magnitude,
        formats.milliseconds,
        formats.seconds,
        formats.share,
        formats.ratio,
    ],
)
@pytest.mark.parametrize("value", [None, math.nan, math.inf, -math.inf])
def test_what_is_missing_is_a_dash(form, value):
    assert form(value) == "–"


def test_a_value_is_told_from_its_bound():
    assert formats.against(0.98996, 0.99) == "0.98996"
    assert formats.against(0.9928, 0.99) == "0.9928"
    assert formats.against(0.99, 0.99) == "0.99"
    assert formats.against(None, 0.99) == "–"


@settings(max_examples=200, derandomize=True)
@given(st.floats(allow_nan=False, allow_infinity=False), st.floats(allow_nan=False, allow_infinity=False))
def test_unequal_never_reads_as_equal(value, bound):
    assert (formats.against(value, bound) == formats.against(bound, bound)) <= (value == bound)


@settings(max_examples=200, derandomize=True)
@given(st.floats(min_value=0, max_value=1, exclude_max=True))
def test_less_than_all_never_reads_as_all(value):
    assert formats.share(value) != "100 %"
