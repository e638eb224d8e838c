"""Numbers for people. Every function shows what is missing, NaN or infinite as a dash."""

from __future__ import annotations

import math
from decimal import ROUND_DOWN, Decimal

DASH = "–"


def known(value: float | None) -> bool:
    """Whether there is a number to show."""
    return value is not None and math.isfinite(value)


def number(value: float | None, digits: int = 3) -> str:
    """At most `digits` significant digits, thousands grouped: 0.0123, 1,230,000, 4.56e-7."""
    if value is None or not math.isfinite(value):
        return DASH
    if value != 0 and not 1e-4 <= abs(value) < 1e15:
        mantissa, _, exponent = f"{value:.{digits - 1}e}".partition("e")
        return f"{_trimmed(mantissa)}e{int(exponent)}"
    return _trimmed(_significant(value, digits))


def count(value: float | None) -> str:
    """A whole number, thousands grouped."""
    return f"{round(value):,}" if value is not None and math.isfinite(value) else DASH


def size(value: float | None) -> str:
    """Bytes in decimal units, as disks and servers count: 31.8 MB."""
    return _scaled(value, (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)), f"{count(value)} B")


def magnitude(value: float | None) -> str:
    """A large count in short: 30.7 M."""
    return _scaled(value, (("G", 1e9), ("M", 1e6), ("k", 1e3)), count(value))


def milliseconds(value: float | None) -> str:
    """A latency given in milliseconds: 1.40 ms, 80.1 µs, 2.10 s."""
    return seconds(value / 1e3) if value is not None else DASH


def seconds(value: float | None) -> str:
    """A duration given in seconds, in the unit that fits it: 640 ms, 3.20 s, 2 min 5 s."""
    if value is None or not math.isfinite(value):
        return DASH
    if value >= 90:
        minutes, rest = divmod(round(value), 60)
        return f"{minutes:,} min {rest} s"
    return _scaled(value, (("s", 1.0), ("ms", 1e-3), ("µs", 1e-6)), "0 s")


def share(value: float | None) -> str:
    """A part of one as per cent, rounded down, so that 98.996 % agreement never reads as 99 %, nor 99.9996 % as all."""
    if value is None or not math.isfinite(value):
        return DASH
    exact = Decimal(repr(float(value))) * 100
    for decimals in range(2 if value > 0.9 else 1, 7):
        floor = exact.quantize(Decimal(1).scaleb(-decimals), ROUND_DOWN)
        # Where little is missing, that little is what one wants to know.
        if floor == exact or (floor != 0 and 100 - exact > Decimal(2).scaleb(-decimals)):
            return f"{_trimmed(f'{floor:f}')} %"
    return f"{number(value * 100)} %" if value < 0.5 else "< 100 %"


def ratio(value: float | None) -> str:
    """After over before: 0.065×."""
    return f"{number(value, 2 if value is not None and value < 0.1 else 3)}×" if known(value) else DASH


def signed(value: float | None) -> str:
    """A difference: +0.0032, −0.0012, 0."""
    text = number(abs(value) if value is not None else None)
    return text if value is None or text in (DASH, "0") else f"{'+' if value > 0 else '−'}{text}"


def per_second(value: float | None) -> str:
    """How many examples a second: 823 /s, 12.3 k/s."""
    if value is None or not math.isfinite(value):
        return DASH
    return f"{number(value)} /s" if value < 1e4 else f"{magnitude(value)}/s"


def against(value: float | None, bound: float) -> str:
    """A value that is read beside a bound, with as many digits as it takes to tell the two apart."""
    if value is None or not math.isfinite(value) or value == bound:
        return number(value, 6)
    for digits in range(4, 17):
        text = number(value, digits)
        if text != number(bound, digits):
            return text
    return repr(value)


def _significant(value: float, digits: int) -> str:
    if value == 0:
        return "0"
    # The exponent of the rounded value: 9.999 has two digits before the point once it is rounded.
    decimals = digits - 1 - int(f"{value:.{digits - 1}e}".partition("e")[2])
    return f"{round(value, decimals):,.{max(decimals, 0)}f}"


def _trimmed(text: str) -> str:
    return text.rstrip("0").rstrip(".") if "." in text else text


def _scaled(value: float | None, units: tuple[tuple[str, float], ...], less: str) -> str:
    """Three digits; trailing zeros stay, since they were measured. `less` is shown below the least unit."""
    if value is None or not math.isfinite(value):
        return DASH
    for unit, one in units:
        # From where three digits would round to the next unit: 999.9 kB is 1.00 MB.
        if abs(value) >= one * 0.9995:
            return f"{_significant(value / one, 3)} {unit}"
    return less
