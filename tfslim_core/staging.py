"""Paths in buckets as arguments: read through a local copy, written from one when it is whole.

What is written down or told meanwhile names the address, not the copy.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import fields, is_dataclass, replace
from functools import wraps
from inspect import BoundArguments, signature
from pathlib import Path, PurePosixPath
from typing import Any, ParamSpec, TypeVar

from tfslim_core import buckets
from tfslim_core.buckets import Address, address_of
from tfslim_core.errors import OutputExistsError, TfslimError

Given = ParamSpec("Given")
Made = TypeVar("Made")

_copies: ContextVar[Mapping[str, str] | None] = ContextVar("copies", default=None)


def shown(path: str | os.PathLike[str]) -> str:
    """The path as the user gave it: the address, where it is a copy of what is in a bucket or is on its way there."""
    return _with_addresses(os.fspath(path))


def in_buckets(
    *,
    reads: Collection[str],
    data: Collection[str] = (),
    writes: Collection[str] = (),
    check: Callable[[Mapping[str, Any]], None] | None = None,
) -> Callable[[Callable[Given, Made]], Callable[Given, Made]]:
    """Let a function take gs:// addresses in these parameters.

    reads: of files and directories. data: of mappings from names to them; patterns too. writes: of what it writes; its
    `overwrite` is heeded. Its `progress` is told of the copies. Where its result holds a path, that is the address.
    check: is given all arguments before anything is copied, and raises where the copies would be of no use.

    Raises (when it is called):
        StorageError: a copy cannot be made. OutputExistsError: there is something where it should write.
    """

    def decorate(function: Callable[Given, Made]) -> Callable[Given, Made]:
        known = signature(function)

        @wraps(function)
        def call(*args: Given.args, **kwargs: Given.kwargs) -> Made:
            bound = known.bind(*args, **kwargs)
            if not any(map(address_of, _paths(bound, [*reads, *writes], data))):
                return function(*args, **kwargs)
            bound.apply_defaults()
            if check is not None:
                check(bound.arguments)
            with tempfile.TemporaryDirectory(prefix="tfslim-") as folder, _renamed() as copies:
                made = _redirected(bound, Path(folder), copies, reads, data, writes)
                result = function(*bound.args, **bound.kwargs)
                for copy, address in made.items():
                    if copy.exists():
                        overwrite = bool(bound.arguments.get("overwrite", False))
                        buckets.upload(copy, address, overwrite=overwrite, progress=_told(bound, f"upload {address}"))
                return _addressed(result)

        return call

    return decorate


def _paths(bound: BoundArguments, names: Collection[str], data: Collection[str]) -> Iterator[str | os.PathLike[str]]:
    for name in names:
        if isinstance(value := bound.arguments.get(name), str | os.PathLike):
            yield value
    for name in data:
        yield from (bound.arguments.get(name) or {}).values()


def _redirected(
    bound: BoundArguments,
    folder: Path,
    copies: dict[str, str],
    reads: Collection[str],
    data: Collection[str],
    writes: Collection[str],
) -> dict[Path, Address]:
    """Put local paths in the place of addresses; what has to be copied back, and where to."""

    def place(address: Address) -> Path:
        inner = folder / str(len(copies))
        inner.mkdir()
        copies[f"{inner}/"] = str(address.folder / "")
        if not address.name:
            copies[str(inner)] = str(address)
        return inner

    def fetched(path: str | os.PathLike[str]) -> str:
        address = address_of(path)
        if address is None:
            return os.fspath(path)
        return str(buckets.download(address, place(address), _told(bound, f"download {address}")))

    made: dict[Path, Address] = {}
    for name in writes:
        value = bound.arguments.get(name)
        if isinstance(value, str | os.PathLike) and (address := address_of(value)) is not None:
            if not bound.arguments.get("overwrite") and buckets.exists(address):
                raise OutputExistsError(f"{address} already exists; give --overwrite to replace it")
            copy = place(address) / PurePosixPath(address.name).name
            made[copy] = address
            bound.arguments[name] = str(copy)
    for name in reads:
        if isinstance(value := bound.arguments.get(name), str | os.PathLike):
            bound.arguments[name] = fetched(value) if address_of(value) else value
    for name in data:
        if given := bound.arguments.get(name):
            bound.arguments[name] = {key: fetched(value) for key, value in given.items()}
    return made


def _told(bound: BoundArguments, what: str) -> Callable[[int, int], None] | None:
    progress = bound.arguments.get("progress")
    return (lambda done, total: progress(what, done, total)) if progress else None


@contextmanager
def _renamed() -> Iterator[dict[str, str]]:
    """Copies to note, with what they are of; errors that name a copy name the address instead."""
    copies: dict[str, str] = {}
    token = _copies.set(copies)
    try:
        yield copies
    except TfslimError as error:
        error.args = tuple(_with_addresses(text) if isinstance(text, str) else text for text in error.args)
        raise
    finally:
        _copies.reset(token)


def _with_addresses(text: str) -> str:
    for copy, address in (_copies.get() or {}).items():
        text = text.replace(copy, address)
    return text


def _addressed(result: Made) -> Made:
    """A result whose paths are addresses where they are copies."""
    if not is_dataclass(result) or isinstance(result, type):
        return result
    found: dict[str, Any] = {}
    for field in fields(result):
        value = getattr(result, field.name)
        if isinstance(value, Path) and (text := shown(value)) != str(value):
            found[field.name] = text
    return replace(result, **found) if found else result
