"""Publishing into a bucket: what a server sees is always a whole version, whatever happens to the publisher."""

from __future__ import annotations

import itertools
import json
import threading

import pytest
import requests

from tests import fake_bucket
from tests.fake_bucket import BUCKET
from tests.publishing.test_folder import verdict_on
from tfslim_core import api, buckets, storage
from tfslim_core.buckets import Address
from tfslim_core.errors import GateFailedError, ModelError, StorageError
from tfslim_core.publishing import bucket

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
    return bucket.publish(model, base, verdict_on(model))


def _seen(base):
    """The versions that a server can load."""
    return sorted(bucket.shelf(base).complete())


def _digest(base, version, folder):
    return storage.digest(buckets.download(base / str(version), folder / f"{base.name.replace('/', '-')}-{version}"))


def test_versions_grow_and_come_back(model, base, tmp_path):
    first = _publish(model, base)
    (model / "saved_model.pb").write_bytes(b"another")
    second = _publish(model, base)

    assert (first.path, first.version, second.version) == (f"{base}/1", 1, 2)
    assert _digest(base, 2, tmp_path) == storage.digest(model)
    assert _seen(base) == [1, 2]
    assert bucket.rollback(base).version == 1
    assert _seen(base) == [1]
    assert not [name for name in buckets.entries(base) if name.startswith("2/")]
    assert ".tfslim/rolled-back/2/saved_model.pb" in buckets.entries(base)
    with pytest.raises(ModelError, match="has 1 version: nothing to roll back to"):
        bucket.rollback(base)
    again = _publish(model, base)  # 2 is never used again
    assert (again.version, again.notes) == (3, ("exactly this model was taken back as version 2",))
    assert not [name for name in buckets.entries(base) if "staged" in name]


def test_only_what_passed_is_published(model, base):
    with pytest.raises(GateFailedError):
        bucket.publish(model, base, verdict_on(model, "fail"))
    with pytest.raises(ModelError, match="is not the model that was validated"):
        bucket.publish(model, base, verdict_on(model, digest="0" * 64))
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
    monkeypatch.setattr(bucket, "_ABANDONED", -1.0)
    monkeypatch.setattr(bucket, "_UPLOAD_ABANDONED", -1.0)

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


def test_only_so_many_versions_are_kept(model, base):
    verdict = verdict_on(model)
    removed = [bucket.publish(model, base, verdict, keep=2).removed for _ in range(3)]
    assert removed == [(), (), (1,)]
    bucket.rollback(base)
    for _ in range(3):
        bucket.publish(model, base, verdict, keep=2)
    assert _seen(base) == [5, 6]
    left = {name.split("/")[0] for name in buckets.entries(base)}
    assert left == {".tfslim", "5", "6"}
    kinds = {name.split("/")[1] for name in buckets.entries(base) if name.startswith(".tfslim")}
    assert kinds == {"claims"}  # neither what was taken back nor a mark is left


def test_a_rollback_may_name_the_version_to_go_back_to(model, base):
    for _ in range(4):
        _publish(model, base)
    for _ in range(2):
        assert bucket.rollback(base, to=2).version == 2
        assert _seen(base) == [1, 2]


def test_what_was_published_is_listed(model, base):
    _publish(model, base)
    _publish(model, base)
    buckets.upload(model / "saved_model.pb", base / "0007/saved_model.pb")
    buckets.upload(model / "saved_model.pb", base / "8/variables/half")
    buckets.upload(model / "saved_model.pb", base / "9")
    buckets.upload(model / "saved_model.pb", base / "notes/10/saved_model.pb")
    bucket.rollback(base, to=7)
    bucket.rollback(base)
    found = {one.number: one for one in api.versions(str(base))}
    assert list(found) == [1, 2, 7, 8, 9]
    assert [one.number for one in found.values() if one.served] == [2]
    assert [one.number for one in found.values() if one.rolled_back] == [7, 8, 9]
    assert (found[2].digest, found[2].bytes, found[2].verdict) == (storage.digest(model), storage.size(model), "pass")
    assert found[2].path == f"{base}/2"
    assert found[7].path == f"{base}/.tfslim/rolled-back/0007"
    assert _publish(model, base).version == 10


def test_a_tflite_model_is_a_version_too(model, base):
    (model / "saved_model.pb").rename(model / "model.tflite")
    for _ in range(2):
        _publish(model, base)
    assert _seen(base) == [1, 2]
    assert bucket.rollback(base).version == 1


def test_a_version_that_is_being_published_is_left_alone(model, base):
    for _ in range(3):
        _publish(model, base)
    buckets.delete([base / "3/saved_model.pb"])  # as it is a moment before it is whole
    (listed,) = [one for one in api.versions(str(base)) if one.number == 3]
    assert "it is being published" in listed.problem
    assert bucket.rollback(base).version == 1  # 2 is what is served
    assert "3/variables/variables.index" in buckets.entries(base)


@pytest.mark.parametrize("cuts", [[400, 2500], [6000, 9000, 12000]])
def test_broken_connections_do_not_matter_to_a_rollback(model, base, tmp_path, cuts):
    for _ in range(3):
        _publish(model, base)
    port = int(buckets.os.environ["STORAGE_EMULATOR_HOST"].rpartition(":")[2])
    with fake_bucket.Proxy(port, cuts) as proxy:
        fake_bucket.use(proxy.port)
        done = bucket.rollback(base)
        kept = bucket.publish(model, base, verdict_on(model), keep=2)
    fake_bucket.use(port)

    assert proxy.broken == len(cuts)
    assert (done.version, kept.version, kept.removed) == (2, 4, (1,))
    assert _seen(base) == [2, 4]
    assert _digest(base, 4, tmp_path) == storage.digest(model)


def test_a_model_in_the_base_is_refused(model, base):
    buckets.upload(model, base / "new/model")
    with pytest.raises(ModelError, match="are one inside the other"):
        api.publish(f"{base}/new/model", f"{base}/new", verdict=verdict_on(model))
    assert not [name for name in buckets.entries(base) if ".tfslim" in name]


def test_objects_that_consoles_make_for_folders_go_with_them(model, base):
    """A server lists BASE/3/ as version 3 while any object of that prefix is there, "BASE/3/" itself too."""
    for _ in range(3):
        _publish(model, base)
    own = (".tfslim/", ".tfslim/staged/", ".tfslim/removed/", ".tfslim/claims/")
    for name in ("", "1/", "3/", "3/variables/", "7/", *own):
        buckets._client().bucket(BUCKET).blob(f"{base.name}/{name}").upload_from_string(b"")

    assert [one.problem for one in api.versions(str(base)) if one.number == 7] == ["it holds no saved_model.pb"]
    assert [bucket.rollback(base).version for _ in range(2)] == [3, 2]
    done = bucket.publish(model, base, verdict_on(model), keep=2)

    assert (done.version, done.removed) == (8, (1,))
    tops = {name.split("/")[0] for name in buckets.entries(base)}
    assert {top for top in tops if top.isdigit()} == {"2", "8"}


def test_a_version_that_is_half_removed_is_told_as_such(model, base):
    for _ in range(3):
        _publish(model, base)
    buckets.claim(base / ".tfslim/removed/1.token", "")
    buckets.delete([base / "1/saved_model.pb"])
    assert api.versions(str(base))[0].problem == "it is being removed"


def test_files_are_copied_several_at_once_and_what_makes_them_a_model_last(model, base, monkeypatch):
    """While they are copied, a server that starts serves nothing."""
    (model / "variables/variables.data-00000-of-00001").unlink()
    (model / "assets.extra").mkdir()
    (model / "assets.extra/x").write_text("x")
    real, both, order = buckets.copy, threading.Barrier(2, timeout=20), []

    def copied(source, target):
        if not target.name.endswith("saved_model.pb"):
            both.wait()  # for the other one
        real(source, target)
        order.append(target.name.rpartition("/")[2])

    monkeypatch.setattr(buckets, "copy", copied)
    assert _publish(model, base).version == 1
    assert order[-1] == "saved_model.pb"
    assert bucket.rollback(base, to=_publish(model, base).version - 1).version == 1
    assert order[-1] == "saved_model.pb"
