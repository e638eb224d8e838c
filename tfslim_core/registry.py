"""What a transform is, which ones there are, and the call syntax that users know from the Graph Transform Tool.

    strip_unused_nodes remove_nodes(op=Identity, op=CheckNumerics) fold_constants(ignore_errors=true)

A transform is a function from a graph to an `Outcome`; its keyword-only arguments are its parameters, so that the call
syntax, the help text and the documentation cannot disagree. `tfslim_core.transforms` registers those there are.
"""

from __future__ import annotations

import functools
import inspect
import re
import types
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Union, get_args, get_origin, get_type_hints

from tfslim_core.errors import TransformError, nearest
from tfslim_core.function_bodies import rewrite_bodies
from tfslim_core.graph import Graph

Value = bool | int | float | str | tuple[str, ...] | None


@dataclass(frozen=True)
class Skipped:
    """A node that a transform left as it is, and why."""

    node: str
    reason: str


@dataclass(frozen=True)
class Outcome:
    """What a transform made: the new graph, how many changes led to it, and what was left alone.

    exact: false where what was asked for changes the answers, such as to take out a Relu.
    """

    graph: Graph
    changes: int = 0
    skipped: tuple[Skipped, ...] = ()
    exact: bool = True


@dataclass(frozen=True)
class Parameter:
    """A parameter of a transform.

    kind: bool, int, float or str; with `repeatable` the key may be given more than once and the values form a tuple.
    """

    name: str
    kind: type
    default: Value = None
    required: bool = False
    repeatable: bool = False

    def __str__(self) -> str:
        """As documentation spells it: `op=… (repeatable)`, `max_inputs=1`."""
        shown = "…" if self.required or self.default in (None, (), "") else _spelled(self.default)
        return f"{self.name}={shown}" + (" (repeatable)" if self.repeatable else "")


@dataclass(frozen=True)
class Transform:
    """A registered transform. `summary` is one line; `documentation` the whole text of its module.

    exact: answers stay the same, but for rounding. enters_functions: it is called once more for the body of each
    library function; one that looks into functions by itself is not.
    """

    name: str
    summary: str
    documentation: str
    parameters: tuple[Parameter, ...]
    function: Callable[..., Outcome] = field(repr=False)
    exact: bool = True
    enters_functions: bool = False

    def read(self, given: Mapping[str, Sequence[str]]) -> dict[str, Value]:
        """The keyword arguments that the texts of a call mean.

        Raises:
            TransformError: a parameter is unknown, missing, given twice or of another type.
        """
        known = {parameter.name: parameter for parameter in self.parameters}
        for name in given:
            if name not in known:
                takes = ", ".join(known) or "none"
                raise TransformError(f"{self.name} has no parameter {name!r}{nearest(name, known)} (it takes: {takes})")
        for parameter in self.parameters:
            if parameter.required and not given.get(parameter.name):
                raise TransformError(f"{self.name} needs the parameter {parameter.name!r}, as in {parameter}")
        return {name: self._value(known[name], texts) for name, texts in given.items()}

    def _value(self, parameter: Parameter, texts: Sequence[str]) -> Value:
        if parameter.repeatable:
            return tuple(texts)
        if len(texts) > 1:
            raise TransformError(f"{self.name}: {parameter.name} is given {len(texts)} times; it takes one value")
        text = texts[0]
        try:
            if parameter.kind is bool:
                return _BOOLS[text.lower()]
            number: Value = parameter.kind(text)
        except (KeyError, ValueError):
            wanted = "true or false" if parameter.kind is bool else f"a value of type {parameter.kind.__name__}"
            raise TransformError(f"{self.name}: {parameter.name}={text} is not {wanted}") from None
        return number


_BOOLS = {"true": True, "1": True, "false": False, "0": False}


@dataclass(frozen=True)
class Call:
    """One transform with the arguments that it is called with.

    ignore_errors: on an error the graph is kept as it was before.
    """

    transform: Transform
    arguments: Mapping[str, Value] = field(default_factory=dict)
    ignore_errors: bool = False

    def __str__(self) -> str:
        """In the call syntax."""
        pairs = [
            f"{name}={_spelled(one)}"
            for name, value in self.arguments.items()
            for one in (value if isinstance(value, tuple) else (value,))
        ]
        if self.ignore_errors:
            pairs.append("ignore_errors=true")
        return self.transform.name + (f"({', '.join(pairs)})" if pairs else "")


def _spelled(value: Value) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    text = str(value)
    if re.fullmatch(r"[\w./-]+", text):
        return text
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


_registered: dict[str, Transform] = {}


def transform(
    name: str, *, exact: bool = True, enters_functions: bool = False
) -> Callable[[Callable[..., Outcome]], Callable[..., Outcome]]:
    """Register a function `(graph, *, parameter: type = default) -> Outcome` under `name`.

    A parameter is a bool, int, float or str, one of these or None, or `tuple[str, ...]`, which may be repeated.
    exact: whether answers stay the same, but for rounding. enters_functions: the function is called once more for the
    body of each library function; what is registered and given back does it all.
    """

    def register(function: Callable[..., Outcome]) -> Callable[..., Outcome]:
        if name in _registered:
            raise ValueError(f"two transforms are named {name!r}")
        types_by_name = get_type_hints(function)
        parameters = [
            _parameter(argument, types_by_name[argument.name])
            for argument in inspect.signature(function).parameters.values()
            if argument.kind is inspect.Parameter.KEYWORD_ONLY
        ]
        summary = (inspect.getdoc(function) or "").partition("\n")[0]
        documentation = inspect.getdoc(inspect.getmodule(function)) or ""
        whole = _with_functions(function) if enters_functions else function
        _registered[name] = Transform(
            name, summary, documentation, tuple(parameters), whole, exact=exact, enters_functions=enters_functions
        )
        return whole

    return register


def _with_functions(function: Callable[..., Outcome]) -> Callable[..., Outcome]:
    """The transform for the main graph and then for each body of the library."""

    @functools.wraps(function)
    def whole(graph: Graph, **parameters: Value) -> Outcome:
        main = function(graph, **parameters)
        changes, skipped, same = main.changes, list(main.skipped), main.exact

        def rewrite(name: str, body: Graph) -> Graph:
            nonlocal changes, same
            done = function(body, **parameters)
            changes += done.changes
            same = same and done.exact
            skipped.extend(Skipped(f"{name}/{one.node}", one.reason) for one in done.skipped)
            return done.graph

        rewritten = rewrite_bodies(main.graph, rewrite)
        return Outcome(rewritten, changes, tuple(skipped), same)

    return whole


def _parameter(argument: inspect.Parameter, kind: Any) -> Parameter:
    if get_origin(kind) in (Union, types.UnionType):
        (kind,) = (choice for choice in get_args(kind) if choice is not type(None))
    repeatable = get_origin(kind) is tuple
    kind = str if repeatable else kind
    if kind not in (bool, int, float, str):
        raise TypeError(f"a parameter cannot be of type {kind}")
    required = argument.default is inspect.Parameter.empty
    default: Value = None if required else argument.default
    return Parameter(argument.name, kind, default, required, repeatable)


def known() -> tuple[Transform, ...]:
    """All transforms, by name."""
    return tuple(_registered[name] for name in sorted(_registered))


def named(name: str) -> Transform:
    """The transform of that name.

    Raises:
        TransformError: there is none.
    """
    if name not in _registered:
        raise TransformError(f"no transform {name!r}{nearest(name, _registered)} (see: tfslim transforms)")
    return _registered[name]


_NAME = re.compile(r"\w+")
_SPACE = re.compile(r"\s*")
_BETWEEN = re.compile(r"[\s,]*")
_WORD = re.compile(r"[\w./-]+")
_QUOTED = re.compile(r'"((?:[^"\\]|\\.)*)"', re.DOTALL)


def parse(text: str | Iterable[str]) -> list[Call]:
    """The calls that a text, or each text of a list, spells: names between spaces, each with `(key=value, …)` or not.

    A key may be repeated. Keys are separated by commas or spaces. A value of other characters than letters, digits and
    `_ - . /` needs double quotes, in which a backslash takes the next character as it is. `ignore_errors=true` is taken
    by every transform.

    Raises:
        TransformError: the syntax is wrong, or a transform or a parameter is unknown; the nearest known one is named.
    """
    if isinstance(text, str):
        return [_call(name, given) for name, given in _syntax(text)]
    return [call for one in text for call in parse(one)]


def _call(name: str, given: dict[str, list[str]]) -> Call:
    found = named(name)
    if any(parameter.name == "ignore_errors" for parameter in found.parameters):
        raise TypeError(f"{name} cannot have a parameter of its own called ignore_errors")
    flags = given.pop("ignore_errors", ["false"])
    if len(flags) != 1 or flags[0] not in ("true", "false"):
        raise TransformError(f"{name}: ignore_errors={','.join(flags)} is not true or false")
    return Call(found, found.read(given), flags[0] == "true")


def _syntax(text: str) -> list[tuple[str, dict[str, list[str]]]]:
    """Names and, per key, the values in order."""
    calls: list[tuple[str, dict[str, list[str]]]] = []
    at = 0

    def take(pattern: re.Pattern[str]) -> str | None:
        nonlocal at
        found = pattern.match(text, at)
        if found is None:
            return None
        at = found.end()
        return found[found.re.groups]

    def wrong(expected: str) -> TransformError:
        found = repr(text[at : at + 20]) if at < len(text) else "the end"
        hint = "; quote values with double quotes" if text[at : at + 1] == "'" else ""
        return TransformError(f"transforms, character {at + 1}: expected {expected}, found {found}{hint}")

    take(_SPACE)
    while at < len(text):
        name = take(_NAME)
        if name is None:
            raise wrong("a transform's name")
        given: dict[str, list[str]] = {}
        calls.append((name, given))
        take(_SPACE)
        if not text.startswith("(", at):
            continue
        at += 1
        take(_BETWEEN)
        while not text.startswith(")", at):
            key = take(_NAME)
            if key is None:
                raise wrong(f"a parameter of {name} or ')'")
            take(_SPACE)
            if not text.startswith("=", at):
                raise wrong(f"'=' after {key}")
            at += 1
            take(_SPACE)
            quoted = take(_QUOTED)
            value = take(_WORD) if quoted is None else re.sub(r"\\(.)", r"\1", quoted, flags=re.DOTALL)
            if value is None:
                raise wrong(f"a value for {key}")
            given.setdefault(key, []).append(value)
            take(_BETWEEN)
        at += 1
        take(_SPACE)
    return calls
