"""Examples as a file that tfslim reads."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray


def examples_file(stem: Path, arrays: Mapping[str, NDArray[Any]]) -> Path:
    """Write `arrays`, whose first axis is the examples, beside `stem`: as .npz, texts as .jsonl."""
    stem.parent.mkdir(parents=True, exist_ok=True)
    if any(array.dtype == object for array in arrays.values()):
        file = stem.with_name(f"{stem.name}.jsonl")
        with file.open("w") as out:
            for row in zip(*arrays.values(), strict=True):
                out.write(json.dumps({key: text.decode() for key, text in zip(arrays, row, strict=True)}) + "\n")
        return file
    file = stem.with_name(f"{stem.name}.npz")
    kept: dict[str, Any] = dict(arrays)
    np.savez(file, **kept)
    return file
