"""A process that transforms one graph over and over, for as long as it is asked to.

Arguments: WAY GRAPH INPUTS OUTPUTS TRANSFORMS RESULT. For each line that it reads it transforms the graph, from the
bytes of a GraphDef to the bytes of one, and prints the seconds. WAY is "old" or "tfslim". TensorFlow is imported, and
the file read, before the first. The last result is written when stdin ends.
"""

from __future__ import annotations

import gc
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path


def old(graph: bytes, inputs: str, outputs: str, transforms: str) -> bytes:
    """What the Graph Transform Tool makes of it."""
    from tensorflow.python.util._pywrap_transform_graph import TransformGraphWithStringInputs

    return bytes(TransformGraphWithStringInputs(graph, inputs.encode(), outputs.encode(), transforms.encode()))


def tfslim(graph: bytes, inputs: str, outputs: str, transforms: str) -> bytes:
    """What tfslim makes of it; its default transforms unless some are given."""
    import tensorflow as tf

    from tfslim_core import transform_graph
    from tfslim_core.transforms import DEFAULT

    given = tf.compat.v1.GraphDef.FromString(graph)
    made = transform_graph(given, inputs.split(","), outputs.split(","), transforms or DEFAULT)
    return bytes(made.SerializeToString())


WAYS: dict[str, Callable[[bytes, str, str, str], bytes]] = {"old": old, "tfslim": tfslim}


def main() -> None:
    """Import TensorFlow, then transform as often as asked."""
    import tensorflow  # noqa: F401  # what is measured comes after it

    way, file, inputs, outputs, transforms, result = sys.argv[1:]
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # TensorFlow prints
    graph, made = Path(file).read_bytes(), b""
    if way == "tfslim":
        import tfslim_core.transforms  # noqa: F401  # imported as TensorFlow is
    print("ready", file=answers)
    for _ in sys.stdin:
        made = b""
        gc.collect()
        start = time.perf_counter()
        made = WAYS[way](graph, inputs, outputs, transforms)
        print(time.perf_counter() - start, file=answers)
    Path(result).write_bytes(made)


if __name__ == "__main__":
    main()
