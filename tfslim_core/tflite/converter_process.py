"""The child that calls TensorFlow's converter, which may abort: `python -m tfslim_core.tflite.converter_process`.

It reads from stdin what to convert (JSON), and then requests for calibration (see array_stream) until stdin ends. What
the converter makes goes to the file `out`; what it says against the model, to `out` with ".error" behind it.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from tfslim_core.saved_model.array_stream import read_message


def main() -> None:
    """Convert."""
    asked, _ = read_message(sys.stdin.buffer)
    requests = [(meta["signature"], dict(arrays)) for meta, arrays in _messages()]
    os.dup2(2, 1)  # the converter prints
    out = Path(asked["out"])
    import tensorflow as tf

    converter = tf.lite.TFLiteConverter.from_saved_model(
        asked["servable"], signature_keys=asked["signatures"], tags=set(asked["tags"])
    )
    if asked["quantize"] != "none":
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
    if asked["quantize"] == "float16":
        converter.target_spec.supported_types = [tf.float16]
    if asked["quantize"] == "int8":
        converter.representative_dataset = lambda: iter(requests)
    try:
        converted = converter.convert()
    except Exception as error:  # whatever it raises is about the model
        Path(f"{out}.error").write_text(f"{type(error).__name__}: {error}")
        return
    out.write_bytes(converted)


def _messages() -> Iterator[tuple[dict[str, Any], Mapping[str, Any]]]:
    while True:
        try:
            yield read_message(sys.stdin.buffer)
        except EOFError:
            return


if __name__ == "__main__":
    main()
