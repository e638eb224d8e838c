"""Every stage reads from and writes to a bucket as it does on disk."""

from __future__ import annotations

import glob
import json
from pathlib import Path

import numpy as np
import pytest

from tests import fake_bucket
from tests.fake_bucket import BUCKET
from tests.validation import tiny_models
from tfslim_core import api, buckets, cli
from tfslim_core.buckets import Address
from tfslim_core.errors import DataError, ModelError, OutputExistsError, StorageError
from tfslim_core.staging import in_buckets, shown

ROOT = f"gs://{BUCKET}"


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    random = np.random.default_rng(0)
    return tiny_models.linear(tmp_path_factory.mktemp("model") / "export", random.normal(size=(32, 64)))


@pytest.fixture(scope="module", autouse=True)
def _server(model, tmp_path_factory):
    """The model, and requests in two files."""
    folder = tmp_path_factory.mktemp("data")
    random = np.random.default_rng(1)
    for name in ("a", "b"):
        np.savez(folder / f"{name}.npz", x=random.normal(size=(300, 32)).astype(np.float32))
    with fake_bucket.server():
        buckets.upload(model, Address(BUCKET, "export"))
        buckets.upload(folder, Address(BUCKET, "data"))
        yield


def _there(name):
    return set(buckets.entries(Address(BUCKET, name)))


def test_stage_by_stage(tmp_path):
    told = []
    report = api.freeze(f"{ROOT}/export", f"{ROOT}/stages/frozen", progress=lambda *now: told.append(now[0]))
    api.transform(f"{ROOT}/stages/frozen", f"{ROOT}/stages/folded")
    api.quantize(f"{ROOT}/stages/folded", f"{ROOT}/stages/int8")
    done = api.reexport(f"{ROOT}/stages/int8", f"{ROOT}/stages/slim")

    assert (str(report.path), str(done.path)) == (f"{ROOT}/stages/frozen", f"{ROOT}/stages/slim")
    assert f"download {ROOT}/export" in told
    assert f"upload {ROOT}/stages/frozen" in told
    assert _there("stages/slim") >= {"saved_model.pb"}
    frozen = buckets.download(Address(BUCKET, "stages/frozen"), tmp_path)
    assert json.loads((frozen / "manifest.json").read_text())["source"]["path"] == f"{ROOT}/export"
    assert api.inspect(f"{ROOT}/stages/slim").path == f"{ROOT}/stages/slim"
    assert not api.diff(f"{ROOT}/export", f"{ROOT}/stages/slim").losses


def test_all_at_once_on_data_in_a_bucket(tmp_path, capsys):
    code = cli.main(
        [
            *(
                "slim",
                f"{ROOT}/export",
                f"{ROOT}/slim",
                "--data",
                f"test={ROOT}/data/*.npz",
                "--report",
                f"{ROOT}/report",
            ),
            *("--gate", "rel_l2_error<=0.02"),
        ]
    )

    assert code == 0
    assert f"(report: {ROOT}/report/report.html)" in capsys.readouterr().err
    report = buckets.download(Address(BUCKET, "report"), tmp_path)
    assert json.loads((report / "verdict.json").read_text())["datasets"]["test"]["examples"] == 600
    page = (report / "report.html").read_text()
    assert f"{ROOT}/slim".replace("/", "/<wbr>") in page or f"{ROOT}/slim" in page
    assert "/tmp/tfslim-" not in page
    published = api.publish(f"{ROOT}/slim", f"{ROOT}/live", verdict=f"{ROOT}/report/verdict.json")
    assert str(published.path) == f"{ROOT}/live/1"


def test_validation_of_a_local_model_with_one_in_a_bucket(model, tmp_path):
    found = api.validate(model, f"{ROOT}/export", data={"a": f"{ROOT}/data/a.npz"}, out=tmp_path / "out", bundle=None)

    assert found.outcome == "pass"
    assert found.context.optimized_path == f"{ROOT}/export"
    assert found.context.original_path == str(model)


def test_files_of_one_name_in_several_folders(tmp_path):
    for number in (1, 2, 2024):
        (tmp_path / "x.jsonl").write_text(str(number))
        buckets.upload(tmp_path / "x.jsonl", Address(BUCKET, f"days/{number}/x.jsonl"))

    @in_buckets(reads=[], data=["data"])
    def read(data):
        files = sorted(glob.glob(data["a"], recursive=True))
        if len(files) == 1:
            raise DataError(f"{files[0]}: it is broken")
        return [Path(file).read_text() for file in files], [shown(file) for file in files], shown(data["a"])

    names = [f"{ROOT}/days/{number}/x.jsonl" for number in (1, 2, 2024)]
    assert read({"a": f"{ROOT}/days/*/x.jsonl"}) == (["1", "2", "2024"], names, f"{ROOT}/days/*/x.jsonl")
    with pytest.raises(DataError, match=f"^{names[1]}: it is broken"):
        read({"a": f"{ROOT}/days/2/*"})


def test_errors_name_the_address(tmp_path):
    buckets.upload(_broken(tmp_path / "broken"), Address(BUCKET, "broken"))

    with pytest.raises(ModelError, match=f"^{ROOT}/broken: saved_model.pb") as told:
        api.freeze(f"{ROOT}/broken", f"{ROOT}/never")
    assert "/tmp/" not in str(told.value)
    assert not _there("never")
    with pytest.raises(StorageError, match=f"^{ROOT}/nowhere: there is no such object"):
        api.freeze(f"{ROOT}/nowhere", f"{ROOT}/never")


def test_nothing_is_replaced_and_it_is_told_before_the_work(model):
    with pytest.raises(OutputExistsError, match=f"{ROOT}/export already exists"):
        api.freeze(model, f"{ROOT}/export")
    with pytest.raises(OutputExistsError, match="a directory in a bucket is never replaced"):
        api.freeze(model, f"{ROOT}/export", overwrite=True)


def test_nothing_is_left_behind(monkeypatch, tmp_path):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    api.inspect(f"{ROOT}/export", html=f"{ROOT}/page.html")

    assert not list(tmp_path.iterdir())
    assert buckets.exists(Address(BUCKET, "page.html"))


def test_local_paths_are_handed_through_untouched():
    @in_buckets(reads=["source"], writes=["target"])
    def function(source, target, *, overwrite=False):
        return source, target, overwrite, shown("/a/b")

    assert function("x", target="y") == ("x", "y", False, "/a/b")


def _broken(folder):
    folder.mkdir()
    (folder / "saved_model.pb").write_bytes(b"\xff" * 100)
    return folder
