"""Whoever publishes, rolls back or removes may be killed at any moment: every version that a server sees is whole."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from tests import fake_bucket
from tests.fake_bucket import BUCKET
from tests.publishing.test_folder import verdict_on
from tests.saved_models import save_v2
from tfslim_core import buckets, storage
from tfslim_core.buckets import Address
from tfslim_core.publishing import bucket, folder
from tfslim_core.saved_model.server_loader import ServedModel

# The versions that may be seen: three before, one more or less after, and with publishing two old ones less.
CASES = {
    "rollback": [(1, 2, 3), (1, 2)],
    "publish": [(1, 2, 3), (1, 2, 3, 4), (2, 3, 4), (3, 4)],
}


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Models that answer x times 1, 2, …, each with a variable; the n-th version is the n-th of them."""
    made = []
    for factor in range(1, 6):
        module = tf.Module()
        module.factor = tf.Variable(np.full(300, factor, np.float32))
        times = tf.function(lambda x, m=module: {"y": x * m.factor[0]}, [tf.TensorSpec([None], tf.float32, "x")])
        path = save_v2(tmp_path_factory.mktemp("models") / str(factor), module, serving_default=times)
        verdict_on(path).write(path.parent)
        made.append(path)
    return made


_answers: dict[str, int] = {}


def factor_of(version: Path) -> int:
    """What TensorFlow's C++ loader makes of it; it is asked once about the same bytes."""
    digest = storage.digest(version)
    if digest not in _answers:
        _answers[digest] = _loaded(version)
    return _answers[digest]


def _loaded(version: Path) -> int:
    with ServedModel(version) as model:
        return int(model.run("serving_default", {"x": np.ones(1, np.float32)})["y"][0])


def children(case, model, template, out, step=1):
    """What each child left, in the order of its moments."""
    command = [
        sys.executable,
        "-m",
        "tests.publishing.dying",
        case,
        model,
        model.parent / "verdict.json",
        template,
        out,
        step,
    ]
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [*map(str, command)], cwd=root, env={**os.environ, "PYTHONPATH": str(root)}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert [line["killed"] for line in lines] == [True] * (len(lines) - 1) + [False]
    return [line["base"] for line in lines]


@pytest.mark.parametrize("case", CASES)
def test_whoever_dies_on_a_folder_leaves_what_is_served(models, tmp_path, case):
    template = tmp_path / "template"
    for model in models[:3]:
        folder.publish(model, template, verdict_on(model))
    new, later = models[3], models[-1]
    left = children(case, new, template, tmp_path / "out", step=2 if case == "publish" else 1)
    assert len(left) > (8 if case == "rollback" else 60)

    seen = []
    for base in map(Path, left):
        names = sorted(int(path.name) for path in base.iterdir() if path.name.isdigit())
        seen.append(names)
        assert all(factor_of(base / str(name)) == name for name in names)
        listed = [version for version in folder.shelf(base).listing() if not version.rolled_back]
        assert [(one.number, one.complete, one.served) for one in listed] == [(n, True, n == names[-1]) for n in names]
        hidden = base / ".rolled-back-3"
        assert not hidden.exists() or factor_of(hidden) == 3
        assert hidden.exists() == (case == "rollback" and names == [1, 2])
        again = folder.publish(later, base, verdict_on(later), keep=2)
        assert again.version > max(3, *names)
        assert factor_of(base / str(again.version)) == 5
        assert [list((base / ".tfslim" / name).glob("*")) for name in ("staged", "removing")] == [[], []]
        assert len(folder.shelf(base).complete()) == 2
    assert list(dict.fromkeys(map(tuple, seen))) == CASES[case]


@pytest.fixture(scope="module")
def _server():
    with fake_bucket.server():
        yield


@pytest.mark.usefixtures("_server")
@pytest.mark.parametrize("case", CASES)
def test_whoever_dies_on_a_bucket_leaves_what_is_served(models, tmp_path, case):
    template = Address(BUCKET, f"dying/{case}")
    for model in models[:3]:
        bucket.publish(model, template, verdict_on(model))
    new, later = models[3], models[-1]
    known = {}  # what is stored of each model, and what it answers
    for number, model in enumerate(models, 1):
        files = sorted(path for path in model.rglob("*") if path.is_file())
        known[tuple((path.relative_to(model).as_posix(), buckets.crc32c(path)) for path in files)] = number

    seen = []
    left = children(case, new, template, f"gs://{BUCKET}/dying/{case}", step=2 if case == "publish" else 1)
    assert len(left) > 40
    for place in left:
        base = buckets.address_of(place)
        found = buckets.entries(base)
        tops = [name.partition("/") for name in found]
        numbers = sorted(int(top) for top, _, rest in tops if top.isdigit() and rest == "saved_model.pb")
        seen.append(numbers)
        for number in numbers:
            files = {name.partition("/")[2]: e.crc32c for name, e in found.items() if name.startswith(f"{number}/")}
            assert known[tuple(sorted(files.items()))] == number
        if case == "rollback":
            # What it began is finished, and one that came to its end is followed by another.
            half = any(name.startswith("3/") for name in found)
            assert bucket.rollback(base).version == (2 if half else 1)
            hidden = buckets.entries(base / ".tfslim/rolled-back/3")
            assert known[tuple((name, entry.crc32c) for name, entry in sorted(hidden.items()))] == 3
        if len(seen) % 3:
            continue
        again = bucket.publish(later, base, verdict_on(later), keep=2)
        assert again.version > max(3, *numbers)
        assert factor_of(buckets.download(base / str(again.version), tmp_path / base.name)) == 5
        assert len(bucket.shelf(base).complete()) == 2
    assert list(dict.fromkeys(map(tuple, seen))) == CASES[case]
