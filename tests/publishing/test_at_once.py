"""Several processes publish, remove and roll back at once."""

from __future__ import annotations

import multiprocessing
import random
import time
from contextlib import suppress

import pytest

from tests import fake_bucket
from tests.fake_bucket import BUCKET
from tests.publishing.test_folder import verdict_on
from tfslim_core import buckets, storage
from tfslim_core.buckets import Address
from tfslim_core.errors import ModelError
from tfslim_core.publishing import bucket, folder

FORK = multiprocessing.get_context("fork")


def _publish(module, model, base, times, keep, numbers):
    buckets._client.cache_clear()
    for _ in range(times):
        numbers.put(module.publish(model, base, verdict_on(model), keep=keep).version)


def _roll_back(module, base, times, hidden):
    buckets._client.cache_clear()
    chance = random.Random(times)
    for _ in range(times):
        time.sleep(chance.random() / 50)
        try:
            module.rollback(base)
            hidden.put(1)
        except ModelError:
            hidden.put(0)


def _at_once(*calls):
    processes = [FORK.Process(target=call[0], args=call[1:]) for call in calls]
    for process in processes:
        process.start()
    return processes


def _all(queue, count):
    return [queue.get(timeout=60) for _ in range(count)]


@pytest.fixture
def models(tmp_path):
    found = []
    for number in range(4):
        one = tmp_path / f"model{number}"
        (one / "variables").mkdir(parents=True)
        (one / "saved_model.pb").write_text(str(number) * 5000)
        (one / "variables/variables.index").write_text(str(number) * 100)
        found.append(one)
    return found


def test_no_number_is_given_twice(models, tmp_path):
    base, numbers = tmp_path / "base", FORK.Queue()
    processes = _at_once(*((_publish, folder, one, base, 15, None, numbers) for one in models))
    found = _all(numbers, 60)
    assert all(process.join() or process.exitcode == 0 for process in processes)
    assert sorted(found) == list(range(1, 61))
    shelf = folder.shelf(base)
    assert shelf.complete() == sorted(found)
    digests = {storage.digest(one) for one in models}
    assert {storage.digest(base / str(number)) for number in found} == digests
    assert all(version.digest == storage.digest(base / str(version.number)) for version in shelf.listing())


def test_a_server_always_finds_a_whole_version(models, tmp_path):
    base, numbers, hidden = tmp_path / "base", FORK.Queue(), FORK.Queue()
    folder.publish(models[0], base, verdict_on(models[0]))
    known = {storage.digest(one) for one in models}
    processes = _at_once(
        *((_publish, folder, one, base, 12, 2, numbers) for one in models),
        *((_roll_back, folder, base, 12, hidden) for _ in range(2)),
    )
    looks = 0
    while any(process.is_alive() for process in processes):
        names = sorted(int(path.name) for path in base.iterdir() if path.name.isdigit())
        assert names
        served = base / str(names[-1])
        with suppress(OSError, ModelError):  # it may be taken back meanwhile
            whole = storage.digest(served) in known
            assert whole or not served.exists()
            looks += whole
    assert looks > 10
    found = [1, *_all(numbers, 48)]
    assert len(set(found)) == 49
    assert sum(_all(hidden, 24)) > 0
    assert folder.shelf(base).complete()


def test_rollbacks_at_once_hide_one_version_each_or_tell(models, tmp_path):
    """From [1, 2, 3] two rollbacks hide 3, and 2 only if the second began when 3 was gone."""
    outcomes = set()
    for number in range(12):
        base, hidden = tmp_path / f"base{number}", FORK.Queue()
        for one in models[:3]:
            folder.publish(one, base, verdict_on(one))
        processes = _at_once(*((_once, base, hidden) for _ in range(2)))
        done = sorted(_all(hidden, 2))
        for process in processes:
            process.join()
        assert folder.shelf(base).complete() == list(range(1, 4 - sum(done)))
        outcomes.add(tuple(done))
    assert outcomes <= {(0, 1), (1, 1)}


def _once(base, hidden):
    try:
        folder.rollback(base)
        hidden.put(1)
    except ModelError as error:
        hidden.put(0 if "another rollback hid version 3 at this moment" in str(error) else 100)


def test_a_bucket_gives_no_number_twice(models):
    with fake_bucket.server():
        base, numbers, hidden = Address(BUCKET, "at/once"), FORK.Queue(), FORK.Queue()
        bucket.publish(models[0], base, verdict_on(models[0]))
        processes = _at_once(
            *((_publish, bucket, one, base, 4, 2, numbers) for one in models),
            (_roll_back, bucket, base, 4, hidden),
        )
        found = [1, *_all(numbers, 16)]
        _all(hidden, 4)
        for process in processes:
            process.join()
        assert len(set(found)) == 17
        assert bucket.shelf(base).complete()
        sums = {storage.size(one) for one in models}
        assert {seen.bytes for seen in bucket.shelf(base).visible.values() if seen.files} <= sums
