"""What runs under --untrusted has no network, writes in one place, keeps its bounds and leaves nothing behind."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import pytest
import tensorflow as tf
from typer.main import get_command

from tests.saved_models import GUESSLANG, save_v1
from tfslim_core.cli import app
from tfslim_core.errors import ModelError
from tfslim_core.safety import confinement
from tfslim_core.safety.untrusted import Bounds, _clear, run

tf1 = tf.compat.v1
ROOT = Path(__file__).parents[2]


def probed(capfd, *arguments, writes=(), bounds=None):
    """Lines that the probe prints; confined."""
    capfd.readouterr()
    code = run(arguments, writes, bounds or Bounds(2 << 30, 60), module="tests.safety.probe")
    assert code == 0
    return capfd.readouterr().out.splitlines()


def tfslim(*arguments, timeout=120, **environment):
    """The command as a user calls it: exit code, lines of stdout, lines of stderr."""
    done = subprocess.run(
        [sys.executable, "-m", "tfslim_core.cli", *map(str, arguments)],
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=timeout,
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
    )
    return done.returncode, done.stdout.splitlines(), done.stderr.splitlines()


def doubled():
    x = tf1.placeholder(tf.float32, [None], name="x")
    w = tf1.get_variable("w", initializer=tf.ones([1]), use_resource=True)
    return {"serving_default": ({"x": x}, {"y": x * w})}


@pytest.fixture(autouse=True)
def _path(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(ROOT))


def test_it_cannot_reach_a_server_that_others_reach(capfd):
    with closing(socket.create_server(("127.0.0.1", 0))) as server:
        port = str(server.getsockname()[1])
        free = subprocess.run(
            [sys.executable, "-m", "tests.safety.probe", "connect", port], capture_output=True, text=True, cwd=ROOT
        )
        assert "AF_INET SOCK_STREAM: connected" in free.stdout
        lines = probed(capfd, "connect", port)
        assert len(lines) == 4
        assert all(line.endswith("Operation not permitted") for line in lines)
        server.settimeout(0.2)
        server.accept()  # the free one's
        with pytest.raises(TimeoutError):
            server.accept()


def test_it_writes_beside_its_output_and_nowhere_else(capfd, tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "out").mkdir()
    (tmp_path / "in/there").write_text("kept")
    paths = [str(tmp_path / name) for name in ("out/new", "in/new", "in/there", "new")]
    lines = probed(capfd, "write", *paths, "/dev/null", writes=[str(tmp_path / "out/model")])
    assert lines == [
        "wrote new",
        *["new: Permission denied", "there: Permission denied"],
        "new: Permission denied",
        "wrote null",
    ]
    assert (tmp_path / "in/there").read_text() == "kept"


def test_it_knows_no_secrets_and_cannot_look_into_other_processes(capfd, monkeypatch):
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "s3")
    monkeypatch.setenv("GITHUB_TOKEN", "s4")
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", "/s5")
    monkeypatch.setenv("TF_SOME_TOKEN", "s6")
    names, parent = probed(capfd, "secrets")
    assert not any(word in names for word in ("AWS", "GITHUB", "GOOGLE", "TF_SOME"))
    assert "PATH" in names.split()
    assert parent == "the parent's: Permission denied"


def test_it_cannot_leave_its_group_signal_others_or_make_namespaces(capfd):
    assert probed(capfd, "escape", str(os.getpid())) == ["Operation not permitted"] * 3


def test_too_much_memory_is_one_line(capfd):
    assert run(["allocate", "3000"], [], Bounds(2 << 30, 60), module="tests.safety.probe") == 1
    assert capfd.readouterr().err == "tfslim: more than 2 GiB of memory would be needed; see --memory-limit\n"


def test_memory_of_all_its_processes_counts():
    with pytest.raises(ModelError, match=r"took more than 0\.5 GiB of memory and was ended; see --memory-limit"):
        run(["allocate_in_children", "200", "4"], [], Bounds(1 << 29, 60), module="tests.safety.probe")


def test_a_process_that_dies_is_told_in_one_line():
    with pytest.raises(ModelError, match=r"was ended by SIGABRT: the model makes TensorFlow fail, or needs more than"):
        run(["abort"], [], Bounds(1 << 30, 60), module="tests.safety.probe")


def test_time_is_up_for_all_its_processes(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    start = time.monotonic()
    with pytest.raises(ModelError, match=r"took longer than 1 s and was ended; see --time-limit"):
        run(["sleep", "77777"], [], Bounds(1 << 30, 1), module="tests.safety.probe")
    assert time.monotonic() - start < 10
    assert not list(tmp_path.iterdir())
    assert not running("time.sleep(77777)")


def test_what_was_begun_is_gone(tmp_path, capfd):
    other = tmp_path / ".out.part-1-other"
    other.mkdir()
    out = str(tmp_path / "out")
    with pytest.raises(ModelError, match="took longer"):
        run(["leave_behind", out], [out], Bounds(1 << 30, 3), module="tests.safety.probe")
    assert capfd.readouterr().out == "begun\n"
    assert list(tmp_path.iterdir()) == [other]


def test_what_was_moved_away_comes_back(tmp_path):
    old = tmp_path / ".out.old-7-abc"
    (old / "old").mkdir(parents=True)
    (old / "old/file").write_text("mine")
    _clear(tmp_path / "out", 7)
    assert (tmp_path / "out/file").read_text() == "mine"
    assert not old.exists()


def test_without_a_way_to_block_the_network_nothing_runs(monkeypatch):
    monkeypatch.setattr(confinement.platform, "machine", lambda: "riscv64")
    with pytest.raises(ModelError, match="no way is known to keep a process on riscv64 from the network"):
        confinement._filter_calls()
    assert not confinement.is_confined()


def test_every_command_that_opens_a_model_can_be_told_not_to_trust_it():
    # publish compares digests and copies files, list looks at names: they open no model.
    trusting = {"list", "publish", "rollback", "transforms"}
    lacking = {
        name
        for name, command in get_command(app).commands.items()
        if "--untrusted" not in {option for parameter in command.params for option in parameter.opts}
    }
    assert lacking == trusting


def test_limits_without_untrusted_are_a_usage_error(tmp_path):
    code, _, err = tfslim("freeze", tmp_path, tmp_path / "b", "--time-limit", "5")
    assert (code, len(err)) == (2, 1)
    assert "give --untrusted too" in err[0]


def test_a_dangerous_model_is_refused_before_it_is_loaded(tmp_path):
    target = tmp_path / "written"
    model = save_v1(tmp_path / "m", doubled, init=lambda: tf.io.write_file(str(target), "hi"))
    code, out, err = tfslim("freeze", model, tmp_path / "bundle", "--untrusted")
    assert (code, out, len(err)) == (1, [], 1)
    assert err[0].startswith(f"tfslim: {model} is refused as untrusted: WriteFile 'WriteFile' (init op) writes a file")
    assert err[0].endswith(f"see all: tfslim inspect {model} --audit")
    assert not target.exists()
    assert not (tmp_path / "bundle").exists()
    code, out, err = tfslim("inspect", model, "--audit", "--untrusted", "--json")
    assert code == 0
    assert json.loads("\n".join(out))["refused"] == 1
    assert not target.exists()


def test_an_endless_model_ends_in_time_and_leaves_nothing(tmp_path):
    def endless():
        x = tf1.placeholder(tf.float32, [None], name="x")
        return {"serving_default": ({"x": x}, {"y": tf.while_loop(lambda y: True, lambda y: (y + 1,), (x,))[0]})}

    model = save_v1(tmp_path / "m", endless)
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    arguments = ["freeze", model, tmp_path / "bundle", "--untrusted", "--time-limit", "12"]
    code, _, err = tfslim(*arguments, TMPDIR=str(scratch))
    assert (code, err) == (
        1,
        ["tfslim: --untrusted: the command took longer than 12 s and was ended; see --time-limit"],
    )
    assert sorted(path.name for path in tmp_path.iterdir()) == ["m", "scratch"]
    assert not list(scratch.iterdir())
    assert not running(str(scratch))


def test_a_sound_model_passes_and_so_does_what_is_printed(tmp_path):
    code, out, _ = tfslim("freeze", GUESSLANG, tmp_path / "bundle", "--untrusted", "--json")
    assert code == 0
    assert json.loads("\n".join(out))["nodes"] == 239
    assert (tmp_path / "bundle/manifest.json").exists()


def test_ctrl_c_ends_it(tmp_path):
    process = subprocess.Popen(
        [sys.executable, "-m", "tfslim_core.cli", "freeze", str(GUESSLANG), str(tmp_path / "bundle"), "--untrusted"],
        stderr=subprocess.PIPE,
        cwd=ROOT,
    )
    time.sleep(4)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=30)
    assert process.returncode == 130
    assert not list(tmp_path.iterdir())
    assert not running(str(tmp_path))


def running(text):
    """Processes with this in their command line or environment."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                if text.encode() in (entry / "cmdline").read_bytes() + (entry / "environ").read_bytes():
                    found.append(entry.name)
            except OSError:
                continue
    return found
