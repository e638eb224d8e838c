"""A pipeline's arguments as people write them, NAME=VALUE, made into the types that the pipeline declares."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kfp.dsl import base_component

from tfslim_core.errors import UsageError, nearest

# Parameters that are paths or addresses.
PATHS = ("model", "data", "training_data", "base", "report_to")
_TYPES: Mapping[str, tuple[type, ...]] = {
    "Integer": (int,),
    "Float": (int, float),
    "Boolean": (bool,),
    "List": (list,),
    "Dict": (dict,),
}
_WORDS = {
    "Integer": "a whole number",
    "Float": "a number",
    "Boolean": "true or false",
    "List": "a JSON list, or one item each time it is given",
    "Dict": "a JSON object",
}


@dataclass(frozen=True)
class Parameter:
    """What a pipeline can be told. kind: KFP's name of the type, such as String or List."""

    name: str
    kind: str
    required: bool


def parameters(pipeline: base_component.BaseComponent) -> dict[str, Parameter]:
    """The parameters of a pipeline, by name, the required ones first."""
    inputs = pipeline.component_spec.inputs or {}
    found = [Parameter(name, spec.type.partition("[")[0], not spec.optional) for name, spec in inputs.items()]
    return {parameter.name: parameter for parameter in sorted(found, key=lambda one: not one.required)}


def parse(given: Iterable[str], known: Mapping[str, Parameter], *, complete: bool) -> dict[str, Any]:
    """Typed values of arguments such as `encoding=int8`; a list takes JSON, or one item each time it is named.

    complete: also refuse when a required argument is missing.

    Raises:
        UsageError: an argument is unknown, given twice, missing, or not of its type.
    """
    values: dict[str, Any] = {}
    for text in given:
        name, equals, value = text.partition("=")
        if not equals:
            raise UsageError(f"--arg {text!r} has no '='; write NAME=VALUE")
        if name not in known:
            raise UsageError(f"no argument {name!r}{nearest(name, known)} (there are: {', '.join(known)})")
        kind = known[name].kind
        if kind == "List" and not value.startswith("["):
            # A list of texts, or of mappings, which nothing but JSON can write.
            values.setdefault(name, []).append(_typed(name, "Dict", value) if value.startswith("{") else value)
        elif name in values:
            raise UsageError(f"argument {name!r} is given twice")
        else:
            values[name] = value if kind == "String" else _typed(name, kind, value)
    missing = [parameter.name for parameter in known.values() if parameter.required and parameter.name not in values]
    if complete and missing:
        raise UsageError(f"missing: {' '.join(f'--arg {name}=…' for name in missing)}")
    return values


def _typed(name: str, kind: str, text: str) -> Any:
    try:
        value = json.loads(text)
    except ValueError:
        value = None
    types = _TYPES.get(kind, ())
    if not isinstance(value, types) or (isinstance(value, bool) and bool not in types):
        raise UsageError(f"argument {name!r} takes {_WORDS.get(kind, kind)}, not {text!r}")
    return float(value) if kind == "Float" else value


def absolute(values: Mapping[str, Any]) -> dict[str, Any]:
    """The values with paths of what is here as tasks can find them, from whatever directory they run."""

    def placed(name: str, value: Any) -> Any:
        if isinstance(value, list):
            return [placed(name, one) for one in value]
        if isinstance(value, dict):
            return {key: placed(key, one) for key, one in value.items()}
        if name not in PATHS or not isinstance(value, str) or not value or "://" in value:
            return value
        return os.path.abspath(value)

    return {name: placed(name, value) for name, value in values.items()}


def paths(values: Mapping[str, Any]) -> Iterator[tuple[str, Path]]:
    """Each absolute path that the values name, with the name of its parameter, or of its key in a mapping."""

    def below(name: str, value: Any) -> Iterator[tuple[str, Path]]:
        if isinstance(value, list):
            for one in value:
                yield from below(name, one)
        elif isinstance(value, dict):
            for key, one in value.items():
                yield from below(key, one)
        elif name in PATHS and isinstance(value, str) and value.startswith("/"):
            yield name, Path(value)

    for name, value in values.items():
        yield from below(name, value)
