"""Publishing into a bucket: what a server sees is always a whole version, whatever happens to the publisher."""

from __future__ import annotations

import itertools
import json
import threading

import pytest
import requests

from tests import fake_bucket
from tests.fake_bucket import BUCKET
from tests.test_publishing import verdict_on
from tfslim_core import api, bucket_publishing, buckets, storage
from tfslim_core.buckets import Address
from tfslim_core.errors import GateFailedError, ModelError, StorageError

_names = itertools.count()


@pytest.fixture(scope="module", autouse=True)
def _server():
    with fake_bucket.server():
        yield


@pytest.fixture
def base():
    return Address(BUCKET, f"served/{next(_names)}")


@pytest.fixture
def model(tmp_path):
    folder = tmp_path / "slim"
    (folder / "variables").mkdir(parents=True)
    (folder / "saved_model.pb").write_bytes(b"model")
    for name in ("variables.index", "variables.data-00000-of-00001"):
        (folder / "variables" / name).write_bytes(name.encode() * 100)
    return folder


def _publish(model, base):
    return bucket_publishing.publish(model, base, verdict_on(model))


def _seen(base):
    """The versions that a server can load."""
    return sorted(bucket_publishing._visible(buckets.entries(base)))


def _digest(base, version, folder):
    return storage.digest(buckets.download(base / str(version), folder / f"{base.name.replace('/', '-')}-{version}"))


def test_versions_grow_and_come_back(model, base, tmp_path):
    first = _publish(model, base)
    (model / "saved_model.pb").write_bytes(b"another")
    second = _publish(model, base)

    assert (first.path, first.version, second.version) == (f"{base}/1", 1, 2)
    assert _digest(base, 2, tmp_path) == storage.digest(model)
    assert _seen(base) == [1, 2]
    assert bucket_publishing.rollback(base).version == 1
    assert _seen(base) == [1]
    assert not [name for name in buckets.entries(base) if name.startswith("2/")]
    assert ".tfslim/rolled-back/2/saved_model.pb" in buckets.entries(base)
    with pytest.raises(ModelError, match="has 1 version: nothing to roll back to"):
        bucket_publishing.rollback(base)
    assert _publish(model, base).version == 3  # 2 is never used again
    assert not [name for name in buckets.entries(base) if "staged" in name]


def test_only_what_passed_is_published(model, base):
    with pytest.raises(GateFailedError):
        bucket_publishing.publish(model, base, verdict_on(model, "fail"))
    with pytest.raises(ModelError, match="is not the model that was validated"):
        bucket_publishing.publish(model, base, verdict_on(model, digest="0" * 64))
    assert not buckets.entries(base)


def test_publishers_at_once_take_different_numbers(model, base, tmp_path):
    made, errors = [], []

    def work():
        try:
            made.append(_publish(model, base).version)
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=work) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert not errors
    assert sorted(made) == [1, 2, 3, 4, 5, 6]
    assert all(_digest(base, version, tmp_path) == storage.digest(model) for version in made)


class _Died(BaseException):
    """The publisher is gone: from here on nothing it does arrives."""


def _dying(monkeypatch, after):
    """Let so many requests through; whether the last one was the end is told by what comes back."""
    count = itertools.count(1)
    real = requests.Session.request

    def request(self, *args, **kwargs):
        if next(count) > after:
            raise _Died
        return real(self, *args, **kwargs)

    monkeypatch.setattr(requests.Session, "request", request)


@pytest.mark.parametrize("after", range(50))
def test_a_publisher_that_dies_leaves_what_is_served(model, base, tmp_path, after):
    _publish(model, base)
    before = storage.digest(model)
    (model / "saved_model.pb").write_bytes(b"another")
    with pytest.MonkeyPatch.context() as patch:
        _dying(patch, after)
        try:
            _publish(model, base)
            died = False
        except _Died:
            died = True

    seen = _seen(base)
    assert seen in ([1], [1, 2])
    assert died or seen == [1, 2]
    assert _digest(base, 1, tmp_path) == before
    if seen == [1, 2]:
        assert _digest(base, 2, tmp_path) == storage.digest(model)
    next_one = _publish(model, base)
    assert next_one.version > seen[-1]
    assert _digest(base, next_one.version, tmp_path) == storage.digest(model)


def test_the_points_of_death_are_in_the_middle(model, base):
    """The 50 requests above end before publishing does or just at its end, so that the deaths are spread over it."""
    count = itertools.count()
    real = requests.Session.request
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(requests.Session, "request", lambda *a, **k: (next(count), real(*a, **k))[1])
        _publish(model, base)
    assert 15 < next(count) < 60


@pytest.mark.parametrize("cuts", [[500], [3000, 6000], [9000]])
def test_connections_that_break_do_not_matter(model, base, tmp_path, cuts):
    port = int(buckets.os.environ["STORAGE_EMULATOR_HOST"].rpartition(":")[2])
    with fake_bucket.Proxy(port, cuts) as proxy:
        fake_bucket.use(proxy.port)
        done = _publish(model, base)
    fake_bucket.use(port)

    assert proxy.broken
    assert (done.version, _seen(base)) == (1, [1])
    assert _digest(base, 1, tmp_path) == storage.digest(model)


def test_a_storage_that_is_gone_half_way_leaves_what_is_served(model, base, monkeypatch):
    _publish(model, base)
    real, count = buckets.copy, itertools.count()

    def failing(source, target):
        if next(count) == 1:
            raise StorageError("the line went dead")
        real(source, target)

    monkeypatch.setattr(buckets, "copy", failing)
    with pytest.raises(StorageError, match="went dead"):
        _publish(model, base)
    assert {name.split("/")[0] for name in buckets.entries(base)} == {"1", ".tfslim"}
    assert not [name for name in buckets.entries(base) if "staged" in name]


def test_what_the_dead_left_is_cleaned_up_later(model, base, monkeypatch):
    with pytest.MonkeyPatch.context() as patch:
        _dying(patch, 17)
        with pytest.raises(_Died):
            _publish(model, base)
    left = {name for name in buckets.entries(base) if not name.startswith(".tfslim/claims")}
    assert left
    monkeypatch.setattr(bucket_publishing, "_ABANDONED", -1.0)

    assert _publish(model, base).version == 2
    assert not left & buckets.entries(base).keys()


def test_the_api_takes_addresses(model, base, tmp_path):
    verdict_on(model).write(tmp_path)
    buckets.upload(model, base / "new/model")
    buckets.upload(tmp_path / "verdict.json", base / "new/verdict.json")

    done = api.publish(f"{base}/new/model", f"{base}/live", verdict=f"{base}/new/verdict.json")
    api.publish(f"{base}/new/model", f"{base}/live", verdict=f"{base}/new/verdict.json")

    assert str(done.path) == f"{base}/live/1"
    assert str(api.rollback(f"{base}/live").path) == f"{base}/live/1"
    assert json.loads(buckets.download(base / "new/verdict.json", tmp_path / "x").read_text())["verdict"] == "pass"
