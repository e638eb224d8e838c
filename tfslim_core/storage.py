"""Directories that appear whole or not at all, and digests of what is in them."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from tfslim_core.errors import ModelError, OutputExistsError


@contextmanager
def whole_directory(out: str | os.PathLike[str], *, overwrite: bool = False) -> Iterator[Path]:
    """A fresh directory to fill beside `out`; it takes the name `out` only when the block ends without an error.

    A process that is killed half way leaves a directory whose name starts with a dot, which nothing takes for a result.

    Raises:
        OutputExistsError: `out` exists and `overwrite` is false.
        ModelError: the folder that should hold `out` cannot be written to.
    """
    target = Path(os.path.abspath(out))
    check_free(target, overwrite=overwrite)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        aside = Path(tempfile.mkdtemp(prefix=f".{target.name}.part-{os.getpid()}-", dir=target.parent))
    except OSError as error:
        raise ModelError(f"cannot write {target}: {error.strerror}") from None
    try:
        aside.chmod(0o777 & ~_umask())
        yield aside
        sync(aside)
        _put_in_place(aside, target, overwrite=overwrite)
        sync_folder(target.parent)
    except OSError as error:
        raise ModelError(f"cannot write {target}: {error.strerror or error}") from None
    finally:
        shutil.rmtree(aside, ignore_errors=True)


@contextmanager
def scratch_directory() -> Iterator[Path]:
    """An empty directory that is gone after the block."""
    with tempfile.TemporaryDirectory(prefix="tfslim-") as aside:
        yield Path(aside)


@contextmanager
def whole_file(out: str | os.PathLike[str], *, overwrite: bool = False) -> Iterator[Path]:
    """A path to write to beside `out`; the file takes the name `out` only when the block ends without an error.

    Raises:
        OutputExistsError: `out` exists and `overwrite` is false.
        ModelError: the folder cannot be written to.
    """
    target = Path(os.path.abspath(out))
    check_free(target, overwrite=overwrite)
    if target.is_dir():
        raise OutputExistsError(f"{target} is a directory; a file cannot take its place")
    aside = target.parent / f".{target.name}.part-{os.getpid()}"
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        yield aside
        check_free(target, overwrite=overwrite)
        aside.replace(target)
    except OSError as error:
        raise ModelError(f"cannot write {target}: {error.strerror or error}") from None
    finally:
        with suppress(OSError):
            aside.unlink()


def check_free(target: str | os.PathLike[str], *, overwrite: bool) -> None:
    """Refuse an output that is already there.

    Raises:
        OutputExistsError: it exists and `overwrite` is false.
    """
    if os.path.lexists(target) and not overwrite:
        raise OutputExistsError(f"{os.fspath(target)} already exists; give --overwrite to replace it")


def inside(folder: Path, name: str, root: Path) -> Path:
    """The path `folder / name`, when it leads to a file within `root` even through symlinks.

    Raises:
        ModelError: it is absolute, leads elsewhere, or is not there.
    """
    found = folder / name
    try:
        # A name with ".." would lead out of the folder that it is copied to, even where it stays within the model.
        outside = os.path.isabs(name) or ".." in Path(name).parts or not found.resolve().is_relative_to(root.resolve())
        there = outside or found.is_file()
    except (OSError, RuntimeError, ValueError):  # too long, a circle of symlinks, or with a NUL
        raise ModelError(f"{root}: the file {name[:100]!r} has a name that no file can have") from None
    if outside:
        raise ModelError(f"{root}: the file {name!r} leads outside the model")
    if not there:
        raise ModelError(f"{root}: the file {name!r} is missing from {folder.name}/")
    return found


def size(directory: Path) -> int:
    """Bytes of all files below `directory`, or of a file.

    Raises:
        ModelError: a folder cannot be read.
    """
    return sum(path.stat().st_size for path in _files(directory))


def digest(directory: Path) -> str:
    """The sha256, as hex, over the lines `relative path NUL sha256 of the file LF`, sorted by path; that of a file is
    the digest of a directory that holds it alone.

    Raises:
        ModelError: a file or a folder cannot be read.
    """
    total = hashlib.sha256()
    root = directory.parent if directory.is_file() else directory
    for name in sorted(path.relative_to(root).as_posix() for path in _files(directory)):
        try:
            with (root / name).open("rb") as file:
                inner = hashlib.file_digest(file, "sha256").hexdigest()
        except OSError as error:
            raise _unreadable(root / name, error) from None
        total.update(f"{name}\0{inner}\n".encode("utf-8", "surrogateescape"))  # a name is any bytes
    return total.hexdigest()


def _files(directory: Path) -> Iterator[Path]:
    """All files below a directory, none left out because its folder cannot be read."""

    def refuse(error: OSError) -> None:
        raise _unreadable(error.filename, error)

    if not directory.is_dir():
        yield from (directory,) if directory.is_file() else ()
        return
    for folder, _, names in os.walk(directory, onerror=refuse):
        yield from (path for name in names if (path := Path(folder, name)).is_file())


def _unreadable(path: str | os.PathLike[str], error: OSError) -> ModelError:
    return ModelError(f"{os.fspath(path)} cannot be read: {error.strerror or error}")


def _put_in_place(aside: Path, target: Path, *, overwrite: bool) -> None:
    if not overwrite:
        check_free(target, overwrite=False)
        try:
            aside.rename(target)
        except OSError as error:
            raise OutputExistsError(f"{target} appeared while it was made ({error.strerror})") from None
        return
    old = Path(tempfile.mkdtemp(prefix=f".{target.name}.old-{os.getpid()}-", dir=target.parent))
    try:
        if os.path.lexists(target):
            target.rename(old / "old")
        try:
            aside.rename(target)
        except OSError:
            if (old / "old").exists():
                (old / "old").rename(target)
            raise
    finally:
        shutil.rmtree(old, ignore_errors=True)


def sync(directory: Path) -> None:
    """Bring the files and their names to disk before the rename makes them count."""
    for path in _files(directory):
        with path.open("rb") as file:
            os.fsync(file.fileno())
    for folder, _, _ in os.walk(directory):
        sync_folder(folder)


def sync_folder(folder: str | os.PathLike[str]) -> None:
    """Bring the names in a folder to disk, where the file system knows how to."""
    with suppress(OSError):
        opened = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(opened)
        finally:
            os.close(opened)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
