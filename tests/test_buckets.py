"""Copies from and to a real storage server, whose connections are broken on the way."""

from __future__ import annotations

import glob
import os
import resource
from pathlib import Path

import numpy as np
import pytest

from tests import fake_bucket
from tests.fake_bucket import BUCKET
from tfslim_core import buckets
from tfslim_core.buckets import Address, address_of
from tfslim_core.errors import OutputExistsError, StorageError


@pytest.fixture(scope="module")
def port():
    with fake_bucket.server() as running:
        yield running


@pytest.fixture(autouse=True)
def _direct(port):
    fake_bucket.use(port)


def _tree(folder, sizes):
    random = np.random.default_rng(len(sizes))
    for name, size in sizes.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(random.bytes(size))
    return folder


def _content(folder):
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.mark.parametrize(
    ("text", "bucket", "name"),
    [
        ("gs://b/a/model", "b", "a/model"),
        ("gs:/b/a/model", "b", "a/model"),  # as pathlib makes it
        ("gs://b/a//model/", "b", "a/model"),
        ("gs://b", "b", ""),
    ],
)
def test_addresses(text, bucket, name):
    assert address_of(text) == Address(bucket, name)


def test_what_is_no_address():
    assert address_of("/models/gs") is None
    assert address_of("gsx://b/c") is None
    with pytest.raises(StorageError, match="names no bucket"):
        address_of("gs://")
    for name in ("-bad", "bad_", "my bucket", ".", "a%2Fb", "bücher"):
        with pytest.raises(StorageError, match="cannot be the name of a bucket"):
            address_of(f"gs://{name}/x")


def test_a_directory_goes_there_and_back(tmp_path):
    sizes = {"saved_model.pb": 1000, "variables/variables.index": 10, "variables/data": 3 << 20, "assets/a b.txt": 0}
    source = _tree(tmp_path / "model", sizes)
    place = Address(BUCKET, "there/model")
    told: list[tuple[int, int]] = []

    assert not buckets.exists(place)
    buckets.upload(source, place, progress=lambda *now: told.append(now))
    copy = buckets.download(place, tmp_path / "back")

    assert buckets.exists(place)
    assert copy == tmp_path / "back/model"
    assert _content(copy) == _content(source)
    assert told[-1] == (sum(sizes.values()), sum(sizes.values()))
    assert told == sorted(told)


def test_a_file_and_a_pattern(tmp_path):
    source = _tree(tmp_path / "data", {"a.jsonl": 100, "b.jsonl": 200, "c.csv": 10, "more/d.jsonl": 10})
    buckets.upload(source, Address(BUCKET, "data"))

    one = buckets.download(Address(BUCKET, "data/a.jsonl"), tmp_path / "one")
    buckets.download(Address(BUCKET, "data/*.jsonl"), tmp_path / "some")

    assert one.read_bytes() == (source / "a.jsonl").read_bytes()
    assert set(_content(tmp_path / "some")) == {"a.jsonl", "b.jsonl"}


@pytest.mark.parametrize(
    ("pattern", "wanted"),
    [
        ("days/*/part.jsonl", {"1/part.jsonl", "2/part.jsonl", "2024/part.jsonl"}),
        ("days/?/*.jsonl", {"1/part.jsonl", "2/part.jsonl"}),
        ("days/**/*.jsonl", {"part.jsonl", "1/part.jsonl", "2/part.jsonl", "2024/part.jsonl", "2024/more/part.jsonl"}),
        ("days/[0-9]/*", {"1/part.jsonl", "1/part.csv", "2/part.jsonl"}),
        ("days/*", {"part.jsonl"}),
        ("da*", set()),
    ],
)
def test_a_pattern_means_what_it_means_in_a_folder(tmp_path, pattern, wanted):
    """Files of one name in several folders stay apart, and objects that consoles make for folders are none."""
    names = ["part.jsonl", "1/part.jsonl", "1/part.csv", "2/part.jsonl", "2024/part.jsonl", "2024/more/part.jsonl"]
    for name in [*(f"days/{name}" for name in [*names, ".hidden.jsonl"]), "dark/x"]:
        buckets._client().bucket(BUCKET).blob(name).upload_from_string(name)
    for name in ("days/", "days/1/"):
        buckets._client().bucket(BUCKET).blob(name).upload_from_string(b"")
    if not wanted:
        with pytest.raises(StorageError, match="there is no such object"):
            buckets.download(Address(BUCKET, pattern), tmp_path)
        return

    copy = buckets.download(Address(BUCKET, pattern), tmp_path)

    assert _content(tmp_path) == {name: f"days/{name}".encode() for name in wanted}
    assert copy == tmp_path / pattern.removeprefix("days/")
    assert {str(tmp_path / name) for name in wanted} == {
        path for path in glob.glob(str(copy), recursive=True) if Path(path).is_file()
    }


@pytest.mark.parametrize("name", ["odd/a[1].jsonl", "who?/a.jsonl", "a*/b"])
def test_a_name_that_could_be_a_pattern_is_one_where_nothing_has_it(tmp_path, name):
    buckets._client().bucket(BUCKET).blob(name).upload_from_string(name)

    for told in (name, name.rpartition("/")[0]):
        copy = buckets.download(Address(BUCKET, told), tmp_path / told.replace("/", "-"))
        assert (copy if copy.is_file() else copy / Path(name).name).read_text() == name


def test_a_large_file_is_copied_in_parts(tmp_path, monkeypatch):
    monkeypatch.setattr(buckets, "_CHUNK", 1 << 20)
    source = _tree(tmp_path / "model", {"variables/data": (5 << 20) + 17})
    buckets.upload(source, Address(BUCKET, "large"))

    assert _content(buckets.download(Address(BUCKET, "large"), tmp_path / "back")) == _content(source)


def test_nothing_is_replaced(tmp_path):
    first, second = _tree(tmp_path / "1", {"a": 10}), _tree(tmp_path / "2", {"a": 20, "b": 1})
    buckets.upload(first, Address(BUCKET, "kept"))

    for overwrite in (False, True):
        with pytest.raises(OutputExistsError, match="gs://models/kept already exists"):
            buckets.upload(second, Address(BUCKET, "kept"), overwrite=overwrite)
    with pytest.raises(OutputExistsError):
        buckets.upload(second / "a", Address(BUCKET, "kept/a"))
    assert _content(buckets.download(Address(BUCKET, "kept"), tmp_path / "back")) == _content(first)
    buckets.upload(second / "a", Address(BUCKET, "kept/a"), overwrite=True)
    assert buckets.download(Address(BUCKET, "kept/a"), tmp_path).read_bytes() == (second / "a").read_bytes()


def test_what_makes_it_count_comes_last_and_a_failure_leaves_nothing(tmp_path, monkeypatch):
    source = _tree(tmp_path / "model", {"saved_model.pb": 10, "variables/data": 10, "assets/x": 10})
    order = []
    original = buckets._upload_one

    def failing(path, place, overwrite):
        order.append(place.name)
        if path.name == "saved_model.pb":
            raise StorageError("the line went dead")
        return original(path, place, overwrite)

    monkeypatch.setattr(buckets, "_upload_one", failing)
    with pytest.raises(StorageError, match="went dead"):
        buckets.upload(source, Address(BUCKET, "half"))
    assert order[-1] == "half/saved_model.pb"
    assert len(order) == 3
    assert not buckets.exists(Address(BUCKET, "half"))


@pytest.mark.parametrize("name", ["../out", "a/../../out", "/etc/passwd", "a//b", "./a", "", "a\0b"])
def test_a_name_never_leads_out_of_the_folder(tmp_path, name):
    """The server of these tests keeps no such name; a real bucket does."""
    with pytest.raises(StorageError, match="would lead out"):
        buckets._inside(tmp_path, name, Address(BUCKET, "evil"))


def test_what_is_not_there(tmp_path):
    with pytest.raises(StorageError, match="gs://models/nothing: there is no such object"):
        buckets.download(Address(BUCKET, "nothing"), tmp_path)
    with pytest.raises(StorageError, match="gs://nowhere/x"):
        buckets.download(Address("nowhere", "x"), tmp_path)


@pytest.mark.parametrize("cuts", [[200_000], [1_000_000, 1_500_000, 2_500_000]])
def test_a_download_survives_connections_that_break(tmp_path, port, cuts):
    source = _tree(tmp_path / "model", {"a": 1 << 20, "b": 2 << 20, "saved_model.pb": 1 << 20})
    place = Address(BUCKET, f"down/{len(cuts)}")
    buckets.upload(source, place)
    with fake_bucket.Proxy(port, cuts) as proxy:
        fake_bucket.use(proxy.port)
        copy = buckets.download(place, tmp_path / "back")

    assert proxy.broken == len(cuts)
    assert _content(copy) == _content(source)


@pytest.mark.parametrize("cuts", [[200_000], [1_000_000, 1_500_000, 2_500_000]])
def test_an_upload_survives_connections_that_break(tmp_path, port, cuts):
    source = _tree(tmp_path / "model", {"a": 1 << 20, "b": 2 << 20, "saved_model.pb": 1 << 20})
    place = Address(BUCKET, f"up/{len(cuts)}")
    with fake_bucket.Proxy(port, cuts, upstream=True) as proxy:
        fake_bucket.use(proxy.port)
        buckets.upload(source, place)
    fake_bucket.use(port)

    assert proxy.broken == len(cuts)
    assert _content(buckets.download(place, tmp_path / "back")) == _content(source)


def test_an_answer_that_is_lost_is_no_conflict(tmp_path, port):
    """The object arrives, the answer does not: the second try finds its own object there."""
    source = _tree(tmp_path / "model", {"a": 1 << 20})
    with fake_bucket.Proxy(port, [1]) as proxy:
        fake_bucket.use(proxy.port)
        buckets._upload_one(source / "a", Address(BUCKET, "lost"), False)
    fake_bucket.use(port)

    assert proxy.broken == 1
    assert buckets.download(Address(BUCKET, "lost"), tmp_path).read_bytes() == (source / "a").read_bytes()


def test_a_copy_that_differs_is_refused(tmp_path, monkeypatch):
    source = _tree(tmp_path / "model", {"a": 100})
    buckets.upload(source, Address(BUCKET, "flipped"))
    monkeypatch.setattr(buckets, "crc32c", lambda path: "AAAAAA==")

    with pytest.raises(StorageError, match="another checksum"):
        buckets.download(Address(BUCKET, "flipped"), tmp_path / "back")
    with pytest.raises(StorageError, match="not AAAAAA=="):
        buckets.upload(source, Address(BUCKET, "flipped2"))


@pytest.mark.parametrize("size", [1000, (2 << 20) + 5])
def test_an_object_that_changes_after_it_was_listed_is_refused(tmp_path, monkeypatch, size):
    """Else a model could be made of files of two."""
    monkeypatch.setattr(buckets, "_CHUNK", 1 << 20)
    blob = buckets._client().bucket(BUCKET).blob("changing/a")
    blob.upload_from_string(b"a" * size)
    listed = buckets._matching

    def changed(address):
        found = listed(address)
        blob.upload_from_string(b"b" * size)
        return found

    monkeypatch.setattr(buckets, "_matching", changed)
    with pytest.raises(StorageError, match=r"gs://models/changing/a: the copy has another checksum; was it replaced\?"):
        buckets.download(Address(BUCKET, "changing"), tmp_path)


def test_a_full_disk_and_an_odd_name_are_one_line(tmp_path):
    source = _tree(tmp_path / "model", {"a": 1 << 20})
    buckets.upload(source, Address(BUCKET, "full"))
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 19, before[1]))
    try:
        with pytest.raises(StorageError, match=r"full: File too large; copies are made in .*TMPDIR names another"):
            buckets.download(Address(BUCKET, "full"), tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    (source / os.fsdecode(b"\xff.txt")).write_text("x")
    with pytest.raises(StorageError, match=r"the file name '\\udcff.txt' is not UTF-8"):
        buckets.upload(source, Address(BUCKET, "odd-name"))
    assert not buckets.exists(Address(BUCKET, "odd-name"))


def test_a_server_that_is_gone_is_one_line(tmp_path, monkeypatch):
    fake_bucket.use(fake_bucket.free_port())
    monkeypatch.setattr(buckets, "DEADLINE", 1.0)

    with pytest.raises(StorageError, match="gs://models/x: ") as told:
        buckets.download(Address(BUCKET, "x"), tmp_path)
    assert "\n" not in str(told.value)


@pytest.fixture
def key(tmp_path, monkeypatch):
    """A file for Google's credentials, which is not there yet; no others are to be found."""
    monkeypatch.delenv("STORAGE_EMULATOR_HOST")
    for name in ("GOOGLE_CLOUD_PROJECT", "GCLOUD_PROJECT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NO_GCE_CHECK", "true")
    monkeypatch.setenv("CLOUDSDK_CONFIG", str(tmp_path))
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(tmp_path / "key.json"))
    buckets._client.cache_clear()
    return tmp_path / "key.json"


def test_no_credentials_is_one_line(key, monkeypatch):
    for given in (str(key), str(key.parent), '{"private_key": "SECRET"}'):
        monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", given)
        with pytest.raises(StorageError, match="CREDENTIALS is set, and is not the path of a key file") as told:
            buckets.exists(Address(BUCKET, "x"))
        assert "SECRET" not in str(told.value)
    monkeypatch.delenv("GOOGLE_APPLICATION_CREDENTIALS")
    with pytest.raises(StorageError, match="there are no Google credentials here; run gcloud auth"):
        buckets.exists(Address(BUCKET, "x"))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "SECRET",
        '["SECRET"]',
        '"SECRET"',
        '{"type": "SECRET"}',
        '{"type": "service_account", "private_key": "SECRET", "client_email": "a@b", "token_uri": "https://c"}',
    ],
)
def test_a_key_that_is_none_is_one_line_without_what_it_holds(key, text):
    key.write_text(text)
    with pytest.raises(StorageError, match=r"names .*/key.json, which holds no key of Google's") as told:
        buckets.exists(Address(BUCKET, "x"))
    assert "SECRET" not in str(told.value)


def test_credentials_need_no_project(key):
    """What `gcloud auth application-default login` writes names none."""
    key.write_text('{"type": "authorized_user", "client_id": "a", "client_secret": "b", "refresh_token": "c"}')
    assert buckets._client().project is None


def _answered(*answer):
    with fake_bucket.answering(*answer) as port:
        fake_bucket.use(port)
        with pytest.raises(StorageError) as told:
            buckets.entries(Address(BUCKET, "long/" * 60))
    return str(told.value).removeprefix(f"gs://{BUCKET}/{'long/' * 60}: ")


def test_what_the_storage_says_is_told():
    error = '{"error": {"code": %d, "message": "%s"}}'
    why = "bob does not have storage.objects.list access to the bucket."
    assert _answered(403, error % (403, why)) == f"this is forbidden; ask for access to the bucket (403 {why})"
    assert (
        _answered(400, error % (400, "Bucket is a requester pays bucket.")) == "400 Bucket is a requester pays bucket."
    )
    assert _answered(200, "<html>log in") == "this is not Cloud Storage's answer; is a proxy between?"


@pytest.mark.parametrize(("status", "said"), [(403, "this is forbidden"), (400, "400 no")])
def test_an_upload_that_is_refused_does_not_tell_where_it_went(tmp_path, status, said):
    """Whoever has the address of an upload under way may write there."""
    source = _tree(tmp_path / "model", {"a": 9 << 20})
    with fake_bucket.answering(status, "no", "/upload?upload_id=SECRET") as port:
        fake_bucket.use(port)
        with pytest.raises(StorageError, match=said) as told:
            buckets.upload(source / "a", Address(BUCKET, "refused"))
    assert "SECRET" not in str(told.value)
