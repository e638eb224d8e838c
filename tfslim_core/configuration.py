"""slim.yaml: the options of `tfslim slim` in a file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from tfslim_core.errors import UsageError, nearest


class Configuration(BaseModel):
    """What may stand in the file; the meaning of each is that of `api.slim`'s argument."""

    model_config = ConfigDict(extra="forbid", strict=True)

    report: str | None = None
    tags: list[str] | None = None
    also_tags: list[list[str]] | None = None
    signatures: list[str] | None = None
    inputs: list[str] | None = None
    outputs: list[str] | None = None
    graph: str | None = None
    transforms: str | None = None
    encoding: str | None = None
    include: list[str] | None = None
    exclude: list[str] | None = None
    minimum_size: int | None = Field(default=None, ge=0)
    budget: list[str] | None = None
    search_minutes: float | None = Field(default=None, gt=0)
    seed: int | None = Field(default=None, ge=0)
    data: dict[str, str] | None = None
    gates: list[str] | None = None
    signature: str | None = None
    main_output: str | None = None
    label: str | None = None
    slices: list[str] | None = None
    fail_on_bad_records: float | None = Field(default=None, ge=0, le=1)
    prune_vocabulary: bool | None = None
    corpus: dict[str, str] | None = None
    min_count: int | None = Field(default=None, ge=1)
    keep: int | None = Field(default=None, ge=1)
    to: Literal["oov", "centre"] | None = None
    min_runtime: str | None = None
    warmup: int | None = Field(default=None, ge=1, le=1000)


def settings(file: Path | None, flags: Mapping[str, Any]) -> dict[str, Any]:
    """The file's options with the flags over them.

    Raises:
        UsageError: the file cannot be read, is not YAML, or has an option that there is not.
    """
    return {**(_read(file) if file is not None else {}), **flags}


def _read(file: Path) -> dict[str, Any]:
    try:
        loaded = yaml.safe_load(file.read_text())
        return Configuration.model_validate({} if loaded is None else loaded).model_dump(exclude_none=True)
    except OSError as error:
        raise UsageError(f"{file}: cannot be read: {error.strerror}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UsageError(f"{file} is not YAML: {' '.join(str(error).split())}") from None
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"]))
        if not key:
            raise UsageError(f"{file} has no options: give `option: value` on each line") from None
        if first["type"] == "extra_forbidden":
            known = Configuration.model_fields
            raise UsageError(
                f"{file}: no option {key!r}{nearest(key, known)} (there are: {', '.join(known)})"
            ) from None
        raise UsageError(f"{file}: {key}: {first['msg']}") from None
