from __future__ import annotations

import errno
import hashlib
import os

import pytest

from tfslim_core import storage
from tfslim_core.errors import ModelError, OutputExistsError


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_directory_appears_when_all_of_it_is_there(tmp_path):
    out = tmp_path / "deep/out"
    with storage.whole_directory(out) as aside:
        (aside / "a").write_text("1")
        assert not out.exists()
        assert aside.parent == out.parent
        assert aside.name.startswith(".")
    assert (out / "a").read_text() == "1"
    assert names(out.parent) == ["out"]
    assert out.stat().st_mode & 0o777 == 0o777 & ~storage._umask()


def test_nothing_appears_after_an_error(tmp_path):
    with pytest.raises(ZeroDivisionError), storage.whole_directory(tmp_path / "out"):
        raise ZeroDivisionError
    with pytest.raises(ZeroDivisionError), storage.whole_file(tmp_path / "file") as aside:
        raise ZeroDivisionError(aside.write_text("half"))
    assert names(tmp_path) == []


def test_a_full_disk_is_told_in_one_line(tmp_path):
    for whole in (storage.whole_directory, storage.whole_file):
        with pytest.raises(ModelError, match=r"cannot write .*out: No space left on device"), whole(tmp_path / "out"):
            raise OSError(errno.ENOSPC, "No space left on device")
    assert names(tmp_path) == []


def test_what_exists_is_not_overwritten_unless_told(tmp_path):
    for made in ("folder", "file", "link"):
        (tmp_path / made).mkdir() if made == "folder" else None
        (tmp_path / made).write_text("old") if made == "file" else None
        (tmp_path / made).symlink_to("nowhere") if made == "link" else None
        for whole in (storage.whole_directory, storage.whole_file):
            with pytest.raises(OutputExistsError, match="already exists; give --overwrite"), whole(tmp_path / made):
                pytest.fail("the block ran")
    assert names(tmp_path) == ["file", "folder", "link"]


@pytest.mark.parametrize("old", ["folder", "file", "link", "nothing"])
def test_overwriting_replaces_the_whole(tmp_path, old):
    out = tmp_path / "out"
    if old == "folder":
        (out / "stale").mkdir(parents=True)
    elif old == "file":
        out.write_text("old")
    elif old == "link":
        (tmp_path / "target").mkdir()
        out.symlink_to(tmp_path / "target")
    with storage.whole_directory(out, overwrite=True) as aside:
        (aside / "new").write_text("1")
    assert names(out) == ["new"]
    assert not out.is_symlink()
    assert [name for name in names(tmp_path) if name.startswith(".")] == []
    assert old != "link" or names(tmp_path / "target") == []


def test_a_failed_overwrite_leaves_the_old_one(tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out/old").write_text("1")
    with pytest.raises(ZeroDivisionError), storage.whole_directory(tmp_path / "out", overwrite=True):
        raise ZeroDivisionError
    assert names(tmp_path / "out") == ["old"]


def test_a_name_that_is_taken_meanwhile_is_not_overwritten(tmp_path):
    def make():
        with storage.whole_directory(tmp_path / "out") as aside:
            (aside / "mine").write_text("1")
            (tmp_path / "out").mkdir()
            (tmp_path / "out/theirs").write_text("2")

    with pytest.raises(OutputExistsError):
        make()
    assert names(tmp_path / "out") == ["theirs"]
    assert names(tmp_path) == ["out"]


def test_a_folder_that_cannot_be_made_is_told(tmp_path):
    (tmp_path / "file").write_text("")
    for whole in (storage.whole_directory, storage.whole_file):
        with pytest.raises(ModelError, match="cannot write"), whole(tmp_path / "file/out"):
            pytest.fail("the block ran")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_may_not_be_written_to_is_told(tmp_path):
    (tmp_path / "locked").mkdir(mode=0o500)
    with pytest.raises(ModelError, match="Permission denied"), storage.whole_directory(tmp_path / "locked/out"):
        pytest.fail("the block ran")


def test_a_file_does_not_take_the_place_of_a_directory(tmp_path):
    (tmp_path / "out").mkdir()
    with pytest.raises(OutputExistsError, match="is a directory"), storage.whole_file(tmp_path / "out", overwrite=True):
        pytest.fail("the block ran")


def test_a_digest_is_of_names_and_contents(tmp_path):
    (tmp_path / "b").mkdir()
    (tmp_path / "b/x").write_bytes(b"1")
    (tmp_path / "a").write_bytes(b"22")
    lines = [f"{name}\0{hashlib.sha256(data).hexdigest()}\n" for name, data in (("a", b"22"), ("b/x", b"1"))]
    assert storage.digest(tmp_path) == hashlib.sha256("".join(lines).encode()).hexdigest()
    assert storage.size(tmp_path) == 3


@pytest.mark.parametrize("name", ["../secret", "/etc/hostname", "a/../f", "link", "gone", ".", ""])
def test_only_files_within_are_inside(tmp_path, name):
    root = tmp_path / "m"
    (root / "assets/a").mkdir(parents=True)
    (root / "assets/f").write_text("")
    (root / "assets/link").symlink_to("../../secret")
    (tmp_path / "secret").write_text("")
    with pytest.raises(ModelError, match=r"leads outside|is missing"):
        storage.inside(root / "assets", name, root)
    assert storage.inside(root / "assets", "f", root) == root / "assets/f"
