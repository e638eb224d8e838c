"""What can be said of the image without building it."""

import base64
import ctypes
import hashlib
import os
import re
import shutil
import subprocess
import tomllib
from fnmatch import fnmatch
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from components.image import build, check, engine, prune
from components.image.packages import LOCK, difference, locked, named
from tfslim_core import __version__
from tfslim_core.errors import JobError, UsageError

ROOT = Path(__file__).parents[2]
TOOLS = LOCK.with_name("build.lock")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]


def instructions():
    """(instruction, its words), comments and line ends taken out."""
    text = re.sub(r"^#.*\n", "", (ROOT / "Dockerfile").read_text(), flags=re.MULTILINE)
    lines = text.replace("\\\n", " ").splitlines()
    return [(line.split(maxsplit=1)[0], line.split()[1:]) for line in lines if line.strip()]


def stages():
    """Stage -> its instructions; the last one has no name."""
    found = {}
    for name, words in instructions():
        if name == "FROM":
            found[words[2] if len(words) > 1 else ""] = here = []
        elif found:
            here.append((name, words))
    return found


def names(requirements):
    return named({Requirement(one).name: "" for one in requirements}).keys()


def test_bases_are_pinned_and_those_of_the_script():
    arguments = dict(words[0].split("=") for name, words in instructions() if name == "ARG" and "IMAGE" in words[0])
    assert arguments == {"PYTHON_IMAGE": build.PYTHON_IMAGE, "GO_IMAGE": build.GO_IMAGE}
    assert all(re.search(r":\d+\.\d+\S*bookworm$", image) for image in arguments.values())
    known = {f"${{{name}}}" for name in arguments} | set(stages())
    assert all(words[0] in known for name, words in instructions() if name == "FROM")


def test_what_is_copied_is_there_and_not_ignored():
    ignored = (ROOT / ".dockerignore").read_text().split("\n")
    let_in = {line[1:] for line in ignored if line.startswith("!")}
    assert "*" in ignored
    copied = [words for name, words in instructions() if name == "COPY" and not words[0].startswith("--from")]
    sources = {word for words in copied for word in words[:-1] if not word.startswith("--")}
    assert {source.split("/")[0] for source in sources} == let_in
    for source in sources:
        assert (ROOT / source).exists()
        assert not any(fnmatch(source, pattern) for pattern in ignored if not pattern.startswith(("!", "*", "#")))


def test_the_image_runs_as_nobody_and_dataflow_as_root():
    last, dataflow = stages()[""], stages()["dataflow"]
    assert last == [("USER", ["1000:0"])]
    assert dataflow[:2] == [("USER", ["0"]), ("ENTRYPOINT", ['["/opt/apache/beam/boot"]'])]


def test_nothing_of_the_build_stays():
    text = (ROOT / "Dockerfile").read_text()
    kept = stages()["image"]
    assert not [words for name, words in kept if name in ("ARG", "ADD")]
    assert "pip install" not in " ".join(word for _, words in kept for word in words)
    assert text.count("--require-hashes") == 2
    assert re.search(r"GOTOOLCHAIN=local", text)


def test_a_checkout_that_others_cannot_read_makes_an_image_that_they_can():
    copied = [words for name, words in stages()["image"] if name == "COPY"]
    assert all(words[0].startswith(("--from=", "--chmod=")) for words in copied)
    assert ("RUN", ["chmod", "-R", "a+rX", "/checkout"]) in stages()["wheel"]


def test_versions_are_those_of_the_project():
    text = (ROOT / "Dockerfile").read_text()
    assert f'image.version="{__version__}"' in text
    assert f"ARG BEAM={locked()['apache-beam']}\n" in text


@pytest.mark.parametrize("lock", [LOCK, TOOLS], ids=lambda path: path.name)
def test_every_package_has_a_version_and_hashes(lock):
    entries = re.split(r"\n(?=\S)", lock.read_text().strip())
    assert len(entries) == len(re.findall(r"^\S", lock.read_text(), flags=re.MULTILINE))
    assert all(re.match(r"[\w.-]+==\S+", entry) and "--hash=sha256:" in entry for entry in entries)


@pytest.mark.parametrize("python", ["3.11.2", "3.12.0", "3.13.0"])
def test_the_image_holds_what_the_tests_run_with_and_no_tools(python):
    image, tested = locked(python=python), locked(ROOT / "requirements.lock", python)
    assert {name: image[name] for name in image.keys() - names(EXTRAS["image"])}.items() <= tested.items()
    assert names(PROJECT["dependencies"]) | names(EXTRAS["pipelines"]) | names(EXTRAS["image"]) <= image.keys()
    needed_by_tensorflow = {"setuptools"}
    assert not names(EXTRAS["dev"]) & image.keys() - needed_by_tensorflow
    assert len(image) > 100


def test_differences_between_an_image_and_its_lock_file_are_named():
    assert difference({"a": "1", "b": "2"}, {"a": "1", "b": "2"}) == []
    assert difference({"a": "1", "b": "2", "x": "9"}, {"a": "1", "b": "3", "c": "4"}) == [
        "b: 2, expected 3",
        "c: missing, expected 4",
        "x: 9, expected not in the lock file",
    ]


def entrypoint(tmp_path, *words):
    """What the entrypoint runs, with stand-ins for tfslim and for Beam's entrypoint."""
    script = (ROOT / "components/image/entrypoint.sh").read_text().replace("/opt/apache/beam/boot", "boot")
    for name in ("tfslim", "boot"):
        (tmp_path / name).write_text(f'#!/bin/sh\necho {name} "$@"\n')
        (tmp_path / name).chmod(0o755)
    path = f"{tmp_path}:{os.environ['PATH']}"
    done = subprocess.run(
        ["sh", "-c", script, "entrypoint", *words], capture_output=True, text=True, env={"PATH": path}
    )
    return done.stdout.strip()


def test_the_entrypoint_knows_beams_options_from_commands(tmp_path):
    assert entrypoint(tmp_path, "--worker_pool") == "boot --worker_pool"
    assert entrypoint(tmp_path, "--id=1", "--provision_endpoint=a b") == "boot --id=1 --provision_endpoint=a b"
    assert entrypoint(tmp_path, "--help") == "tfslim --help"
    assert entrypoint(tmp_path, "tfslim", "slim", "a b") == "tfslim slim a b"
    assert entrypoint(tmp_path, "sh", "-c", 'echo "$0" done', "x y") == "x y done"


def test_secrets_are_handed_over_as_secrets(tmp_path):
    (tmp_path / "ca.pem").touch()
    (tmp_path / "pip.conf").touch()
    wanted = build.Build("t:1", "dataflow", ca=tmp_path / "ca.pem", pip_conf=tmp_path / "pip.conf", more=["--no-cache"])
    words = build.command(wanted, "docker")
    assert words[:4] == ["docker", "build", "--tag", "t:1"]
    assert f"id=ca,src={tmp_path}/ca.pem" in words
    assert f"id=pip,src={tmp_path}/pip.conf" in words
    assert words[-2:] == ["--no-cache", str(ROOT)]
    assert "--layers" in build.command(wanted, "buildah")
    with pytest.raises(UsageError, match="there is no such file"):
        build.command(build.Build("t:1", ca=tmp_path / "none.pem"), "docker")


def test_an_engine_that_does_not_answer_is_told_apart_from_one_that_is_missing(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.setattr(
        engine.shutil, "which", lambda name: str(tmp_path / name) if (tmp_path / name).exists() else None
    )
    (tmp_path / "docker").write_text("#!/bin/sh\necho 'Cannot connect to the daemon' >&2\nexit 1\n")
    (tmp_path / "docker").chmod(0o755)
    expected = r"docker does not answer \(Cannot connect to the daemon\); podman is not installed; buildah is not"
    with pytest.raises(UsageError, match=expected):
        engine.find()
    (tmp_path / "podman").write_text("#!/bin/sh\nexit 0\n")
    (tmp_path / "podman").chmod(0o755)
    assert engine.find() == "podman"
    with pytest.raises(UsageError, match="expected one of docker, podman, buildah"):
        engine.find("nerdctl")
    with pytest.raises(JobError, match="building x: sh ended with 3: no space left"):
        engine.run(["sh", "-c", "echo no space left >&2; exit 3"], "building x")
    with pytest.raises(JobError, match=r"waiting: sleep had not ended after 0\.001 minutes"):
        engine.run(["sleep", "60"], "waiting", minutes=0.001)


def test_dockers_command_on_podmans_service_is_passed_by(tmp_path, monkeypatch):
    server = 'if [ "$1" = version ]; then printf "Podman Engine\\nConmon\\n"; fi'
    (tmp_path / "docker").write_text(f"#!/bin/sh\n{server}\n")
    (tmp_path / "podman").write_text("#!/bin/sh\n")
    for name in ("docker", "podman"):
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    assert engine.find() == "podman"
    with pytest.raises(UsageError, match="docker talks to Podman's service"):
        engine.find("docker")


def test_a_container_is_removed_with_options_that_every_engine_has(tmp_path, monkeypatch):
    (tmp_path / "docker").write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/asked\n')
    (tmp_path / "docker").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    asked = check.Check("docker", "t:1", tmp_path, tmp_path / "data", tmp_path)
    with asked.running("--worker_pool") as name:
        pass
    assert (tmp_path / "asked").read_text().splitlines()[-1] == f"rm --force {name}"


@pytest.mark.skipif(not (shutil.which("cc") and shutil.which("strip")), reason="there is no C compiler")
def test_pruning_keeps_the_packages_own_lists_true(tmp_path, capsys):
    site = tmp_path / "site-packages"
    kept, headers, tests = "tensorflow/core.py", "tensorflow/include/a.h", "numpy/core/tests/test_a.py"
    for file in (
        kept,
        headers,
        tests,
        "numpy/testing/__init__.py",
        "google/cloud/kms/a.py",
        "google/cloud/storage/a.py",
    ):
        (site / file).parent.mkdir(parents=True, exist_ok=True)
        (site / file).write_text("x = 1\n")
    library = site / "tensorflow/lib.so.2"
    (tmp_path / "lib.c").write_text("static int hidden(void) { return 1; }\nint seen(void) { return hidden(); }\n")
    subprocess.run(["cc", "-shared", "-fPIC", "-g", "-o", library, tmp_path / "lib.c"], check=True)
    before = library.stat().st_size
    (site / "tensorflow-1.dist-info").mkdir()
    record = site / "tensorflow-1.dist-info/RECORD"
    record.write_text(f"{headers},sha256=old,6\n{kept},sha256=old,6\ntensorflow/lib.so.2,sha256=old,1\n")
    prune.prune(site)
    assert not (site / "tensorflow/include").exists()
    assert not (site / "numpy/core/tests").exists()
    assert (site / "numpy/testing/__init__.py").exists()
    compiled = {str(path.relative_to(site).parents[1]) for path in site.rglob("*.pyc")}
    assert compiled == {"tensorflow", "numpy/testing", "google/cloud/storage"}
    assert ctypes.CDLL(str(library)).seen() == 1
    size = library.stat().st_size
    assert size < before
    digest = base64.urlsafe_b64encode(hashlib.sha256(library.read_bytes()).digest()).decode().rstrip("=")
    assert record.read_text() == f"{kept},sha256=old,6\ntensorflow/lib.so.2,sha256={digest},{size}\n"
    assert "headers" in capsys.readouterr().out
