"""Publishing and the way back, in a folder and in a bucket."""

from __future__ import annotations

from pathlib import Path

import pytest
from kfp import dsl

from components.freeze import freeze
from components.publish import publish
from components.rollback import rollback
from tests.components.artifacts import artifact
from tests.fake_bucket import server
from tfslim_core import buckets


def test_what_passed_is_published_and_taken_back(stages, validated, tmp_path):
    base = str(tmp_path / "my base")
    for version in (1, 2, 3):
        made = publish.python_func(model=stages.slim, verdict=validated.verdict, base=base)
        assert made == f"{base}/{version}"
    assert rollback.python_func(base=base) == f"{base}/2"
    assert rollback.python_func(base=base, to=1) == f"{base}/1"
    with pytest.raises(SystemExit, match=r"^tfslim: .*my base"):
        rollback.python_func(base=base)


def test_versions_that_are_not_kept_are_removed(stages, validated, tmp_path, caplog):
    base = tmp_path / "base"
    with caplog.at_level("INFO"):
        for _ in range(3):
            publish.python_func(model=stages.slim, verdict=validated.verdict, base=str(base), keep=2)
    assert {path.name for path in base.iterdir() if path.name.isdecimal()} == {"2", "3"}
    assert "tfslim: removed version 1" in caplog.text


def test_what_was_not_validated_is_not_published(model, validated, tmp_path):
    with pytest.raises(SystemExit, match=r"^tfslim: .*is not the model that was validated"):
        publish.python_func(model=model, verdict=validated.verdict, base=str(tmp_path / "base"))
    assert not (tmp_path / "base").exists()


def test_a_bucket_is_read_and_published_to(model, stages, validated, tmp_path):
    """Where a bucket is not mounted, as here, an input is read through the core."""
    with server():
        buckets.upload(Path(model.path), buckets.Address("models", "export"))
        imported = dsl.Model(uri="gs://models/export")
        assert imported.path == "/gcs/models/export"
        frozen = artifact(dsl.Model, tmp_path / "frozen")
        freeze.python_func(imported, frozen, dsl.Metrics())
        assert frozen.metadata["source_digest"] == stages.frozen.metadata["source_digest"]
        for version in (1, 2):
            made = publish.python_func(model=stages.slim, verdict=validated.verdict, base="gs://models/served")
            assert made == f"gs://models/served/{version}"
        assert rollback.python_func(base="gs://models/served") == "gs://models/served/1"
        with pytest.raises(SystemExit, match=r"^tfslim: gs://models/nothing"):
            freeze.python_func(dsl.Model(uri="gs://models/nothing"), frozen, dsl.Metrics())
