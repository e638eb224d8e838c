"""Graphs with a few bytes changed: they open, or are refused by one of tfslim's own errors; nothing else comes up."""

import random
import shutil

import pytest

from tests.importing.training import adam
from tfslim_core.errors import TfslimError
from tfslim_core.importing import opened


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    return adam(tmp_path_factory.mktemp("trained"))


def broken(content: bytes, seed: int) -> bytes:
    rng = random.Random(seed)
    made = bytearray(content)
    for _ in range(rng.choice([1, 4, 16])):
        made[rng.randrange(len(made))] = rng.randrange(256)
    return bytes(made[: rng.randrange(len(made))] if rng.random() < 0.2 else made)


@pytest.mark.parametrize("suffix", [".meta", ".index"])
def test_changed_bytes_are_an_error_of_ours_or_none(trained, tmp_path, suffix):
    for file in trained.prefix.parent.glob(f"{trained.prefix.name}.*"):
        shutil.copy(file, tmp_path)
    target = tmp_path / f"{trained.prefix.name}{suffix}"
    good = target.read_bytes()
    outcomes = []
    for seed in range(60):
        target.write_bytes(broken(good, seed))
        try:
            with opened(tmp_path / trained.prefix.name):
                outcomes.append("opened")
        except TfslimError as error:
            outcomes.append("refused" if "\n" not in str(error) else str(error))
    assert set(outcomes) <= {"opened", "refused"}
    assert "refused" in outcomes
