"""The image, built and run in each of its roles; only where it is asked for, since it takes many minutes."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from components.image import build, check, engine
from pipelines.demo_data import gather, roots, write_requests
from tfslim_core.errors import JobError

ROOT = Path(__file__).parents[2]
GUESSLANG = ROOT / ".cache/models/guesslang/data/model"
TAG = os.environ.get("TFSLIM_TEST_IMAGE")
pytestmark = pytest.mark.skipif(not TAG, reason="set TFSLIM_TEST_IMAGE to the name of an image to build and run")


@pytest.fixture(scope="module")
def asked(tmp_path_factory):
    """The image, built unless it is there, a real model, and real requests to it."""
    found = engine.find(among=engine.RUNS)
    if subprocess.run([found, "image", "inspect", TAG], capture_output=True).returncode != 0:
        build.build_image(build.Build(TAG), found)
    folder = tmp_path_factory.mktemp("image")
    folder.chmod(0o777)
    (folder / "work").mkdir()
    (folder / "work").chmod(0o777)
    shutil.copytree(GUESSLANG, folder / "model")
    write_requests(list(gather(roots()).values())[:400], "inputs", folder / "requests.jsonl")
    return check.Check(found, TAG, folder / "model", folder / "requests.jsonl", folder / "work")


def test_it_works_in_every_role(asked):
    said = [role(asked) for role in check.ROLES]
    assert "verdict pass" in said[1]
    assert (asked.work / "slim/saved_model.pb").stat().st_uid == check.UID


def test_it_keeps_nothing_of_the_build_and_nothing_that_raises_rights(asked):
    told = json.loads(engine.run([asked.engine, "image", "inspect", TAG], "inspecting"))[0]
    assert told["Config"]["User"] == "1000:0"
    text = json.dumps(told)
    for name in ("PIP_", "SSL_CERT", "PROXY", "proxy", "/run/secrets", "INDEX_URL"):
        assert name not in text
    left = ["find / -xdev -perm /6000 -type f", "ls /etc/pip.conf /run/secrets", "command -v gcc cc go git strip"]
    script = "; ".join(f"{command} 2>/dev/null" for command in left)
    with pytest.raises(JobError, match="it said nothing"):  # nothing found: the last one fails
        asked.run("looking for leftovers", "sh", "-c", script)


def test_a_bad_model_is_one_line(asked):
    with pytest.raises(JobError, match=r"tfslim: .*not-there"):
        asked.run("slimming", "tfslim", "slim", "/model/not-there", "/job/none")
    assert not (Path(asked.work) / "none").exists()


def test_a_pipeline_runs_in_it(asked, tmp_path):
    docker = pytest.importorskip("docker")
    try:
        docker.from_env().close()
    except docker.errors.DockerException:
        pytest.skip("no engine answers on DOCKER_HOST")
    given = {"model": asked.model, "data": asked.data, "base": tmp_path / "new/base", "measure_costs": "false"}
    arguments = [word for name, value in given.items() for word in ("--arg", f"{name}={value}")]
    command = [sys.executable, "-m", "pipelines", "run", "--runner", "docker", "--work", tmp_path / "run", *arguments]
    gates = ["--arg", "gates=top1_agreement>=0.98"]
    environment = os.environ | {"TFSLIM_IMAGE": TAG}
    done = subprocess.run([*command, *gates], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert f"published: {tmp_path}/new/base/1" in done.stdout
    assert (tmp_path / "new/base/1/saved_model.pb").is_file()
