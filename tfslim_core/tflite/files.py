"""Where a TFLite model is."""

from __future__ import annotations

import os
from pathlib import Path

MODEL_FILE = "model.tflite"  # the name that TensorFlow Serving's --prefer_tflite_model looks for
SUFFIX = ".tflite"


def tflite_file(path: str | os.PathLike[str]) -> Path | None:
    """The TFLite file that `path` means: the file itself, or a directory's; None where it is something else.

    A directory that holds a SavedModel too is taken for that one, as every server does unless told otherwise.
    """
    found = Path(path)
    if found.suffix == SUFFIX and found.is_file():
        return found
    both = any((found / name).exists() for name in ("saved_model.pb", "saved_model.pbtxt"))
    return found / MODEL_FILE if not both and (found / MODEL_FILE).is_file() else None
