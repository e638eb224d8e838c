"""Memory of freed tensors, which TensorFlow on CPUs with oneDNN keeps for later ones unless it is told not to.

It would keep as much as the largest tensor of a model takes, long after that tensor was written.
"""

from __future__ import annotations

import os
from functools import cache

import tensorflow as tf

_SETTING = "TF_ONEDNN_USE_SYSTEM_ALLOCATOR"


@cache
def give_back_freed_memory() -> None:
    """Let this process give the memory of freed tensors back to the system.

    TensorFlow reads the setting when it makes its first tensor; later on this changes nothing. Processes that are
    started from here do not inherit it: a model is measured as it is served.
    """
    before = os.environ.get(_SETTING)
    if before is not None:
        return
    os.environ[_SETTING] = "true"
    try:
        tf.zeros([1])
    finally:
        del os.environ[_SETTING]
