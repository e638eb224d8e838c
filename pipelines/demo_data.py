"""Real source files of many languages, as they lie on any machine: what the demo's classifier is asked about."""

from __future__ import annotations

import codecs
import hashlib
import json
import os
import sysconfig
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path

# The languages that the classifier knows, by the extensions that their files have.
EXTENSIONS = frozenset(
    "asm bat c cbl cc clj cmake coffee cpp cs css csv cu cxx dart erl ex f f90 go groovy h hpp hs html ini java jl js "
    "json kt lisp lua m md ml mm mjs pas php pl pm ps1 py r rb rs s scala sh sql swift tcl tex toml ts tsx v vba xml "
    "yaml yml".split()
)
PER_EXTENSION = 40
LONGEST = 10_000
SHORTEST = 100
_LEFT_OUT = {"__pycache__", "node_modules", ".git"}


def roots() -> list[Path]:
    """Where to look: installed packages, the standard library, and what the system brings."""
    found = [*(sysconfig.get_path(name) for name in ("purelib", "platlib", "stdlib")), "/usr/share", "/usr/include"]
    return [Path(path) for path in dict.fromkeys([*found, "/usr/lib", "/usr/local/share", "/usr/local/include"])]


def gather(folders: Iterable[Path], per_extension: int = PER_EXTENSION) -> dict[Path, str]:
    """Path -> text of at most so many files of each extension, no text twice; the same files give the same choice.

    The files of an extension are taken in the order of a hash of their paths, so that they come of many packages.
    """
    known: dict[str, list[tuple[str, Path]]] = defaultdict(list)
    for folder in folders:
        for path in _files(folder):
            rank = hashlib.sha256(os.fsencode(path.relative_to(folder))).hexdigest()
            known[path.suffix[1:].lower()].append((rank, path))
    chosen: dict[Path, str] = {}
    seen: set[str] = set()
    for extension in sorted(known):
        taken = 0
        for _, path in sorted(known[extension]):
            text = _text(path)
            if text is None or text in seen:
                continue
            seen.add(text)
            chosen[path] = text
            taken += 1
            if taken == per_extension:
                break
    return chosen


def counts(paths: Iterable[Path]) -> Counter[str]:
    """How many files of each extension."""
    return Counter(path.suffix[1:].lower() for path in paths)


def write_requests(texts: Iterable[str], key: str, file: Path) -> None:
    """Write one request a line, as TensorFlow Serving's REST interface takes instances."""
    with file.open("w") as out:
        for text in texts:
            out.write(json.dumps({key: text}) + "\n")


def _files(folder: Path) -> Iterator[Path]:
    for where, folders, names in os.walk(folder):
        folders[:] = sorted(set(folders) - _LEFT_OUT)
        for name in sorted(names):
            if name.rpartition(".")[2].lower() in EXTENSIONS and "." in name:
                yield Path(where, name)


def _text(path: Path) -> str | None:
    """The beginning of a file, or None where it is no text or too short to say anything."""
    try:
        if not path.is_file():
            return None
        with path.open("rb") as file:
            data = file.read(LONGEST)
        text = codecs.getincrementaldecoder("utf-8")().decode(data)  # a character that is cut at the end is left out
    except (OSError, UnicodeDecodeError):
        return None
    return text if len(data) >= SHORTEST and "\0" not in text else None
