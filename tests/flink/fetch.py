"""Fetch what a Flink cluster needs into .cache/flink, each jar with the bytes that jars.lock names; for `make setup`.

Where something is missing on this machine, that is told and the test of Flink is skipped.
"""

import hashlib
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

from tests.flink.cluster import JARS

HERE = Path(__file__).parent
_PIP = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
_WANTED = ("flink-dist", "log4j-")


def main() -> None:
    """Fetch all of it anew."""
    if not (shutil.which("java") and shutil.which("mvn")):
        print("no java or no mvn: the test of Flink is skipped (Debian: default-jre-headless, maven)")  # noqa: T201
        return
    shutil.rmtree(JARS, ignore_errors=True)
    JARS.mkdir(parents=True)
    fetch_flink(JARS / "flink")
    goal = ["dependency:copy-dependencies", f"-DoutputDirectory={JARS / 'beam'}"]
    _called(["mvn", "--quiet", "--batch-mode", "--file", str(HERE / "pom.xml"), *goal])
    check(JARS)


def fetch_flink(folder: Path) -> None:
    """The jars of a Flink cluster, out of the package for Python that carries all of them."""
    with tempfile.TemporaryDirectory() as aside:
        lock = ["--require-hashes", "--requirement", str(HERE / "flink.lock")]
        _called([*_PIP, "download", "--no-deps", "--dest", aside, *lock])
        folder.mkdir()
        (packed,) = Path(aside).glob("*.tar.gz")
        with tarfile.open(packed) as archive:
            for member in archive:
                name = Path(member.name).name
                if "/deps/lib/" in member.name and name.startswith(_WANTED):
                    with archive.extractfile(member) as content, (folder / name).open("wb") as file:
                        shutil.copyfileobj(content, file)


def check(folder: Path) -> None:
    """Exit with an error unless exactly the locked jars are there."""
    locked = dict(reversed(line.split()) for line in (HERE / "jars.lock").read_text().splitlines())
    found = {
        str(jar.relative_to(folder)): hashlib.sha256(jar.read_bytes()).hexdigest() for jar in folder.glob("*/*.jar")
    }
    if wrong := sorted(name for name, _ in locked.items() ^ found.items()):
        shutil.rmtree(folder)
        sys.exit(f"not the jars that tests/flink/jars.lock names: {', '.join(sorted(set(wrong)))}")


def _called(command: list[str]) -> None:
    subprocess.run(command, check=True, timeout=1200)


if __name__ == "__main__":
    main()
