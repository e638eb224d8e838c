"""The only file that imports from `tensorflow.python`, which promises nothing between versions.

Tried with TensorFlow 2.21. What is taken, and why no public name does:

- `op_def_registry.get`: the OpDef of an op by name (arguments, attribute defaults, `is_stateful`).
- TFLite's interpreter below `tf.lite.Interpreter`, which is the same code behind an import of all of TensorFlow: that
  takes seconds and half a gigabyte, which would be measured as the model's.
- TFLite's schema: the classes that read and write the file, which the wheel has under no public name.
"""

from __future__ import annotations

from functools import cache
from typing import Any

from tfslim_core.saved_model.served_signatures import wheel_module

_OPTIMIZED_KERNELS = 1  # with the default delegates, as TensorFlow Serving's BuiltinOpResolver has them


@cache
def registered_op(name: str) -> Any | None:
    """The OpDef registered under `name` in this TensorFlow, or None."""
    from tensorflow.python.framework import op_def_registry

    return op_def_registry.get(name)


def lite_interpreter(file: str, threads: int) -> Any:
    """An interpreter of a TFLite file.

    Raises:
        ValueError, RuntimeError: TFLite refuses the file.
    """
    runtime = wheel_module("lite.python.interpreter_wrapper._pywrap_tensorflow_interpreter_wrapper")
    return runtime.CreateWrapperFromFile(file, _OPTIMIZED_KERNELS, [], [], False, False, threads, False)


def lite_schema() -> Any:
    """The classes of TFLite's schema, as the flatbuffers compiler wrote them."""
    return wheel_module("lite.python.schema_py_generated")
