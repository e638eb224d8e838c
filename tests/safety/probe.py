"""What a confined process tries; `python -m tests.safety.probe WHAT ARGUMENTS…`. Prints what came of it."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from pathlib import Path


def connect(port: str) -> None:
    for family, kind, address in (
        (socket.AF_INET, socket.SOCK_STREAM, ("127.0.0.1", int(port))),
        (socket.AF_INET, socket.SOCK_DGRAM, ("127.0.0.1", int(port))),
        (socket.AF_INET6, socket.SOCK_STREAM, ("::1", int(port))),
        (socket.AF_UNIX, socket.SOCK_STREAM, "/run/docker.sock"),
    ):
        try:
            with socket.socket(family, kind) as opened:
                opened.connect(address)
            say(f"{family.name} {kind.name}: connected")
        except OSError as error:
            say(f"{family.name} {kind.name}: {error.strerror}")


def write(*paths: str) -> None:
    for path in paths:
        try:
            Path(path).write_text("x")
            say(f"wrote {Path(path).name}")
        except OSError as error:
            say(f"{Path(path).name}: {error.strerror}")


def secrets() -> None:
    say(" ".join(sorted(os.environ)))
    try:
        say(Path(f"/proc/{os.getppid()}/environ").read_text())
    except OSError as error:
        say(f"the parent's: {error.strerror}")


def escape(pid: str) -> None:
    for what in (lambda: os.setsid(), lambda: os.kill(int(pid), 0), lambda: os.unshare(0x40000000)):
        try:
            what()
            say("done")
        except (OSError, AttributeError) as error:
            say(getattr(error, "strerror", None) or "Operation not permitted")


def allocate(mebibytes: str) -> None:
    held = bytearray(int(mebibytes) << 20)
    say(f"has {len(held)}")


def allocate_in_children(mebibytes: str, count: str) -> None:
    touched = "held[::4096] = held[::4096].replace(b'\\0', b'1')"
    code = f"import time; held = bytearray({mebibytes} << 20); {touched}; time.sleep(60)"
    children = [subprocess.Popen([sys.executable, "-c", code]) for _ in range(int(count))]
    for child in children:
        child.wait()


def abort() -> None:
    os.abort()


def sleep(seconds: str) -> None:
    subprocess.Popen([sys.executable, "-c", f"import time; time.sleep({seconds})"]).wait()


def leave_behind(out: str) -> None:
    from tfslim_core.storage import whole_directory

    with whole_directory(out) as aside:
        (aside / "file").write_text("half")
        say("begun")
        time.sleep(60)


def say(what: str) -> None:
    sys.stdout.write(what + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    globals()[sys.argv[1]](*sys.argv[2:])
