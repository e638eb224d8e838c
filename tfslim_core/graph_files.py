"""Frozen GraphDefs as files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import tensorflow as tf
from google.protobuf.message import DecodeError

from tfslim_core import storage
from tfslim_core.errors import ModelError


def read_graph_def(file: Path) -> Any:
    """The GraphDef in a .pb file.

    Raises:
        ModelError: it is missing or is no GraphDef.
    """
    if file.exists() and not file.is_file() and not file.is_dir():
        raise ModelError(f"{file} is a pipe or a device, not a file")
    try:
        found = tf.compat.v1.GraphDef.FromString(file.read_bytes())
    except OSError as error:
        raise ModelError(f"{file}: cannot be read: {error.strerror}") from None
    except DecodeError as error:
        raise ModelError(f"{file} is not a frozen GraphDef: {error}") from None
    if not found.node:
        # Other protocol buffers, a saved_model.pb for one, parse as a graph of nothing.
        raise ModelError(f"{file} is not a frozen GraphDef: it holds no node")
    return found


def write_graph_def(graph_def: Any, file: Path, *, overwrite: bool) -> None:
    """Write a GraphDef; the file appears whole.

    Raises:
        OutputExistsError: it exists and `overwrite` is false.
    """
    with storage.whole_file(file, overwrite=overwrite) as aside:
        aside.write_bytes(graph_def.SerializeToString(deterministic=True))
