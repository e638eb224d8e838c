"""What TensorFlow brings to make a SavedModel smaller: its MLIR quantizer, and TFLite's dynamic range.

Both may abort, so they run in a process of their own: `python -m benchmarks.other_quantizers WAY MODEL OUT`.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

from benchmarks import children

MLIR_WEIGHTS, MLIR_DYNAMIC, TFLITE = "MLIR, weight-only", "MLIR, dynamic range", "TFLite, dynamic range"
# The quantizer takes weight-only int8 with XLA ops alone; dynamic range with TF ops is what runs fastest on a CPU.
_MLIR = {
    MLIR_WEIGHTS: ("METHOD_STATIC_RANGE_WEIGHT_ONLY_INT8", "XLA"),
    MLIR_DYNAMIC: ("METHOD_DYNAMIC_RANGE_INT8", "TF"),
}
WAYS = (*_MLIR, TFLITE)


def quantize_in_child(way: str, model: Path, out: Path, signature: str, timeout: float = 300) -> None:
    """Quantize a SavedModel into a SavedModel, or into a file for TFLite.

    Raises:
        ChildError: it failed, died or took too long.
    """
    children.run("benchmarks.other_quantizers", way, str(model), str(out), signature, timeout=timeout)


def quantize(way: str, model: Path, out: Path, signature: str) -> None:
    """The same in this process, which may not survive it."""
    if way == TFLITE:
        _tflite(model, out, signature)
    else:
        _mlir(*_MLIR[way], model, out, signature)


def _mlir(method: str, ops: str, model: Path, out: Path, signature: str) -> None:
    from tensorflow.compiler.mlir.quantization.tensorflow import quantization_options_pb2 as options
    from tensorflow.compiler.mlir.quantization.tensorflow.python import quantize_model

    wanted = options.QuantizationMethod.PresetMethod.Value(method)
    quantize_model.quantize(
        str(model),
        str(out),
        quantization_options=options.QuantizationOptions(
            quantization_method=options.QuantizationMethod(preset_method=wanted),
            op_set=options.OpSet.Value(ops),
            tags=["serve"],
            signature_keys=[signature],
        ),
    )


def _tflite(model: Path, out: Path, signature: str) -> None:
    import tensorflow as tf

    converter = tf.lite.TFLiteConverter.from_saved_model(str(model), signature_keys=[signature])
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS, tf.lite.OpsSet.SELECT_TF_OPS]
    try:
        converted = converter.convert()
    except Exception as error:
        if lacking := re.search(r"^Custom ops: (.*)$", str(error), re.MULTILINE):
            raise SystemExit(f"TFLite has no kernel for {lacking[1]}") from None
        raise
    out.write_bytes(converted)


if __name__ == "__main__":
    quantize(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]), sys.argv[4])
