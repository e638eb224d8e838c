"""The page on the pipelines shows the parameters that they have."""

from __future__ import annotations

from pipelines.parameters import PAGE, page


def test_the_tables_are_current():
    assert page(PAGE.read_text()) == PAGE.read_text(), "call: python -m pipelines.parameters"
    assert PAGE.read_text().count("| `report_to` |") == 3
