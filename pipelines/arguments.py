"""A pipeline's arguments as people write them, NAME=VALUE, made into the types that the pipeline declares."""

from __future__ import annotations

import glob
import json
import math
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kfp.dsl import base_component

from tfslim_core.errors import UsageError, nearest

# Parameters that are paths or addresses.
PATHS = ("model", "data", "training_data", "base", "report_to")
_READ = ("data", "training_data")
WRITTEN = ("base", "report_to")
# What slim_many is told of each model.
_MODEL = {"model", "data", "base"}
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
    """What a pipeline can be told. kind: KFP's name of the type, such as String or List. items: of a list, theirs."""

    name: str
    kind: str
    required: bool
    items: str = ""


def parameters(pipeline: base_component.BaseComponent) -> dict[str, Parameter]:
    """The parameters of a pipeline, by name, the required ones first."""
    inputs = pipeline.component_spec.inputs or {}
    found = []
    for name, spec in inputs.items():
        kind, _, items = spec.type.partition("[")
        found.append(Parameter(name, kind, not spec.optional, items.removesuffix("]")))
    return {parameter.name: parameter for parameter in sorted(found, key=lambda one: not one.required)}


def parse(given: Iterable[str], known: Mapping[str, Parameter], *, complete: bool) -> dict[str, Any]:
    """Typed values of arguments such as `encoding=int8`; a list grows by each item, or JSON list, that names it.

    complete: also refuse when a required argument is missing or empty.

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
        if known[name].kind == "List":
            values.setdefault(name, []).extend(_items(known[name], value))
        elif name in values:
            raise UsageError(f"argument {name!r} is given twice")
        else:
            values[name] = _typed(name, known[name].kind, value)
    _check_models(values.get("models", ()))
    missing = [one.name for one in known.values() if one.required and values.get(one.name) in (None, "", [])]
    if complete and missing:
        raise UsageError(f"missing: {' '.join(f'--arg {name}=…' for name in missing)}")
    return values


def _check_models(models: Sequence[Mapping[str, Any]]) -> None:
    """Look at the models of slim_many, of whose parts KFP knows neither names nor types."""
    for at, one in enumerate(models):
        wanted = 'each is {"model": TEXT, "data": [TEXT, …], "base": TEXT}'
        if one.keys() != _MODEL:
            raise UsageError(f"argument 'models': item {at} has {', '.join(one) or 'nothing'}; {wanted}")
        texts = [one["model"], one["base"], *(one["data"] if isinstance(one["data"], list) else [None])]
        if not one["data"] or not all(isinstance(text, str) and text.strip() for text in texts):
            raise UsageError(f"argument 'models': item {at} is {json.dumps(one, ensure_ascii=False)}; {wanted}")
        if os.path.abspath(one["base"]) in [os.path.abspath(other["base"]) for other in models[:at]]:
            raise UsageError(f"argument 'models': two have the base {one['base']}; give each its own")


def _items(parameter: Parameter, text: str) -> list[Any]:
    """What a list grows by: one item, or those of a JSON list."""
    if text.startswith("["):
        found = _typed(parameter.name, "List", text)
    else:
        found = [_typed(parameter.name, parameter.items or "String", text)]
    for item in found:
        if parameter.items == "String" and not (isinstance(item, str) and item.strip()):
            raise UsageError(f"argument {parameter.name!r} is a list of texts; one item is {json.dumps(item)}")
        if parameter.items == "Dict" and not isinstance(item, dict):
            raise UsageError(f"argument {parameter.name!r} is a list of JSON objects; one item is {json.dumps(item)}")
    return list(found)


def _typed(name: str, kind: str, text: str) -> Any:
    if kind == "String":
        return text
    try:
        value = json.loads(text)
    except ValueError:
        value = None
    types = _TYPES.get(kind, ())
    if not isinstance(value, types) or (isinstance(value, bool) and bool not in types):
        raise UsageError(f"argument {name!r} takes {_WORDS.get(kind, kind)}, not {text!r}")
    if kind == "Float" and not math.isfinite(value):
        raise UsageError(f"argument {name!r} takes a finite number, not {text!r}")
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


def check_here(values: Mapping[str, Any]) -> None:
    """Look at absolute paths on this machine before anything costs time: what is read is there, what is written can be.

    Raises:
        UsageError: it is not.
    """
    for name, text in paths(values):
        if name in _READ and not os.path.exists(text) and not glob.glob(text):
            raise UsageError(f"argument {name!r}: {text}: no such file or directory")
        if name in WRITTEN:
            first = next(path for path in (Path(text), *Path(text).parents) if os.path.lexists(path))
            if not (first.is_dir() and os.access(first, os.W_OK | os.X_OK)):
                why = "cannot be written" if first.is_dir() else "is no directory"
                raise UsageError(f"argument {name!r}: {text}: {first} {why}")


def check_elsewhere(values: Mapping[str, Any]) -> None:
    """Look at paths that steps on other machines will get.

    Raises:
        UsageError: one is relative to a directory, and a step has none that anyone else sees.
    """
    for name, text in paths(values):
        if not text.startswith("/"):
            raise UsageError(
                f"argument {name!r}: {text!r} is relative to a directory of this machine; "
                "give an address that every step reaches, such as gs://BUCKET/NAME"
            )


def paths(values: Any, name: str = "") -> Iterator[tuple[str, str]]:
    """The arguments that are paths, not addresses, each with the name of its parameter, or of its key in a mapping."""
    if isinstance(values, Mapping):
        for key, value in values.items():
            yield from paths(value, key)
    elif isinstance(values, list):
        for value in values:
            yield from paths(value, name)
    elif name in PATHS and isinstance(values, str) and values and "://" not in values:
        yield name, values
