from __future__ import annotations

import threading

import pytest

from tfslim_core import storage
from tfslim_core.errors import GateFailedError, InconclusiveError, ModelError
from tfslim_core.publishing import Published, publish, rollback
from tfslim_core.verdict import ModelCosts, Models, Verdict


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
    return sorted(path.name for path in base.iterdir())


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
    assert publish(model, base, verdict_on(model)).version == 4
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
    with pytest.raises(ModelError, match="nothing to roll back to"):
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

    monkeypatch.setattr("shutil.copytree", fail)
    with pytest.raises(ModelError, match="No space left on device"):
        publish(model, tmp_path / "base", verdict_on(model))
    assert versions(tmp_path / "base") == []
