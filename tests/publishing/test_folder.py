from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import tempfile
import threading
from contextlib import suppress
from pathlib import Path

import pytest

from tfslim_core import api, storage
from tfslim_core.errors import GateFailedError, InconclusiveError, ModelError, UsageError
from tfslim_core.publishing import Published
from tfslim_core.publishing.folder import publish, rollback, shelf
from tfslim_core.verdict import Check, ModelCosts, Models, Verdict


@pytest.fixture
def model(tmp_path):
    folder = tmp_path / "slim"
    (folder / "variables").mkdir(parents=True)
    (folder / "saved_model.pb").write_bytes(b"model")
    (folder / "variables/variables.index").write_bytes(b"index")
    return folder


def verdict_on(model, verdict="pass", digest=None):
    costs = ModelCosts(bytes=1, load_seconds=None, peak_rss_bytes=None, digest=digest or storage.digest(model))
    return Verdict(
        verdict=verdict, reasons=["top1 is low"], checks=[], models=Models(original=costs, optimized=costs), datasets={}
    )


def versions(base):
    return sorted(path.name for path in base.iterdir() if path.name != ".tfslim")


def test_versions_grow_from_one(model, tmp_path):
    base = tmp_path / "deep/base"
    assert publish(model, base, verdict_on(model)) == Published(base / "1", 1)
    assert publish(model, base, verdict_on(model)) == Published(base / "2", 2)
    assert storage.digest(base / "2") == storage.digest(model)
    (base / "notes").mkdir()
    (base / "0040").mkdir()
    (base / "²").mkdir()
    assert publish(model, base, verdict_on(model)).version == 41
    assert versions(base) == ["0040", "1", "2", "41", "notes", "²"]


@pytest.mark.parametrize(
    ("verdict", "error", "code"), [("fail", GateFailedError, 3), ("inconclusive", InconclusiveError, 4)]
)
def test_only_a_pass_is_published(model, tmp_path, verdict, error, code):
    with pytest.raises(error, match=r"not published.*top1 is low") as caught:
        publish(model, tmp_path / "base", verdict_on(model, verdict))
    assert caught.value.exit_code == code
    assert not (tmp_path / "base").exists()


def test_only_the_bytes_that_were_validated_are_published(model, tmp_path):
    verdict = verdict_on(model)
    (model / "variables/variables.index").write_bytes(b"other")
    with pytest.raises(ModelError, match="is not the model that was validated: its digest is"):
        publish(model, tmp_path / "base", verdict)
    (model / "saved_model.pb").unlink()
    with pytest.raises(ModelError, match="is not a SavedModel"):
        publish(model, tmp_path / "base", verdict)
    assert not (tmp_path / "base").exists()


def test_a_number_is_never_used_twice(model, tmp_path):
    base = tmp_path / "base"
    for _ in range(3):
        publish(model, base, verdict_on(model))
    assert rollback(base) == Published(base / "2", 2)
    assert versions(base) == [".rolled-back-3", "1", "2"]
    again = publish(model, base, verdict_on(model))
    assert (again.version, again.notes) == (4, ("exactly this model was taken back as version 3",))
    assert rollback(base).version == 2
    assert rollback(base).version == 1
    with pytest.raises(ModelError, match="has 1 version: nothing to roll back to"):
        rollback(base)
    assert versions(base) == [".rolled-back-2", ".rolled-back-3", ".rolled-back-4", "1"]
    with pytest.raises(ModelError, match="has 0 versions: nothing to roll back to"):
        rollback(tmp_path / "none")


def test_publishers_at_the_same_time_get_a_version_each(model, tmp_path):
    base, verdict, found = tmp_path / "base", verdict_on(model), []
    threads = [threading.Thread(target=lambda: found.append(publish(model, base, verdict).version)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(found) == list(range(1, 9))
    assert versions(base) == sorted(map(str, found))
    assert {storage.digest(base / name) for name in versions(base)} == {storage.digest(model)}


def test_a_base_that_is_a_file_is_told(model, tmp_path):
    (tmp_path / "base").write_text("")
    with pytest.raises(ModelError, match="cannot publish to"):
        publish(model, tmp_path / "base", verdict_on(model))
    with pytest.raises(ModelError, match=r"cannot read .*/base: Not a directory$"):
        rollback(tmp_path / "base")


def test_a_file_named_as_a_version_is_not_one(model, tmp_path):
    base = tmp_path / "base"
    publish(model, base, verdict_on(model))
    (base / "7").write_text("no model")
    assert publish(model, base, verdict_on(model)).version == 8
    assert rollback(base).version == 1


def test_a_model_with_a_symlink_is_published_whole(model, tmp_path):
    (model / "assets").mkdir()
    (model / "assets/link").symlink_to("../saved_model.pb")
    base = tmp_path / "base"
    publish(model, base, verdict_on(model))
    assert not (base / "1/assets/link").is_symlink()
    assert (base / "1/assets/link").read_bytes() == b"model"


def test_a_copy_is_readable_by_the_server(model, tmp_path):
    base = tmp_path / "base"
    publish(model, base, verdict_on(model))
    assert (base / "1").stat().st_mode == model.stat().st_mode


def test_a_copy_that_fails_leaves_nothing(model, tmp_path, monkeypatch):
    def fail(*_arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("shutil.copy", fail)
    with pytest.raises(ModelError, match="No space left on device"):
        publish(model, tmp_path / "base", verdict_on(model))
    assert versions(tmp_path / "base") == []


def numbers(base, **wanted):
    found = [one.to_json() for one in shelf(base).listing()]
    return [one["number"] for one in found if all(one[name] == value for name, value in wanted.items())]


def test_only_so_many_versions_are_kept(model, tmp_path):
    base = tmp_path / "base"
    assert [publish(model, base, verdict_on(model), keep=2).removed for _ in range(4)] == [(), (), (1,), (2,)]
    rollback(base)
    assert publish(model, base, verdict_on(model), keep=3).removed == ()
    assert versions(base) == [".rolled-back-4", "3", "5"]
    assert publish(model, base, verdict_on(model), keep=2).removed == (3,)
    assert versions(base) == ["5", "6"]  # 4 is older than all that are kept
    assert publish(model, base, verdict_on(model), keep=0).removed == ()
    with pytest.raises(UsageError, match="keep 1: at least 2"):
        publish(model, base, verdict_on(model), keep=1)
    assert publish(model, base, verdict_on(model)).version == 8


def test_a_number_that_was_deleted_by_hand_is_not_used_again(model, tmp_path):
    base = tmp_path / "base"
    publish(model, base, verdict_on(model))
    publish(model, base, verdict_on(model))
    shutil.rmtree(base / "2")
    assert publish(model, base, verdict_on(model)).version == 3


def test_names_are_read_as_a_server_reads_them(model, tmp_path):
    base = tmp_path / "base"
    publish(model, base, verdict_on(model))
    for name in ("0003", "3.bak", "²", "٣", "-4", " 5", "99999999999999999999", "x7"):
        shutil.copytree(model, base / name)
    (base / "6").symlink_to(model)
    (base / "7").symlink_to("nowhere")
    (base / "8").write_text("a file")
    (base / "9").mkdir()
    assert numbers(base) == [-4, 1, 3, 5, 6, 7, 8, 9]
    assert numbers(base, complete=False) == [7, 8, 9]
    assert numbers(base, served=True) == [6]
    assert rollback(base).version == 6  # what no server can load is hidden; nothing else is
    assert numbers(base, rolled_back=True) == [7, 8, 9]
    assert rollback(base) == Published(base / " 5", 5)
    assert publish(model, base, verdict_on(model), keep=2).removed == (-4, 1, 3)
    assert numbers(base, rolled_back=False) == [5, 10]
    assert (model / "saved_model.pb").is_file()  # what a link led to is still there
    shutil.copytree(model, base / "9223372036854775807")
    with pytest.raises(ModelError, match="version 9223372036854775807 is there, and servers read no higher"):
        publish(model, base, verdict_on(model))


def test_two_names_of_one_number_are_hidden_together(model, tmp_path):
    base = tmp_path / "base"
    for _ in range(3):
        publish(model, base, verdict_on(model))
    shutil.copytree(model, base / "0003")
    assert rollback(base).version == 2
    assert versions(base) == [".rolled-back-0003", ".rolled-back-3", "1", "2"]


def test_a_rollback_may_name_the_version_to_go_back_to(model, tmp_path):
    base = tmp_path / "base"
    for _ in range(4):
        publish(model, base, verdict_on(model))
    with pytest.raises(ModelError, match=r"has no version 7 that a server can load \(it has: 1, 2, 3, 4\)"):
        rollback(base, to=7)
    for _ in range(2):  # the second time nothing is to do
        assert rollback(base, to=2).version == 2
        assert versions(base) == [".rolled-back-3", ".rolled-back-4", "1", "2"]


def test_what_was_published_is_listed(model, tmp_path):
    base = tmp_path / "base"
    (model / "assets.extra").mkdir()
    (model / "assets.extra/tf_serving_warmup_requests").write_bytes(b"requests")
    passed = verdict_on(model)
    passed.checks.append(Check(expr="top1_agreement>=0.9", value=1, bound=0.9, passed=True, dataset="test"))
    assert publish(model, base, passed).warmup_requests
    (shown,) = shelf(base).listing()
    assert (shown.digest, shown.bytes) == (storage.digest(model), storage.size(model))
    assert (shown.path, shown.served, shown.complete) == (str(base / "1"), True, True)
    assert (shown.verdict, shown.gates, shown.warmup_requests) == ("pass", ("top1_agreement>=0.9",), True)
    assert shown.published is not None
    assert shown.published.endswith("+00:00")
    publish(model, base, passed)
    (base / "2/variables/variables.index").write_bytes(b"")  # cut off afterwards
    assert numbers(base, served=True) == [1]
    assert "13 bytes; 18 were published" in shelf(base).listing()[1].problem
    assert shelf(tmp_path / "none").listing() == []


@pytest.mark.parametrize("claim", [b"", b"{", b"[]", b'{"bytes": "x"}', b'{"digest": "a", "claimed": 1.5}', b"\xff"])
def test_a_claim_that_cannot_be_read_still_counts(model, tmp_path, claim):
    base = tmp_path / "base"
    publish(model, base, verdict_on(model))
    for number in (1, 7):
        (base / f".tfslim/claims/{number}.json").write_bytes(claim)
    assert publish(model, base, verdict_on(model)).version == 8
    assert numbers(base, complete=True) == [1, 8]


def test_what_is_no_plain_file_is_refused(model, tmp_path):
    (tmp_path / "secret").write_text("secret")
    for make, told in (
        (lambda path: path.symlink_to(tmp_path / "secret"), "leads outside the model, to "),
        (lambda path: path.symlink_to("../slim2"), "leads outside the model, to "),
        (lambda path: path.symlink_to("variables"), "links to what is no file"),
        (lambda path: path.symlink_to("nowhere"), "links to what is no file"),
        (os.mkfifo, "is neither a file nor a directory"),
    ):
        make(model / "odd")
        with pytest.raises(ModelError, match=told):
            publish(model, tmp_path / "base", verdict_on(model))
        (model / "odd").unlink()
    assert not (tmp_path / "base").exists()


def test_a_pass_with_a_check_that_failed_was_edited(model, tmp_path):
    forged = verdict_on(model)
    forged.checks.append(Check(expr="top1_agreement>=0.9", value=0.5, bound=0.9, passed=False, dataset="test"))
    with pytest.raises(ModelError, match=r"its check top1_agreement>=0.9 on test did not pass"):
        publish(model, tmp_path / "base", forged)


@pytest.mark.parametrize(
    ("optimized", "base"), [("m", "m"), ("m", "."), ("m", "m/base"), ("base/1", "base"), ("l", "m")]
)
def test_model_and_base_are_apart(model, tmp_path, monkeypatch, optimized, base):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(model, "m")
    shutil.copytree(model, "base/1")
    Path("l").symlink_to("m")
    with pytest.raises(ModelError, match="are one inside the other"):
        api.publish(optimized, base, verdict=verdict_on(model))
    assert not list(tmp_path.rglob(".tfslim"))


def test_everything_is_on_disk_before_it_counts(model, tmp_path, monkeypatch):
    base, done = tmp_path / "base", []
    fsync, rename = os.fsync, Path.rename

    def synced(file):
        done.append(os.readlink(f"/proc/self/fd/{file}"))
        fsync(file)

    def renamed(path, target):
        done.append(f"{path} -> {target}")
        return rename(path, target)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(Path, "rename", renamed)
    publish(model, base, verdict_on(model))
    (shown,) = [place for place, what in enumerate(done) if what.endswith(f"-> {base}/1")]
    copy = done[shown].split(" -> ")[0]
    files = [path.relative_to(model) for path in model.rglob("*")]
    assert {copy, *(f"{copy}/{name}" for name in files)} <= set(done[:shown])
    claims = f"{base}/.tfslim/claims"
    assert {f"{claims}/1.json", claims, str(tmp_path)} <= set(done[:shown])
    assert str(base) in done[shown:]


@pytest.fixture
def small_disk(tmp_path):
    place = tmp_path / "disk"
    place.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "none", place], capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"no small disk can be made here: {done.stderr.strip()}")
    yield place
    subprocess.run(["umount", place], check=True)


def test_a_full_disk_leaves_what_is_served(model, tmp_path, small_disk):
    base = small_disk / "base"
    for _ in range(2):
        publish(model, base, verdict_on(model))
    (model / "variables/variables.data").write_bytes(b"x" * 100_000)
    with pytest.raises(ModelError, match=r"cannot publish to .*: No space left on device") as told:
        publish(model, base, verdict_on(model))
    assert "\n" not in str(told.value)
    assert versions(base) == ["1", "2"]
    assert not list((base / ".tfslim/staged").iterdir())
    with suppress(OSError), (small_disk / "fill").open("wb", buffering=0) as file:
        while file.write(b"x" * 4096):
            pass
    assert rollback(base).version == 1
    (small_disk / "fill").unlink()
    (model / "variables/variables.data").unlink()
    assert publish(model, base, verdict_on(model)).version == 3


@pytest.mark.skipif(os.getuid() != 0, reason="only root may become somebody else")
def test_who_may_not_write_is_told(model):
    with tempfile.TemporaryDirectory() as place:
        os.chmod(place, 0o755)
        mine, base = shutil.copytree(model, f"{place}/model"), Path(place, "base")
        for _ in range(2):
            publish(Path(mine), base, verdict_on(model))
        verdict = verdict_on(model)
        child = os.fork()
        if not child:
            try:
                os.setuid(65534)
                for call in (lambda: publish(Path(mine), base, verdict), lambda: rollback(base)):
                    with pytest.raises(ModelError, match="Permission denied"):
                        call()
                os._exit(0)
            finally:
                os._exit(1)
        assert os.waitpid(child, 0)[1] == 0
        assert versions(base) == ["1", "2"]


def test_a_number_that_other_tools_use_again_can_be_rolled_back_again(model, tmp_path):
    base = tmp_path / "base"
    for _ in range(3):
        publish(model, base, verdict_on(model))
    for _ in range(3):
        assert rollback(base).version == 2
        shutil.copytree(model, base / "3")
    assert rollback(base, to=1).version == 1
    assert versions(base) == [
        ".rolled-back-0003",
        ".rolled-back-003",
        ".rolled-back-03",
        ".rolled-back-2",
        ".rolled-back-3",
        "1",
    ]
    for _ in range(3):
        publish(model, base, verdict_on(model), keep=2)
    assert versions(base) == ["5", "6"]


def test_a_record_that_cannot_be_read_stops_no_rollback(model, tmp_path):
    base = tmp_path / "base"
    for _ in range(2):
        publish(model, base, verdict_on(model))
        record = base / f".tfslim/claims/{len(versions(base))}.json"
        record.unlink()
        record.mkdir()
    assert rollback(base).version == 1
    assert publish(model, base, verdict_on(model)).version == 3


def test_a_name_that_is_no_utf8_is_a_name(model, tmp_path):
    (model / os.fsdecode(b"\xff.txt")).write_text("x")
    publish(model, tmp_path / "base", verdict_on(model))
    assert storage.digest(tmp_path / "base/1") == storage.digest(model)


@pytest.mark.skipif(os.getuid() != 0, reason="only root may become somebody else")
def test_a_folder_of_the_model_that_cannot_be_read_is_told(model):
    """It would be missing from what is published, and from its digest too."""
    with tempfile.TemporaryDirectory() as place:
        os.chmod(place, 0o777)
        mine, base, verdict = shutil.copytree(model, f"{place}/model"), Path(place, "base"), verdict_on(model)
        os.makedirs(f"{mine}/assets.extra/secret", 0o700)
        os.chmod(f"{mine}/assets.extra/secret", 0)
        child = os.fork()
        if not child:
            try:
                os.setuid(65534)
                with pytest.raises(ModelError, match=r"assets.extra/secret cannot be read: Permission denied"):
                    publish(Path(mine), base, verdict)
                os._exit(0)
            finally:
                os._exit(1)
        assert os.waitpid(child, 0)[1] == 0
        assert not base.exists()


def test_what_a_rollback_tells_is_seen_before_others_go_on(model, tmp_path, monkeypatch):
    """Else all that it has seen may be gone again, and a rollback that worked would end as one that did not."""
    base, alone = tmp_path / "base", []
    for _ in range(2):
        publish(model, base, verdict_on(model))

    def looked(*args, **options):
        with (base / ".tfslim/lock").open("a") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                alone.append(False)
            except BlockingIOError:
                alone.append(True)
        return shelf(*args, **options)

    monkeypatch.setattr("tfslim_core.publishing.folder.shelf", looked)
    assert rollback(base).version == 1
    assert alone == [False, True, True]
