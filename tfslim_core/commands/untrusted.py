"""--untrusted, which every command that opens a model takes: `@may_be_untrusted(models=…, writes=…)`."""

from __future__ import annotations

import inspect
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import wraps
from typing import Annotated, Any

import typer

from tfslim_core.buckets import address_of
from tfslim_core.commands.app import arguments
from tfslim_core.errors import UsageError

Untrusted = Annotated[
    bool,
    typer.Option(
        "--untrusted", help="Refuse a model that reaches beyond itself; run without a network, within limits."
    ),
]
MemoryLimit = Annotated[
    float | None, typer.Option(metavar="GIB", min=0.5, help="With --untrusted: memory that it may take; 8.")
]
TimeLimit = Annotated[
    float | None, typer.Option(metavar="SECONDS", min=1, help="With --untrusted: time that it may take; 3600.")
]
_ADDED = {
    "untrusted": (Untrusted, False),
    "memory_limit": (MemoryLimit, None),
    "time_limit": (TimeLimit, None),
}


def may_be_untrusted(
    models: Sequence[str],
    writes: Sequence[str] = (),
    *,
    lists: str | None = None,
    more_writes: Callable[[Mapping[str, Any]], Sequence[Any]] = lambda _: (),
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command --untrusted, --memory-limit and --time-limit.

    models, writes: the parameters that name what is read and what is written. lists: the flag with which a command
    tells what is dangerous, rather than to refuse it. more_writes: of the arguments, other places that are written to.
    """

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        @wraps(command)
        def wrapped(
            *given: Any,
            untrusted: bool = False,
            memory_limit: float | None = None,
            time_limit: float | None = None,
            **named: Any,
        ) -> None:
            if not untrusted and (memory_limit is not None or time_limit is not None):
                raise UsageError("--memory-limit and --time-limit bound what --untrusted runs; give --untrusted too")
            if untrusted:
                _confined_or_elsewhere(named, memory_limit, time_limit)
            command(*given, **named)

        def _confined_or_elsewhere(
            named: Mapping[str, Any], memory_limit: float | None, time_limit: float | None
        ) -> None:
            from tfslim_core.safety.confinement import is_confined

            if not is_confined():
                _refuse_buckets(named)
                from tfslim_core.safety.untrusted import MEMORY_LIMIT, TIME_LIMIT, Bounds, run

                memory = MEMORY_LIMIT if memory_limit is None else int(memory_limit * 2**30)
                bounds = Bounds(memory, TIME_LIMIT if time_limit is None else time_limit)
                places = [*(named[name] for name in writes if named.get(name) is not None), *more_writes(named)]
                raise typer.Exit(run(_given(), [os.fspath(place) for place in places], bounds))
            if lists is None or not named.get(lists):
                from tfslim_core.safety import refuse_dangerous

                for name in models:
                    refuse_dangerous(named[name], named.get("graph"))

        signature = inspect.signature(command, eval_str=True)
        added = [
            inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, annotation=kind, default=default)
            for name, (kind, default) in _ADDED.items()
        ]
        taken = [one.replace(kind=inspect.Parameter.KEYWORD_ONLY) for one in signature.parameters.values()]
        # What typer asks for options is this signature, and the hints beside it.
        wrapped.__signature__ = signature.replace(parameters=[*taken, *added])  # type: ignore[attr-defined]
        wrapped.__annotations__ = {one.name: one.annotation for one in (*taken, *added)}
        del wrapped.__wrapped__
        return wrapped

    return decorate


def _refuse_buckets(named: Mapping[str, Any]) -> None:
    """What runs has no network to read a bucket with."""
    for value in named.values():
        for one in value if isinstance(value, list) else [value]:
            text = os.fspath(one) if isinstance(one, str | os.PathLike) else ""
            if address_of(text.partition("=")[2] or text):
                raise UsageError(f"--untrusted runs without a network, and cannot read {text}; copy it here first")


def _given() -> list[str]:
    given = arguments.get()
    return sys.argv[1:] if given is None else given
