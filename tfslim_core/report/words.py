"""The verdict in plain words."""

from __future__ import annotations

import math

from tfslim_core.report.formats import count
from tfslim_core.verdict import Check, Outcome, Verdict

NAMES: dict[Outcome, str] = {"pass": "Pass", "fail": "Fail", "inconclusive": "Inconclusive"}


def sentence(verdict: Verdict) -> str:
    """What the verdict means and whether the optimized model may be published."""
    examples = sum(dataset.examples for dataset in verdict.datasets.values())
    broken = sum(result(check) == "broken" for check in verdict.checks)
    if verdict.verdict == "pass":
        seen = f" on {_counted(examples, 'example')}" if examples else ""
        return f"The optimized model stayed within every limit{seen} and may be published."
    if verdict.verdict == "fail":
        what = f"broke {broken} of {_counted(len(verdict.checks), 'limit')}" if broken else "did not pass"
        return f"The optimized model {what} and must not be published."
    return "Nothing was proven either way, so the optimized model must not be published yet."


def result(check: Check) -> str:
    """How one check ended: held, broken, undecided where it proves nothing, or no value where there was nothing to
    compare.
    """
    if check.value is None or math.isnan(check.value):
        return "no value"
    if check.undecided:
        return "undecided"
    return "held" if check.passed else "broken"


def _counted(number: int, noun: str) -> str:
    return f"{count(number)} {noun}{'' if number == 1 else 's'}"
