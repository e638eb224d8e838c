"""What a JSON object has to be by the API definition that Kubeflow Pipelines publishes with its client."""

from __future__ import annotations

import re
from datetime import datetime
from pathlib import Path
from typing import Any

import kfp_server_api as api

_PLAIN = {"str": str, "int": int, "float": (int, float), "bool": bool, "object": object}


def routes() -> list[tuple[str, str, re.Pattern[str]]]:
    """Each operation of the published API: its name, its method, its path."""
    found = []
    for file in sorted((Path(api.__file__).parent / "api").glob("*_service_api.py")):
        source = file.read_text()
        for name, body in re.findall(r"def (\w+)_with_http_info(.*?)(?=\n    def |\Z)", source, flags=re.DOTALL):
            path, method = re.search(r"'(/apis/[^']*)', '([A-Z]+)'", body).groups()
            pattern = re.sub(r"\\{(\w+)\\}", r"(?P<\1>[^/:]+)", re.escape(path))
            found.append((name, method, re.compile(pattern + "$")))
    return found


def parameters(operation: str) -> set[str]:
    """The query parameters that an operation takes."""
    for file in (Path(api.__file__).parent / "api").glob("*_service_api.py"):
        found = re.search(rf"def {operation}_with_http_info(.*?)(?=\n    def |\Z)", file.read_text(), flags=re.DOTALL)
        if found:
            return set(re.findall(r"query_params\.append\(\('([\w.]+)'", found[1]))
    raise KeyError(operation)


def problems(value: Any, kind: str, where: str = "") -> list[str]:
    """Where a value is not of a published type."""
    if value is None:
        return []
    if found := re.fullmatch(r"list\[(.*)\]", kind):
        if not isinstance(value, list):
            return [f"{where}: not a list"]
        return [one for i, item in enumerate(value) for one in problems(item, found[1], f"{where}[{i}]")]
    if found := re.fullmatch(r"dict\(str, (.*)\)", kind):
        if not isinstance(value, dict):
            return [f"{where}: not an object"]
        return [one for key, item in value.items() for one in problems(item, found[1], f"{where}.{key}")]
    if kind in _PLAIN:
        return [] if isinstance(value, _PLAIN[kind]) else [f"{where}: {value!r} is not of type {kind}"]
    if kind == "datetime":
        try:
            datetime.fromisoformat(value)
        except (TypeError, ValueError):
            return [f"{where}: {value!r} is no time"]
        return []
    model = getattr(api, kind)
    if hasattr(model, "allowable_values"):
        return [] if value in model.allowable_values else [f"{where}: {value!r} is none of {model.allowable_values}"]
    if not isinstance(value, dict):
        return [f"{where}: not an object"]
    names = {json_name: name for name, json_name in model.attribute_map.items()}
    found = [f"{where}.{key}: no such field of {kind}" for key in value if key not in names]
    for key, item in value.items():
        if key in names:
            found += problems(item, model.openapi_types[names[key]], f"{where}.{key}")
    return found


def only_answered(value: dict[str, Any], kind: str) -> list[str]:
    """What of a request the server alone sets."""
    model = getattr(api, kind)
    names = {json_name: name for name, json_name in model.attribute_map.items()}
    said = {key: getattr(model, names[key]).__doc__ for key in value}
    return [f"{key}: only in answers" for key, text in said.items() if re.search(r"\bOutput( only)?\.", text)]
