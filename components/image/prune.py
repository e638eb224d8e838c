"""Take from installed packages what no program loads; the Dockerfile calls it with the path of site-packages.

What goes is named here with its reason. The packages' own lists of files (RECORD) are kept true: what was taken is
no longer in them, what was stripped has its new size and hash. Needs the standard library alone, and `strip`.
"""

import base64
import compileall
import csv
import hashlib
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

NOT_LOADED = {
    "headers, to compile operations against": ("tensorflow/include", "pyarrow/include"),
    "required by TensorFlow's metadata, loaded by nothing": ("clang/native",),
    "the packages' own tests": ("numpy/**/tests", "pyarrow/tests", "google/genai/tests", "h5py/tests"),
}
# Only libraries of the large wheels, which were linked by their own builds: those that auditwheel has edited break.
WITH_SYMBOLS = ("tensorflow/**/*.so*", "pyarrow/*.so*")
# Clients of services that a run of tfslim never calls; a program that imports one compiles it in its memory.
NOT_COMPILED = re.compile(r"/site-packages/(google/cloud/(?!_?storage)|vertexai|agentplatform|kubernetes|google/genai)")


def prune(site: Path, told: Callable[[str], object] = print) -> None:
    """Remove, strip, and compile to bytecode; tells the megabytes of each."""
    told(f"{_size(site):7.1f} MB installed")
    for reason, patterns in NOT_LOADED.items():
        before = _size(site)
        for found in [path for pattern in patterns for path in site.glob(pattern)]:
            shutil.rmtree(found, ignore_errors=True)  # one may lie within another
        told(f"{_size(site) - before:+7.1f} MB {reason}: {', '.join(patterns)}")
    before = _size(site)
    libraries = [path for pattern in WITH_SYMBOLS for path in site.glob(pattern) if not path.is_symlink()]
    for library in libraries:
        subprocess.run(["strip", "--strip-unneeded", str(library)], check=True)
    told(f"{_size(site) - before:+7.1f} MB symbols for debuggers: {', '.join(WITH_SYMBOLS)}")
    for record in site.glob("*.dist-info/RECORD"):
        _rewrite(record, {path.relative_to(site).as_posix() for path in libraries})
    before = _size(site)
    # A container may not be able to write bytecode; without it every import of TensorFlow takes twice as long.
    compileall.compile_dir(site, quiet=2, workers=0, rx=NOT_COMPILED)
    told(f"{_size(site) - before:+7.1f} MB bytecode")
    told(f"{_size(site):7.1f} MB left")


def _rewrite(record: Path, changed: set[str]) -> None:
    site = record.parent.parent
    with record.open(newline="") as file:
        rows = [row for row in csv.reader(file) if (site / row[0]).exists()]
    for row in rows:
        if row[0] in changed:
            content = (site / row[0]).read_bytes()
            digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
            row[1:] = [f"sha256={digest}", str(len(content))]
    with record.open("w", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows(rows)


def _size(folder: Path) -> float:
    return sum(path.lstat().st_size for path in folder.rglob("*") if not path.is_dir()) / 1e6


if __name__ == "__main__":
    prune(Path(sys.argv[1]))
