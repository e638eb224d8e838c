"""The same verdict on a Flink cluster as in this process, also where a worker is lost half way."""

import json
import os
import shutil
import signal
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from tests.flink.cluster import JARS, cluster
from tests.flink.pausing_model import PAUSED, pausing_model
from tests.validation import tiny_models
from tfslim_core.cli import main
from tfslim_core.errors import UsageError
from tfslim_core.validation import runners
from tfslim_core.validation.job import validate
from tfslim_core.validation.sources import open_dataset, shards

WEIGHTS = np.random.default_rng(5).normal(size=(256, 8)).round(2)


@pytest.fixture(scope="module")
def flink(tmp_path_factory):
    if shutil.which("java") is None:
        pytest.skip("there is no java (Debian: default-jre-headless)")
    if not (JARS / "beam").exists():
        pytest.skip("Flink was not fetched; `make setup` does it where there is Maven (Debian: maven)")
    with cluster(tmp_path_factory.mktemp("flink")) as running:
        yield running


@pytest.fixture
def case(tmp_path):
    """Two models, and data: one file large enough to be shared by two workers, and one with a bad record."""
    tiny_models.linear(tmp_path / "before", WEIGHTS)
    tiny_models.linear(tmp_path / "after", WEIGHTS * 1.001)
    np.savez(tmp_path / "large.npz", x=np.random.default_rng(1).normal(size=(36_000, 256)).astype(np.float32))
    rows = np.random.default_rng(2).normal(size=(200, 256)).round(3).tolist()
    rows[77] = [1.0]
    (tmp_path / "small.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert len(shards(open_dataset("large", str(tmp_path / "large.npz")))) > 2
    return tmp_path


def data(case: Path) -> dict[str, str]:
    return {"large": str(case / "large.npz"), "small": str(case / "small.jsonl")}


def run(case: Path, name: str, **options):
    (case / name).mkdir()
    found = validate(
        case / "before",
        case / "after",
        data(case),
        out=case / name,
        measure_costs=False,
        fail_on_bad_records=0.1,
        **options,
    )
    return found, json.loads((case / name / "verdict.json").read_text())


def remote(flink, case: Path) -> list[str]:
    return [*flink.options(), "--sdk_worker_parallelism=2", f"--temp_location={case / 'shared'}"]


def test_the_command_line_gives_the_same_verdict_on_flink(flink, case, monkeypatch, capsys):
    from tfslim_core.costs import Costs

    monkeypatch.setattr("tfslim_core.validation.job.measure_pair", lambda *_, **__: (Costs(1, None, None, 0, {}),) * 2)
    monkeypatch.chdir(case)
    command = ["validate", "before", "after", "--fail-on-bad-records", "0.1", "--gate", "rel_l2_error<=0.01"]
    for name, path in data(case).items():
        command += ["--data", f"{name}={path}"]
    assert main([*command, "--out", "here"]) == 0
    assert main([*command, "--out", "there", "--", *remote(flink, case)]) == 0
    here, there = (json.loads((case / out / "verdict.json").read_text()) for out in ("here", "there"))
    assert here == there
    assert (there["datasets"]["large"]["examples"], there["datasets"]["small"]["bad_records"]) == (36_000, 1)
    letters = [(case / out / "dead_letters.jsonl").read_text() for out in ("here", "there")]
    assert letters[0] == letters[1]
    assert not list((case / "shared").iterdir()), "results are deleted once they are read"
    assert "Traceback" not in capsys.readouterr().err


def test_nothing_is_lost_or_counted_twice_when_a_worker_is_killed(flink, case):
    killed = []

    def kill():
        note = case / PAUSED
        while not (note.exists() and note.read_text()):
            time.sleep(0.05)
        killed.append((int(note.read_text()), flink.workers()))
        os.kill(killed[0][0], signal.SIGKILL)

    threading.Thread(target=kill, daemon=True).start()
    here, before = run(case, "here")
    there, after = run(case, "there", open_model=pausing_model, beam_options=remote(flink, case))
    assert len(killed) == 1
    assert killed[0][0] in killed[0][1]
    assert len(killed[0][1]) == 2, "two workers shared the work"
    assert before == after
    assert here.worst == there.worst
    assert flink.ask("overview")["jobs-failed"] == 0


def test_options_of_the_job_server_are_known_and_others_are_not(flink):
    options = runners.options_of([*flink.options(), "--latency_tracking_interval=5"])
    assert not runners.in_process(options)
    with pytest.raises(UsageError, match=r"--latency_tracking_intervall: neither .* did you mean '--latency_tracking_"):
        runners.options_of([*flink.options(), "--latency_tracking_intervall=5"])
