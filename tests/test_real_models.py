"""Real models and Keras ones through all stages: equal answers, and what each transform did, in a golden file.

`python -m tests.real_models_golden` renews the golden file; its diff is the review.
"""

from __future__ import annotations

import json

import pytest

from tests import real_models
from tests.real_models import GOLDEN, MODELS, measured

RENEW = "if this is meant, call: python -m tests.real_models_golden"


@pytest.fixture(scope="module")
def golden():
    return json.loads(GOLDEN.read_text())


def test_the_golden_file_has_every_model(golden):
    assert list(golden) == list(MODELS), RENEW


@pytest.mark.parametrize("name", MODELS)
def test_answers_are_equal_and_the_model_is_as_small_as_it_was(name, golden, tmp_path):
    found = measured(name, tmp_path)
    assert found.error <= real_models.TOLERANCE
    assert found.varies, "an output that is one number over and over proves nothing"
    wanted = golden[name]
    line = found.line()
    assert found.error <= 10 * wanted["worst error at most"], RENEW  # machines round differently
    for key in wanted.keys() - {"worst error at most", "bytes"}:
        assert line[key] == wanted[key], f"{key}: {RENEW}"
    for before, after in zip(wanted["bytes"], line["bytes"], strict=True):
        assert after == pytest.approx(before, rel=0.001), RENEW
