"""The compiled components in a pipeline of somebody else's: loaded from their YAML, run as processes."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import tfslim_core
from components.catalog import HERE

ALONE = Path(__file__).with_name("alone.py")
# Imported by every Python that starts: the environment may well know this checkout by another way.
BARRED = """
import sys

class Barred:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("components", "pipelines", "benchmarks", "tests"):
            raise ModuleNotFoundError(f"{name} is barred here")

sys.meta_path.insert(0, Barred())
"""


@pytest.fixture(scope="module")
def run(tmp_path_factory, model, data):
    """The pipeline's folder, and what it printed."""
    folder = tmp_path_factory.mktemp("another team's work")
    (folder / "path").mkdir()
    (folder / "path/sitecustomize.py").write_text(BARRED)
    (folder / "path/tfslim_core").symlink_to(Path(tfslim_core.__file__).parent)
    shutil.copytree(HERE, folder / "yaml", ignore=shutil.ignore_patterns("*.py", "__pycache__"))
    shutil.copytree(model.path, folder / "the model")
    shutil.copytree(data.path, folder / "the examples [v1]")
    arguments = {
        "model": str(folder / "the model"),
        "examples": str(folder / "the examples [v1]"),
        "base": str(folder / "served models"),
    }
    python = Path(sys.executable).parent
    done = subprocess.run(
        [sys.executable, ALONE, folder / "yaml", json.dumps(arguments)],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(folder / "path"), "PATH": f"{python}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return folder, json.loads(done.stdout.splitlines()[-1])


def test_a_pipeline_of_another_team_publishes(run):
    folder, told = run
    assert told["verdict"] == "pass"
    assert [path.name for path in (folder / "served models").glob("[0-9]*")] == ["1"]
    assert (folder / "served models/1/assets.extra/tf_serving_warmup_requests").exists()
    assert Path(told["report"]).read_text().startswith("# ")


def test_the_servable_tells_where_it_came_from(run):
    _, told = run
    assert told["optimized"]["encodings"]["float16"] > 0
    assert told["optimized"]["kind"] == "SavedModel"
