"""The child that runs Keras: `python -m tfslim_core.importing.keras_export FILE FOLDER`.

The last line of stdout is JSON: {"notes": [...]} or {"error": "..."}.
"""

from __future__ import annotations

import importlib
import json
import os
import re
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

_SHOWN = 300  # characters of an error that is not known


class RefusedError(Exception):
    """The file cannot be read or exported; the message is for the user."""


def main(file: Path, folder: Path) -> dict[str, Any]:
    """Export a Keras file; what there is to tell."""
    try:
        with tempfile.TemporaryDirectory(prefix="tfslim-") as aside:
            return {"notes": _exported(file, folder, Path(aside))}
    except RefusedError as refusal:
        return {"error": str(refusal)}


def _exported(file: Path, folder: Path, aside: Path) -> list[str]:
    zipped = zipfile.is_zipfile(file)
    config, version = _zip_config(file) if zipped else _hdf5_config(file)
    _refuse_code(config)
    # Keras goes by the extension; the file may have any.
    named = aside / ("model.keras" if zipped else "model.h5")
    named.symlink_to(file)
    try:
        model, reader = _keras(named), "Keras"
    except Exception as error:  # Keras raises whatever its layers raise
        known = _known_refusal(error, config)
        if known is not None:
            raise known from None
        model, reader = _keras_2(named, error, config), "tf_keras"
    names = _export_2(model, folder) if reader == "tf_keras" else _export(model, folder)
    written = f"written by Keras {version}, " if version else ""
    layers = len(model.layers)
    notes = [f"{written}{layers} layer{'s' * (layers != 1)}, {model.count_params():,} parameters, {names}"]
    if reader == "tf_keras":
        notes.append("read by tf_keras (Keras 2): Keras 3 does not read it")
    return notes


def _zip_config(file: Path) -> tuple[Any, str]:
    try:
        with zipfile.ZipFile(file) as packed:
            names = set(packed.namelist())
            config = json.loads(packed.read("config.json"))
            about = json.loads(packed.read("metadata.json")) if "metadata.json" in names else {}
    except (zipfile.BadZipFile, KeyError, ValueError, OSError, RecursionError) as error:
        raise RefusedError(f"the Keras file is damaged: {_line(error)}") from None
    if "model.weights.h5" not in names:
        raise RefusedError("the Keras file holds no weights: model.weights.h5 is missing in it")
    return config, str(about.get("keras_version", "")) if isinstance(about, dict) else ""


def _hdf5_config(file: Path) -> tuple[Any, str]:
    import h5py

    try:
        with h5py.File(file, "r") as opened:
            text, version = opened.attrs.get("model_config"), opened.attrs.get("keras_version", "")
            groups = set(opened)
    except (OSError, RuntimeError, KeyError, TypeError) as error:
        raise RefusedError(f"the HDF5 file is damaged or cut off: {_line(error)}") from None
    if text is None:
        weights = "layer_names" in groups or groups & {
            "layers",
            "model_weights",
            "_layer_checkpoint_dependencies",
            "vars",
        }
        what = "holds weights and no model" if weights or str(file).endswith(".weights.h5") else "is no Keras model"
        raise RefusedError(
            f"the HDF5 file {what} (it has no model_config): build the model, load the weights into it, "
            "and save it whole as .keras"
        )
    try:
        return json.loads(text), version.decode() if isinstance(version, bytes) else str(version)
    except (ValueError, TypeError, RecursionError) as error:
        raise RefusedError(f"the model_config in the HDF5 file is damaged: {_line(error)}") from None


def _refuse_code(config: Any) -> None:
    """Python code in a file is code of whoever wrote the file."""
    for one in _dictionaries(config):
        found = one.get("config")
        inner: dict[str, Any] = found if isinstance(found, dict) else {}
        function = inner.get("function")
        layer = str(one.get("class_name")).rpartition(">")[2] == "Lambda"
        code = isinstance(function, list) or (isinstance(function, dict) and function.get("class_name") == "__lambda__")
        typed = any(value == "lambda" for key, value in one.items() if str(key).endswith("_type"))
        if (
            one.get("class_name") == "__lambda__"
            or typed
            or (layer and (code or inner.get("function_type") == "lambda"))
        ):
            name = inner.get("name") if layer else None
            raise RefusedError(
                f"the Lambda layer{f' {name!r}' if name else ''} brings Python code, which is not run: write the model "
                "with a layer of Keras in its place, or export it yourself with model.export"
            )


def _dictionaries(config: Any) -> Iterator[dict[str, Any]]:
    todo = [config]
    while todo:
        one = todo.pop()
        if isinstance(one, dict):
            yield one
            todo += one.values()
        elif isinstance(one, list):
            todo += one


def _keras(file: Path) -> Any:
    import keras

    if keras.backend.backend() != "tensorflow":
        raise RefusedError(f"Keras runs on {keras.backend.backend()}; unset KERAS_BACKEND")
    return keras.saving.load_model(str(file), compile=False, safe_mode=True)


def _keras_2(file: Path, first: Exception, config: Any) -> Any:
    """The model as Keras 2 reads it."""
    why = f"Keras 3 does not read it ({_line(first)})"
    try:
        keras = importlib.import_module("tf_keras")
    except ImportError:
        raise RefusedError(
            f"{why}, and tf_keras, which reads files of Keras 2, is not installed: pip install tf_keras"
        ) from None
    try:
        with keras.src.saving.serialization_lib.SafeModeScope(True):
            return keras.models.load_model(str(file), compile=False, safe_mode=True)
    except Exception as error:
        raise _known_refusal(error, config) or RefusedError(f"{why}, nor does Keras 2 ({_line(error)})") from None


def _known_refusal(error: Exception, config: Any) -> RefusedError | None:
    """What an error of Keras means, where that is known."""
    if isinstance(error, RefusedError):
        return error
    text = str(error)
    if re.search(r"safe_mode|unsafe|Lambda", text) and re.search(r"lambda", text, re.IGNORECASE):
        return RefusedError("a Lambda layer brings Python code, which is not run: write the model without it")
    for pattern in (
        r"Could not locate (?:class|function) '([^']+)'",
        r"Unknown (?:layer|object|class)(?: or function)?:? '?([\w>.]+)'?",
        r"Could not deserialize class '([^']+)' because its parent module",
    ):
        if found := re.search(pattern, text):
            return RefusedError(
                f"{found[1]!r} is not a class of Keras, and the file does not hold its code: export the model where "
                "the class is defined, with model.export"
            )
    if re.search(
        r"not a zip|BadZip|truncated file|bad object header|unable to (synchronously )?open", text, re.IGNORECASE
    ):
        return RefusedError(f"the file is damaged: {_line(error)}")
    return None


def _export(model: Any, folder: Path) -> str:
    """Export with Keras 3, as model.export does; several outputs go under the names that the model has for them."""
    import keras

    names = list(getattr(model, "output_names", None) or ())
    if isinstance(getattr(model, "output", None), (list, tuple)) and len(names) > 1 and len(set(names)) == len(names):
        model = keras.Model(model.input, dict(zip(names, model.outputs, strict=True)))
    try:
        model.export(str(folder), format="tf_saved_model", verbose=False)
    except Exception as error:
        raise RefusedError(f"Keras read the model and cannot export it: {_line(error)}") from None
    return "exported by Keras 3"


def _export_2(model: Any, folder: Path) -> str:
    """Export with Keras 2: a signature serving_default, with the names of the input and output layers."""
    try:
        model.save(str(folder), save_format="tf", include_optimizer=False)
    except Exception as error:
        raise RefusedError(f"Keras 2 read the model and cannot export it: {_line(error)}") from None
    return "exported by Keras 2"


def _line(error: BaseException) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    # Keras puts the cause behind the whole configuration of the layer.
    if cause := re.search(r"Exception encountered: (.*)", text):
        text = cause[1]
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"


if __name__ == "__main__":
    # Keras and TensorFlow print; the answer alone may go to stdout.
    answer = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    told = main(Path(sys.argv[1]), Path(sys.argv[2]))
    answer.write(json.dumps(told) + "\n")
    answer.flush()
