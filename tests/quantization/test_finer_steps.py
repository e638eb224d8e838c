"""Which steps may take as many bytes as are looked for, told without encoding anything."""

from __future__ import annotations

import numpy as np
import pytest

from tfslim_core import encodings
from tfslim_core.quantization.budget import Rung
from tfslim_core.quantization.finer_steps import between
from tfslim_core.weights import in_memory


def size(value, name):
    return encodings.encoded(in_memory(value), name, encodings.Sharing((0,))).stored_bytes


@pytest.mark.parametrize("degrees", [3, 30])
def test_every_step_between_two_sizes_is_found(degrees):
    value = np.random.default_rng(0).standard_t(degrees, (500, 400)).astype(np.float32)
    steps = [name for name in encodings.ENCODINGS if "." in name]
    sizes = {f"{name}/tensor": size(value, f"{name}/tensor") for name in steps}
    for least, most in ((60_000, 90_000), (120_000, 121_000), (0, 50_000)):
        found = between(in_memory(value), Rung("int4", least, 1.0), Rung("int5", most, 0.5))
        wanted = [name for name, taken in sizes.items() if least < taken < most]
        assert set(wanted) <= set(found)
        assert len(found) <= len(wanted) + 3
        assert found == sorted(found, key=lambda name: -sizes[name])


@pytest.mark.parametrize(
    "value", [np.zeros((40, 50)), np.zeros((0, 50)), np.ones((1, 1))], ids=["zeros", "empty", "one"]
)
def test_what_has_no_steps_has_none_between(value):
    assert between(in_memory(value.astype(np.float32)), Rung("int4", 100, 1.0), Rung("int5", 200, 0.5)) == []


def test_between_steps_for_each_input_there_are_such():
    value = in_memory(np.ones((1, 1), np.float32))
    assert between(value, Rung("int4/input", 100, 1.0), Rung("int5/input", 200, 0.5)) == [
        "int4.75/input",
        "int4.5/input",
        "int4.25/input",
    ]
    assert between(value, Rung("int4/tensor", 100, 1.0), Rung("int5/input", 200, 0.5)) == []
