"""What a pipeline asks before the stages and tells after them."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from tests import fake_bucket
from tests.fake_bucket import BUCKET
from tfslim_core import api, buckets
from tfslim_core.errors import TfslimError, TransformError, UsageError
from tfslim_core.validation import runners


def test_candidates_are_what_was_asked_for():
    assert api.candidates(["d"]) == [""]
    assert api.candidates(["d"], encoding="int4/block32") == ["int4/block32"]
    assert api.candidates(["d", "e"], encodings=["int8", "int6/block32"]) == ["int8", "int6/block32"]
    assert api.candidates(["d"], budget=["top1_agreement>=0.99"], gates=["top1_agreement>=1@d"]) == [""]


@pytest.mark.parametrize(
    ("data", "asked", "says"),
    [
        ([], {}, "data names no dataset"),
        (["a", " "], {}, "data names no dataset"),
        ([1.0], {}, "data names no dataset"),
        ("gs://b/d", {}, "data names no dataset"),
        (["x/part.jsonl", "gs://b/part.npz"], {}, "two datasets are called 'part': x/part.jsonl and gs://b/part.npz"),
        (["a"], {"encodings": ["int8"], "encoding": "int4"}, "name all in encodings"),
        (["a"], {"budget": ["top1_agreement>=1"], "encodings": ["int8"]}, "leave out int8"),
        (["a"], {"encodings": ["int8", "int8"]}, "'int8' is named twice"),
        (["a"], {"encodings": ["int8", ""]}, "an encoding is empty"),
        (["a"], {"gates": ["top1>=1"]}, "no metric 'top1'"),
        (["a", "b"], {"gates": ["top1_agreement>=1@a"]}, "names the dataset 'a'"),
        (["a"], {"keep": 1}, "keep 1: at least 2"),
        (["a"], {"keep": -2}, "keep -2: at least 2"),
    ],
)
def test_what_does_not_go_together_is_told_before_anything_runs(data, asked, says):
    with pytest.raises(UsageError, match=says):
        api.candidates(data, **asked)


def test_an_encoding_that_is_none_is_told_with_the_nearest():
    with pytest.raises(TransformError, match=r"no encoding 'itn8'; did you mean 'int8'\?"):
        api.candidates(["a"], encodings=["itn8"])


@pytest.fixture
def base(tmp_path):
    for number in (1, 10, 9):
        (tmp_path / f"base/{number}").mkdir(parents=True)
        (tmp_path / f"base/{number}/saved_model.pb").write_bytes(bytes([number]))
    return tmp_path / "base"


def test_the_highest_version_is_served(base, tmp_path):
    now = api.served(base)
    assert (now.number, str(now.path)) == (10, str(base / "10"))
    api.fetch(now.path, tmp_path / "copy")
    assert (tmp_path / "copy/saved_model.pb").read_bytes() == b"\x0a"
    assert api.served(tmp_path / "nothing") is None
    assert api.served(tmp_path / "copy") is None


def test_what_cannot_be_copied_is_told(tmp_path):
    with pytest.raises(TfslimError, match="cannot be copied"):
        api.fetch(tmp_path / "nothing", tmp_path / "copy")


def told(base, **more):
    return api.report_run(**{"run": "r1", "state": "SUCCEEDED", "task": "slimming", "error": "", "base": base} | more)


def test_a_run_is_told_in_one_line(base, tmp_path):
    assert told(base).line == f"run r1 ended: SUCCEEDED; served now below {base}: version 10 ({base / '10'})"
    failed = told(tmp_path / "new", state="FAILED", task="freeze", error="no such\nmodel")
    assert failed.line == f"run r1 ended: FAILED at freeze: no such model; served now below {tmp_path / 'new'}: nothing"
    assert "see the log of the task that failed" in told(base, state="FAILED").line
    assert "at " not in told(base, state="RUNNING").line.partition(";")[0]


def test_the_file_says_the_same(base, tmp_path):
    told(base, state="FAILED", task="freeze", error="broke", report_to=tmp_path / "new/reports", run="a/../b c")
    (file,) = (tmp_path / "new/reports").iterdir()
    assert file.name == "a-..-b-c.json"
    found = json.loads(file.read_text())
    assert found.pop("time").startswith("20")
    assert found == {
        "run": "a/../b c",
        "state": "FAILED",
        "task": "freeze",
        "error": "broke",
        "base": str(base),
        "served": {"version": 10, "path": str(base / "10")},
        "problem": "",
    }


def test_a_file_that_cannot_be_written_is_told(base, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="cannot be made"):
        told(base, report_to=tmp_path / "file/reports")


def test_what_could_be_a_secret_is_not_told(base):
    failed = told(base, state="FAILED", error="GET https://me:hunter2@h/o?sig=hunter2\n  failed: token=hunter2")
    assert failed.error == "GET https://…@h/o?… failed: token=…"
    assert len(told(base, state="FAILED", error="long " * 1000).error) == 2000


@pytest.fixture(scope="module")
def port():
    with fake_bucket.server() as running:
        yield running


@pytest.fixture
def bucket(port):
    fake_bucket.use(port)
    return f"gs://{BUCKET}"


def test_both_in_a_bucket(bucket, base, tmp_path):
    buckets.upload(base / "10", buckets.address_of(f"{bucket}/base/10"))
    assert api.served(f"{bucket}/empty") is None
    now = api.served(f"{bucket}/base")
    assert (now.number, str(now.path)) == (10, f"{bucket}/base/10")
    api.fetch(now.path, tmp_path / "copy")
    assert (tmp_path / "copy/saved_model.pb").read_bytes() == b"\x0a"
    told(f"{bucket}/base", report_to=f"{bucket}/reports")
    api.fetch(f"{bucket}/reports/r1.json", tmp_path / "r1.json")
    assert json.loads((tmp_path / "r1.json").read_text())["served"] == {"version": 10, "path": f"{bucket}/base/10"}


def test_a_run_is_told_where_the_bucket_cannot_be_asked(bucket, tmp_path):
    found = told("gs://there-is-no-such-bucket/base", report_to=tmp_path)
    assert found.served is None
    assert "served now below gs://there-is-no-such-bucket/base: not known (" in found.line
    assert json.loads((tmp_path / "r1.json").read_text())["problem"].startswith("not known (")


def test_a_look_at_what_is_asked_for_needs_no_tensorflow():
    code = (
        "import sys; from tfslim_core import api; api.candidates(['d'], gates=['top1_agreement>=0.9']); "
        "sys.exit('tensorflow' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize(
    "call",
    [
        lambda address: api.freeze(address, "out"),
        lambda address: runners.check_reachable(runners.options_of([]), {"--data d": address}),
        lambda address: api.versions(address),
    ],
)
def test_an_address_that_is_refused_is_told_without_its_key(call, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(TfslimError) as caught:
        call("https://me:hunter2@host/model?sig=hunter2")
    assert "https://…@host/model?…" in str(caught.value)
    assert "hunter2" not in str(caught.value)
    told = api.report_run(run="r", state="SUCCEEDED", task="", error="", base="https://me:hunter2@host/b").line
    assert "hunter2" not in told
