"""The two images that the Dockerfile begins with, made from Debian's packages where no registry can be reached."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from pathlib import Path

from components.image import engine
from tfslim_core.errors import UsageError

SUITE = "bookworm"
PYTHON = "python3.11"
# Debian keeps its Python where the official image does not, and has no command `python`.
_LINKS = {f"usr/local/bin/{name}": f"/usr/bin/{PYTHON}" for name in ("python", "python3", PYTHON)}
_LEFT_OUT = ("var/cache/apt", "var/lib/apt/lists", "var/cache/debconf", "usr/share/man", "usr/share/info", "var/log")
SECURITY = "http://security.debian.org/debian-security"


def make_python(name: str, engine_name: str, mirror: str, security: str = SECURITY) -> None:
    """Make an image of Debian with its Python and give it that name. Needs root and debootstrap."""
    with tempfile.TemporaryDirectory(prefix="tfslim-base-") as scratch:
        root = Path(scratch) / "root"
        bare = ["debootstrap", "--variant=minbase", "--include=ca-certificates", SUITE, str(root), mirror]
        engine.run(bare, f"making {name}", shown=True)
        (root / "etc/apt/sources.list").write_text(
            f"deb {mirror} {SUITE} main\ndeb {mirror} {SUITE}-updates main\ndeb {security} {SUITE}-security main\n"
        )
        # Debootstrap itself cannot resolve what Python's packages need.
        install = ["--yes", "--no-install-recommends", "install", PYTHON, f"{PYTHON}-venv"]
        for words in (["update"], ["--yes", "upgrade"], install):
            engine.run(["chroot", root, "apt-get", "--quiet", *words], f"making {name}", shown=True)
        for link, target in _LINKS.items():
            (root / link).symlink_to(target)
        for folder in _LEFT_OUT:
            for found in (root / folder).iterdir():
                shutil.rmtree(found) if found.is_dir() and not found.is_symlink() else found.unlink()
        for apts in ("var/cache/apt/archives/partial", "var/lib/apt/lists/partial", "var/log/apt"):
            (root / apts).mkdir(parents=True)
        for ours in ("etc/resolv.conf", "etc/hostname"):  # copied from this machine
            (root / ours).unlink(missing_ok=True)
        _as_image(root, name, engine_name)


def make_go(name: str, engine_name: str, python: str) -> None:
    """Make an image of this machine's Go on top of that of Python."""
    goroot = engine.run(["go", "env", "GOROOT"], f"making {name}").strip()
    with tempfile.TemporaryDirectory(prefix="tfslim-base-") as scratch:
        file = Path(scratch) / "Dockerfile"
        file.write_text(f"FROM {python}\nCOPY . /usr/local/go\n")
        never = ["--pull=never"] if engine_name != "docker" else []
        engine.run([engine_name, "build", *never, "--tag", name, "--file", file, goroot], f"making {name}", shown=True)


def _as_image(root: Path, name: str, engine_name: str) -> None:
    what = f"importing {name}"
    if engine_name == "buildah":
        container = engine.run(["buildah", "from", "scratch"], what).strip()
        engine.run(["buildah", "add", "--quiet", container, root, "/"], what)
        engine.run(["buildah", "commit", "--quiet", "--rm", container, name], what)
        return
    if engine_name not in engine.RUNS:
        raise UsageError(f"--engine {engine_name}: expected docker, podman or buildah")
    with subprocess.Popen(["tar", "-C", root, "--numeric-owner", "-c", "."], stdout=subprocess.PIPE) as tar:
        subprocess.run([engine_name, "import", "-", name], stdin=tar.stdout, check=True)
