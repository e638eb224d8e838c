"""How a function becomes a component of tfslim's."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from types import CodeType, FunctionType
from typing import Any

from kfp import dsl

from components import shared
from components.image import IMAGE


def component(function: Callable[..., Any]) -> Any:
    """A lightweight component in tfslim's image; the source of what it calls of `components.shared` travels in it."""
    wanted = set(_called(function))
    taken = [one for one in vars(shared).values() if isinstance(one, FunctionType) and one in wanted]
    return dsl.component(function, base_image=IMAGE, install_kfp_package=False, additional_funcs=taken)


def _called(function: Callable[..., Any]) -> Iterator[FunctionType]:
    """The functions of `shared` that a function names, and those that these name."""
    for name in _names(function.__code__):
        found = vars(shared).get(name)
        if isinstance(found, FunctionType) and found.__module__ == shared.__name__:
            yield found
            yield from _called(found)


def _names(code: CodeType) -> Iterator[str]:
    yield from code.co_names
    for inner in code.co_consts:
        if isinstance(inner, CodeType):
            yield from _names(inner)
