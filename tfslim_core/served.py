"""Open a model as whoever serves it does: a SavedModel or a TFLite model, by what is in the path."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence

from tfslim_core.saved_model.served_signatures import Signature, read_signatures
from tfslim_core.saved_model.server_loader import ServedModel
from tfslim_core.tflite.files import tflite_file
from tfslim_core.tflite.interpreter import LiteModel
from tfslim_core.tflite.signatures import read_lite_signatures


def open_served(
    path: str | os.PathLike[str], tags: Sequence[str] = ("serve",), *, threads: int | None = None
) -> ServedModel | LiteModel:
    """A loaded model. tags: which MetaGraph of a SavedModel; a TFLite model has none.

    Raises:
        ModelError: there is no model, or its loader refuses it.
    """
    if tflite_file(path) is not None:
        return LiteModel(path, threads=threads)
    return ServedModel(path, tags, threads=threads)


def signatures_of(path: str | os.PathLike[str], tags: Sequence[str] = ("serve",)) -> Mapping[str, Signature]:
    """What a model serves, read without loading it.

    Raises:
        ModelError: there is no model, or it is damaged.
    """
    file = tflite_file(path)
    if file is not None:
        return {name: one.signature for name, one in read_lite_signatures(file).items()}
    return read_signatures(path, tags)
