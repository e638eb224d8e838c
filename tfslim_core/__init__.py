"""tfslim: slim TensorFlow SavedModels for CPU serving.

The public API; each name is loaded on first use, so that `import tfslim_core` costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from tfslim_core.api import (
        audit,
        checkpoint,
        diff,
        freeze,
        inspect,
        prune_vocabulary,
        publish,
        quantize,
        reexport,
        rollback,
        slim,
        thaw,
        transform,
        transform_graph,
        validate,
        versions,
        warmup,
    )

__all__ = [
    "audit",
    "checkpoint",
    "diff",
    "freeze",
    "inspect",
    "prune_vocabulary",
    "publish",
    "quantize",
    "reexport",
    "rollback",
    "slim",
    "thaw",
    "transform",
    "transform_graph",
    "validate",
    "versions",
    "warmup",
]


def __getattr__(name: str) -> Any:
    if name in __all__:
        return getattr(import_module("tfslim_core.api"), name)
    raise AttributeError(f"module 'tfslim_core' has no attribute {name!r}")
