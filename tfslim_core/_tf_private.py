"""The only file that imports from `tensorflow.python`, which promises nothing between versions.

Tried with TensorFlow 2.21. What is taken, and why no public name does:

- `op_def_registry.get`: the OpDef of an op by name (arguments, attribute defaults, `is_stateful`).
"""

from __future__ import annotations

from functools import cache
from typing import Any


@cache
def registered_op(name: str) -> Any | None:
    """The OpDef registered under `name` in this TensorFlow, or None."""
    from tensorflow.python.framework import op_def_registry

    return op_def_registry.get(name)
